//! Number of connections that a core decodes and aggregates in a second of CPU time: `cargo bench -p connect-trace`.
//!
//! The records are real (see [`records`]), in their original order, repeated over and over.

mod records;

use std::{hint::black_box, time::Duration};

use clap::Parser as _;
use connect_trace::{
    cli::Cli,
    connect::Connect,
    recording::{Recording, Writer},
    report::output::Output,
    stats::Traced,
};
use criterion::{
    Criterion, Throughput,
    measurement::{Measurement, ValueFormatter, WallTime},
};

use self::records::cpu_time;

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    pipeline(&mut criterion);
    criterion.final_summary();
}

fn pipeline(criterion: &mut Criterion<CpuTime>) {
    let (records, mut decoder) = (records::all(), records::decoder());
    let entries: Vec<&[u8]> = records.iter().map(bytemuck::bytes_of).collect();
    let connects: Vec<Connect> = entries
        .iter()
        .map(|entry| *decoder.decode(entry).expect("a record"))
        .collect();
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(entries.len() as u64));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for entry in &entries {
                black_box(decoder.decode(black_box(entry)));
            }
        });
    });
    group.bench_function("aggregate", |bencher| {
        let mut output = output("");
        bencher.iter(|| {
            for connect in &connects {
                output.connect(black_box(connect)).expect("prints nothing");
            }
        });
    });
    for options in ["", "--by pid", "--by destination"] {
        let name = format!("decode and aggregate {options}");
        group.bench_function(name.trim(), |bencher| {
            let mut output = output(options);
            bencher.iter(|| {
                for entry in &entries {
                    if let Some(connect) = decoder.decode(black_box(entry)) {
                        output.connect(connect).expect("prints nothing");
                    }
                }
            });
        });
    }
    group.bench_function("record", |bencher| {
        let mut writer = writer();
        bencher.iter(|| {
            for connect in &connects {
                writer.connect(black_box(connect)).expect("it takes all");
            }
        });
    });
    group.finish();
}

/// Returns the writer of a recording that goes nowhere: rows are formatted and compressed.
fn writer() -> Writer {
    let mut writer = Writer::create("/dev/null".as_ref()).expect("every Linux has it");
    let start = Recording::new(records::RECORDING).expect("a whole recording");
    writer.begin(start.start()).expect("it takes all");
    writer
}

/// Returns the output of a trace with these options.
fn output(options: &str) -> Output {
    let arguments = ["connect-trace"]
        .into_iter()
        .chain(options.split_whitespace());
    let args = Cli::parse_from(arguments).trace.output;
    Output::new(
        &args,
        Traced {
            kernel: "6.12".to_owned(),
            attached: "nothing".to_owned(),
            filters: Vec::new(),
        },
    )
}

/// Measures the CPU time of this thread.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time::now()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time::now() - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, time: &Duration) -> f64 {
        WallTime.to_f64(time)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}
