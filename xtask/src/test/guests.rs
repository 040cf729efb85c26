//! Tests that need a kernel, in virtual machines, several at the same time.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::durations::{Durations, Earlier};
use super::libtest::Log;
use super::lines::Lines;
use super::{Options, Ran, print_line};
use crate::guest::{Hardware, Kit, Stream, Task, binaries};
use crate::tools::kernels::Kernel;

/// Modules with which tests build networks.
const MODULES: [&str; 2] = ["veth", "dummy"];
/// Modules of DCCP, and their folder: later kernels have none.
const DCCP: [&str; 2] = ["dccp_ipv4", "dccp_ipv6"];
const DCCP_FOLDER: &str = "kernel/net/dccp";

/// Path of the test program in a guest.
const PROGRAM: &str = "/usr/local/bin/guest-tests";

/// Variable for the test program on kernels between the oldest and the newest of this run.
const BETWEEN: &str = "CONNECT_TRACE_KERNEL_BETWEEN=1";

/// Variable of the soak test, which is passed into guests.
const SOAK_SECONDS: &str = "CONNECT_TRACE_SOAK_SECONDS";

/// Name of the build in the table of durations, and its usual seconds.
pub(super) const BUILD: (&str, u64) = ("guests, build", 120);

/// The tests that one virtual machine runs.
pub(super) struct Part<'a> {
    kernel: &'a Kernel,
    /// Prefix of its output lines.
    pub(super) name: String,
    /// True for a kernel between the oldest and the newest, which runs no test of those two only.
    between: bool,
    /// Seconds that it usually takes.
    pub(super) usual: u64,
    /// Arguments for the test program.
    arguments: Vec<String>,
    /// True for the tests that need more CPUs than others.
    crowd: bool,
}

/// Prefix of the tests that need [`crowded`] hardware.
const CROWD: &str = "crowd::";

/// Returns the hardware of tests in which threads wait for the locks of each other. The kernel reports a wait for a
/// spinlock only if another CPU waits already, so that it takes three CPUs; they come in turn in an emulator.
fn crowded() -> Hardware {
    Hardware {
        cpus: 4,
        bare: true,
        ..Hardware::default()
    }
}

/// Divides the tests of each kernel, oldest kernel first, so that no CPU is idle for long at the end. Tests chosen by
/// arguments stay together.
pub(super) fn parts<'a>(kernels: &'a [Kernel], arguments: &[String]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    for (index, kernel) in kernels.iter().enumerate() {
        let between = index > 0 && index + 1 < kernels.len();
        let mut add = |name: &str, usual, arguments: Vec<String>| {
            parts.push(Part {
                kernel,
                name: format!("{}{name}", kernel.name),
                between,
                usual,
                crowd: arguments.iter().any(|name| name.starts_with(CROWD)),
                arguments,
            });
        };
        if arguments.is_empty() {
            for share in &SHARES {
                let [with_all_tests, of_between] = share.usual;
                let usual = if between { of_between } else { with_all_tests };
                let arguments = share.arguments.iter().map(|&of| of.to_owned());
                add(share.name, usual, arguments.collect());
            }
        } else {
            add("", 0, arguments.to_vec());
        }
    }
    parts
}

/// A share of the tests of a kernel.
struct Share {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Usual seconds on an idle machine with two CPUs: on the oldest or newest kernel, and on a kernel between them.
    usual: [u64; 2],
}

const SHARES: [Share; 4] = [
    Share {
        name: " fentry",
        arguments: &["fentry::"],
        usual: [60, 55],
    },
    Share {
        name: " kprobe",
        arguments: &["kprobe::"],
        usual: [85, 65],
    },
    Share {
        name: " others",
        arguments: &["--skip", "fentry::", "--skip", "kprobe::", "--skip", CROWD],
        usual: [170, 50],
    },
    Share {
        name: " crowd",
        arguments: &[CROWD],
        usual: [20, 20],
    },
];

/// Runs the parts, the longest first. Returns the results in the order of the parts.
pub(super) fn test(
    options: &Options,
    parts: &[Part<'_>],
    earlier: &Earlier,
    durations: &Durations,
) -> Result<Vec<Ran>> {
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let (kit, program) = durations.measure(BUILD.0, || {
        let (programs, tests) = binaries::build_with_tests()?;
        let kit = Kit::with_programs(programs)?.with_clients()?;
        anyhow::Ok((kit, tests))
    })?;
    let silence = Duration::from_secs(options.silence);

    let mut longest_first: Vec<_> = parts.iter().enumerate().collect();
    longest_first.sort_by_key(|(_, part)| Reverse(earlier.seconds(&part.name, part.usual)));
    let waiting = Mutex::new(VecDeque::from(longest_first));
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs() {
            scope.spawn(|| {
                loop {
                    let next = lock(&waiting).pop_front();
                    let Some((number, part)) = next else { return };
                    let ran = test_guest(&kit, part, &program, silence, durations);
                    lock(&done).push((number, ran));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, ran)| ran).collect())
}

/// Runs the tests in one virtual machine.
fn test_guest(
    kit: &Kit,
    part: &Part<'_>,
    program: &Path,
    silence: Duration,
    durations: &Durations,
) -> Ran {
    let Part {
        kernel,
        name,
        between,
        arguments,
        crowd,
        ..
    } = part;
    let soak = env::var(SOAK_SECONDS).map(|seconds| format!("{SOAK_SECONDS}={seconds}"));
    let variables = [between.then_some(BETWEEN), soak.as_deref().ok()];
    let variables = variables.into_iter().flatten();
    // One at a time: tests change settings of the whole system.
    let tests = [PROGRAM, "--test-threads=1", "--color=never"];
    let command = ["env"].into_iter().chain(variables).chain(tests);
    let task = Task {
        command: command
            .map(str::to_owned)
            .chain(arguments.iter().cloned())
            .collect(),
        hardware: if *crowd {
            crowded()
        } else {
            Hardware::default()
        },
        timeout: None,
        silence: Some(silence),
        modules: modules(kernel),
        inputs: vec![(PathBuf::from(program), PROGRAM.to_owned())],
        outputs: Vec::new(),
    };
    print_line(name, &format!("booting {}", kernel.release()), None);
    let start = Instant::now();
    let mut log = Log::default();
    let mut last = start;
    let mut read = |line: &str| {
        let before = log.tests.len();
        log.line(line);
        let took = std::mem::replace(&mut last, Instant::now()).elapsed();
        let ended = log.tests.get(before);
        if let Some((test, _)) = ended {
            durations.add_test(&format!("{}: {test}", kernel.name), took);
        }
        print_line(name, line, ended.map(|_| took));
    };
    let mut streams = [Lines::default(), Lines::default()];
    let result = kit.run(kernel, &task, &mut |stream, bytes| {
        for line in streams[stream as usize].complete(bytes) {
            match stream {
                Stream::Stdout => read(&line),
                Stream::Stderr => print_line(name, &line, None),
            }
        }
        Ok(())
    });
    let [stdout, stderr] = streams;
    if let Some(line) = stdout.rest() {
        read(&line);
    }
    if let Some(line) = stderr.rest() {
        print_line(name, &line, None);
    }
    let cpu_time = result.as_ref().ok().map(|outcome| outcome.cpu_time);
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
    let took = start.elapsed();
    durations.add(name, took, cpu_time);
    let verdict = if error.is_some() || log.failed() {
        "failed"
    } else {
        "passed"
    };
    print_line(name, verdict, Some(took));
    Ran {
        origin: kernel.name.clone(),
        log,
        error,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the modules that tests need, of those that the kernel has.
fn modules(kernel: &Kernel) -> Vec<String> {
    let folder = kernel.modules.as_ref();
    let has_dccp = folder.is_some_and(|folder| folder.join(DCCP_FOLDER).is_dir());
    let dccp = DCCP.iter().filter(|_| has_dccp);
    MODULES
        .iter()
        .chain(dccp)
        .map(|&name| name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_between_are_those_that_are_neither_the_oldest_nor_the_newest() {
        let kernel = |name: &str| Kernel {
            name: name.to_owned(),
            image: PathBuf::new(),
            modules: None,
        };
        let between = |kernels: &[Kernel]| -> Vec<String> {
            let parts = parts(kernels, &[]);
            let between = parts.iter().filter(|part| part.between);
            between.map(|part| part.name.clone()).collect()
        };
        let kernels = ["5.10", "6.12", "7.3"].map(kernel);
        let shares = ["6.12 fentry", "6.12 kprobe", "6.12 others", "6.12 crowd"];
        assert_eq!(between(&kernels), shares);
        assert!(between(&kernels[..2]).is_empty());
        assert!(between(&kernels[..1]).is_empty());
        let chosen = parts(&kernels, &["records".to_owned()]);
        assert_eq!(chosen.len(), 3);
        assert_eq!(chosen[1].arguments, ["records"]);
        assert!(chosen.iter().all(|part| !part.crowd));
        assert!(parts(&kernels, &[format!("{CROWD}locks")])[0].crowd);
    }
}
