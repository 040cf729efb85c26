//! `connect-trace load` and `compare` as a user runs them, on the kernel of this machine. The tests need no BPF, and no
//! root if the kernel lets users create namespaces.
//!
//! The runs use few ports. Their attempts are compared with the known behaviour of the kernel's search.

mod command;
#[path = "load/compare.rs"]
mod compare;

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write as _,
    net::{IpAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use connect_trace::load::{
    attempt::Attempt,
    log::{self, Head},
};
use libtest_mimic::{Arguments, Trial};

use self::command::{command, connect_trace, text};

/// A test: its name, its function, and true if it creates a private namespace.
type Test = (&'static str, fn(), bool);

/// Ignores the tests that need a namespace, and counts them as ignored, if the kernel gives this process none.
fn main() -> ExitCode {
    let tests: &[Test] = &[
        (
            "the_default_takes_all_even_ports_before_the_first_odd_one",
            the_default_takes_all_even_ports_before_the_first_odd_one,
            true,
        ),
        (
            "an_odd_lowest_port_has_the_odd_ports_first",
            an_odd_lowest_port_has_the_odd_ports_first,
            true,
        ),
        (
            "the_full_range_takes_ports_of_both_parities_from_the_start_or_says_that_it_cannot",
            the_full_range_takes_ports_of_both_parities_from_the_start_or_says_that_it_cannot,
            true,
        ),
        (
            "two_addresses_have_twice_the_ports_and_twice_the_first_pass",
            two_addresses_have_twice_the_ports_and_twice_the_first_pass,
            true,
        ),
        (
            "select_test_repeat_finds_every_port_and_counts_its_tries",
            select_test_repeat_finds_every_port_and_counts_its_tries,
            true,
        ),
        (
            "a_cursor_takes_one_try_for_each_port_up_to_the_last",
            a_cursor_takes_one_try_for_each_port_up_to_the_last,
            true,
        ),
        (
            "windows_that_are_tried_again_find_every_port_or_say_that_they_cannot",
            windows_that_are_tried_again_find_every_port_or_say_that_they_cannot,
            true,
        ),
        (
            "the_same_seed_asks_for_the_same_and_another_one_does_not",
            the_same_seed_asks_for_the_same_and_another_one_does_not,
            true,
        ),
        (
            "several_strategies_are_runs_of_one_log_each_in_a_fresh_namespace",
            several_strategies_are_runs_of_one_log_each_in_a_fresh_namespace,
            true,
        ),
        ("threads_share_the_ports", threads_share_the_ports, true),
        (
            "a_rate_begins_no_connection_before_its_turn",
            a_rate_begins_no_connection_before_its_turn,
            true,
        ),
        (
            "many_threads_have_their_attempts_in_the_order_in_which_these_ended",
            many_threads_have_their_attempts_in_the_order_in_which_these_ended,
            true,
        ),
        (
            "closing_takes_no_more_memory_the_longer_it_lasts",
            closing_takes_no_more_memory_the_longer_it_lasts,
            true,
        ),
        (
            "attempts_and_pages_go_through_pipes_by_the_name_of_a_dash",
            attempts_and_pages_go_through_pipes_by_the_name_of_a_dash,
            true,
        ),
        (
            "a_file_of_attempts_is_never_overwritten",
            a_file_of_attempts_is_never_overwritten,
            true,
        ),
        (
            "more_connections_than_open_files_are_held_all_the_same",
            more_connections_than_open_files_are_held_all_the_same,
            true,
        ),
        (
            "closing_keeps_no_more_open_than_asked_for",
            closing_keeps_no_more_open_than_asked_for,
            true,
        ),
        ("occupancy_ends_a_run", occupancy_ends_a_run, true),
        (
            "udp_uses_every_port_without_a_listener",
            udp_uses_every_port_without_a_listener,
            true,
        ),
        (
            "a_target_is_connected_to_from_the_present_network",
            a_target_is_connected_to_from_the_present_network,
            false,
        ),
        (
            "json_is_a_line_for_each_run_that_says_what_the_text_says",
            json_is_a_line_for_each_run_that_says_what_the_text_says,
            true,
        ),
        (
            "wrong_usage_is_one_message_and_exit_status_2",
            wrong_usage_is_one_message_and_exit_status_2,
            false,
        ),
        (
            "an_address_that_is_not_there_is_named_and_nothing_is_written",
            an_address_that_is_not_there_is_named_and_nothing_is_written,
            true,
        ),
        (
            "an_output_that_cannot_be_written_is_told_before_anything_is_run",
            an_output_that_cannot_be_written_is_told_before_anything_is_run,
            false,
        ),
        (
            "the_process_of_a_run_is_no_command_for_people",
            the_process_of_a_run_is_no_command_for_people,
            false,
        ),
        ("a_full_disk_is_told", a_full_disk_is_told, true),
        (
            "every_strategy_that_the_kernel_can_is_run_as_often_as_asked",
            compare::every_strategy_that_the_kernel_can_is_run_as_often_as_asked,
            true,
        ),
        (
            "the_order_of_the_runs_follows_from_the_seed",
            compare::the_order_of_the_runs_follows_from_the_seed,
            true,
        ),
        (
            "the_text_has_table_curve_and_recommendation_in_80_columns",
            compare::the_text_has_table_curve_and_recommendation_in_80_columns,
            true,
        ),
        (
            "wrong_usage_of_compare_is_one_message_and_exit_status_2",
            compare::wrong_usage_of_compare_is_one_message_and_exit_status_2,
            false,
        ),
    ];
    let arguments = Arguments::from_args();
    let why = no_namespace();
    if let Some(why) = &why {
        eprintln!("tests in a private namespace are skipped: {why}");
    }
    let trials = tests.iter().map(|&(name, test, namespace)| {
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(namespace && why.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Returns the reason why this process can have no namespace, or `None` if it can.
fn no_namespace() -> Option<String> {
    let output = connect_trace(&["load", "-c", "1", "--range", RANGE]);
    let why = text(&output.stderr);
    (!output.status.success() && why.contains("namespace")).then_some(why)
}

/// A range of 200 ports.
const RANGE: &str = "20000-20199";

/// A folder for one test, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("connect-trace-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files takes one more");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(&self.0).expect("the folder is there");
        let names = files.map(|file| file.expect("it can be read").file_name());
        names.map(|name| name.to_string_lossy().into()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a workload, on 200 ports by default, and reads its attempts.
fn attempts_of(test: &str, arguments: &[&str]) -> (Head, Vec<Attempt>) {
    let folder = Folder::new(test);
    let csv = folder.path("attempts.csv");
    let mut all = vec!["load", "--csv", &csv];
    if !arguments.contains(&"--range") {
        all.extend(["--range", RANGE]);
    }
    all.extend(arguments);
    let output = connect_trace(&all);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(folder.names(), ["attempts.csv"], "and nothing else");
    let file = fs::File::open(&csv).expect("it was written");
    log::read(file).expect("it is whole")
}

fn ports(attempts: &[Attempt]) -> Vec<u16> {
    attempts.iter().filter_map(|attempt| attempt.port).collect()
}

fn the_default_takes_all_even_ports_before_the_first_odd_one() {
    for (family, version) in [("-4", false), ("-6", true)] {
        let (head, attempts) = attempts_of("default", &[family]);
        assert_eq!(attempts.len(), 200);
        assert!(attempts.iter().all(|attempt| attempt.errno == 0));
        let ports = ports(&attempts);
        assert!(ports[..100].iter().all(|port| port % 2 == 0), "{ports:?}");
        assert!(ports[100..].iter().all(|port| port % 2 == 1), "{ports:?}");
        let different: BTreeSet<u16> = ports.into_iter().collect();
        assert_eq!(different, (20_000..=20_199).collect(), "each port once");
        assert_eq!((head.runs.len(), head.runs[0].capacity), (1, 200));
        let source = attempts[0].source.expect("it has one");
        assert_eq!(source.is_ipv6(), version);
        for (number, attempt) in (0..).zip(&attempts) {
            assert_eq!((attempt.number, attempt.held), (number, number));
            assert_eq!((attempt.tries, attempt.thread), (1, 0));
            assert!(attempt.connect_ns > 0);
        }
    }
}

fn an_odd_lowest_port_has_the_odd_ports_first() {
    let (_, attempts) = attempts_of("odd", &["--range", "20001-20200"]);
    let ports = ports(&attempts);
    assert!(ports[..100].iter().all(|port| port % 2 == 1), "{ports:?}");
    assert!(ports[100..].iter().all(|port| port % 2 == 0), "{ports:?}");
}

/// The kernel of this machine may be older than either change: then the command must report it.
fn the_full_range_takes_ports_of_both_parities_from_the_start_or_says_that_it_cannot() {
    let output = connect_trace(&["load", "full-range", "--range", RANGE]);
    let (out, message) = (text(&output.stdout), text(&output.stderr));
    if !output.status.success() {
        assert!(message.contains("6.1.32"), "{message}");
        return;
    }
    let (_, attempts) = attempts_of("full", &["full-range"]);
    let ports = ports(&attempts);
    assert_eq!(ports.len(), 200);
    let odd = ports[..100].iter().filter(|&port| port % 2 == 1).count();
    if out.contains("full-range cannot help") {
        assert_eq!(odd, 0, "{ports:?}");
    } else {
        assert!((20..80).contains(&odd), "{odd} of the first 100: {ports:?}");
    }
}

fn two_addresses_have_twice_the_ports_and_twice_the_first_pass() {
    for family in ["-4", "-6"] {
        let (head, attempts) = attempts_of("addresses", &["addresses", family]);
        assert_eq!((head.runs[0].addresses, head.runs[0].capacity), (2, 400));
        let ports = ports(&attempts);
        assert!(ports[..200].iter().all(|port| port % 2 == 0), "{ports:?}");
        assert!(ports[200..].iter().all(|port| port % 2 == 1), "{ports:?}");
        let pairs: BTreeSet<(Option<IpAddr>, Option<u16>)> = attempts
            .iter()
            .map(|attempt| (attempt.source, attempt.port))
            .collect();
        assert_eq!(pairs.len(), 400, "no address has a port twice");
        assert_ne!(attempts[0].source, attempts[1].source, "they take turns");
    }
}

fn select_test_repeat_finds_every_port_and_counts_its_tries() {
    let (_, attempts) = attempts_of(
        "repeat",
        &["select-test-repeat", "--tries", "100000", "--seed", "5"],
    );
    let different: BTreeSet<u16> = ports(&attempts).into_iter().collect();
    assert_eq!(different, (20_000..=20_199).collect(), "each port once");
    assert_eq!(attempts[0].tries, 1);
    let tries: u32 = attempts.iter().map(|attempt| attempt.tries).sum();
    assert!(tries > 600, "the last ports are hard to hit: {tries}");
    let (_, few) = attempts_of("tries", &["select-test-repeat", "--tries", "2"]);
    assert!(
        few.iter()
            .any(|attempt| attempt.errno == libc::EADDRNOTAVAIL && attempt.tries == 2)
    );
    assert!(few.iter().all(|attempt| attempt.tries <= 2));
}

fn a_cursor_takes_one_try_for_each_port_up_to_the_last() {
    for arguments in [
        &["cursor"][..],
        &["cursor", "-6", "--threads", "8"],
        &["cursor", "--protocol", "udp"],
    ] {
        let (_, attempts) = attempts_of("cursor", arguments);
        let different: BTreeSet<u16> = ports(&attempts).into_iter().collect();
        assert_eq!(different, (20_000..=20_199).collect(), "each port once");
        assert!(attempts.iter().all(|attempt| attempt.tries == 1));
    }
    let [first, same, other] =
        ["1", "1", "2"].map(|seed| ports(&attempts_of("turns", &["cursor", "--seed", seed]).1));
    assert_eq!(first, same);
    assert_ne!(first, other);
    let asked = [
        "cursor",
        "--close",
        "--until-occupancy",
        "50%",
        "-c",
        "1000",
    ];
    let (_, attempts) = attempts_of("round", &asked);
    // The other end of a connection may be closed later than its port has its turn, and then the next port is tried. Only
    // an attempt that goes round in vain leaves the common order.
    let ordered: Vec<&Attempt> = attempts
        .iter()
        .take_while(|attempt| attempt.tries <= 200)
        .collect();
    assert!(ordered.len() >= 200, "{}", ordered.len());
    let mut turn = 0;
    for attempt in ordered {
        turn += attempt.tries as usize;
        assert_eq!(attempt.port, Some(first[(turn - 1) % 200]), "{attempt:?}");
    }
}

fn windows_that_are_tried_again_find_every_port_or_say_that_they_cannot() {
    for strategy in ["window-retry", "window-cursor"] {
        let few = ["load", strategy, "--window", "16", "--range", RANGE];
        let output = connect_trace(&few);
        if !output.status.success() {
            let why = text(&output.stderr);
            assert!(
                why.contains("IP_LOCAL_PORT_RANGE") && why.contains("6.1.32"),
                "{why}"
            );
            continue;
        }
        let report = text(&output.stdout);
        assert!(
            report.starts_with(&format!("{strategy}-16: 200 connections in ")),
            "{report}"
        );
        assert!(
            report.contains(" windows tried per connection, "),
            "{report}"
        );
        for more in [&[][..], &["-6", "--threads", "8"]] {
            let (_, attempts) = attempts_of("windows", &[&few[1..4], more].concat());
            let different: BTreeSet<u16> = ports(&attempts).into_iter().collect();
            assert_eq!(different, (20_000..=20_199).collect(), "each port once");
            // 16, 32, 64, 128 and 200 ports.
            assert!(attempts.iter().all(|attempt| attempt.tries <= 5));
        }
        let once = [few[1], "--window", "16", "--tries", "1"];
        let (_, attempts) = attempts_of("once", &once);
        let failed = attempts
            .iter()
            .filter(|attempt| attempt.errno == libc::EADDRNOTAVAIL);
        let most = if strategy == "window-retry" { 100 } else { 20 };
        assert!(
            (1..most).contains(&failed.count()),
            "a window may be full before the range is"
        );
    }
}

fn the_same_seed_asks_for_the_same_and_another_one_does_not() {
    let ports_with = |seed| {
        let asked = [
            "select-test-repeat",
            "--until-occupancy",
            "50",
            "--seed",
            seed,
        ];
        ports(&attempts_of("seed", &asked).1)
    };
    assert_eq!(ports_with("1"), ports_with("1"));
    assert_ne!(ports_with("1"), ports_with("2"));
}

fn several_strategies_are_runs_of_one_log_each_in_a_fresh_namespace() {
    let (head, attempts) = attempts_of("several", &["default", "select-test-repeat", "default"]);
    let names: Vec<&str> = head.runs.iter().map(|run| run.strategy.as_str()).collect();
    assert_eq!(names, ["default", "select-test-repeat", "default"]);
    for run in [0, 2] {
        let of_run = attempts.iter().filter(|attempt| attempt.run == run);
        assert_eq!(of_run.filter(|attempt| attempt.errno == 0).count(), 200);
    }
}

fn a_rate_begins_no_connection_before_its_turn() {
    for threads in ["1", "4"] {
        let (_, attempts) = attempts_of("rate", &["--rate", "1000", "--threads", threads]);
        let mut starts: Vec<u64> = attempts.iter().map(|attempt| attempt.start_ns).collect();
        starts.sort_unstable();
        assert_eq!(starts.len(), 200);
        for (turn, start_ns) in (0..).zip(starts) {
            assert!(start_ns >= turn * 1_000_000, "{turn}: {start_ns}");
        }
    }
    let output = connect_trace(&["load", "--range", RANGE, "--rate", "4000000000"]);
    let text = text(&output.stdout);
    assert!(
        text.contains("4000000000 connections per second were asked"),
        "{text}"
    );
}

fn threads_share_the_ports() {
    let (_, attempts) = attempts_of("threads", &["--threads", "4"]);
    let different: BTreeSet<u16> = ports(&attempts).into_iter().collect();
    assert_eq!(different.len(), 200);
    assert!(
        (0..)
            .zip(&attempts)
            .all(|(number, attempt)| attempt.number == number)
    );
}

/// The expected order follows from the end times of the attempts.
fn many_threads_have_their_attempts_in_the_order_in_which_these_ended() {
    let folder = Folder::new("order");
    for command in ["load", "compare"] {
        let csv = folder.path(command);
        let mut asked = vec![command, "default", "--threads", "48", "--csv", &csv];
        asked.extend(["--range", "20000-22999", "--format", "json"]);
        if command == "compare" {
            asked.extend(["--repeats", "1"]);
        }
        let output = connect_trace(&asked);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let file = fs::File::open(&csv).expect("it was written");
        let (_, attempts) = log::read(file).expect("it is whole");
        assert_eq!(attempts.len(), 3000);

        let mut by_end = attempts.clone();
        by_end.sort_by_key(|attempt| attempt.start_ns + attempt.prepare_ns + attempt.connect_ns);
        assert!(by_end == attempts, "they are in the order of their ends");
        let mut open = 0;
        let mut steps = [(0, 0); 20];
        for (number, attempt) in (0..).zip(&attempts) {
            assert_eq!((attempt.number, attempt.held), (number, open));
            let step = &mut steps[open as usize * 20 / 3000];
            match attempt.errno {
                0 => step.0 += 1,
                _ => step.1 += 1,
            }
            open += u32::from(attempt.errno == 0);
        }
        let is_odd = |attempt: &Attempt| attempt.port.is_some_and(|port| port % 2 == 1);
        let first_odd = attempts.iter().position(is_odd).expect("half are odd");

        let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
        if command == "load" {
            assert_eq!(found["first_pass_connections"], first_odd);
            assert_eq!(found["most_held"], open);
            continue;
        }
        let of = &found["strategies"][0];
        assert_eq!(of["first_pass_connections"], first_odd);
        let advice = found["words"].to_string();
        let used_up = format!("used up after {first_odd} connections");
        assert!(advice.contains(&used_up), "{advice}");
        let curve = of["curve"].as_array().expect("an array").iter();
        let curve: Vec<_> = curve
            .map(|step| (&step["count"], &step["errors"]))
            .collect();
        for (found, (count, errors)) in curve.iter().zip(steps) {
            assert_eq!(*found, (&count.into(), &errors.into()), "{curve:?}");
        }
    }
}

fn closing_takes_no_more_memory_the_longer_it_lasts() {
    /// Far below the memory of the attempts of the long run: some 17 MB.
    const MORE_KB: i64 = 12 << 10;
    let peak_kb = |connections: &str| {
        let mut asked = command();
        asked.args(["load", "--close", "--protocol", "udp", "--range", RANGE]);
        asked.args(["--threads", "4", "--connections", connections]);
        #[expect(clippy::zombie_processes, reason = "wait4() waits for it")]
        let child = asked.stdout(Stdio::null()).spawn().expect("it was built");
        let id = libc::pid_t::try_from(child.id()).expect("ids are small");
        let mut status = 0;
        // SAFETY: the process is our child, which nobody else waits for, and both places outlive the call.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            assert_eq!(libc::wait4(id, &raw mut status, 0, &raw mut usage), id);
            usage
        };
        assert_eq!(status, 0);
        usage.ru_maxrss
    };
    let (short, long) = (peak_kb("1000"), peak_kb("200000"));
    assert!(long < short + MORE_KB, "{long} KB after {short} KB");
}

fn attempts_and_pages_go_through_pipes_by_the_name_of_a_dash() {
    for name in ["load", "compare"] {
        let output = connect_trace(&[name, "default", "-c", "20", "--range", RANGE, "--csv", "-"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let (head, attempts) = log::read(&*output.stdout).expect("it is a log and nothing else");
        assert_eq!(attempts.len(), 20 * head.runs.len());
        let report = text(&output.stderr);
        assert!(report.contains(" connections"), "{report}");

        let mut page = command();
        page.args(["report", "--from-load", "-", "--html", "-"]);
        page.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut page = page.spawn().expect("it was built");
        let mut input = page.stdin.take().expect("it is a pipe");
        input
            .write_all(&output.stdout)
            .expect("it is read whole before anything is written");
        drop(input);
        let output = page.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let html = text(&output.stdout);
        assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    }
}

fn a_file_of_attempts_is_never_overwritten() {
    let folder = Folder::new("kept");
    let csv = folder.path("attempts.csv");
    let mut asked = vec!["load", "-c", "10", "--range", RANGE, "--csv", &csv];
    // An empty file, as created by mktemp, is accepted.
    fs::write(&csv, "").expect("the folder takes a file");
    let output = connect_trace(&asked);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let kept = fs::read(&csv).expect("it was written");
    for command in ["load", "compare"] {
        asked[0] = command;
        let output = connect_trace(&asked);
        assert_eq!(output.status.code(), Some(1));
        let why = text(&output.stderr);
        let expected =
            format!("connect-trace: --csv {csv}: the file is not empty and is not overwritten");
        assert!(why.starts_with(&expected), "{why}");
        assert!(output.stdout.is_empty(), "nothing was run");
    }
    assert_eq!(fs::read(&csv).expect("it is still there"), kept);
    assert_eq!(folder.names(), ["attempts.csv"], "and nothing else");
}

fn more_connections_than_open_files_are_held_all_the_same() {
    let folder = Folder::new("files");
    let csv = folder.path("attempts.csv");
    let mut asked = command();
    asked.args(["load", "--range", "20000-20999", "--csv", &csv]);
    let output = limited(&mut asked, 200).output().expect("it was built");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let file = fs::File::open(&csv).expect("it was written");
    let (_, attempts) = log::read(file).expect("it is whole");
    let different: BTreeSet<u16> = ports(&attempts).into_iter().collect();
    assert_eq!(different.len(), 1000, "none was closed to make room");

    let mut asked = command();
    asked.args(["load", "--range", RANGE]);
    let output = limited(&mut asked, 50).output().expect("it was built");
    assert_eq!(output.status.code(), Some(1));
    let why = text(&output.stderr);
    assert!(why.contains("limit of open files is 50"), "{why}");

    let mut asked = command();
    asked.args(["load", "--range", "20000-20999", "--close"]);
    let output = limited(&mut asked, 200).output().expect("it was built");
    assert_eq!(output.status.code(), Some(1));
    let why = text(&output.stderr);
    assert!(
        why.contains("--until-occupancy") && why.contains("500"),
        "{why}"
    );
}

/// Limits a command to `files` open files.
fn limited(command: &mut Command, files: u64) -> &mut Command {
    let limit = libc::rlimit {
        rlim_cur: files,
        rlim_max: files,
    };
    // SAFETY: setrlimit may be called between fork and exec, and the limit outlives the call.
    unsafe {
        command.pre_exec(
            move || match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        )
    }
}

fn closing_keeps_no_more_open_than_asked_for() {
    let asked = ["--close", "--until-occupancy", "10%", "-c", "100"];
    let (_, attempts) = attempts_of("close", &asked);
    assert_eq!(attempts.len(), 100);
    assert_eq!(attempts.iter().map(|attempt| attempt.held).max(), Some(19));
    assert!(attempts[20..].iter().all(|attempt| attempt.held == 19));
    assert!(attempts.iter().all(|attempt| attempt.errno == 0));
}

fn occupancy_ends_a_run() {
    let (_, attempts) = attempts_of("until", &["--until-occupancy", "80%"]);
    assert_eq!(attempts.len(), 160);
}

fn udp_uses_every_port_without_a_listener() {
    let (head, attempts) = attempts_of("udp", &["--protocol", "udp"]);
    assert_eq!(head.runs[0].protocol, "udp");
    let different: BTreeSet<u16> = ports(&attempts).into_iter().collect();
    assert_eq!(different.len(), 200);
}

fn a_target_is_connected_to_from_the_present_network() {
    let server = TcpListener::bind("127.0.0.1:0").expect("the loopback has a port");
    let target = server.local_addr().expect("it has one").to_string();
    let output = connect_trace(&[
        "load", "--target", &target, "--yes", "-c", "20", "--format", "json",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(run["target"], target.as_str());
    let found = [&run["even"], &run["odd"]].map(|of| of["connect"]["count"].as_u64());
    assert_eq!(found.iter().flatten().sum::<u64>(), 20);

    drop(server);
    let output = connect_trace(&["load", "--target", &target, "--yes", "-c", "20"]);
    assert_eq!(output.status.code(), Some(1));
    let why = text(&output.stderr);
    assert!(why.contains("--target") && why.contains("refused"), "{why}");
}

fn json_is_a_line_for_each_run_that_says_what_the_text_says() {
    let output = connect_trace(&[
        "load", "default", "default", "--range", RANGE, "--format", "json",
    ]);
    let out = text(&output.stdout);
    assert_eq!(out.lines().count(), 2);
    for line in out.lines() {
        let run: serde_json::Value = serde_json::from_str(line).expect("an object");
        assert_eq!(run["schema"], "connect-trace-load/1");
        assert_eq!(run["strategy"], "default");
        assert_eq!(run["first_pass_connections"], 100);
        assert_eq!(run["even"]["connect"]["count"], 100);
        assert_eq!(
            (&run["errors"], &run["listener_drops"]),
            (&0.into(), &0.into())
        );
        assert_eq!(run["range"], serde_json::json!([20_000, 20_199]));
    }
    let report = text(&connect_trace(&["load", "--range", RANGE]).stdout);
    assert!(
        report.starts_with("default: 200 connections in "),
        "{report}"
    );
    assert!(
        report.contains("first odd port after 100 connections (50.0 %"),
        "{report}"
    );
    assert!(
        report.lines().all(|line| line.chars().count() <= 80),
        "{report}"
    );
}

fn wrong_usage_is_one_message_and_exit_status_2() {
    for wrong in [
        &["--range", "20199-20000"][..],
        &["--range", "0-100"],
        &["--range", "100-65536"],
        &["--range", "20000"],
        &["--range", "1-65535"],
        &["window", "--window", "0"],
        &["window", "--window", "1"],
        &["window", "--window", "201", "--range", RANGE],
        &["--window", "500"],
        &["-c", "201", "--range", RANGE],
        &["-c", "0"],
        &["no-such-strategy"],
        &["addresses", "--addresses", "1"],
        &["addresses", "--addresses", "127.0.0.1,::1"],
        &["addresses", "--addresses", "127.0.0.1", "-6"],
        &["--addresses", "localhost"],
        &["--threads", "0"],
        &["--until-occupancy", "0%"],
        &["--until-occupancy", "101"],
        &["--seed", "-1"],
        &["--hold", "--close"],
        &["-4", "-6"],
        &["--protocol", "sctp"],
        &["--yes"],
        &["--target", "127.0.0.1", "--yes"],
        &["--target", "127.0.0.1:80", "--range", RANGE, "--yes"],
        // Without a terminal nobody can confirm.
        &["--target", "127.0.0.1:80"],
    ] {
        let output = connect_trace(&[&["load"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}

fn an_address_that_is_not_there_is_named_and_nothing_is_written() {
    let folder = Folder::new("no-address");
    let csv = folder.path("attempts.csv");
    let addresses = "192.0.2.1,192.0.2.2";
    let output = connect_trace(&["load", "addresses", "--addresses", addresses, "--csv", &csv]);
    assert_eq!(output.status.code(), Some(1));
    let why = text(&output.stderr);
    assert!(why.contains("no such address: 192.0.2.1"), "{why}");
    assert_eq!(why.lines().count(), 1, "{why}");
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

fn an_output_that_cannot_be_written_is_told_before_anything_is_run() {
    for csv in ["/no/such/folder/attempts.csv", "/", "/proc/attempts.csv"] {
        let output = connect_trace(&["load", "--csv", csv]);
        assert_eq!(output.status.code(), Some(1), "{csv}");
        let why = text(&output.stderr);
        assert!(why.contains(&format!("--csv {csv}: ")), "{why}");
        assert!(output.stdout.is_empty());
    }
}

fn a_full_disk_is_told() {
    let output = connect_trace(&["load", "--csv", "/dev/full", "--range", RANGE]);
    assert_eq!(output.status.code(), Some(1));
    let why = text(&output.stderr);
    assert!(
        why.contains("--csv /dev/full: cannot be written: No space"),
        "{why}"
    );
}

fn the_process_of_a_run_is_no_command_for_people() {
    let output = command()
        .arg("load-runner")
        .stdin(Stdio::null())
        .output()
        .expect("it was built");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("connect-trace starts this command by itself"));
    let help = text(&connect_trace(&["--help"]).stdout);
    assert!(!help.contains("load-runner"));
}
