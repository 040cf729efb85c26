//! Tests that need a kernel, in virtual machines, several at the same time.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::durations::{Durations, Earlier};
use super::libtest::Log;
use super::lines::Lines;
use super::{Options, Ran, print_line};
use crate::arch::Arch;
use crate::guest::binaries::{self, Tests};
use crate::guest::{Hardware, Kit, Stream, Task};
use crate::package::ForTests;
use crate::tools::kernels::Kernel;
use crate::tools::musl::NoLibrary;
use crate::tools::prometheus::Prometheus;
use crate::workspace;

/// Modules with which tests build networks, and by which the service learns of listening sockets.
const MODULES: [&str; 3] = ["veth", "dummy", "tcp_diag"];
/// Modules of DCCP, and their folder: later kernels have none.
const DCCP: [&str; 2] = ["dccp_ipv4", "dccp_ipv6"];
const DCCP_FOLDER: &str = "kernel/net/dccp";

/// Kernels of the tests on a whole system: those of the two stable Debians, and the newest.
const SYSTEM_KERNELS: [&str; 3] = ["6.1", "6.12", "7.3"];

/// Path of the test program in a guest.
const PROGRAM: &str = "/usr/local/bin/guest-tests";

/// Paths of the packages in a guest with a system: the one for Debian, the image, and what runs that.
const PACKAGES: [&str; 3] = [
    "/root/connect-trace.deb",
    "/root/connect-trace.oci.tar",
    "/root/daemonset.yaml",
];

/// Variable that tells the test program the place of its kernel among those of this run.
const PLACE: &str = "CONNECT_TRACE_KERNEL_PLACE";

/// The place of a kernel among those of a run, which decides which of the tests run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Oldest,
    Between,
    Newest,
    /// The only kernel, on which all tests run.
    Only,
    /// A kernel of another architecture than the host's, on which the tests run whose outcome depends on that.
    Foreign,
    /// The oldest of them.
    ForeignOldest,
}

impl Place {
    fn of(index: usize, kernels: &[Kernel]) -> Self {
        if kernels[index].arch != Arch::HOST {
            let is_foreign = |kernel: &Kernel| kernel.arch != Arch::HOST;
            return match kernels[..index].iter().any(is_foreign) {
                true => Self::Foreign,
                false => Self::ForeignOldest,
            };
        }
        let own = kernels.iter().filter(|kernel| kernel.arch == Arch::HOST);
        let kernels = own.count();
        match index {
            _ if kernels == 1 => Self::Only,
            0 => Self::Oldest,
            last if last + 1 == kernels => Self::Newest,
            _ => Self::Between,
        }
    }

    fn is_foreign(self) -> bool {
        matches!(self, Self::Foreign | Self::ForeignOldest)
    }

    /// Returns the value of [`PLACE`].
    fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Between => "between",
            Self::Newest => "newest",
            Self::Only => "only",
            Self::Foreign => "foreign",
            Self::ForeignOldest => "foreign-oldest",
        }
    }
}

/// Variable of the soak test, which is passed into guests.
const SOAK_SECONDS: &str = "CONNECT_TRACE_SOAK_SECONDS";

/// Name of the build in the table of durations, and its usual seconds.
pub(super) const BUILD: (&str, u64) = ("guests, build", 120);

/// Name of the build for another architecture.
const FOREIGN_BUILD: &str = "arm64, build";

/// The tests that one virtual machine runs.
pub(super) struct Part<'a> {
    kernel: &'a Kernel,
    /// Prefix of its output lines.
    pub(super) name: String,
    place: Place,
    /// Seconds that it usually takes.
    pub(super) usual: u64,
    /// Arguments for the test program.
    arguments: Vec<String>,
    /// True for the tests that need more CPUs than others.
    crowd: bool,
    /// True for the tests that scrape with Prometheus, which is larger than all other files.
    prometheus: bool,
    /// True for the tests on a whole system.
    system: bool,
}

impl Part<'_> {
    /// Returns true if its kernel is of another architecture than the host's.
    fn is_foreign(&self) -> bool {
        self.kernel.arch != Arch::HOST
    }

    fn program<'a>(&self, tests: &'a Tests) -> &'a Path {
        if self.system {
            &tests.system
        } else {
            &tests.guest
        }
    }
}

/// Path of Prometheus in a guest.
const SERVER: &str = "/usr/bin/prometheus";

/// Prefix of the tests of the package's life on a whole system.
const PACKAGE: &str = "package::";

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

/// Divides the tests of each kernel, oldest kernel first, so that no CPU is idle for long at the end. Tests of one
/// program that are chosen by arguments stay together.
pub(super) fn parts<'a>(kernels: &'a [Kernel], arguments: &[String]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    for (index, kernel) in kernels.iter().enumerate() {
        let place = match Place::of(index, kernels) {
            // Tests that are asked for run wherever they are asked for.
            place if place.is_foreign() && !arguments.is_empty() => Place::Only,
            place => place,
        };
        let mut add = |name: &str, usual, system: bool, arguments: Vec<String>| {
            parts.push(Part {
                kernel,
                name: format!("{}{name}", kernel.name),
                place,
                usual,
                crowd: !system && arguments.iter().any(|name| name.starts_with(CROWD)),
                prometheus: !system
                    && matches!(place, Place::Oldest | Place::Only)
                    && ["", OTHERS].contains(&name),
                system,
                arguments,
            });
        };
        if place.is_foreign() {
            add("", FOREIGN_SECONDS, false, Vec::new());
        } else if arguments.is_empty() {
            for share in &SHARES {
                let [with_all_tests, of_between] = share.usual;
                let usual = match place {
                    Place::Between => of_between,
                    _ => with_all_tests,
                };
                let arguments = share.arguments.iter().map(|&of| of.to_owned());
                add(share.name, usual, false, arguments.collect());
            }
        } else {
            add("", 0, false, arguments.to_vec());
        }
        if SYSTEM_KERNELS.contains(&kernel.name.as_str()) {
            let mut arguments = arguments.to_vec();
            // The package's life depends on Debian and not on the kernel.
            if arguments.is_empty() && !matches!(place, Place::Newest | Place::Only) {
                arguments.extend(["--skip", PACKAGE].map(str::to_owned));
            }
            add(SYSTEM.0, SYSTEM.1, true, arguments);
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

/// Name of the share of the tests that neither of the others has.
const OTHERS: &str = " others";

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
        name: OTHERS,
        arguments: &["--skip", "fentry::", "--skip", "kprobe::", "--skip", CROWD],
        usual: [170, 50],
    },
    Share {
        name: " crowd",
        arguments: &[CROWD],
        usual: [20, 20],
    },
];

/// Usual seconds of the tests on a kernel of another architecture.
const FOREIGN_SECONDS: u64 = 120;

/// Name of the tests on a whole system in the table of durations, and their usual seconds.
const SYSTEM: (&str, u64) = (" system", 60);

/// Leaves out the parts in which the arguments choose no test. A part whose program cannot say stays.
fn with_tests<'a, 'k>(
    parts: Vec<(usize, &'a Part<'k>)>,
    tests: &Tests,
) -> Vec<(usize, &'a Part<'k>)> {
    let has_tests = |(_, part): &(usize, &Part<'_>)| {
        let listed = Command::new(part.program(tests))
            .args(&part.arguments)
            .arg("--list")
            .output();
        listed.map_or(true, |output| {
            !output.status.success() || !output.stdout.trim_ascii().is_empty()
        })
    };
    let chosen: Vec<_> = parts.iter().copied().filter(has_tests).collect();
    if chosen.is_empty() { parts } else { chosen }
}

/// Everything that the guests of one architecture share.
struct Built {
    kit: Kit,
    tests: Tests,
    /// The packages: path on the host, path in a guest with a system.
    packages: Vec<(PathBuf, String)>,
    /// Path of Prometheus on the host.
    server: Option<PathBuf>,
}

impl Built {
    /// Builds what tests on a kernel need that boot no system.
    fn for_tests_alone(arch: Arch) -> Result<Self> {
        let (programs, tests) = binaries::build_with_tests(arch)?;
        Ok(Self {
            kit: Kit::with_programs(arch, programs)?.with_clients()?,
            tests,
            packages: Vec::new(),
            server: None,
        })
    }
}

/// Makes the packages that are installed in guests, of the program that the other guests run.
fn packages(programs: &[PathBuf]) -> Result<[(PathBuf, String); 3]> {
    let program = programs.iter().find(|path| path.ends_with("connect-trace"));
    let program = program.context("connect-trace was not built")?;
    let made = ForTests::write(program, &workspace::guest_target().join("package"))?;
    let [deb, image, daemon_set] = PACKAGES.map(str::to_owned);
    Ok([
        (made.deb, deb),
        (made.image, image),
        (made.daemon_set, daemon_set),
    ])
}

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
    let numbered = parts.iter().enumerate();
    let (own, foreign): (Vec<_>, Vec<_>) = numbered.partition(|(_, part)| !part.is_foreign());
    let (built, mut longest_first) = durations.measure(BUILD.0, || {
        if own.is_empty() {
            return Ok((None, own));
        }
        let (programs, tests) = binaries::build_with_tests(Arch::HOST)?;
        let parts = with_tests(own, &tests);
        let has_system = parts.iter().any(|(_, part)| part.system);
        let packages = has_system.then(|| packages(&programs)).transpose()?;
        let mut kit = Kit::with_programs(Arch::HOST, programs)?;
        if parts.iter().any(|(_, part)| !part.system) {
            kit = kit.with_clients()?;
        }
        if has_system {
            kit = kit.with_system()?;
        }
        let has_server = parts.iter().any(|(_, part)| part.prometheus);
        let server = has_server.then(Prometheus::ensure).transpose()?;
        let built = Built {
            kit,
            tests,
            packages: packages.into_iter().flatten().collect(),
            server: server.map(|prometheus| prometheus.server()),
        };
        anyhow::Ok((Some(built), parts))
    })?;
    longest_first.extend(foreign);
    // Built when the first of its guests is to boot, while guests of the host's architecture run.
    let built_for_arm64 = OnceLock::new();
    let built_for = |part: &Part<'_>| match &built {
        Some(built) if !part.is_foreign() => Ok(built),
        _ => {
            let arch = part.kernel.arch;
            let built = built_for_arm64
                .get_or_init(|| durations.measure(FOREIGN_BUILD, || Built::for_tests_alone(arch)));
            built.as_ref()
        }
    };
    let silence = Duration::from_secs(options.silence);

    longest_first.sort_by_key(|(_, part)| Reverse(earlier.seconds(&part.name, part.usual)));
    let waiting = Mutex::new(VecDeque::from(longest_first));
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs() {
            scope.spawn(|| {
                loop {
                    let next = lock(&waiting).pop_front();
                    let Some((number, part)) = next else { return };
                    let ran = match built_for(part) {
                        Ok(built) => test_guest(built, part, silence, durations),
                        // A machine without rustup's server can test its own architecture alone.
                        Err(error) if options.is_for_each_arch() && error.is::<NoLibrary>() => {
                            Ran::skipped(&part.kernel.name, error)
                        }
                        Err(error) => Ran::not(&part.kernel.name, error),
                    };
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
fn test_guest(built: &Built, part: &Part<'_>, silence: Duration, durations: &Durations) -> Ran {
    let Part {
        kernel,
        name,
        place,
        arguments,
        crowd,
        prometheus,
        system,
        ..
    } = part;
    let program = (part.program(&built.tests).to_owned(), PROGRAM.to_owned());
    let server = built.server.iter().filter(|_| *prometheus);
    let server = server.map(|path| (path.clone(), SERVER.to_owned()));
    let packages = built.packages.iter().filter(|_| *system).cloned();
    let soak = env::var(SOAK_SECONDS).map(|seconds| format!("{SOAK_SECONDS}={seconds}"));
    let place = format!("{PLACE}={}", place.name());
    let variables = [Some(&*place), soak.as_deref().ok()];
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
        system: *system,
        modules: modules(kernel),
        inputs: packages.chain([program]).chain(server).collect(),
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
    let result = built.kit.run(kernel, &task, &mut |stream, bytes| {
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
    fn each_kernel_has_its_place() {
        let kernel = |name: &str| Kernel {
            name: name.to_owned(),
            arch: Arch::HOST,
            image: PathBuf::new(),
            modules: None,
        };
        let at = |place: Place, kernels: &[Kernel]| -> Vec<String> {
            let parts = parts(kernels, &[]);
            let there = parts.iter().filter(|part| part.place == place);
            there.map(|part| part.name.clone()).collect()
        };
        let kernels = ["5.10", "6.12", "7.3"].map(kernel);
        let shares = [
            "6.12 fentry",
            "6.12 kprobe",
            "6.12 others",
            "6.12 crowd",
            "6.12 system",
        ];
        assert_eq!(at(Place::Between, &kernels), shares);
        assert!(at(Place::Between, &kernels[..2]).is_empty());
        let begins = |place, with: &str| {
            let names = at(place, &kernels);
            !names.is_empty() && names.iter().all(|name| name.starts_with(with))
        };
        assert!(begins(Place::Oldest, "5.10 ") && begins(Place::Newest, "7.3 "));
        let only = at(Place::Only, &kernels[..1]);
        assert_eq!(only.len(), parts(&kernels[..1], &[]).len());
        let all = parts(&kernels, &[]);
        let systems = all.iter().filter(|part| part.system);
        let with_package: Vec<_> = systems.map(|part| part.arguments.is_empty()).collect();
        assert_eq!(with_package, [false, true], "the newest kernel alone");
        let chosen = parts(&kernels, &["records".to_owned()]);
        let names: Vec<_> = chosen.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["5.10", "6.12", "6.12 system", "7.3", "7.3 system"]);
        assert!(chosen.iter().all(|part| part.arguments == ["records"]));
        assert!(chosen.iter().all(|part| !part.crowd));
        assert!(parts(&kernels, &[format!("{CROWD}locks")])[0].crowd);
    }
}
