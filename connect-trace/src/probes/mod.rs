//! The eBPF programs in the kernel: loading them with the properties of the kernel, attaching them in one of two ways,
//! and reading their maps. The use of a record is decided elsewhere.
//!
//! Attached: `tcp_v4_connect`, `tcp_v6_connect`, `__inet_hash_connect` (entry and return each) and the
//! tracepoint `sched_process_exit`, from start to end; `__inet_check_established` and `__inet6_check_established` as
//! [`checks`] decides; with `--time-wait`, the return of `tcp_twsk_unique`; the functions of UDP instead or too, if it is
//! traced.

pub mod attach;
mod cgroups;
pub mod checks;
mod config;
pub(crate) mod ends;
pub(crate) mod level_switch;
pub mod mitigation;
mod object;
pub(crate) mod phases;
mod processes;
mod read;
mod stacks;
pub(crate) mod trial;

pub use self::{
    attach::AttachMode,
    config::{MAX_IN_FLIGHT, ProbeConfig, RING_BUFFER_BYTES, smallest_ring_buffer_bytes},
    ends::MAX_CONNECTIONS,
};

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::RawTracePoint,
};
use aya_log::EbpfLogger;
use connect_trace_common::{StackCounts, counters::TimeWaitCounts};

use self::{
    attach::{
        attachment::Attachment,
        choice::{Way, choose, with_types_or_without},
        fentry,
        functions::Functions,
        kprobe,
        link::Link,
        misses::{Misses, Programs},
        return_events,
    },
    cgroups::Cgroups,
    checks::Watcher,
    ends::{Ends, Following},
    level_switch::LevelSwitch,
    mitigation::Mitigation,
    object::{
        Options,
        filters::{self, FilterMaps, FilterWords},
        lock,
    },
    processes::Processes,
    read::{
        maps::{Maps, Variables},
        run_stats::RunStats,
    },
};
use crate::connect::CheckMode;
use crate::kernel::{
    btf::Btf, ends::EndFields, layout::Layout, limits, mitigation::MitigationFields,
    mounts::Folder, preemption, process::Process, symbols::Pointer,
};
use crate::{filter::Filters, overhead::ProgramRuns};

/// The attached programs. Dropping this value detaches them.
pub struct Probes {
    ebpf: Arc<Mutex<Ebpf>>,
    mode: AttachMode,
    notes: Vec<String>,
    layout: Layout,
    maps: Arc<Maps>,
    programs: Programs,
    programs_of_checks: Programs,
    /// The program of TIME_WAIT, if it was asked for.
    program_of_time_wait: Option<Programs>,
    forks: Programs,
    thread_ends: Programs,
    processes: Processes,
    cgroups: Cgroups,
    filters: FilterMaps,
    records: Option<RingBuf<MapData>>,
    /// The connections that are followed, if they are.
    ends: Option<Ends>,
    /// The mitigation, if it was asked for.
    mitigation: Option<Mitigation>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    watcher: Watcher,
    /// The tracefs in which the kernel counts the misses of the return events, if there are any.
    tracefs: Option<Folder>,
    stats: Option<Arc<RunStats>>,
    /// See [`LevelSwitch`].
    stays_attached: bool,
    stacks: Option<RingBuf<MapData>>,
    stack_counts: stacks::Counts,
    /// Dropped after the programs: a return event can be removed only when no program uses it.
    attachment: Arc<Mutex<Attachment>>,
}

impl Probes {
    /// Loads the programs and attaches them.
    ///
    /// # Errors
    /// States what this kernel lacks, or which call was refused.
    pub fn attach(config: &ProbeConfig) -> Result<Self> {
        limits::files()?;
        // The processes are opened before the kernel is inspected, so that each id means the process that has it now.
        let asked_for = opened(&config.filters.pids)?;
        let btf = Btf::of_running_kernel()?;
        let layout = Layout::of(&btf)?;
        let mut functions = Functions::of_running_kernel(config.protocols)?;
        functions.fit(&btf)?;
        if config.time_wait {
            functions.time_wait()?;
        }
        if config.protocols.udp {
            layout.check_udp()?;
        }
        let following = config.max_connections.map(|max_connections| {
            anyhow::Ok(Following {
                max_connections,
                fields: EndFields::of(&btf)?,
            })
        });
        let following = following.transpose()?;
        let mitigation = match &config.mitigation {
            Some(mitigation) => {
                mitigation.check(&layout)?;
                Some(MitigationFields::of(&btf)?)
            }
            None => None,
        };
        let ring_bytes = u64::from(config.ring_buffer_bytes);
        let stack_bytes = config.stacks_hertz.map_or(0, |_| ring_bytes);
        let end_bytes = config
            .max_connections
            .map_or(0, |most| ring_bytes + ends::bytes(most));
        limits::memory(&btf, ring_bytes + stack_bytes + end_bytes)?;
        // Frees megabytes that are no longer needed.
        drop(btf);
        let preempting = preemption::preempting_model();
        if layout.port_offset_is_wide && functions.table_perturb == Pointer::Hidden {
            functions.notes.push(NO_START.to_owned());
        }
        if let (Some(mitigation), Some(fields)) = (&config.mitigation, mitigation) {
            let note = mitigation.try_out(config, &layout, &functions, fields)?;
            functions.notes.extend(note);
        }
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
                Self::attach_as(way, config, layout, &functions, following, mitigation)
                    .map_err(limits::named)
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
        following: Option<Following>,
        mitigation: Option<MitigationFields>,
    ) -> Result<Self> {
        // Enabled before any program runs, so that every run is counted.
        let stats = match (config.run_stats, config.service) {
            (false, _) => None,
            (true, false) => Some(RunStats::enable()?),
            (true, true) => Some(RunStats::enable_if_allowed()),
        };
        let (mut ebpf, variables) = load(config, layout, functions, following, mitigation)?;
        let maps = Arc::new(Maps::take(&mut ebpf, variables)?);
        let filters = FilterMaps::fill(&mut ebpf, &config.filters, config.service)?;
        let cgroups = Cgroups::fill(object::take(&mut ebpf, "CGROUPS")?, &config.filters.cgroups)?;
        let mut processes = Processes::new(object::take(&mut ebpf, "PIDS")?);
        processes.add(&config.filters.pids)?;
        maps.set_filters(FilterWords::of(&config.filters, cgroups.places())?);
        let records = object::take(&mut ebpf, "RECORDS")?;
        let stacks = object::take(&mut ebpf, "STACKS")?;
        let stack_counts = stacks::Counts::take(&mut ebpf)?;
        let log = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| log::warn!("the programs cannot log: {error}"))
            .ok();
        let mode = way.mode();
        let mut notes = functions.notes.clone();

        attach_tracepoint(&mut ebpf, "thread_exit", "sched_process_exit")?;
        if config.filters.follow {
            attach_tracepoint(&mut ebpf, "process_fork", "sched_process_fork")?;
        }
        if config.phases {
            phases::attach(&mut ebpf, layout, &mut notes)?;
        }
        let ends = match following {
            Some(_) => Some(Ends::attach(&mut ebpf)?),
            None => None,
        };
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
        let of_modules = functions.of_modules();
        for function in &of_modules {
            kprobe::load_both(&mut ebpf, function)?;
        }
        let tracefs = return_events
            .as_ref()
            .map(|events| events.tracefs().clone());
        let ebpf = Arc::new(Mutex::new(ebpf));
        let stats = stats.map(Arc::new);
        let time_wait = config
            .time_wait
            .then(|| functions.time_wait())
            .transpose()?;
        if let Some(function) = time_wait {
            Link::load_return(&mut lock(&ebpf), mode, function)?;
        }
        let mut attachment = Attachment::new(
            Arc::clone(&ebpf),
            mode,
            functions.connect(),
            time_wait,
            return_events,
        )
        .with_kprobes(of_modules);
        attachment.attach(stats.as_deref())?;
        if let Some(hertz) = config.stacks_hertz {
            let mut ebpf = lock(&ebpf);
            stacks::attach(&mut ebpf, hertz)?;
            if let Some(stats) = &stats {
                stats.look_at(&ebpf)?;
            }
        }
        let loaded = lock(&ebpf);
        let program_of_time_wait = time_wait
            .map(|_| Programs::of_time_wait(&loaded))
            .transpose()?;
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
        let mitigation = match &config.mitigation {
            Some(mitigation) => Some(Mitigation::attach(&mut lock(&ebpf), mitigation, &maps)?),
            None => None,
        };
        maps.open();
        Ok(Self {
            ebpf,
            mode,
            notes,
            layout: layout.clone(),
            maps,
            programs,
            programs_of_checks,
            program_of_time_wait,
            forks,
            thread_ends,
            processes,
            cgroups,
            filters,
            records: Some(records),
            ends,
            mitigation,
            log,
            watcher,
            tracefs,
            stats,
            stays_attached: config.service,
            stacks: config.stacks_hertz.is_some().then_some(stacks),
            stack_counts,
            attachment: Arc::new(Mutex::new(attachment)),
        })
    }

    /// Returns the mode in which the programs are attached.
    #[must_use]
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Returns the reason for the way to attach, and its restrictions.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the layout with which the programs were loaded.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the maps.
    #[must_use]
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Returns whether any process of `--pid` is left, with its children if they are followed. To be called repeatedly:
    /// processes that have ended are forgotten.
    ///
    /// # Errors
    /// If the map or the kernel's counters cannot be read.
    pub fn any_process(&mut self) -> Result<bool> {
        let thread_ends = &self.thread_ends;
        let any_missed = || Ok(thread_ends.recursion_misses()?.unwrap_or(0) > 0);
        self.processes.any_left(any_missed)
    }

    /// Checks whether cgroups of `--cgroup` were created again, and traces the new ones. To be called repeatedly.
    ///
    /// # Errors
    /// If the map refuses a cgroup.
    pub fn follow_cgroups(&mut self) -> Result<()> {
        self.cgroups.follow()
    }

    /// Replaces the filters of a service, without detaching: no call is lost that both the old and the new filters select.
    /// Calls that only one of them selects may be traced or not for a moment.
    ///
    /// # Errors
    /// If the maps are too small, or the kernel refuses to change them. The old filters stay.
    pub(crate) fn change_filters(&mut self, new: &Filters) -> Result<()> {
        self.filters.check_room(new)?;
        let old = self.filters.present().clone();
        let processes = opened(&new.pids)?;
        if let Err(error) = self.add_filters(new) {
            // Only what was added is removed: processes of the old filters that have ended are gone already.
            let old_pids = old.pids.iter().filter_map(|&pid| Process::open(pid).ok());
            let removed = self.keep_filters(&old, new, old_pids.collect());
            removed.context("remove the new filters again")?;
            return Err(filters::refusal(error));
        }
        self.maps
            .set_filters(FilterWords::of(new, self.cgroups.places())?);
        filters::wait_for_running_programs();
        self.keep_filters(new, &old, processes)
    }

    /// Adds the values of other filters to the maps.
    fn add_filters(&mut self, filters: &Filters) -> Result<()> {
        self.filters.add(filters)?;
        self.processes.add(&filters.pids)?;
        self.cgroups.add(&filters.cgroups)
    }

    /// Removes the values that `other` has and `kept` lacks from the maps; `processes` are those of `kept`.
    fn keep_filters(
        &mut self,
        kept: &Filters,
        other: &Filters,
        processes: Vec<Process>,
    ) -> Result<()> {
        self.filters.keep_only(kept, other)?;
        self.processes.keep_only(&processes, &other.pids)?;
        self.processes.ask_for(processes);
        self.cgroups.keep_only(&kept.cgroups)
    }

    /// Returns the ids of the traced processes that are left.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn processes_left(&mut self) -> Result<Vec<u32>> {
        self.processes.left()
    }

    /// Returns the watcher of `__inet{,6}_check_established`.
    pub fn watcher(&mut self) -> &mut Watcher {
        &mut self.watcher
    }

    /// Returns a handle that switches between levels. To be used only if the programs were loaded with
    /// [`ProbeConfig::may_sample`].
    #[must_use]
    pub fn level_switch(&self) -> LevelSwitch {
        LevelSwitch {
            attachment: Arc::clone(&self.attachment),
            watching: self.watcher.switch(),
            maps: Arc::clone(&self.maps),
            stats: self.stats.clone(),
            stays_attached: self.stays_attached,
        }
    }

    /// Returns true if the programs stay attached whatever the level: see [`ProbeConfig::service`].
    pub(crate) fn stay_attached(&self) -> bool {
        self.stays_attached
    }

    /// Lets the kernel measure the runs of the programs of a service from now on, if it is allowed.
    ///
    /// # Errors
    /// If the kernel's counts cannot be read.
    pub(crate) fn measure_runs(&mut self) -> Result<()> {
        match &self.stats {
            Some(stats) => stats.resume(),
            None => {
                let stats = RunStats::enable_if_allowed();
                stats.look_at(&lock(&self.ebpf))?;
                self.stats = Some(Arc::new(stats));
            }
        }
        Ok(())
    }

    /// Ends what [`measure_runs`](Self::measure_runs) began. The counts until now stay.
    pub(crate) fn pause_measuring(&self) {
        if let Some(stats) = &self.stats {
            stats.pause();
        }
    }

    /// Returns true if the kernel measures the runs of the programs now.
    pub(crate) fn are_measured(&self) -> bool {
        self.stats.as_ref().is_some_and(|stats| stats.counts())
    }

    /// Returns the filters in force.
    pub(crate) fn filters(&self) -> &Filters {
        self.filters.present()
    }

    /// Returns the runs of the programs, by name; `None` if the kernel does not count them.
    ///
    /// # Errors
    /// If the counts cannot be read.
    pub fn runs(&self) -> Result<Option<Vec<ProgramRuns>>> {
        let stats = self.stats.as_ref().filter(|stats| stats.counts());
        stats.map(|stats| stats.read()).transpose()
    }

    /// Returns the ring buffer of the records, on the first call only.
    pub fn take_records(&mut self) -> Option<RingBuf<MapData>> {
        self.records.take()
    }

    /// Returns the ring buffer of the kernel stacks, on the first call only; `None` if none are taken.
    pub fn take_stacks(&mut self) -> Option<RingBuf<MapData>> {
        self.stacks.take()
    }

    /// Returns the kernel's account of the stacks.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn stack_counts(&self) -> Result<StackCounts> {
        self.stack_counts.read()
    }

    /// Returns the connections that are followed, if they are.
    pub(crate) fn ends(&mut self) -> Option<&mut Ends> {
        self.ends.as_mut()
    }

    /// Returns the mitigation, if it was asked for.
    pub fn mitigation(&mut self) -> Option<&mut Mitigation> {
        self.mitigation.as_mut()
    }

    /// Passes log messages of the programs on to the log.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Returns the number of calls that the kernel did not pass to a program, by its own counters.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn misses(&self) -> Result<Misses> {
        Misses::read(
            &self.programs,
            &self.forks,
            &self.thread_ends,
            self.tracefs.as_ref(),
        )
    }

    /// Returns the number of skipped runs of the programs of `__inet{,6}_check_established`; `None` if the kernel does
    /// not count them.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn missed_checks(&self) -> Result<Option<u64>> {
        self.programs_of_checks.recursion_misses()
    }

    /// Returns the counts of candidate ports in TIME_WAIT, and of the runs that the kernel skipped if it counts them;
    /// `None` if these ports are not counted.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read.
    pub fn time_wait(&self) -> Result<Option<(TimeWaitCounts, Option<u64>)>> {
        let Some(program) = &self.program_of_time_wait else {
            return Ok(None);
        };
        Ok(Some((self.maps.time_wait(), program.recursion_misses()?)))
    }

    /// Returns the file of the misses of return events, if there are any, which is opened for each reading.
    #[must_use]
    pub(crate) fn profile(&self) -> Option<PathBuf> {
        self.tracefs.as_ref().map(return_events::profile)
    }

    /// Detaches every program. The maps can still be read.
    ///
    /// # Errors
    /// If a program cannot be detached.
    pub fn detach(&mut self) -> Result<()> {
        // The lock waits until a level switch that is under way has ended.
        let mut attachment = level_switch::attachment(&self.attachment);
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

/// Note if the kernel hides the variable from which a search takes its start.
const NO_START: &str = "the number of ports that a search tried is unknown: the kernel shows no addresses without \
                        CAP_SYSLOG (kernel.kptr_restrict)";

/// Opens the processes of `--pid`, so that each id means the process that has it now.
fn opened(pids: &[u32]) -> Result<Vec<Process>> {
    let processes = pids.iter().map(|&pid| Process::asked_for(pid));
    processes.collect::<Result<_>>().map_err(limits::named)
}

/// Creates the maps and the variables, which must stay until the programs are loaded. Loads no program.
fn load(
    config: &ProbeConfig,
    layout: &Layout,
    functions: &Functions,
    following: Option<Following>,
    mitigation: Option<MitigationFields>,
) -> Result<(Ebpf, Variables)> {
    let table = functions.table_perturb.address();
    let sums_fast = config.service || config.filters.min_latency.is_some();
    let variables = Variables::new(sums_fast)?;
    let ebpf = object::load(&Options {
        layout,
        variables: variables.linked(),
        table_perturb: table.filter(|_| layout.port_offset_is_wide).unwrap_or(0),
        filters: &config.filters,
        ring_buffer_bytes: config.ring_buffer_bytes,
        max_in_flight: config.max_in_flight,
        service: config.service,
        count_checks: config.checks.counts(),
        udp: config.protocols.udp,
        checks_add_up: config.checks == CheckMode::Count,
        may_sample: config.may_sample,
        phases: config.phases,
        takes_stacks: config.stacks_hertz.is_some(),
        following,
        mitigation: config.mitigation.as_ref().zip(mitigation),
    })?;
    Ok((ebpf, variables))
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
