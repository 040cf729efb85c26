//! A service under the highest load for long: its account stays exact, and it needs no more memory and descriptors.
//!
//! The suite runs a short form; `CONNECT_TRACE_SOAK_SECONDS=1200 cargo xtask test --guests-only --kernel 6.12 -- soak` the
//! long one.

use std::{
    env, fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Test,
    faults::{accounted, descriptors, is_complete},
    service::{Metrics, Service, temporary},
    truth::{Truth, truth},
};

pub const TESTS: &[Test<()>] = crate::tests![
    OldestAndNewest: [a_soak_costs_neither_memory_nor_descriptors_nor_a_call],
];

/// Variable of the duration in seconds.
const VARIABLE: &str = "CONNECT_TRACE_SOAK_SECONDS";
/// Seconds of the short form.
const SHORT: u64 = 15;
/// Rounds after which the service has touched all the memory that it needs.
const WARM_UP: usize = 4;
/// Largest growth of the memory after that: 13 bytes for each call of the short form.
const MOST_GROWTH_KIB: u64 = 1_024;

/// Number of descriptors of scrapes that may be under way when descriptors are counted.
const OF_SCRAPES: usize = 4;

/// Two configurations that both select all calls of `truth`: with a record of each, and of those that are slow.
const CONFIGURATIONS: [&str; 2] = [
    "comm = \"truth\"\nmin-latency = \"1ns\"\n",
    "comm = [\"truth\", \"other\"]\nuid = [0, 1]\nmin-latency = \"100us\"\n",
];

/// Workloads beside the highest rate, in processes, threads and network namespaces that come and go.
const COMPANIONS: [&str; 4] = [
    "netns --count 40",
    "v6 --count 40",
    "mapped --count 40",
    "retry --count 20",
];

fn a_soak_costs_neither_memory_nor_descriptors_nor_a_call((): ()) -> Result<()> {
    let seconds = match env::var(VARIABLE) {
        Ok(seconds) => seconds.parse().context(VARIABLE)?,
        Err(_) => SHORT,
    };
    let config = temporary("soak");
    fs::write(&config, CONFIGURATIONS[0])?;
    let service = Service::start(&format!(
        "--interval 1 --ring-buffer 1M --config {}",
        config.display()
    ))?;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| scrape_until(&ended, &service));
        let soaked = soak(&service, &config, Duration::from_secs(seconds));
        ended.store(true, Ordering::Relaxed);
        soaked.and(scraper.join().expect("it returns its errors"))
    })?;
    fs::remove_file(&config)?;
    service.end()?;
    Ok(())
}

/// Reads every page in turn, by both ways, until `ended`.
fn scrape_until(ended: &AtomicBool, service: &Service) -> Result<()> {
    while !ended.load(Ordering::Relaxed) {
        for path in ["/metrics", "/report", "/healthz", "/readyz"] {
            let pages = [service.get(path)?, service.get_through_tcp(path)?];
            for page in pages {
                let early = path == "/report" && page.status == 503;
                ensure!(page.status == 200 || early, "{path}: {page:?}");
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The memory and the descriptors of the service.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    /// Memory of its own, without the pages of its file, which are read when they are needed first.
    anonymous_kib: u64,
    descriptors: usize,
}

impl Needs {
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(Self {
            anonymous_kib: kib.context("no RssAnon")?.parse()?,
            descriptors: descriptors(pid)?,
        })
    }

    fn most(self, other: Self) -> Self {
        Self {
            anonymous_kib: self.anonymous_kib.max(other.anonymous_kib),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }
}

fn soak(service: &Service, config: &Path, duration: Duration) -> Result<()> {
    let pid = service.process.pid();
    let start = Instant::now();
    let mut made = 0;
    let mut seen = service.metrics()?;
    let mut warm = Needs::default();
    let mut said = start;
    for round in 0.. {
        made += churn()?;
        seen = counted(service, made, &seen)?;
        let needs = Needs::of(pid)?;
        if round < WARM_UP {
            warm = warm.most(needs);
        } else {
            let most = warm.anonymous_kib + MOST_GROWTH_KIB;
            ensure!(
                needs.anonymous_kib <= most && needs.descriptors <= warm.descriptors + OF_SCRAPES,
                "round {round}: {needs:?} after {warm:?} of the warm-up"
            );
        }
        let is_last = round > WARM_UP && start.elapsed() >= duration;
        if is_last || said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            eprintln!(
                "soak: {} s, {} rounds, {made} calls, {needs:?} (warm: {warm:?})",
                start.elapsed().as_secs(),
                round + 1,
            );
        }
        if is_last {
            return Ok(());
        }
        fs::write(config, CONFIGURATIONS[(round + 1) % 2])?;
        service.reload("Reloaded: ")?;
    }
    unreachable!("the rounds have no end of their own")
}

/// Connects at the highest rate, with companions, and returns the number of calls.
fn churn() -> Result<u64> {
    let load = Truth::start("rate --refused --threads 4 --seconds 2")?;
    let mut made = 0;
    for companion in COMPANIONS {
        let records = truth(companion)?;
        let outcomes = records.iter().filter_map(|record| record.outcome.as_ref());
        made += outcomes
            .filter(|outcome| outcome.kernel_errno.is_some())
            .count() as u64;
    }
    Ok(made + load.calls()?)
}

/// Waits until no call is in flight, and checks that each sum over calls is that of the workload.
fn counted(service: &Service, made: u64, before: &Metrics) -> Result<Metrics> {
    let made = made as f64;
    let metrics = service.metrics_at_rest()?;
    metrics.ensure_not_before(before)?;
    let timed = metrics.sum("connect_trace_connect_duration_seconds_count", &[]);
    for (sum, of) in [
        (metrics.calls(), "connects"),
        (accounted(&metrics), "accounted for"),
        (timed, "timed"),
    ] {
        ensure!(sum == made, "{of}: {sum} of {made} calls: {metrics:?}");
    }
    ensure!(is_complete(&metrics), "INCOMPLETE: {metrics:?}");
    Ok(metrics)
}
