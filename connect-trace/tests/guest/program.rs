//! The command `connect-trace` as users run it.

use std::{fs, os::unix::process::CommandExt as _, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use connect_trace::probes::attach::AttachMode;
use connect_trace_common::counters::PerCpu;

use crate::{
    Test,
    process::{Ended, Process, program, until},
    truth::{Truth, truth},
};

pub const TESTS_OF_MODES: &[Test<AttachMode>] = crate::tests![
    All: [
        the_mode_that_is_asked_for_is_named,
        being_killed_leaves_nothing_in_the_kernel,
    ],
    OldestAndNewest: [
        bursts_of_watching_are_reported,
        an_interrupt_ends_it_with_the_report,
    ],
];

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        without_privileges_it_says_what_it_takes,
        counters_can_be_read_by_the_name_of_their_map,
    ],
    Oldest: [
        without_connects_the_report_says_so,
        a_termination_ends_it_with_the_report,
        a_closed_pipe_ends_it_well,
        a_full_disk_behind_stdout_is_one_message,
        a_name_of_any_bytes_never_reaches_the_terminal_raw,
        a_process_that_is_not_there_is_named,
        wrong_usage_has_a_status_of_its_own,
        an_interval_gives_a_report_at_its_end,
        the_longest_report_fits_a_terminal,
    ],
];

/// Columns of a terminal.
const WIDTH: usize = 80;

/// The kernel's list of probes, and connect-trace's return events, one per line.
const PROBES: &str = "/sys/kernel/debug/kprobes/list";
const EVENTS: &str = "/sys/kernel/tracing/kprobe_events";
const GROUP: &str = "connect_trace/";

/// Returns the command `connect-trace` with these arguments.
pub fn connect_trace(arguments: &str) -> Command {
    let mut command = Command::new("connect-trace");
    command.args(arguments.split_whitespace());
    command
}

/// Starts a trace, and waits until it traces.
pub fn tracing(arguments: &str) -> Result<Process> {
    let mut process = Process::start(connect_trace(arguments))?;
    process.wait_for_stderr("Tracing connect()")?;
    Ok(process)
}

pub fn attach(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Fentry => "--attach fentry",
        AttachMode::Kprobe => "--attach kprobe",
    }
}

/// Waits for the successful end of a trace.
pub fn report(process: Process) -> Result<Ended> {
    process.end()?.successful()
}

#[track_caller]
pub fn assert_fits_a_terminal(ended: &Ended) {
    for line in ended.stdout.lines() {
        let columns = line.chars().count();
        assert!(columns <= WIDTH, "{columns} columns in {line:?}: {ended}");
    }
}

fn the_mode_that_is_asked_for_is_named(mode: AttachMode) -> Result<()> {
    let arguments = format!("-d 0.1 {}", attach(mode));
    let ended = report(tracing(&arguments)?)?;
    assert!(ended.stderr.contains(&format!(" by {mode}")), "{ended}");
    assert!(ended.stdout.contains(&format!(" by {mode}\n")), "{ended}");
    Ok(())
}

fn an_interrupt_ends_it_with_the_report(mode: AttachMode) -> Result<()> {
    a_signal_ends_it_with_the_report(attach(mode), libc::SIGINT)
}

fn a_termination_ends_it_with_the_report((): ()) -> Result<()> {
    a_signal_ends_it_with_the_report("", libc::SIGTERM)
}

fn a_signal_ends_it_with_the_report(arguments: &str, signal: libc::c_int) -> Result<()> {
    let process = tracing(arguments)?;
    truth("v4 --count 12")?;
    truth("mapped --count 8")?;
    process.signal(signal)?;
    let ended = report(process)?;
    assert!(
        ended.stdout.starts_with("20 connect() calls in "),
        "{ended}"
    );
    let identity = "entered 20 = reported 20 + lost 0 + in flight 0\n";
    assert!(ended.stdout.contains(identity), "{ended}");
    assert!(!ended.stdout.contains("INCOMPLETE"), "{ended}");
    Ok(())
}

/// Returns the report of a trace while a range is exhausted.
fn traced_exhaustion(mode: AttachMode, time: Duration) -> Result<Ended> {
    let process = tracing(attach(mode))?;
    // The range is soon used up. From then on every connect() searches all of it, without a pause in which a burst
    // could pass unused. The first burst ends soon after a check was seen.
    let endless = Truth::start("exhaust 26000-26999 --set-range --extra 300000")?;
    thread::sleep(time);
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    drop(endless);
    Ok(ended)
}

fn bursts_of_watching_are_reported(mode: AttachMode) -> Result<()> {
    // Detaching takes a second or two, and much longer on a busy machine.
    let mut ended = traced_exhaustion(mode, Duration::from_secs(2))?;
    for seconds in [8, 32, 128] {
        if ended.stdout.contains("the first burst has not ended") {
            ended = traced_exhaustion(mode, Duration::from_secs(seconds))?;
        }
    }
    let number = |before: &str, after: &str| -> Result<u64> {
        let text = ended.stdout.split_once(before);
        let text = text.and_then(|(_, rest)| rest.split_once(after));
        let (number, _) = text.with_context(|| format!("{before}…{after}: {ended}"))?;
        number
            .parse()
            .with_context(|| format!("{number:?} in {ended}"))
    };
    let connects = number("", " connect()")?;
    assert!(number("port checks, sampled: ", " burst")? > 0, "{ended}");
    let watched = number("ms in all; watched in ", " connect()")?;
    assert!((1..connects).contains(&watched), "{ended}");
    assert!(
        number("__inet_check_established: ", " call")? > 0,
        "{ended}"
    );
    assert!(
        !ended.stdout.contains("__inet6_check_established"),
        "{ended}"
    );
    assert!(!ended.stdout.contains("INCOMPLETE"), "{ended}");
    assert_fits_a_terminal(&ended);
    Ok(())
}

fn being_killed_leaves_nothing_in_the_kernel(mode: AttachMode) -> Result<()> {
    let process = tracing(attach(mode))?;
    truth("v4 --count 3")?;
    let traces = traces_in_kernel()?;
    ensure!(!traces.is_empty(), "nothing of it is seen while it runs");
    process.signal(libc::SIGKILL)?;
    process.end()?;
    nothing_is_left()
}

/// Waits until nothing of connect-trace is left in the kernel.
pub fn nothing_is_left() -> Result<()> {
    let mut left = Vec::new();
    let gone = until("nothing is left", || {
        left = traces_in_kernel()?;
        Ok(left.is_empty().then_some(()))
    });
    gone.with_context(|| left.join("\n"))
}

/// Returns all traces of connect-trace in the kernel and among the processes.
pub fn traces_in_kernel() -> Result<Vec<String>> {
    const PROGRAMS: [&str; 5] = ["fentry_", "fexit_", "kprobe_", "kretprobe_", "thread_exit"];
    const FUNCTIONS: [&str; 5] = [
        "tcp_v4_connect+",
        "tcp_v6_connect+",
        "__inet_hash_connect+",
        "__inet_check_established+",
        "__inet6_check_established+",
    ];
    let mut found = Vec::new();
    let mut add = |text: &str, is_ours: &dyn Fn(&str) -> bool| {
        found.extend(text.lines().filter(|line| is_ours(line)).map(str::to_owned));
    };
    add(&bpftool("prog list")?, &|line| {
        PROGRAMS
            .iter()
            .any(|name| line.contains(&format!("name {name}")))
    });
    add(&fs::read_to_string(PROBES).context(PROBES)?, &|line| {
        FUNCTIONS.iter().any(|function| line.contains(function))
    });
    add(&fs::read_to_string(EVENTS).context(EVENTS)?, &|line| {
        line.contains(GROUP)
    });
    for process in fs::read_dir("/proc")? {
        let comm = fs::read_to_string(process?.path().join("comm")).unwrap_or_default();
        add(&comm, &|comm| {
            comm == "connect-trace" || comm == "ct-janitor"
        });
    }
    Ok(found)
}

pub fn bpftool(arguments: &str) -> Result<String> {
    let mut command = Command::new("bpftool");
    command.args(arguments.split_whitespace());
    Ok(Process::start(command)?.end()?.successful()?.stdout)
}

fn without_connects_the_report_says_so((): ()) -> Result<()> {
    let ended = report(tracing("-d 1")?)?;
    assert!(ended.stdout.starts_with("0 connect() calls in "), "{ended}");
    let identity = "entered 0 = reported 0 + lost 0 + in flight 0\n";
    assert!(ended.stdout.contains(identity), "{ended}");
    Ok(())
}

fn a_closed_pipe_ends_it_well((): ()) -> Result<()> {
    // The reader goes after the first line of the first report, or before any output.
    for pipeline in [
        "connect-trace -i 0.5 | head -n 1",
        "connect-trace -d 0.5 | true",
    ] {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("set -o pipefail; {pipeline}"));
        let ended = Process::start(shell)?.end()?.successful()?;
        assert!(ended.stderr.contains("Tracing connect()"), "{ended}");
        for trouble in ["panic", "connect-trace: "] {
            assert!(!ended.stderr.contains(trouble), "{ended}");
        }
    }
    Ok(())
}

fn a_full_disk_behind_stdout_is_one_message((): ()) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "connect-trace -q -d 0.3 >/dev/full"]);
    let ended = Process::start(shell)?.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
    for part in ["stdout", "No space left on device"] {
        assert!(ended.stderr.contains(part), "{part}: {ended}");
    }
    Ok(())
}

fn a_name_of_any_bytes_never_reaches_the_terminal_raw((): ()) -> Result<()> {
    let name = "/tmp/\u{1b}[2J\u{7}\u{9b}\n";
    let copied = fs::copy(program("truth")?, name);
    copied.context("give truth a name that does harm")?;
    for format in ["text", "json"] {
        let process = tracing(&format!("--events --by comm --format {format}"))?;
        let mut truth = Command::new(name);
        truth.args(["v4", "--count", "2"]);
        Process::start(truth)?.end()?.successful()?;
        process.signal(libc::SIGINT)?;
        let ended = report(process)?;
        assert!(ended.stdout.contains(r"x1b[2J"), "{ended}");
        let raw = |character: char| character.is_control() && character != '\n';
        assert!(!ended.stdout.contains(raw), "{ended}");
    }
    fs::remove_file(name)?;
    Ok(())
}

fn a_process_that_is_not_there_is_named((): ()) -> Result<()> {
    // The highest possible id; no process of a guest reaches it.
    let ended = Process::start(connect_trace("-d 1 --pid 4194303"))?.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert!(ended.stderr.contains("4194303"), "{ended}");
    assert_eq!(ended.stdout, "", "{ended}");
    Ok(())
}

fn wrong_usage_has_a_status_of_its_own((): ()) -> Result<()> {
    for wrong in [
        "--no-such-option",
        "-d 0",
        "--attach maybe",
        "--ring-buffer 3M",
        "what",
    ] {
        let ended = Process::start(connect_trace(wrong))?.end()?;
        assert_eq!(ended.status.code(), Some(2), "{ended}");
        assert_eq!(ended.stdout, "", "{ended}");
        assert!(!ended.stderr.is_empty(), "{ended}");
    }
    Ok(())
}

fn without_privileges_it_says_what_it_takes((): ()) -> Result<()> {
    let mut command = connect_trace("-d 1");
    command.uid(65_534).gid(65_534);
    let ended = Process::start(command)?.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    for word in ["root", "CAP_BPF", "CAP_PERFMON"] {
        assert!(ended.stderr.contains(word), "{word}: {ended}");
    }
    Ok(())
}

fn an_interval_gives_a_report_at_its_end((): ()) -> Result<()> {
    let process = tracing("-i 1 -T -d 5.5")?;
    truth("v4 --count 7")?;
    thread::sleep(Duration::from_secs(2));
    truth("v6 --count 5")?;
    let ended = report(process)?;
    let connects: Vec<u64> = ended
        .stdout
        .lines()
        .filter_map(|line| line.split_once(" connect()"))
        .filter(|(_, rest)| rest.starts_with(" call in ") || rest.starts_with(" calls in "))
        .map(|(number, _)| Ok(number.parse()?))
        .collect::<Result<_>>()?;
    assert!((4..=6).contains(&connects.len()), "{ended}");
    assert_eq!(connects.iter().sum::<u64>(), 12, "{ended}");
    let times = ended.stdout.lines().filter(|line| is_time_of_day(line));
    assert_eq!(times.count(), connects.len(), "{ended}");
    Ok(())
}

/// Returns true if a text is a time HH:MM:SS.
fn is_time_of_day(line: &str) -> bool {
    let parts: Vec<&str> = line.split(':').collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn the_longest_report_fits_a_terminal((): ()) -> Result<()> {
    let process = tracing("-T --check-established time")?;
    let truth = truth("all")?;
    process.signal(libc::SIGTERM)?;
    let ended = report(process)?;
    for section in [
        "ports 32768-60999: even first",
        "port search (__inet_hash_connect)",
        "bound before",
        "EADDRNOTAVAIL",
        "ENETUNREACH",
        "__inet_check_established: ",
        "__inet6_check_established: ",
        "entered ",
    ] {
        assert!(ended.stdout.contains(section), "{section}: {ended}");
    }
    // The report may or may not have the processes that died.
    let entered = ended.stdout.split_once("\nentered ").map(|(_, rest)| rest);
    let entered = entered.and_then(|rest| rest.split(' ').next());
    let entered: usize = entered.unwrap_or_default().parse()?;
    let expected = truth.iter().map(|record| match &record.outcome {
        None => (0, 1),
        Some(outcome) if outcome.kernel_errno.is_none() => (0, 0),
        Some(_) => (1, 1),
    });
    let (least, most) = expected.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
    assert!(
        (least..=most).contains(&entered),
        "{least} to {most}: {ended}"
    );
    assert_fits_a_terminal(&ended);
    Ok(())
}

fn counters_can_be_read_by_the_name_of_their_map((): ()) -> Result<()> {
    let process = tracing("")?;
    truth("v4 --count 6")?;
    let dump = bpftool("map dump name PER_CPU")?;
    let (_, value) = dump.split_once("value:").with_context(|| dump.clone())?;
    let bytes = value
        .split_whitespace()
        .map_while(|byte| u8::from_str_radix(byte, 16).ok());
    let bytes: Vec<u8> = bytes.collect();
    // Any alignment is sufficient.
    let counters = bytes.chunks_exact(size_of::<PerCpu>());
    let counters = counters.map(|cpu| bytemuck::pod_read_unaligned::<PerCpu>(cpu).counters);
    let entered: u64 = counters.map(|counters| counters.entered).sum();
    assert_eq!(entered, 6, "{dump}");
    process.signal(libc::SIGINT)?;
    report(process)?;
    Ok(())
}
