//! `cargo xtask test`: the tests on the host, and those that take a kernel in a guest per kernel.

mod libtest;
mod tally;

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::libtest::Log;
use self::tally::Tally;
use crate::guest::{Hardware, Kit, Stream, Task, binaries};
use crate::tools::kernels::{self, Kernel};
use crate::tools::{browser, shells};
use crate::vm::{KernelChoice, get_kernels};
use crate::{process, tools, workspace};

/// The modules that tests build networks with.
const MODULES: [&str; 2] = ["veth", "dummy"];

/// Tell the tests of the page which browser there is, or why there is none, for which they are skipped.
const BROWSER: &str = "CONNECT_TRACE_BROWSER";
const NO_BROWSER: &str = "CONNECT_TRACE_NO_BROWSER";

/// Where the tests' program lies in a guest.
const PROGRAM: &str = "/usr/local/bin/guest-tests";

/// Run all tests: on this machine, and in a virtual machine for each kernel
///
/// The last line is the sum: passed, failed, skipped. All kernels have their turn, whatever fails.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kernel to test on: a series such as 6.12, or a file; repeatable [default: all of
    /// 5.10, 6.1, 6.12, 6.18 and 7.3]
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<KernelChoice>,
    /// Only the tests that run on this machine
    #[arg(long, conflicts_with_all = ["kernels", "guests_only"])]
    unit_only: bool,
    /// Only the tests that run in virtual machines
    #[arg(long)]
    guests_only: bool,
    /// How many virtual machines run at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    jobs: u32,
    /// Stop a virtual machine whose tests take longer; they count as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
    /// Arguments for the program of the guests' tests, such as part of a test's name
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

pub(crate) fn test(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let mut tally = Tally::default();
    if !options.guests_only {
        test_host(&mut tally)?;
    }
    if !options.unit_only
        && let Err(error) = test_guests(options, &mut tally)
    {
        eprintln!("error: {error:#}");
        tally.fail("guests", "", format!("{error:#}"));
    }
    print!("\n{tally}");
    Ok(if tally.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The tests that need no kernel of their own.
fn test_host(tally: &mut Tally) -> Result<()> {
    let mut command = workspace::cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped());
    match browser::ensure() {
        Ok(script) => command.env(BROWSER, script),
        Err(error) => command.env(NO_BROWSER, format!("{error:#}")),
    };
    // The tests of completions look for them there, and skip those that are missing.
    if let Err(error) = shells::ensure() {
        eprintln!("no shells: {error:#}");
    }
    eprintln!("testing on this machine: {}", process::line(&command));
    let mut child = command.spawn().context("cannot run cargo")?;
    let mut log = Log::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read the output of cargo test")?;
            if log.line(&line) {
                print_line("host", &line);
            }
        }
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    tally.add("host", &log);
    if !log.is_complete() {
        let reason = "`cargo test` gave no result that accounts for all tests; see its messages";
        tally.fail("host", log.current(), reason.to_owned());
    } else if !status.success() && !log.failed() {
        tally.fail(
            "host",
            "",
            format!("`cargo test` failed ({status}); see its messages"),
        );
    }
    Ok(())
}

fn test_guests(options: &Options, tally: &mut Tally) -> Result<()> {
    let kernels = if options.kernels.is_empty() {
        kernels::tested()
            .map(Kernel::of)
            .collect::<Result<Vec<_>>>()?
    } else {
        get_kernels(&options.kernels)?
    };
    let kit = Kit::prepare(true)?.with_clients()?;
    let program = binaries::build_tests()?;

    let parts = parts(&kernels, &options.arguments);
    let waiting = Mutex::new(parts.iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let next = lock(&waiting).pop_front();
                    let Some((number, part)) = next else { return };
                    let result = test_guest(&kit, part, &program, options.timeout);
                    lock(&done).push((number, part, result));
                }
            });
        }
    });
    let mut done = lock(&done);
    done.sort_by_key(|(number, ..)| *number);
    for (_, part, (log, error)) in done.drain(..) {
        tally.add(&part.kernel.name, &log);
        if let Some(error) = error {
            tally.fail(&part.kernel.name, log.current(), error);
        }
    }
    Ok(())
}

/// Tests that one virtual machine runs.
struct Part<'a> {
    kernel: &'a Kernel,
    /// What stands before its lines.
    name: String,
    /// Arguments for the tests' program.
    arguments: Vec<String>,
}

/// All tests of a kernel are two parts, so that no CPU is without work for long at the end; those that
/// were chosen by arguments are one.
fn parts<'a>(kernels: &'a [Kernel], arguments: &[String]) -> Vec<Part<'a>> {
    let halves: &[(&str, &[&str])] = &[
        (" kprobe", &["kprobe::"]),
        (" others", &["--skip", "kprobe::"]),
    ];
    let part = |kernel: &'a Kernel, name: &str, arguments| Part {
        kernel,
        name: format!("{}{name}", kernel.name),
        arguments,
    };
    kernels
        .iter()
        .flat_map(|kernel| -> Vec<Part<'a>> {
            if !arguments.is_empty() {
                return vec![part(kernel, "", arguments.to_vec())];
            }
            halves
                .iter()
                .map(|(name, of_half)| {
                    part(
                        kernel,
                        name,
                        of_half.iter().map(|&of| of.to_owned()).collect(),
                    )
                })
                .collect()
        })
        .collect()
}

/// The tests in one virtual machine: what they said, and what went wrong outside of them.
fn test_guest(kit: &Kit, part: &Part<'_>, program: &Path, timeout: u64) -> (Log, Option<String>) {
    let Part {
        kernel,
        name,
        arguments,
    } = part;
    let task = Task {
        // One at a time: tests change settings of the whole system.
        command: [PROGRAM, "--test-threads=1", "--color=never"]
            .into_iter()
            .map(str::to_owned)
            .chain(arguments.iter().cloned())
            .collect(),
        hardware: Hardware::default(),
        timeout: Some(Duration::from_secs(timeout)),
        modules: MODULES.map(str::to_owned).to_vec(),
        inputs: vec![(PathBuf::from(program), PROGRAM.to_owned())],
        outputs: Vec::new(),
    };
    print_line(name, &format!("booting {}", kernel.release()));
    let start = Instant::now();
    let mut log = Log::default();
    let mut streams = [Lines::default(), Lines::default()];
    let result = kit.run(kernel, &task, &mut |stream, bytes| {
        for line in streams[stream as usize].complete(bytes) {
            print_line(name, &line);
            if stream == Stream::Stdout {
                log.line(&line);
            }
        }
        Ok(())
    });
    let [stdout, stderr] = streams;
    for (rest, is_stdout) in [(stdout.rest(), true), (stderr.rest(), false)] {
        let Some(line) = rest else { continue };
        print_line(name, &line);
        if is_stdout {
            log.line(&line);
        }
    }
    let error = match result {
        Err(error) => Some(format!("{error:#}")),
        Ok(_) if !log.is_complete() => {
            Some("the tests ended without a result that accounts for all of them".to_owned())
        }
        Ok(outcome) if outcome.status != 0 && !log.failed() => {
            Some(format!("the tests ended with status {}", outcome.status))
        }
        Ok(_) => None,
    };
    let seconds = start.elapsed().as_secs();
    let verdict = if error.is_some() || log.failed() {
        "failed"
    } else {
        "passed"
    };
    print_line(name, &format!("{verdict} after {seconds} s"));
    (log, error)
}

fn print_line(origin: &str, line: &str) {
    if line.is_empty() {
        return;
    }
    // Nobody reads it? The tests go on all the same.
    let _ = writeln!(std::io::stdout().lock(), "{origin:>11} | {line}");
}

/// Cuts a stream into lines.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// The lines that these bytes complete.
    fn complete(&mut self, bytes: &[u8]) -> Vec<String> {
        self.pending.extend_from_slice(bytes);
        let Some(end) = self.pending.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.pending.split_off(end + 1);
        let lines = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&lines)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// What came after the last line's end.
    fn rest(self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        (!text.is_empty()).then_some(text)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_into_lines_however_it_arrives() {
        let mut lines = Lines::default();
        assert_eq!(lines.complete(b"test a ... "), Vec::<String>::new());
        assert_eq!(
            lines.complete(b"ok\ntest b ... ok\ntest"),
            ["test a ... ok", "test b ... ok"]
        );
        assert_eq!(lines.rest().as_deref(), Some("test"));
    }
}
