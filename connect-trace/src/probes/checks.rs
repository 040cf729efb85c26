//! Watching `__inet_check_established` and `__inet6_check_established`.
//!
//! A connect() on an exhausted range calls them tens of thousands of times, and even a program that
//! returns at once costs half of what such a call takes. So by default they are watched in short
//! bursts, and between these nothing is attached to them at all.

use std::{
    cmp::Reverse,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{fentry::FEntryLinkId, fexit::FExitLinkId, kprobe::KProbeLinkId},
};

use super::{AttachMode, fentry, kprobe, lock, maps::Maps, object, watched::Watched};
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
    /// Whether each connect() counts its calls.
    pub(super) fn counts(self) -> bool {
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
    links: Vec<Link>,
    watched: Arc<Watched>,
    /// How long the last attaching took, and when it was done.
    attaching: Duration,
    since: Instant,
}

/// A program that is attached, by its name.
enum Link {
    Entry(String, FEntryLinkId),
    Exit(String, FExitLinkId),
    Probe(String, KProbeLinkId),
}

impl Watcher {
    /// Loads the programs that the mode needs, and attaches them where it watches all the time.
    pub(super) fn start(
        mode: CheckMode,
        attach: AttachMode,
        functions: Vec<&'static Function>,
        ebpf: Arc<Mutex<Ebpf>>,
        maps: Arc<Maps>,
        watched: Arc<Watched>,
    ) -> Result<Self> {
        let mut inner = Inner {
            ebpf,
            attach,
            functions,
            maps,
            links: Vec::new(),
            watched,
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

    /// Detaches, and ends the burst that may be running.
    pub(super) fn stop(&self) -> Result<()> {
        self.bursts.stop.store(true, Ordering::Relaxed);
        self.bursts.lock().detach()
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
        let before = inner.timed()?;
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
            && inner.timed()? < calls
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
                        &entry("fentry", function, timed),
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
                    kprobe::load(&mut ebpf, &entry("kprobe", function, timed))?;
                    if timed {
                        kprobe::load(&mut ebpf, &format!("kretprobe_{}", function.program))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Attaches what was loaded for these families, the returns first.
    fn attach(&mut self, timed: bool, families: Families) -> Result<()> {
        let start = Instant::now();
        self.watched.begin();
        let functions = self
            .functions
            .iter()
            .filter(|function| families.have(function));
        let mut ebpf = lock(&self.ebpf);
        if timed {
            for function in functions.clone() {
                self.links.push(match self.attach {
                    AttachMode::Fentry => Link::Exit(
                        fentry::exit_program(function),
                        fentry::attach_exit(&mut ebpf, function)?,
                    ),
                    // The kernel's default of slots is enough: this function does not sleep.
                    AttachMode::Kprobe => probe(
                        &mut ebpf,
                        format!("kretprobe_{}", function.program),
                        function,
                    )?,
                });
            }
        }
        for function in functions {
            self.links.push(match self.attach {
                AttachMode::Fentry => {
                    let name = entry("fentry", function, timed);
                    let link = fentry::attach_entry(&mut ebpf, &name, function)?;
                    Link::Entry(name, link)
                }
                AttachMode::Kprobe => probe(&mut ebpf, entry("kprobe", function, timed), function)?,
            });
        }
        self.since = Instant::now();
        self.attaching = self.since - start;
        Ok(())
    }

    /// Calls that were timed since the start.
    fn timed(&self) -> Result<u64> {
        let checks = self.maps.checks()?;
        Ok(checks.iter().map(|function| function.timed).sum())
    }

    /// Detaches, the entries first, and one function after the other: a step can wait for grace periods of
    /// the kernel, in which what is still attached makes connects longer.
    fn detach(&mut self) -> Result<()> {
        if !self.watched.goes_on() {
            return Ok(());
        }
        let mut ebpf = lock(&self.ebpf);
        // Attached were all returns, and then all entries.
        let functions = self.links.len().div_ceil(2);
        let mut links: Vec<_> = self.links.drain(..).rev().enumerate().collect();
        links.sort_by_key(|(position, _)| Reverse(position % functions));
        for (_, link) in links {
            match link {
                Link::Entry(name, link) => {
                    object::program::<aya::programs::FEntry>(&mut ebpf, &name)?.detach(link)
                }
                Link::Exit(name, link) => {
                    object::program::<aya::programs::FExit>(&mut ebpf, &name)?.detach(link)
                }
                Link::Probe(name, link) => {
                    object::program::<aya::programs::KProbe>(&mut ebpf, &name)?.detach(link)
                }
            }
            .context("detach from __inet_check_established")?;
        }
        self.watched.end();
        Ok(())
    }
}

/// Name of the program for the entry of a function.
fn entry(kind: &str, function: &Function, timed: bool) -> String {
    format!(
        "{kind}_{}{}",
        function.program,
        if timed { "" } else { "_count" }
    )
}

fn probe(ebpf: &mut Ebpf, name: String, function: &Function) -> Result<Link> {
    let program: &mut aya::programs::KProbe = object::program(ebpf, &name)?;
    let link = program.attach(function.name, 0);
    Ok(Link::Probe(
        name,
        link.with_context(|| kprobe::refused("probe", function))?,
    ))
}
