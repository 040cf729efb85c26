//! Flame graphs of connect(): kernel stacks joined with the calls that they were taken in, as SVG, as folded stacks and
//! in the format of speedscope.

pub(crate) mod args;
mod folded;
mod samples;
mod speedscope;
mod svg;
mod text;
mod tree;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use aya::maps::{MapData, RingBuf};
use connect_trace_common::StackCounts;

use self::{
    args::{FlameFiles, Format},
    samples::{CallId, Samples},
};
use crate::{
    connect::Connect,
    files::{is_standard, whole::WholeFile},
    kernel::text::KernelText,
    term::{message::say, printable::printable},
};

/// Default number of samples that each CPU takes per second: no divisor of a number of timer ticks, so that the samples
/// meet work at the ticks as often as all other work.
pub const HERTZ: u32 = 999;

/// Shortest time between two readings of the names of the kernel's functions.
const RENAME_EVERY: Duration = Duration::from_secs(10);

/// Maximum number of samples of one reading; more are left to the next one.
const MOST_AT_ONCE: u32 = 1 << 16;

/// A flame graph that is being made.
pub struct Flame {
    ring: RingBuf<MapData>,
    samples: Samples,
    outputs: Vec<Output>,
    hertz: u32,
    /// Calls whose record has come since the last reading of the samples.
    ended: Vec<CallId>,
    calls: Calls,
    renamed: Instant,
}

/// The calls that got a record.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    count: u64,
    connect_ns: u64,
    search_ns: u64,
}

/// A file to write.
struct Output {
    format: Format,
    path: PathBuf,
    file: WholeFile,
}

impl Output {
    /// Checks that the files can be written. Leaves no file behind.
    fn prepare(files: &FlameFiles) -> Result<Vec<Self>> {
        let prepare = |(option, format, path): (&'static str, Format, PathBuf)| {
            Ok(Self {
                format,
                file: WholeFile::replacing(option, &path)?,
                path,
            })
        };
        files.all().into_iter().map(prepare).collect()
    }
}

/// The files of a flame graph, checked before the trace begins.
pub struct Prepared(Vec<Output>);

impl Prepared {
    /// Checks that the files can be written. Leaves no file behind.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn new(files: &FlameFiles) -> Result<Self> {
        Output::prepare(files).map(Self)
    }
}

impl Flame {
    /// Begins a flame graph of the samples in this ring buffer, of which each CPU takes `hertz` per second. To be called
    /// once the programs are attached, so that their code has names.
    ///
    /// # Errors
    /// If the kernel does not show the names of its functions.
    pub fn start(ring: RingBuf<MapData>, hertz: u32, files: Prepared) -> Result<Self> {
        let text = KernelText::of_running_kernel()?;
        Ok(Self {
            ring,
            samples: Samples::new(text, period_ns(hertz)),
            outputs: files.0,
            hertz,
            ended: Vec::new(),
            calls: Calls::default(),
            renamed: Instant::now(),
        })
    }

    /// Takes the record of a call.
    pub fn saw(&mut self, connect: &Connect) {
        self.calls.count += 1;
        self.calls.connect_ns += connect.connect_ns;
        self.calls.search_ns += connect.search_ns.unwrap_or(0);
        self.ended.push(CallId {
            tid: connect.tid,
            start_ns: connect.start_ns,
        });
    }

    /// Reads the samples. To be called after each reading of the records, which says if it has found all.
    pub fn read(&mut self, has_all_records: bool) {
        for _ in 0..MOST_AT_ONCE {
            let Some(sample) = self.ring.next() else {
                self.join(has_all_records);
                return;
            };
            self.samples.add(&sample);
        }
        // The samples of these calls may still be in the ring buffer.
    }

    /// Joins the samples with the calls that have ended: their samples were written before their records.
    fn join(&mut self, has_all_records: bool) {
        for call in self.ended.drain(..) {
            self.samples.keep(call);
        }
        if has_all_records {
            self.samples.forget_ended();
        }
        if self.renamed.elapsed() >= RENAME_EVERY && self.samples.found_unknown() {
            self.renamed = Instant::now();
            match KernelText::of_running_kernel() {
                Ok(text) => self.samples.rename(text),
                Err(error) => log::warn!("{error:#}"),
            }
        }
    }

    /// Reads the samples that are left, writes the files and prints a summary on stderr, unless `quiet` is set. `counts` is
    /// the kernel's account after the programs were detached, and `kernel` the kernel's release.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(mut self, counts: StackCounts, kernel: &str, quiet: bool) -> Result<()> {
        while let Some(sample) = self.ring.next() {
            self.samples.add(&sample);
        }
        self.join(true);
        self.samples.forget_all();
        let summary = text::Summary::new(&self.samples, self.calls, counts, self.hertz);
        if !summary.is_complete() {
            log::warn!("the flame graph is incomplete: {}", summary.losses());
        }
        if summary.is_in_step() {
            log::warn!(
                "the flame graph gives the port search another share than the times of the calls: calls that repeat in \
                 step with the samples are met at the same points; use another --frequency of `connect-trace flame`"
            );
        }
        let title = format!("connect() on Linux {kernel}");
        let samples = &self.samples;
        for Output { format, path, file } in self.outputs {
            file.write(|file| write(file, format, samples, &title, &summary))?;
            if !quiet && !is_standard(&path) {
                say!("wrote {}: {}", printable(&path), format.words());
            }
        }
        if !quiet {
            say!("{}", summary.text());
        }
        Ok(())
    }
}

/// Draws folded stacks as SVG.
///
/// # Errors
/// If a line is no stack with a time.
pub fn svg_of_folded(folded: &str, title: &str) -> Result<String> {
    let tree = folded::read(folded)?;
    Ok(svg::draw(&tree, title, ""))
}

/// Returns the time between two samples of a CPU.
fn period_ns(hertz: u32) -> u64 {
    1_000_000_000 / u64::from(hertz)
}

fn write(
    file: File,
    format: Format,
    samples: &Samples,
    title: &str,
    summary: &text::Summary,
) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    match format {
        Format::Svg => {
            let svg = svg::draw(&samples.tree, title, &summary.text());
            file.write_all(svg.as_bytes())?;
        }
        Format::Folded => folded::write(&samples.tree, &mut file)?,
        Format::Speedscope => {
            serde_json::to_writer(&mut file, &speedscope::profile(&samples.tree, title))?;
            writeln!(file)?;
        }
    }
    file.flush()
}
