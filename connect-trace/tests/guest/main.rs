//! Tests on the kernel of a guest: `cargo xtask test` runs this program as root in one virtual machine per kernel.
//!
//! The program `truth` makes connections and prints the facts of each one; the tests trace them and compare. Each module
//! tests the subject that it is named after; modules without a list of tests are helpers.

mod check;
mod checks;
mod clients;
mod command;
mod compare;
mod dccp;
mod ends;
mod explain;
mod faults;
mod filters;
mod flame;
mod flood;
mod holders;
mod layout;
mod live;
mod load;
mod losses;
mod makers;
mod matching;
mod mitigate;
mod mitigation;
mod nginx;
mod output;
mod overhead;
mod peer;
mod phases;
mod ports;
mod privileges;
mod process;
mod program;
mod prometheus;
mod record_folder;
mod recording;
mod records;
mod rules;
mod scan;
mod serve;
mod service;
mod soak;
mod socket;
#[path = "../ports/ss.rs"]
mod ss;
mod strategies;
mod strategy;
mod streams;
mod supervise;
mod symbols;
mod tcp;
mod terminal;
mod time_wait;
#[path = "../tmux/mod.rs"]
mod tmux;
mod top;
mod trace;
mod truth;
mod udp;

use std::{
    env, fmt,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use connect_trace::probes::attach::AttachMode;
use libtest_mimic::{Arguments, Completion, Trial};

/// Variable that is 1 if the tests may take the whole machine for themselves.
const VARIABLE: &str = "CONNECT_TRACE_GUEST";

/// Variable with the place of the running kernel among those of a run: oldest, between, newest, only, or foreign and
/// foreign-oldest for kernels of another architecture than that of the others.
const PLACE: &str = "CONNECT_TRACE_KERNEL_PLACE";

/// Places of kernels of another architecture, and of the oldest of them.
const FOREIGN: &str = "foreign";
const FOREIGN_OLDEST: &str = "foreign-oldest";

const NOT_A_GUEST: &str = "takes root in a virtual machine of its own: run `cargo xtask test`";

/// Tests that run once for each way to attach.
const FOR_EACH_MODE: &[&[Test<AttachMode>]] = &[
    records::TESTS,
    makers::TESTS,
    losses::TESTS,
    flood::TESTS,
    checks::TESTS,
    strategy::TESTS,
    scan::TESTS,
    time_wait::TESTS,
    filters::TESTS_OF_MODES,
    command::TESTS_OF_MODES,
    program::TESTS_OF_MODES,
    recording::TESTS_OF_MODES,
    overhead::TESTS_OF_MODES,
    peer::TESTS,
    phases::TESTS,
    clients::TESTS,
    flame::TESTS,
    udp::TESTS,
    ends::TESTS_OF_MODES,
    serve::TESTS_OF_MODES,
    dccp::TESTS,
    privileges::TESTS_OF_MODES,
];

/// Tests that do not depend on the way to attach.
const FOR_NO_MODE: &[&[Test<()>]] = &[
    program::TESTS,
    filters::TESTS,
    command::TESTS,
    output::TESTS,
    compare::TESTS,
    explain::TESTS,
    terminal::TESTS,
    streams::TESTS,
    recording::TESTS,
    record_folder::TESTS,
    overhead::TESTS,
    scan::TESTS_OF_NO_MODE,
    time_wait::TESTS_OF_NO_MODE,
    live::TESTS,
    load::TESTS,
    strategies::TESTS,
    flame::TESTS_OF_NO_MODE,
    udp::TESTS_OF_NO_MODE,
    ends::TESTS,
    prometheus::TESTS,
    serve::TESTS,
    privileges::TESTS,
];

/// Tests that run on each kernel of another architecture: those of each way to attach in which a program reads arguments and
/// return values from registers, or structures of the kernel. Other tests are about code of the daemon that is the same
/// there, and sees the same records.
const OF_ARCHITECTURES: &[&[Test<AttachMode>]] = &[
    records::TESTS,
    checks::TESTS,
    scan::TESTS,
    phases::TESTS,
    udp::TESTS,
    ends::TESTS_OF_MODES,
];

/// Tests that run on the oldest of them too: of stacks, of system calls that are stopped, of the programs of a mitigation, and
/// of kernels without fentry.
const OF_THE_OLDEST: &[&[Test<AttachMode>]] = &[flame::TESTS, time_wait::TESTS];
const ROOMS_OF_THE_OLDEST: [&str; 4] = ["layout", "check", "mitigate", "supervise"];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The connections of one test would be in the trace of another.
    arguments.test_threads = Some(1);
    let modes = [
        ("fentry", AttachMode::Fentry),
        ("kprobe", AttachMode::Kprobe),
    ];
    let place = place();
    let is_foreign = [FOREIGN, FOREIGN_OLDEST].contains(&&*place);
    let (for_each_mode, rooms_here): (_, &[&str]) = match &*place {
        FOREIGN => (OF_ARCHITECTURES.to_vec(), &["layout"]),
        FOREIGN_OLDEST => {
            let all = [OF_ARCHITECTURES, OF_THE_OLDEST].concat();
            (all, &ROOMS_OF_THE_OLDEST)
        }
        _ => (FOR_EACH_MODE.to_vec(), &[]),
    };
    let of_modes = modes.into_iter().flat_map(|(prefix, mode)| {
        let tests = for_each_mode.iter().copied().flatten();
        let tests = tests.filter(|test| test.kernels.have_this());
        tests.map(move |test| {
            let run = test.run;
            trial(format!("{prefix}::{}", test.name), move || {
                offered(mode)?;
                run(mode)
            })
        })
    });
    let of_a_crowd = modes.into_iter().flat_map(|(prefix, mode)| {
        let tests = phases::TESTS_OF_A_CROWD.iter();
        tests.map(move |test| {
            let run = test.run;
            trial(format!("crowd::{prefix}_{}", test.name), move || {
                offered(mode)?;
                run(mode)
            })
        })
    });
    let of_none = FOR_NO_MODE.iter().copied().flatten();
    let of_none = of_none.filter(|test| test.kernels.have_this()).map(|test| {
        let run = test.run;
        trial(test.name.to_owned(), move || run(()))
    });
    let rooms = [
        ("faults", faults::TESTS),
        ("soak", soak::TESTS),
        ("check", check::TESTS),
        ("layout", layout::TESTS),
        ("ports", ports::TESTS),
        ("rules", rules::TESTS),
        ("supervise", supervise::TESTS),
        ("mitigation", mitigation::TESTS),
        ("mitigate", mitigate::TESTS),
        ("top", top::TESTS),
        ("holders", holders::TESTS),
    ];
    let rooms = rooms
        .into_iter()
        .filter(|(name, _)| !is_foreign || rooms_here.contains(name));
    let of_rooms = rooms.flat_map(|(prefix, tests)| {
        let tests = tests.iter().filter(|test| test.kernels.have_this());
        tests.map(move |test| {
            let run = test.run;
            trial(format!("{prefix}::{}", test.name), move || run(()))
        })
    });
    // With one thread the tests run in the order of this list. The last test changes the kernel until the next boot:
    // after it no other test can run.
    let last = trial(format!("check::{}", check::LAST.name), || {
        SPOILT.store(true, Ordering::Relaxed);
        symbols::restore()?;
        (check::LAST.run)(())
    });
    if is_guest()
        && !arguments.list
        && let Err(error) = symbols::shorten()
    {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let of_modes = of_modes.collect::<Vec<_>>();
    let all = if is_foreign {
        of_modes.into_iter().chain(of_rooms).collect()
    } else {
        let of_modes = of_modes.into_iter().chain(of_a_crowd).chain(of_none);
        of_modes.chain(of_rooms).chain([last]).collect()
    };
    libtest_mimic::run(&arguments, all).exit_code()
}

/// True once the last test has begun, after which no other can run.
static SPOILT: AtomicBool = AtomicBool::new(false);

/// A test, named after its function.
struct Test<Argument> {
    name: &'static str,
    kernels: Kernels,
    run: fn(Argument) -> Result<()>,
}

/// The kernels that a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernels {
    /// All kernels: the outcome depends on the kernel, on the tracer's reading of the kernel, or on programs that each
    /// kernel's verifier accepts and runs in its own way.
    All,
    /// The oldest and the newest kernel of a run: the outcome depends on the daemon's code, on what kernels have only since
    /// some time, or only until then, or on programs that every kernel takes in other tests. Those on all kernels check that
    /// the records are the same.
    OldestAndNewest,
    /// The oldest kernel of a run, on which programs are attached in the least time: the outcome depends only on the daemon's
    /// code, which sees the same records on every kernel.
    Oldest,
    /// The newest kernel of a run: the outcome does not depend on the kernel, but the oldest lacks what is tested.
    Newest,
}

impl Kernels {
    /// Returns true if the running kernel is one of them.
    fn have_this(self) -> bool {
        match (self, place().as_str()) {
            (Self::All, _) => true,
            (_, FOREIGN | FOREIGN_OLDEST) => false,
            (Self::OldestAndNewest, place) => place != "between",
            (Self::Oldest, place) => !["between", "newest"].contains(&place),
            (Self::Newest, place) => !["oldest", "between"].contains(&place),
        }
    }
}

fn place() -> String {
    env::var(PLACE).unwrap_or_default()
}

/// Lists the tests of a module, each the name of a function, by the kernels that they run on.
macro_rules! tests {
    ($($kernels:ident: [$($name:ident),+ $(,)?]),+ $(,)?) => {
        &[$($(crate::Test {
            name: stringify!($name),
            kernels: crate::Kernels::$kernels,
            run: $name,
        }),+),+]
    };
}
use tests;

fn trial(name: String, run: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, || {
        if !is_guest() {
            return Ok(Completion::ignored_with(NOT_A_GUEST));
        }
        if SPOILT.load(Ordering::Relaxed) {
            return Err("runs after the test that must be the last of all".into());
        }
        match run() {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Lacking>() {
                Some(lacking) => Ok(Completion::ignored_with(lacking)),
                None => Err(format!("{error:#}").into()),
            },
        }
    })
}

/// Fails with [`Lacking`] if the kernel does not attach programs in this mode.
fn offered(mode: AttachMode) -> Result<()> {
    match mode {
        AttachMode::Fentry if !symbols::has_fentry()? => {
            Err(Lacking("fentry: its ftrace makes no direct calls").into())
        }
        _ => Ok(()),
    }
}

/// Returns true if the tests may take the whole machine for themselves.
fn is_guest() -> bool {
    env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

/// The error of a test that needs a feature which this kernel lacks.
#[derive(Debug)]
struct Lacking(&'static str);

impl fmt::Display for Lacking {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "this kernel lacks {}", self.0)
    }
}

impl std::error::Error for Lacking {}
