//! `connect-trace top` on a terminal, with connections that were made up: its keys, its sizes, and the state of the terminal
//! afterwards. The program on the terminal is this one, with an argument. Skipped without tmux, with the reason.

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../fixtures/mod.rs"]
mod fixtures;
#[path = "../fixtures/scene.rs"]
mod scene;
#[path = "../tmux/mod.rs"]
mod tmux;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use connect_trace::top::rehearsal::rehearse;
use libtest_mimic::{Arguments, Completion, Trial};

use self::tmux::Tmux;

/// tmux, as `cargo xtask` unpacks it.
const FETCHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/tmux/usr/bin/tmux");

/// Argument with which this program is the one on the terminal.
const REHEARSE: &str = "rehearse";
/// The same, for one that panics after its first interval.
const PANIC: &str = "panic";

type Test = (&'static str, fn(&Path));

const TESTS: &[Test] = &[
    ("sizes_change_what_is_seen", sizes_change_what_is_seen),
    ("keys_do_what_the_help_says", keys_do_what_the_help_says),
    (
        "figures_change_with_each_interval",
        figures_change_with_each_interval,
    ),
    ("the_terminal_is_as_before_after_q", |tmux| {
        the_terminal_is_as_before(tmux, REHEARSE, "0", |tmux| tmux.keys(&["q"]));
    }),
    ("the_terminal_is_as_before_after_sigterm", |tmux| {
        the_terminal_is_as_before(tmux, REHEARSE, "0", |tmux| signal(tmux, "-TERM"));
    }),
    ("the_terminal_is_as_before_after_a_panic", |tmux| {
        the_terminal_is_as_before(tmux, PANIC, "101", |tmux| {
            tmux.wait_for("rehearsed panic");
        });
    }),
    ("ctrl_z_gives_the_terminal_back_until_fg", |tmux| {
        the_terminal_is_given_back_until_fg(tmux, |tmux| tmux.keys(&["C-z"]));
    }),
    ("sigtstp_gives_the_terminal_back_until_fg", |tmux| {
        the_terminal_is_given_back_until_fg(tmux, |tmux| signal(tmux, "-TSTP"));
    }),
];

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some(REHEARSE) => return rehearsed(60),
        Some(PANIC) => return rehearsed(0),
        _ => {}
    }
    let arguments = Arguments::from_args();
    let mut trials: Vec<_> = TESTS
        .iter()
        .map(|&(name, test)| {
            Trial::ignorable_test(name, move || match find_tmux() {
                None => Ok(Completion::ignored_with("there is no tmux")),
                Some(tmux) => {
                    test(&tmux);
                    Ok(Completion::Completed)
                }
            })
        })
        .collect();
    trials.push(Trial::test(
        "without_a_terminal_it_says_what_to_use",
        || {
            without_a_terminal_it_says_what_to_use();
            Ok(())
        },
    ));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Shows an invented quarter of an hour, in which a range runs out; panics if nothing of it is `before`.
fn rehearsed(before: usize) -> ExitCode {
    let scene = scene::scene(60, 40).into_iter();
    let intervals = scene.inspect(|_| assert!(before > 0, "rehearsed panic"));
    let length = Duration::from_secs(10);
    match rehearse(Duration::from_millis(300), length, before, intervals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Finds tmux as unpacked by xtask, or on the PATH.
fn find_tmux() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path).map(|folder| folder.join("tmux"));
    let all = [PathBuf::from(FETCHED)].into_iter().chain(installed);
    // One that lacks a library on this machine does not run.
    all.into_iter().find(|tmux| {
        let version = Command::new(tmux).arg("-V").stderr(Stdio::null()).output();
        version.is_ok_and(|output| output.status.success())
    })
}

fn this_program() -> String {
    let path = env::current_exe().expect("it runs");
    path.to_str().expect("cargo names it").to_owned()
}

fn on_terminal(tmux: &Path, size: (u16, u16)) -> Tmux {
    let tmux = Tmux::with_status(tmux.to_owned(), size, &[&this_program(), REHEARSE]);
    tmux.wait_for("Latency by parity");
    tmux
}

fn sizes_change_what_is_seen(tmux: &Path) {
    let tmux = on_terminal(tmux, (80, 24));
    tmux.wait_for("Routes that fill up");
    let shown = tmux.shown();
    assert!(!shown.contains("Cost of the tracer"), "{shown}");
    tmux.resize(120, 40);
    let shown = tmux.wait_for("Cost of the tracer");
    for pane in [
        "Latency by",
        "Routes that",
        "Strategies by",
        "Failures and losses",
    ] {
        assert!(shown.contains(pane), "{pane}: {shown}");
    }
    tmux.resize(40, 10);
    tmux.wait_until("one pane is seen", |shown| {
        shown.contains("Routes that fill up") && !shown.contains("Latency by")
    });
    tmux.resize(30, 8);
    tmux.wait_for("too small");
    tmux.resize(80, 24);
    tmux.wait_for("Latency by parity");
    tmux.keys(&["q"]);
    assert_eq!(tmux.ended(), "0");
}

fn keys_do_what_the_help_says(tmux: &Path) {
    let tmux = on_terminal(tmux, (80, 24));
    tmux.wait_for("10.1.2.3:443");
    tmux.keys(&["F1"]);
    tmux.wait_for("hold the figures");
    tmux.keys(&["Escape"]);
    tmux.wait_until("the help is gone", |shown| {
        !shown.contains("hold the figures")
    });
    tmux.keys(&["F6"]);
    tmux.wait_for("Routes that fill up by ends in");
    tmux.keys(&["p"]);
    let paused = tmux.wait_for(" PAUSED ");
    tmux.keys(&["Enter"]);
    let detail = tmux.wait_for("ports in use, 0 to 100 %");
    assert!(!detail.contains("Latency by parity"), "{detail}");
    // An escape and a key right after it would be one key.
    tmux.keys(&["Escape"]);
    tmux.wait_for("Latency by parity");
    tmux.keys(&["BTab"]);
    tmux.wait_until("the screen is as it was", |shown| shown == paused);
    tmux.keys(&["/", "nowhere", "Enter"]);
    tmux.wait_for("No route contains \"nowhere\"");
    tmux.keys(&["Escape"]);
    tmux.wait_for("10.0.0.5 \u{2192} 10.1.2.3:443");
    tmux.keys(&["Tab", "Tab"]);
    let strategies = tmux.wait_for("Strategies by calls");
    assert!(strategies.contains("default"), "{strategies}");
    tmux.keys(&["+"]);
    tmux.wait_for("every 0.6 s");
    tmux.keys(&["F10"]);
    assert_eq!(tmux.ended(), "0");
}

fn figures_change_with_each_interval(tmux: &Path) {
    let tmux = on_terminal(tmux, (120, 40));
    // The scene ends with failures, which the routes and the verdict tell.
    tmux.wait_for("Ports are running out from 10.0.0.5 to 10.1.2.3:443");
    tmux.wait_for("Ports have run out from 10.0.0.5 to 10.1.2.3:443");
    let shown = tmux.wait_for("Failed, EADDRNOTAVAIL: ");
    assert!(shown.contains("every call is accounted for"), "{shown}");
}

/// Runs it from a shell, ends it, and compares the terminal with its state of before.
fn the_terminal_is_as_before(tmux: &Path, argument: &str, status: &str, end: fn(&Tmux)) {
    let program = this_program();
    let line = format!(
        "stty -a >before; stty -a; {program} {argument}; echo status $?; stty -a >after; cmp before after && echo same"
    );
    let line = format!("export RUST_BACKTRACE=0; cd $(mktemp -d); {line}; exec sleep 1000");
    let tmux = Tmux::start(tmux.to_owned(), (80, 24), &["sh", "-c", &line]);
    if argument == REHEARSE {
        tmux.wait_for("Latency by parity");
        assert_eq!(tmux.value("alternate_on"), "1");
        assert_eq!(tmux.value("cursor_flag"), "0");
    }
    end(&tmux);
    let shown = tmux.wait_for("same");
    assert!(shown.contains(&format!("status {status}")), "{shown}");
    // The text of before is there again, and nothing of the screen is left.
    assert!(
        shown.contains("baud") && !shown.contains("Latency by"),
        "{shown}"
    );
    assert_eq!(tmux.value("alternate_on"), "0");
    assert_eq!(tmux.value("cursor_flag"), "1");
}

/// Sends a signal to the program, which is the only child of the terminal's shell.
fn signal(tmux: &Tmux, signal: &str) {
    let shell = tmux.value("pane_pid");
    let status = Command::new("pkill").args([signal, "-P", &shell]).status();
    assert!(status.expect("pkill can be run").success());
}

/// Stops it as a job of a shell, and continues it.
fn the_terminal_is_given_back_until_fg(tmux: &Path, stop: fn(&Tmux)) {
    let tmux = Tmux::start(
        tmux.to_owned(),
        (80, 24),
        &["env", "PS1=ready>", "ENV=", "sh", "-i"],
    );
    tmux.wait_for("ready>");
    tmux.keys(&[&format!("{} {REHEARSE}", this_program()), "Enter"]);
    tmux.wait_for("Latency by parity");
    stop(&tmux);
    tmux.wait_until("the shell says so", |shown| {
        shown.to_lowercase().contains("stopped") && !shown.contains("Latency by")
    });
    tmux.keys(&["stty -a | grep -c -w icanon", "Enter"]);
    tmux.wait_until("lines are read again", |shown| {
        shown.lines().any(|line| line == "1")
    });
    tmux.keys(&["fg", "Enter"]);
    tmux.wait_for("Latency by parity");
    tmux.keys(&["q"]);
    tmux.wait_until("the shell is back", |shown| !shown.contains("Latency by"));
}

fn without_a_terminal_it_says_what_to_use() {
    let output = Command::new(this_program())
        .arg(REHEARSE)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("`connect-trace -i 1`"), "{error}");
    assert!(output.stdout.is_empty());
}
