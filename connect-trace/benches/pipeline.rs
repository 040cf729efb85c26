//! How many connects a core decodes and aggregates in a second: `cargo bench -p connect-trace`.
//!
//! The records are real (see [`records`]), in the order in which they came, again and again.

mod records;

use std::hint::black_box;

use clap::Parser as _;
use connect_trace::{cli::Cli, event::Connect, output::Output};
use criterion::{Criterion, Throughput};

fn pipeline(criterion: &mut Criterion) {
    let (records, decoder) = (records::all(), records::decoder());
    let entries: Vec<&[u8]> = records.iter().map(bytemuck::bytes_of).collect();
    let connects: Vec<Connect> = entries
        .iter()
        .map(|entry| decoder.decode(entry).expect("a record"))
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
                output
                    .connect(black_box(connect))
                    .expect("nothing is printed");
            }
        });
    });
    for options in ["", "--by pid", "--by destination"] {
        group.bench_function(
            format!("decode and aggregate {options}").trim(),
            |bencher| {
                let mut output = output(options);
                bencher.iter(|| {
                    for entry in &entries {
                        let connect = decoder.decode(black_box(entry)).expect("a record");
                        output.connect(&connect).expect("nothing is printed");
                    }
                });
            },
        );
    }
    group.finish();
}

/// What a trace with these options does with its connects.
fn output(options: &str) -> Output {
    let arguments = ["connect-trace"]
        .into_iter()
        .chain(options.split_whitespace());
    let args = Cli::parse_from(arguments).trace.output;
    Output::new(&args, "6.12".to_owned(), "nothing".to_owned())
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pipeline(&mut criterion);
    criterion.final_summary();
}
