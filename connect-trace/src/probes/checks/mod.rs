//! Watching `__inet_check_established` and `__inet6_check_established`.
//!
//! A connect() on an exhausted range calls them tens of thousands of times, and even a program that returns at once
//! costs half as much as such a call. So by default they are watched in short bursts, and nothing is attached to them
//! between bursts.

use std::{
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
    attach::{
        AttachMode, fentry, kprobe,
        link::{Detach, Link},
    },
    object::lock,
    read::{maps::Maps, run_stats::RunStats},
};
use crate::{connect::CheckMode, kernel::prototypes::Function};

/// Watches the two functions as the mode requires.
pub struct Watcher {
    mode: CheckMode,
    bursts: Bursts,
}

/// Bursts of watching; a handle for the thread that runs them.
#[derive(Clone)]
pub struct Bursts {
    inner: Arc<Mutex<Inner>>,
    /// Set when a burst has to end.
    stop: Arc<AtomicBool>,
}

/// A burst that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Time during which the functions were watched.
    pub watched: Duration,
    /// Time that attaching and detaching took: mostly the kernel's waiting for its own grace periods.
    pub attaching: Duration,
}

/// The address families whose function is watched: each one costs grace periods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// The function `__inet_check_established`, which connect() to a v4-mapped address calls too.
    pub v4: bool,
    /// The function `__inet6_check_established`.
    pub v6: bool,
}

impl Families {
    const ALL: Self = Self { v4: true, v6: true };

    /// Returns whether any family is watched.
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
    /// Empty while nothing is attached.
    links: Vec<Link>,
    /// Number of times that the programs were attached.
    epoch: u64,
    /// Duration of the last attaching; `since` is the time of its end.
    attaching: Duration,
    since: Instant,
}

impl Watcher {
    /// Loads the programs that the mode needs, and attaches them (for [`CheckMode::Sampled`], until the first burst
    /// ends).
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

    /// Returns the mode.
    #[must_use]
    pub fn mode(&self) -> CheckMode {
        self.mode
    }

    /// Returns the bursts, if the mode has them.
    #[must_use]
    pub fn bursts(&self) -> Option<Bursts> {
        (self.mode == CheckMode::Sampled).then(|| self.bursts.clone())
    }

    /// Returns a handle that turns watching off and on again.
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
    /// Detaches, and ends the burst that may be running. Returns the burst if it is the first one, which nobody waits
    /// for yet. No other burst may begin before [`on`](Self::on). Blocks meanwhile.
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

    /// Attaches again if the mode watches all the time; allows bursts again. Blocks meanwhile.
    pub(super) fn on(&self) -> Result<()> {
        self.bursts.stop.store(false, Ordering::Relaxed);
        match self.mode {
            CheckMode::Off | CheckMode::Sampled => Ok(()),
            CheckMode::Time => self.bursts.lock().attach(true, Families::ALL),
            CheckMode::Count => self.bursts.lock().attach(false, Families::ALL),
        }
    }
}

/// Number of calls in a burst: a thousandth of those in a second, enough for a histogram.
const ENOUGH_CALLS: u64 = 2_000;

impl Bursts {
    /// Ends the burst that runs since the start, once it has seen enough calls, or after ten seconds with few: those
    /// cost little. To be called when records of connect() calls arrive. Blocks meanwhile.
    ///
    /// # Errors
    /// If the kernel refuses to detach.
    pub fn end_first(&self) -> Result<Burst> {
        const LONGEST: Duration = Duration::from_secs(10);
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        self.finish(self.lock(), ENOUGH_CALLS, LONGEST, LOOK_EVERY)
    }

    /// Watches the functions of these families until enough calls are seen, or until it is clear that none come, which
    /// costs no call anything. Blocks meanwhile.
    ///
    /// # Errors
    /// If the kernel refuses to attach or detach.
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

    /// Detaches once `calls` calls are timed, or after the longest time.
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
    /// Loads the programs for entry and return (`timed`), or the entry program that only counts.
    fn load(&mut self, timed: bool) -> Result<()> {
        let mut ebpf = lock(&self.ebpf);
        match self.attach {
            AttachMode::Fentry => {
                let btf = fentry::kernel_types(&self.functions)?;
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

    /// Attaches the loaded programs of these families, the return programs first.
    fn attach(&mut self, timed: bool, families: Families) -> Result<()> {
        let start = Instant::now();
        let functions = self
            .functions
            .iter()
            .filter(|function| families.have(function));
        let mut ebpf = lock(&self.ebpf);
        if timed {
            for function in functions.clone() {
                // The kernel's default number of slots is enough: this function does not sleep.
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

    /// Returns the number of calls that were timed since the start.
    fn timed(&self) -> u64 {
        let checks = self.maps.checks();
        checks.iter().map(|function| function.times.count).sum()
    }

    /// Detaches one function after the other, and the entry and return programs of each function at once: detaching waits
    /// for grace periods of the kernel, and until then every program that is still attached makes connect() slower.
    fn detach(&mut self) -> Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        self.maps.set_checks_epoch(0);
        let mut ebpf = lock(&self.ebpf);
        let links = self.links.drain(..).map(|link| link.take(&mut ebpf));
        let links = links.collect::<Result<Vec<_>>>()?;
        drop(ebpf);
        // The links are in the order of attaching: all returns, then all entries.
        let functions = links.len().div_ceil(2);
        let mut of_functions: Vec<Vec<Detach>> = (0..functions).map(|_| Vec::new()).collect();
        for (position, detach) in links.into_iter().enumerate() {
            of_functions[position % functions].push(detach);
        }
        of_functions.into_iter().try_for_each(at_once)
    }
}

/// Detaches the links, each in a thread of its own.
fn at_once(links: Vec<Detach>) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = links.into_iter().map(|link| scope.spawn(link)).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .map(|ended| ended.unwrap_or_else(|_| bail!("a thread that detaches has panicked")))
            .fold(Ok(()), Result::and)
    })
}

/// Returns the name of the program for the entry of a function.
fn entry(mode: AttachMode, function: &Function, timed: bool) -> String {
    let program = mode.entry_program(function);
    if timed { program } else { program + "_count" }
}
