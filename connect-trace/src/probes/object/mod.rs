//! The eBPF object: built with the crate, loaded with the globals and sizes of this run.

pub(crate) mod externs;
mod fields;
pub(crate) mod filters;
mod instructions;

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Error, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapError},
    programs::{Program, ProgramError, ProgramFd},
};

use connect_trace_common::{Field, Params, record::PLACES};

use self::{
    externs::{Extern, Is},
    filters::FilterWords,
};
use crate::filter::Filters;
use crate::kernel::{
    cast, layout::Layout, limits, mitigation::MitigationFields, port_tables::PortTables,
    requirement::MissingRequirement,
};
use crate::probes::{ends::Following, mitigation::MitigationConfig, smallest_ring_buffer_bytes};

/// Settings with which the object is loaded.
pub(crate) struct Options<'a> {
    /// Offsets of the kernel fields that the programs read.
    pub(crate) layout: &'a Layout,
    /// The variables that the programs share with the daemon.
    pub(crate) variables: [Extern; 4],
    /// Address of the kernel's variable `table_perturb`; 0 if it is not known.
    pub(crate) table_perturb: u64,
    /// Filters that select the connect() calls to trace.
    pub(crate) filters: &'a Filters,
    /// Size of the map `RECORDS` in bytes.
    pub(crate) ring_buffer_bytes: u32,
    /// Number of calls that can at least be in flight.
    pub(crate) max_in_flight: u32,
    /// True for a service: see [`super::ProbeConfig::service`].
    pub(crate) service: bool,
    /// True if each connect() counts its calls of `__inet{,6}_check_established`.
    pub(crate) count_checks: bool,
    /// True if UDP is traced.
    pub(crate) udp: bool,
    /// True if these calls are counted and not timed.
    pub(crate) checks_add_up: bool,
    /// True if the programs read [`connect_trace_common::Control::sample_every`].
    pub(crate) may_sample: bool,
    /// True if the parts of each connect() are measured.
    pub(crate) phases: bool,
    /// True if the map `STACKS` is used; it then has the size of `RECORDS`, else the smallest one.
    pub(crate) takes_stacks: bool,
    /// Settings of following connections after their connect(), if they are.
    pub(crate) following: Option<Following>,
    /// Settings of the mitigation, if there is one.
    pub(crate) mitigation: Option<(&'a MitigationConfig, MitigationFields)>,
}

/// Creates the maps; no program is loaded yet.
pub(crate) fn load(options: &Options<'_>) -> Result<Ebpf> {
    let layout = options.layout;
    let words = FilterWords::of(options.filters, options.filters.cgroups.len())?;
    let only_process = filters::only_process(options.filters).filter(|_| !options.service);
    let linked = match options.service {
        true => FilterWords::IN_CONTROL,
        false => words,
    };
    let (sock, inet_sock, word) = layout
        .cast
        .map_or((0, 0, 0), |cast| (cast.sock, cast.inet_sock, cast.word));
    let present: u32 = layout.offsets.iter().map(|(field, _)| field.bit()).sum();
    let fields = options
        .following
        .map(|following| following.fields)
        .unwrap_or_default();
    let mut params = Params {
        fields: present.into(),
        has_options: 0,
        net_port_range_is_pair: layout.port_range_is_pair.into(),
        inet_port_range_is_pair: layout.socket_range_is_pair.into(),
        casts: layout.cast.is_some().into(),
        sock: sock.into(),
        inet_sock: inet_sock.into(),
        word: word.into(),
        table_perturb: options.table_perturb,
        kernel_sock: layout.kernel_sock.unwrap_or(0).into(),
        filters: linked.bits,
        has_only_process: only_process.is_some().into(),
        cgroup_count: linked.cgroup_count,
        min_latency_ns: linked.min_latency_ns,
        service: options.service.into(),
        user_locks_bit: layout.user_locks_bit.unwrap_or(0).into(),
        count_checks: options.count_checks.into(),
        checks_add_up: options.checks_add_up.into(),
        may_sample: options.may_sample.into(),
        phases: options.phases.into(),
        ends: options.following.is_some().into(),
        sock_error: fields.error.into(),
        sock_protocol: fields.protocol.into(),
        total_retransmits: fields.total_retransmits.into(),
        ..tables(layout.port_tables)
    };
    let has_options = words.bits != 0
        || params.min_latency_ns != 0
        || options.service
        || options.count_checks
        || options.may_sample
        || options.phases
        || options.following.is_some()
        || !layout.has(Field::TaskComm);
    params.has_options = has_options.into();
    if let Some((mitigation, fields)) = options.mitigation {
        mitigation.link(fields, &mut params)?;
    }
    let mut object = include_bytes_aligned!(env!("CONNECT_TRACE_BPF_OBJECT_PATH")).to_vec();
    fields::place(&mut object, &layout.offsets)?;
    let function = Extern {
        name: cast::FUNCTION,
        is: Is::Function(layout.cast.map(|cast| cast.function)),
    };
    let constant = |(name, value)| Extern {
        name,
        is: Is::Constant(value),
    };
    let mut externs: Vec<Extern> = params.named().into_iter().map(constant).collect();
    externs.extend(options.variables);
    externs.push(function);
    externs::link(&mut object, &externs)?;
    // If more threads than this call connect(), the others use the map.
    let places = options.max_in_flight.min(PLACES as u32);
    let only_process = only_process.unwrap_or(0);
    let mut loader = EbpfLoader::new();
    // aya reads the kernel's types (megabytes) by default, for relocations, of which the object has none.
    loader
        .btf(None)
        .override_global("ONLY_PROCESS", &only_process, true)
        .map_max_entries("RECORDS", options.ring_buffer_bytes)
        .map_max_entries("OWNERS", places)
        .map_max_entries("IN_FLIGHT", options.max_in_flight)
        .map_max_entries("PHASES", if options.phases { PLACES as u32 } else { 1 });
    for (ring, is_used) in [
        ("STACKS", options.takes_stacks),
        ("ENDS", options.following.is_some()),
    ] {
        let bytes = match is_used {
            true => options.ring_buffer_bytes,
            false => smallest_ring_buffer_bytes(),
        };
        loader.map_max_entries(ring, bytes);
    }
    if options.udp {
        loader.map_max_entries("REJECTED", PLACES as u32);
    }
    if let Some(following) = options.following {
        loader.map_max_entries("CONNECTIONS", following.max_connections);
    }
    if let Some((mitigation, _)) = options.mitigation {
        mitigation.size(&mut loader);
    }
    for (map, size) in filters::sizes(options.filters, options.service) {
        loader.map_max_entries(map, u32::try_from(size.max(1))?);
    }
    loader
        .load(&object)
        .context("the kernel refused the maps of the eBPF object")
}

/// Removes a map from the object and returns it.
pub(crate) fn take<M>(ebpf: &mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("the eBPF object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("map {name} of the eBPF object is of another type"))
}

/// Returns the constants with the layout of the port tables; zeros if it is not known.
fn tables(tables: Option<PortTables>) -> Params {
    let tables = tables.unwrap_or_default();
    Params {
        death_row_hashinfo: tables.death_row_hashinfo.into(),
        hashinfo_bhash: tables.bhash.into(),
        hashinfo_bhash_size: tables.bhash_size.into(),
        hashinfo_bhash2: tables.bhash2.into(),
        hashinfo_ehash_locks: tables.ehash_locks.into(),
        hashinfo_ehash_locks_mask: tables.ehash_locks_mask.into(),
        bind_bucket_bytes: tables.bucket_bytes.into(),
        spinlock_bytes: tables.spinlock_bytes.into(),
        ..Params::default()
    }
}

/// Returns a program of the object.
pub(crate) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .with_context(|| format!("the eBPF object has no program {name}"))?
        .try_into()
        .map_err(|error| anyhow!("program {name} of the eBPF object is of another type: {error}"))
}

/// Returns the reason why a program was refused: the error alone if the verifier wrote no log, else the end of its log,
/// which names the reason.
pub(crate) fn refusal(error: ProgramError) -> Error {
    const LAST_LINES: usize = 4;
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            log::debug!("the verifier's log:\n{log}");
            let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            // The verifier accepted the program, but there was no room for it.
            if matches!(
                io_error.raw_os_error(),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
            ) {
                return limits::named(io_error.into());
            }
            if lines.is_empty() {
                let is_forbidden = io_error.kind() == io::ErrorKind::PermissionDenied;
                let refused = Error::from(io_error).context("the kernel refused it");
                let refused = limits::named(refused);
                if is_forbidden && !limits::is_named(&refused) {
                    return MissingRequirement::new(
                        format!("{refused:#}"),
                        "lockdown, a security module or the seccomp filter of a container forbids it: see dmesg",
                    )
                    .into();
                }
                return refused;
            }
            let end = lines[lines.len().saturating_sub(LAST_LINES)..].join(" / ");
            anyhow!("the verifier refused it: {io_error}: {end}")
        }
        other => other.into(),
    }
}

/// Detaches and unloads a program of any type, if it is loaded.
pub(crate) fn unload(program: &mut Program) -> Result<(), ProgramError> {
    let unloaded = match program {
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        Program::RawTracePoint(program) => program.unload(),
        Program::PerfEvent(program) => program.unload(),
        Program::CgroupSockAddr(program) => program.unload(),
        _ => Ok(()),
    };
    match unloaded {
        Err(ProgramError::NotLoaded) => Ok(()),
        other => other,
    }
}

/// Locks the object, ignoring poisoning.
pub(super) fn lock(ebpf: &Mutex<Ebpf>) -> MutexGuard<'_, Ebpf> {
    ebpf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the descriptor of a loaded program.
pub(super) fn descriptor(fd: Result<&ProgramFd, ProgramError>) -> Result<&ProgramFd> {
    fd.context("the program is not loaded")
}
