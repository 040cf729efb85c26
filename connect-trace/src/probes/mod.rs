//! The eBPF programs in the kernel: loading them with what the kernel shows, attaching them in one of
//! two ways, and reading their maps. Nothing here knows what is done with a record.
//!
//! Attached: `tcp_v4_connect`, `tcp_v6_connect`, `__inet_hash_connect` (entry and return each) and the
//! tracepoint `sched_process_exit`, from start to end; `__inet_check_established` and
//! `__inet6_check_established` as [`checks`] decides.

mod attachment;
mod cgroups;
pub mod checks;
pub(crate) mod choice;
mod externs;
mod fentry;
mod fields;
mod filters;
mod instructions;
mod janitor;
mod kprobe;
mod link;
pub mod maps;
mod misses;
mod object;
mod perf_event;
mod processes;
mod program_info;
pub(crate) mod return_events;
mod run_stats;
mod shared;
pub mod steps;
pub(crate) mod trial;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::{ProgramFd, RawTracePoint},
};
use aya_log::EbpfLogger;

use self::{
    attachment::Attachment,
    cgroups::Cgroups,
    checks::{CheckMode, Watcher},
    choice::{Way, choose, with_types_or_without},
    maps::{Maps, Variables},
    misses::{Misses, Programs},
    object::Options,
    processes::Processes,
    run_stats::RunStats,
    steps::Steps,
};
use crate::filter::Filters;
use crate::kernel::{
    btf::Btf,
    lack::Lack,
    layout::Layout,
    limits,
    mounts::Folder,
    preemption,
    process::Process,
    prototypes::{CHECKS, CONNECT, Function},
    symbols::{Pointer, Symbols},
};
use crate::overhead::ProgramRuns;

/// How the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// fentry and fexit: a trampoline at the function. No return is lost for lack of room, but those of calls in flight
    /// are when another tracer comes or goes (`bpf_tramp_image_put`, kernel/bpf/trampoline.c), and are counted.
    Fentry,
    /// kprobe and kretprobe.
    Kprobe,
}

impl AttachMode {
    /// Name of the program for the entry of a function.
    fn entry_program(self, function: &Function) -> String {
        let kind = match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        };
        format!("{kind}_{}", function.program)
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fentry => "fentry/fexit",
            Self::Kprobe => "kprobe/kretprobe",
        })
    }
}

/// Size of the ring buffer where nothing else is asked for, in bytes.
pub const RING_BUFFER_BYTES: u32 = 8 << 20;

/// Most calls in flight where nothing else is asked for.
pub const MAX_IN_FLIGHT: u32 = 16_384;

/// What to attach, and how.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The way to attach; `None` takes fentry where the kernel offers it and does not skip its programs
    /// under preemption, else kprobe.
    pub attach: Option<AttachMode>,
    /// What is paid for watching `__inet{,6}_check_established`.
    pub checks: CheckMode,
    /// Which connects are wanted.
    pub filters: Filters,
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size.
    pub ring_buffer_bytes: u32,
    /// Most calls of connect() that can be in flight at once.
    pub max_in_flight: u32,
    /// Whether the kernel counts and times the runs of the programs, which costs two readings of the clock
    /// for each.
    pub run_stats: bool,
    /// Whether less may be traced for a while: see [`Probes::steps`]. Then each call asks whether it is
    /// sampled.
    pub may_step: bool,
}

/// The attached programs. Dropping it detaches them.
pub struct Probes {
    ebpf: Arc<Mutex<Ebpf>>,
    mode: AttachMode,
    notes: Vec<String>,
    layout: Layout,
    maps: Arc<Maps>,
    programs: Programs,
    programs_of_checks: Programs,
    forks: Programs,
    thread_ends: Programs,
    processes: Processes,
    cgroups: Cgroups,
    records: Option<RingBuf<MapData>>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    watcher: Watcher,
    /// Where the kernel counts the misses of the return events, where there are any.
    tracefs: Option<Folder>,
    stats: Option<Arc<RunStats>>,
    /// Dropped after the programs: the return events must be free when they are removed.
    attachment: Arc<Mutex<Attachment>>,
}

impl Probes {
    /// Loads the programs and attaches them.
    ///
    /// # Errors
    /// Says what this kernel lacks, or which call was refused.
    pub fn attach(config: &ProbeConfig) -> Result<Self> {
        limits::files()?;
        // Before the kernel is looked at: the ids are those of now.
        let asked_for = config.filters.pids.iter();
        let asked_for: Result<_> = asked_for.map(|&pid| Process::asked_for(pid)).collect();
        let asked_for = asked_for.map_err(limits::named)?;
        let btf = Btf::of_running_kernel()?;
        let layout = Layout::of(&btf)?;
        let mut functions = Functions::of_running_kernel()?;
        functions.fit(&btf)?;
        limits::memory(&btf, config.ring_buffer_bytes)?;
        // Not needed any more, and megabytes.
        drop(btf);
        let preempting = preemption::preempting_model();
        let config = &ProbeConfig {
            checks: match functions.checks()[..] {
                [] => CheckMode::Off,
                _ => config.checks,
            },
            ..config.clone()
        };
        let chosen = choose(config.attach, preempting.as_deref(), |way| {
            functions.offer(way)?;
            with_types_or_without(&layout, |layout| {
                Self::attach_as(way, config, layout, &functions).map_err(limits::named)
            })
        })?;
        let mut probes = chosen.taken;
        probes.notes.insert(0, chosen.reason);
        probes.processes.ask_for(asked_for);
        Ok(probes)
    }

    fn attach_as(
        way: Way,
        config: &ProbeConfig,
        layout: &Layout,
        functions: &Functions,
    ) -> Result<Self> {
        // Before any program runs: every run is counted.
        let stats = config.run_stats.then(RunStats::enable).transpose()?;
        let (mut ebpf, variables) = load(config, layout, functions)?;
        let maps = Arc::new(Maps::take(&mut ebpf, variables)?);
        filters::fill(&mut ebpf, &config.filters)?;
        let cgroups = Cgroups::fill(object::take(&mut ebpf, "CGROUPS")?, &config.filters.cgroups)?;
        let processes = Processes::new(object::take(&mut ebpf, "PIDS")?);
        let records = object::take(&mut ebpf, "RECORDS")?;
        let log = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::warn!("the programs cannot log: {error}"))
            .ok();
        let mode = way.mode();
        let mut notes = functions.notes.clone();

        attach_tracepoint(&mut ebpf, "thread_exit", "sched_process_exit")?;
        if config.filters.follow {
            attach_tracepoint(&mut ebpf, "process_fork", "sched_process_fork")?;
        }
        let return_events = match mode {
            AttachMode::Fentry => {
                fentry::load(&mut ebpf, &functions.connect())?;
                None
            }
            AttachMode::Kprobe => {
                let must_have_slots = way == Way::KprobeWithSlots;
                kprobe::prepare(&mut ebpf, &functions.connect(), must_have_slots, &mut notes)?
            }
        };
        let tracefs = return_events
            .as_ref()
            .map(|events| events.tracefs().clone());
        let ebpf = Arc::new(Mutex::new(ebpf));
        let stats = stats.map(Arc::new);
        let mut attachment =
            Attachment::new(Arc::clone(&ebpf), mode, functions.connect(), return_events);
        attachment.attach(stats.as_deref())?;
        let loaded = lock(&ebpf);
        let programs = Programs::of(&loaded)?;
        let forks = Programs::of_forks(&loaded)?;
        let thread_ends = Programs::of_thread_ends(&loaded)?;
        drop(loaded);
        let watcher = Watcher::start(
            config.checks,
            mode,
            functions.checks(),
            Arc::clone(&ebpf),
            Arc::clone(&maps),
            stats.clone(),
        )?;
        let programs_of_checks = Programs::of_checks(&lock(&ebpf))?;
        maps.open();
        Ok(Self {
            ebpf,
            mode,
            notes,
            layout: layout.clone(),
            maps,
            programs,
            programs_of_checks,
            forks,
            thread_ends,
            processes,
            cgroups,
            records: Some(records),
            log,
            watcher,
            tracefs,
            stats,
            attachment: Arc::new(Mutex::new(attachment)),
        })
    }

    /// How the programs are attached.
    #[must_use]
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Why this way to attach, and what does not work with it.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The layout that the records were made with.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The maps.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Returns if any process of `--pid` is left, with its children if they are followed. To be asked again and again:
    /// those that have ended are forgotten.
    ///
    /// # Errors
    /// If the map or the kernel's counters cannot be read.
    pub fn any_process(&mut self) -> Result<bool> {
        let thread_ends = &self.thread_ends;
        let any_missed = || Ok(thread_ends.recursion_misses()?.unwrap_or(0) > 0);
        self.processes.any_left(any_missed)
    }

    /// Looks if the cgroups of `--cgroup` were made anew, and traces these then. To be asked again and again.
    ///
    /// # Errors
    /// If the map does not take one.
    pub fn follow_cgroups(&mut self) -> Result<()> {
        self.cgroups.follow()
    }

    /// The ids of the traced processes that are left.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn processes_left(&mut self) -> Result<Vec<u32>> {
        self.processes.left()
    }

    /// Watches `__inet{,6}_check_established`.
    pub fn watcher(&mut self) -> &mut Watcher {
        &mut self.watcher
    }

    /// Traces less for a while, and more again. To be used where the programs were loaded with
    /// [`ProbeConfig::may_step`].
    #[must_use]
    pub fn steps(&self) -> Steps {
        Steps {
            attachment: Arc::clone(&self.attachment),
            watching: self.watcher.switch(),
            maps: Arc::clone(&self.maps),
            stats: self.stats.clone(),
        }
    }

    /// The runs of the programs, by name; `None` where the kernel does not count them.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn runs(&self) -> Result<Option<Vec<ProgramRuns>>> {
        self.stats.as_ref().map(|stats| stats.read()).transpose()
    }

    /// The ring buffer of the records; the first call has it.
    pub fn take_records(&mut self) -> Option<RingBuf<MapData>> {
        self.records.take()
    }

    /// Passes on what the programs logged.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Calls that the kernel did not hand to a program, by its own counters.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn misses(&self) -> Result<Misses> {
        Misses::read(
            &self.programs,
            &self.forks,
            &self.thread_ends,
            self.tracefs.as_ref(),
        )
    }

    /// Runs of the programs of `__inet{,6}_check_established` that the kernel left out; `None` if it does not count
    /// them.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn missed_checks(&self) -> Result<Option<u64>> {
        self.programs_of_checks.recursion_misses()
    }

    /// Detaches every program. The maps can still be read.
    ///
    /// # Errors
    /// Where a program is not let go.
    pub fn detach(&mut self) -> Result<()> {
        // A step that is under way ends first.
        let mut attachment = steps::attachment(&self.attachment);
        self.maps.close()?;
        self.watcher.stop()?;
        let mut ebpf = lock(&self.ebpf);
        for (name, program) in ebpf.programs_mut() {
            object::unload(program).with_context(|| format!("detach program {name}"))?;
        }
        drop(ebpf);
        attachment.let_go_of_returns();
        Ok(())
    }
}

/// Creates the maps and variables, which must stay until the programs are loaded; none is yet.
fn load(config: &ProbeConfig, layout: &Layout, functions: &Functions) -> Result<(Ebpf, Variables)> {
    let table = functions.table_perturb.address();
    let variables = Variables::new()?;
    let ebpf = object::load(&Options {
        layout,
        variables: variables.linked(),
        table_perturb: table.filter(|_| layout.port_offset_is_wide).unwrap_or(0),
        filters: &config.filters,
        ring_buffer_bytes: config.ring_buffer_bytes,
        max_in_flight: config.max_in_flight,
        count_checks: config.checks.counts(),
        checks_add_up: config.checks == CheckMode::Count,
        may_sample: config.may_step,
    })?;
    Ok((ebpf, variables))
}

/// The programs, whatever happened to a thread that held them.
fn lock(ebpf: &Mutex<Ebpf>) -> MutexGuard<'_, Ebpf> {
    ebpf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those of the probed functions that this kernel has, and a variable of theirs.
pub(crate) struct Functions {
    connect: Vec<&'static Function>,
    checks: Vec<&'static Function>,
    /// The functions that are not traced, and why.
    pub(crate) notes: Vec<String>,
    /// The first function of connect() that the kernel's types lack, without which there is no fentry.
    without_type: Option<&'static str>,
    /// True if the functions of IPv6 are there.
    pub(crate) ipv6: bool,
    /// What the port search takes its start from.
    pub(crate) table_perturb: Pointer,
}

impl Functions {
    /// Looks for them.
    ///
    /// # Errors
    /// Names the function that nothing can be traced without.
    pub(crate) fn of_running_kernel() -> Result<Self> {
        let all = CONNECT.iter().chain(&CHECKS);
        let names: Vec<&'static str> = all.map(|function| function.name).collect();
        let symbols = Symbols::of_running_kernel(&names)?;
        Self::of(&symbols)
    }

    fn of(symbols: &Symbols) -> Result<Self> {
        let connect = present(&CONNECT, symbols);
        let checks = present(&CHECKS, symbols);
        let is_missing = |function: &&Function| !symbols.functions.contains_key(function.name);
        if let Some(missing) = CONNECT
            .iter()
            .filter(|function| !function.ipv6)
            .find(is_missing)
        {
            return Err(Lack::new(
                format!(
                    "the kernel has no function {} to probe: it may be inlined or renamed",
                    missing.name
                ),
                "boot another build of it; Debian's kernels 5.10 to 7.3 have the function",
            )
            .into());
        }
        let ipv6 = connect.len() == CONNECT.len();
        let mut notes = Vec::new();
        if !ipv6 {
            notes.push("IPv6 is not loaded, so only IPv4 is traced".to_owned());
        }
        for missing in CHECKS.iter().filter(is_missing) {
            if ipv6 || !missing.ipv6 {
                notes.push(unwatched(missing, "this kernel has no such function"));
            }
        }
        Ok(Self {
            connect,
            checks,
            notes,
            without_type: None,
            ipv6,
            table_perturb: symbols.table_perturb,
        })
    }

    /// Checks the prototypes. Of the functions that look at one candidate port those stay that fit.
    ///
    /// # Errors
    /// Says how a function of connect() differs from what the programs assume.
    pub(crate) fn fit(&mut self, btf: &Btf) -> Result<()> {
        for function in &self.connect {
            if !function.check(btf)? {
                self.without_type.get_or_insert(function.name);
            }
        }
        let Self { checks, notes, .. } = self;
        checks.retain(|function| {
            let why = match function.check(btf) {
                Ok(true) => return true,
                Ok(false) => "it is not in the kernel's types".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            notes.push(unwatched(function, &why));
            false
        });
        Ok(())
    }

    /// Those of connect() and its search.
    pub(crate) fn connect(&self) -> Vec<&'static Function> {
        self.connect.clone()
    }

    /// Those that look at one candidate port.
    pub(crate) fn checks(&self) -> Vec<&'static Function> {
        self.checks.clone()
    }

    /// Checks that the kernel's types and this process's privileges offer a way to attach, as far as that is known
    /// before it is tried.
    pub(crate) fn offer(&self, way: Way) -> Result<()> {
        match (way, self.without_type) {
            (Way::Fentry, Some(name)) => Err(Lack::new(
                format!("the function {name} is not in the kernel's types"),
                "none needed: kprobe/kretprobe works without it",
            )
            .into()),
            (Way::KprobeWithSlots, _) => return_events::offered().map(|_| ()),
            _ => Ok(()),
        }
    }

    /// All of them, or all but those of IPv6.
    #[cfg(test)]
    pub(crate) fn all(ipv6: bool) -> Self {
        let all = CONNECT.iter().chain(&CHECKS);
        let wanted = all.filter(|function| ipv6 || !function.ipv6);
        let functions = wanted.map(|function| (function.name, function.name.to_owned()));
        Self::of(&Symbols {
            functions: functions.collect(),
            table_perturb: Pointer::At(0xffff_ffff_8300_0010),
        })
        .unwrap()
    }
}

/// The functions that the kernel has, with its symbols for them.
fn present(functions: &'static [Function], symbols: &Symbols) -> Vec<&'static Function> {
    let with_symbol = |function: &'static Function| {
        let symbol = symbols.functions.get(function.name)?;
        Some(function.with_symbol(symbol))
    };
    functions.iter().filter_map(with_symbol).collect()
}

/// The note of a function that looks at candidate ports and is not watched.
fn unwatched(function: &Function, why: &str) -> String {
    format!("calls of {} are not seen: {why}", function.name)
}

fn attach_tracepoint(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Result<()> {
    load_tracepoint(ebpf, name)?
        .attach(tracepoint)
        .with_context(|| format!("attach to tracepoint {tracepoint}"))?;
    Ok(())
}

fn load_tracepoint<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut RawTracePoint> {
    let program: &mut RawTracePoint = object::program(ebpf, name)?;
    program
        .load()
        .map_err(object::refusal)
        .with_context(|| format!("load program {name}"))?;
    Ok(program)
}

/// The descriptor of a loaded program.
fn descriptor(fd: Result<&ProgramFd, aya::programs::ProgramError>) -> Result<&ProgramFd> {
    fd.context("the program is not loaded")
}
