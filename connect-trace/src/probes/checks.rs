//! Watching `__inet_check_established` and `__inet6_check_established`.
//!
//! A connect() on an exhausted range calls them tens of thousands of times, and even a program that
//! returns at once costs half of what such a call takes. So by default they are watched in short
//! bursts, and between these nothing is attached to them at all.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;

use super::{
    AttachMode, fentry, kprobe,
    link::{Detach, Link},
    lock,
    maps::Maps,
    run_stats::RunStats,
};
use crate::kernel::prototypes::Function;

/// What is paid for watching `__inet{,6}_check_established`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckMode {
    /// Their latency in short bursts; nothing in between.
    #[default]
    Sampled,
    /// The latency of every call, and how many each connect() makes: an odd connect() on an exhausted
    /// range takes four to six times as long.
    Time,
    /// How many calls each connect() makes: such a connect() takes two to three times as long.
    Count,
    /// Nothing.
    Off,
}

impl CheckMode {
    /// Returns whether each connect() counts its calls.
    #[must_use]
    pub fn counts(self) -> bool {
        matches!(self, Self::Time | Self::Count)
    }
}

impl fmt::Display for CheckMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sampled => "sampled",
            Self::Time => "time",
            Self::Count => "count",
            Self::Off => "off",
        })
    }
}

/// Attaches to the two functions as the mode wants.
pub struct Watcher {
    mode: CheckMode,
    bursts: Bursts,
}

/// Bursts of watching; a handle for the thread that runs them.
#[derive(Clone)]
pub struct Bursts {
    inner: Arc<Mutex<Inner>>,
    /// Set when no burst is to last any longer.
    stop: Arc<AtomicBool>,
}

/// A burst that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// How long the functions were watched.
    pub watched: Duration,
    /// How long attaching and detaching took: mostly the kernel's waiting for its own grace periods.
    pub attaching: Duration,
}

/// The address families whose function is worth watching: each one costs grace periods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// `__inet_check_established`, which v4-mapped connects call too.
    pub v4: bool,
    /// `__inet6_check_established`
    pub v6: bool,
}

impl Families {
    const ALL: Self = Self { v4: true, v6: true };

    /// Whether there is any.
    #[must_use]
    pub fn any(self) -> bool {
        self.v4 || self.v6
    }

    fn have(self, function: &Function) -> bool {
        if function.ipv6 { self.v6 } else { self.v4 }
    }
}

struct Inner {
    ebpf: Arc<Mutex<Ebpf>>,
    attach: AttachMode,
    functions: Vec<&'static Function>,
    maps: Arc<Maps>,
    stats: Option<Arc<RunStats>>,
    /// None while nothing is attached.
    links: Vec<Link>,
    /// How many times all was attached.
    epoch: u64,
    /// How long the last attaching took, and when it was done.
    attaching: Duration,
    since: Instant,
}

impl Watcher {
    /// Loads the programs that the mode needs, and attaches them where it watches all the time.
    pub(super) fn start(
        mode: CheckMode,
        attach: AttachMode,
        functions: Vec<&'static Function>,
        ebpf: Arc<Mutex<Ebpf>>,
        maps: Arc<Maps>,
        stats: Option<Arc<RunStats>>,
    ) -> Result<Self> {
        let mut inner = Inner {
            ebpf,
            attach,
            functions,
            maps,
            stats,
            links: Vec::new(),
            epoch: 0,
            attaching: Duration::ZERO,
            since: Instant::now(),
        };
        match mode {
            CheckMode::Off => {}
            CheckMode::Sampled | CheckMode::Time => {
                inner.load(true)?;
                inner.attach(true, Families::ALL)?;
            }
            CheckMode::Count => {
                inner.load(false)?;
                inner.attach(false, Families::ALL)?;
            }
        }
        Ok(Self {
            mode,
            bursts: Bursts {
                inner: Arc::new(Mutex::new(inner)),
                stop: Arc::default(),
            },
        })
    }

    /// What is watched.
    #[must_use]
    pub fn mode(&self) -> CheckMode {
        self.mode
    }

    /// The bursts, where the mode has them.
    #[must_use]
    pub fn bursts(&self) -> Option<Bursts> {
        (self.mode == CheckMode::Sampled).then(|| self.bursts.clone())
    }

    /// Turns watching off and on again.
    #[must_use]
    pub(super) fn switch(&self) -> Switch {
        Switch {
            mode: self.mode,
            bursts: self.bursts.clone(),
        }
    }

    /// Detaches, and ends the burst that may be running.
    pub(super) fn stop(&self) -> Result<()> {
        self.bursts.stop.store(true, Ordering::Relaxed);
        self.bursts.lock().detach()
    }
}

/// Turns watching off and on again; a handle for the thread that does it.
#[derive(Clone)]
pub(super) struct Switch {
    mode: CheckMode,
    bursts: Bursts,
}

impl Switch {
    /// Detaches, and ends the burst that may be running; that of the start, which nobody waits for yet, is
    /// handed back. No other may be begun before [`on`](Self::on). Blocks meanwhile.
    pub(super) fn off(&self) -> Result<Option<Burst>> {
        self.bursts.stop.store(true, Ordering::Relaxed);
        let mut inner = self.bursts.lock();
        if inner.links.is_empty() {
            return Ok(None);
        }
        let (watched, start) = (inner.since.elapsed(), Instant::now());
        inner.detach()?;
        let burst = Burst {
            watched,
            attaching: inner.attaching + start.elapsed(),
        };
        Ok((self.mode == CheckMode::Sampled).then_some(burst))
    }

    /// Attaches again, where watching is all the time; bursts may come again. Blocks meanwhile.
    pub(super) fn on(&self) -> Result<()> {
        self.bursts.stop.store(false, Ordering::Relaxed);
        match self.mode {
            CheckMode::Off | CheckMode::Sampled => Ok(()),
            CheckMode::Time => self.bursts.lock().attach(true, Families::ALL),
            CheckMode::Count => self.bursts.lock().attach(false, Families::ALL),
        }
    }
}

/// Calls of a burst: a thousandth of a second's, plenty for a histogram of them.
const ENOUGH_CALLS: u64 = 2_000;

impl Bursts {
    /// Ends the burst that runs since the start, once it has seen enough calls, or after ten seconds of
    /// few: those cost little. To be called when connects come. Blocks meanwhile.
    ///
    /// # Errors
    /// Where the kernel refuses to detach.
    pub fn end_first(&self) -> Result<Burst> {
        const LONGEST: Duration = Duration::from_secs(10);
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        self.finish(self.lock(), ENOUGH_CALLS, LONGEST, LOOK_EVERY)
    }

    /// Watches the functions of these families until enough calls are seen, or until it is clear that
    /// none come, which costs nobody anything. Blocks meanwhile.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn run(&self, families: Families) -> Result<Burst> {
        const LONGEST: Duration = Duration::from_millis(100);
        const LOOK_EVERY: Duration = Duration::from_millis(1);
        let mut inner = self.lock();
        let before = inner.timed();
        if let Err(error) = inner.attach(true, families) {
            let _ = inner.detach();
            return Err(error).context("watch __inet_check_established for a moment");
        }
        self.finish(inner, before + ENOUGH_CALLS, LONGEST, LOOK_EVERY)
    }

    /// Detaches once so many calls are timed, or after the longest time.
    fn finish(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        calls: u64,
        longest: Duration,
        look_every: Duration,
    ) -> Result<Burst> {
        let start = Instant::now();
        while !self.stop.load(Ordering::Relaxed)
            && start.elapsed() < longest
            && inner.timed() < calls
        {
            thread::sleep(look_every);
        }
        let (watched, start) = (inner.since.elapsed(), Instant::now());
        inner.detach()?;
        Ok(Burst {
            watched,
            attaching: inner.attaching + start.elapsed(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Loads entry and return (`timed`), or the entry that only counts.
    fn load(&mut self, timed: bool) -> Result<()> {
        let mut ebpf = lock(&self.ebpf);
        match self.attach {
            AttachMode::Fentry => {
                let btf = fentry::kernel_types()?;
                for function in &self.functions {
                    fentry::load_entry(
                        &mut ebpf,
                        &entry(self.attach, function, timed),
                        function,
                        &btf,
                    )?;
                    if timed {
                        fentry::load_exit(&mut ebpf, function, &btf)?;
                    }
                }
            }
            AttachMode::Kprobe => {
                for function in &self.functions {
                    kprobe::load(&mut ebpf, &entry(self.attach, function, timed))?;
                    if timed {
                        kprobe::load(&mut ebpf, &kprobe::return_program(function))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Attaches what was loaded for these families, the returns first.
    fn attach(&mut self, timed: bool, families: Families) -> Result<()> {
        let start = Instant::now();
        let functions = self
            .functions
            .iter()
            .filter(|function| families.have(function));
        let mut ebpf = lock(&self.ebpf);
        if timed {
            for function in functions.clone() {
                // The kernel's default of slots is enough: this function does not sleep.
                let link = Link::to_return(&mut ebpf, self.attach, function)?;
                self.links.push(link);
            }
        }
        for function in functions {
            let program = entry(self.attach, function, timed);
            let link = Link::to_entry(&mut ebpf, self.attach, program, function)?;
            self.links.push(link);
        }
        if let Some(stats) = &self.stats {
            stats.look_at(&ebpf)?;
        }
        self.since = Instant::now();
        self.attaching = self.since - start;
        drop(ebpf);
        self.epoch += 1;
        self.maps.set_checks_epoch(self.epoch);
        Ok(())
    }

    /// Calls that were timed since the start.
    fn timed(&self) -> u64 {
        let checks = self.maps.checks();
        checks.iter().map(|function| function.timed).sum()
    }

    /// Detaches one function after the other, entry and return of each at once: detaching waits for grace periods of the
    /// kernel, in which what is still attached makes connects longer.
    fn detach(&mut self) -> Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        self.maps.set_checks_epoch(0);
        let mut ebpf = lock(&self.ebpf);
        let links = self.links.drain(..).map(|link| link.take(&mut ebpf));
        let links = links.collect::<Result<Vec<_>>>()?;
        drop(ebpf);
        // Attached were all returns, and then all entries.
        let functions = links.len().div_ceil(2);
        let mut of_functions: Vec<Vec<Detach>> = (0..functions).map(|_| Vec::new()).collect();
        for (position, detach) in links.into_iter().enumerate() {
            of_functions[position % functions].push(detach);
        }
        of_functions.into_iter().try_for_each(at_once)
    }
}

/// Detaches all of these, each in a thread of its own.
fn at_once(links: Vec<Detach>) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = links.into_iter().map(|link| scope.spawn(link)).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .map(|ended| ended.unwrap_or_else(|_| bail!("a thread that detaches has panicked")))
            .fold(Ok(()), Result::and)
    })
}

/// Name of the program for the entry of a function.
fn entry(mode: AttachMode, function: &Function, timed: bool) -> String {
    let program = mode.entry_program(function);
    if timed { program } else { program + "_count" }
}
