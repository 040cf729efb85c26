//! Cost of a recording of a million connections: to write, on disk, and to report.
//!
//! `cargo run --release -p connect-trace --example recording -- FILE [connect-trace report's options]`

#[path = "../tests/fixtures/recording.rs"]
mod fixtures;

use std::{
    env, fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use connect_trace::{
    cli::{Cli, Command},
    connect::{Comm, Connect, Family, PortRange, SearchRange, SourcePort},
    replay,
};

use self::fixtures::{connect, write_recording};

const EVENTS: u64 = 1_000_000;

fn main() -> Result<()> {
    let mut arguments: Vec<_> = env::args_os().skip(1).collect();
    let file = arguments
        .first()
        .context("name a file that does not exist yet")?;
    let path = Path::new(file).to_owned();

    let connects: Vec<Connect> = connects().take(EVENTS as usize).collect();
    let before = cpu_time();
    write_recording(&path, "", 0, connects)?;
    let wrote = cpu_time() - before;
    let bytes = fs::metadata(&path)?.len();

    arguments.splice(0..0, ["connect-trace".into(), "report".into()]);
    let Some(Command::Report(args)) = Cli::parse_from(arguments).command else {
        unreachable!("the arguments begin with report");
    };
    let (start, before) = (Instant::now(), cpu_time());
    replay::run(&args)?;
    let (elapsed, read) = (start.elapsed(), cpu_time() - before);
    io::stdout().flush()?;
    eprintln!(
        "{EVENTS} connect() calls: {:.1} MB; written in {:.2} s of CPU; \
         reported in {:.2} s, {:.2} s of CPU",
        bytes as f64 / 1e6,
        wrote.as_secs_f64(),
        elapsed.as_secs_f64(),
        read.as_secs_f64(),
    );
    Ok(())
}

/// Returns connections of six programs on one range: a third find an odd port after a long search, and 1% find none.
fn connects() -> impl Iterator<Item = Connect> {
    const NAMES: [&str; 6] = [
        "curl",
        "nginx",
        "java",
        "python3",
        "pool-12-thread-",
        "envoy",
    ];
    let mut random = random(0x9e37_79b9_7f4a_7c15);
    let mut at_ns = 0;
    std::iter::repeat_with(move || {
        let mut below = |limit: u64| random() % limit;
        at_ns += below(40_000);
        let odd = below(3) == 0;
        let fails = below(100) == 0;
        let spread: f64 = (0..4)
            .map(|_| below(1 << 20) as f64 / f64::from(1 << 20))
            .sum();
        let typical = if odd || fails { 900_000.0 } else { 3_000.0 };
        let search_ns = (typical * (spread - 2.0).exp()) as u64;
        let program = below(6);
        let pid = 1_200 + 331 * program as u32;
        let ports = [443, 5_432, 6_379, 8_080];
        let to = Ipv4Addr::new(10, 1, 0, below(50) as u8);
        let connect_ns = search_ns + 9_000 + below(12_000);
        Connect {
            search_ns: Some(search_ns),
            family: if below(10) == 0 {
                Family::Mapped
            } else {
                Family::V4
            },
            source: Some(IpAddr::from([10, 0, 0, below(4) as u8])),
            port: if fails {
                SourcePort::None
            } else {
                SourcePort::Searched(32_768 + 2 * below(14_116) as u16 + u16::from(odd))
            },
            destination: Some(SocketAddr::new(to.into(), ports[below(4) as usize])),
            errno: if fails { libc::EADDRNOTAVAIL } else { 0 },
            pid,
            tid: pid + below(16) as u32,
            comm: Comm::of(NAMES[program as usize]),
            uid: [0, 33, 1_000][(program % 3) as usize],
            netns: Some(4_026_531_840 + 57 * (program % 3) as u32),
            cgroup_id: 4_000 + 13 * program,
            range: Some(SearchRange {
                ports: PortRange {
                    low: 32_768,
                    high: 60_999,
                },
                by_parity: true,
            }),
            scanned: (!fails).then(|| 1 + below(20) as u32),
            checks_watched: below(1_000) == 0,
            ..connect(at_ns, connect_ns, 0)
        }
    })
}

/// Xorshift generator: the same numbers in every run.
fn random(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Returns the CPU time of this process, user and system.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec, and every Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
