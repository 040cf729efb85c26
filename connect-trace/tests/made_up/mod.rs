//! Logs of workloads and recordings that never were, with figures as real ones have them.

pub mod recording;

use std::{
    fs::File,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::Result;
use connect_trace::{
    connect::{Connect, SourcePort},
    load::{
        attempt::Attempt,
        log::{FORMAT, Head, Run},
    },
};

use self::recording::connect;

/// The lowest port of the article's range.
const LOW: u16 = 9_024;

/// What a strategy makes of the range.
#[derive(Clone, Copy)]
enum Shape {
    /// Even ports first, then odd ones after a long search.
    TwoPasses,
    /// One as fast as the other.
    Flat(f64),
    /// A window of so many ports: it fails where it is full.
    Window(f64),
    /// Tries more and more ports.
    Repeat,
}

/// A run of so many attempts on so many ports.
pub fn run(strategy: &str, repeat: u32, ports: u32) -> Run {
    Run {
        strategy: strategy.to_owned(),
        protocol: "tcp".to_owned(),
        repeat,
        range: [LOW, LOW + (ports - 1) as u16],
        addresses: 1,
        capacity: ports,
        threads: 1,
        seed: 7,
        total_ns: 0,
        attempts: u64::from(ports),
    }
}

/// The log of these runs, as long as their ports go.
pub fn log_of(mut runs: Vec<Run>) -> (Head, Vec<Attempt>) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut attempts = Vec::new();
    for (index, run) in runs.iter_mut().enumerate() {
        let shape = match run.strategy.as_str() {
            "full-range" => Shape::Flat(13_200.0),
            "select-test-repeat" => Shape::Repeat,
            "window-500" => Shape::Window(500.0),
            "window-10000" => Shape::Window(10_000.0),
            _ => Shape::TwoPasses,
        };
        let (mut now, mut held) = (0, 0);
        for number in 0..run.capacity {
            let mut attempt = attempt(shape, number, held, run.capacity, &mut random);
            attempt.run = index as u16;
            attempt.start_ns = now;
            now += attempt.prepare_ns + attempt.connect_ns + 1_500;
            held += u32::from(attempt.errno == 0);
            attempts.push(attempt);
        }
        run.total_ns = now;
    }
    let head = Head {
        connect_trace_load: FORMAT,
        kernel: "6.18.5-example".to_owned(),
        began_unix_s: 1_795_000_000,
        runs,
    };
    (head, attempts)
}

fn attempt(shape: Shape, number: u32, held: u32, capacity: u32, random: &mut Random) -> Attempt {
    let share = f64::from(held) / f64::from(capacity);
    // The ports in an order that looks like chance, each once.
    let half = capacity / 2;
    let step = |number: u32| (u64::from(number) * 7_919 % u64::from(half)) as u32;
    let odd = number >= half;
    let port = match shape {
        Shape::TwoPasses => 2 * step(number % half) + u32::from(odd),
        _ => 2 * step(number % half) + u32::from(random.below(2) == 1),
    };
    let typical = match shape {
        Shape::TwoPasses if odd => 1_900_000.0 * (0.4 + 0.8 * share),
        Shape::TwoPasses => 19_000.0,
        Shape::Flat(ns) => ns,
        Shape::Window(width) => 13_000.0 + width * 0.3 * share.powi(8) * 20.0,
        Shape::Repeat => 14_000.0,
    };
    let fails = match shape {
        Shape::Window(width) => share > 0.9 && random.unit() < 0.12 + width / 50_000.0,
        Shape::TwoPasses => number % 20_011 == 20_010,
        _ => false,
    };
    let tries = match shape {
        Shape::Repeat => 1 + (share.powi(6) * 10.0 * random.unit()) as u32,
        _ => 1,
    };
    let mut ns = random.lognormal(typical, 0.25);
    if random.below(2_000) == 0 {
        ns *= 8.0 + random.unit() * 20.0;
    }
    Attempt {
        run: 0,
        number,
        thread: 0,
        start_ns: 0,
        prepare_ns: random.lognormal(2_500.0, 0.2) as u64 + u64::from(tries - 1) * 8_000,
        connect_ns: ns as u64,
        tries,
        held,
        source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: (!fails).then_some(LOW + port as u16),
        errno: if fails { libc::EADDRNOTAVAIL } else { 0 },
    }
}

/// Writes a log.
pub fn write_log(path: &Path, runs: Vec<Run>) -> Result<(Head, Vec<Attempt>)> {
    let (head, attempts) = log_of(runs);
    let mut file = File::create(path)?;
    file.write_all(head.line()?.as_bytes())?;
    let mut lines = csv::Writer::from_writer(file);
    attempts
        .iter()
        .try_for_each(|attempt| lines.serialize(attempt))?;
    lines.flush()?;
    Ok((head, attempts))
}

/// As many connects as wanted: the second half of each million has odd ports.
pub fn many(count: u64) -> impl Iterator<Item = Connect> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut at_ns = 0;
    (0..count).map(move |number| {
        let odd = number % 1_000_000 >= 500_000;
        let typical = if odd { 2_000_000.0 } else { 20_000.0 };
        at_ns += 10_000 + random.below(20_000);
        let port = LOW + 2 * random.below(28_256) as u16 + u16::from(odd);
        let mut connect = connect(at_ns, random.lognormal(typical, 0.3) as u64, port);
        if number % 9_973 == 42 {
            connect.errno = libc::EADDRNOTAVAIL;
            connect.port = SourcePort::None;
        }
        connect
    })
}

/// Xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 32) as f64 / 4_294_967_296.0
    }

    /// About a typical value, and no more than a few times as much.
    fn lognormal(&mut self, typical: f64, sigma: f64) -> f64 {
        let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        typical * (sigma * normal).exp()
    }
}
