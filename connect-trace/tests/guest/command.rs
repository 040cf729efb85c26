//! `connect-trace -- COMMAND`: traces the command and its children, and ends with its exit status. Also `--pid` of a
//! process that ends.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use connect_trace::probes::attach::AttachMode;

use crate::{
    Lacking, Test,
    process::{Ended, Process, until},
    program::bpftool,
    truth::Truth,
};

pub const TESTS_OF_MODES: &[Test<AttachMode>] = crate::tests![
    OldestAndNewest: [
        a_command_and_its_children_are_traced_and_nobody_else,
        two_at_once_see_the_same,
    ],
];

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        a_process_that_dies_while_traced_ends_the_trace_with_its_report,
        its_children_are_traced_after_it_where_they_are_followed,
        a_process_whose_end_the_programs_missed_does_not_keep_the_trace,
        a_cgroup_that_is_made_again_is_traced_again,
    ],
    Oldest: [
        the_exit_status_of_the_command_is_passed_on,
        the_signal_of_the_command_is_passed_on,
        a_signal_is_passed_on_to_the_command,
        a_command_that_cannot_be_started_is_one_message,
        an_id_of_no_running_process_is_refused_with_the_reason,
        processes_that_outlive_their_command_are_told,
        a_command_gets_sigterm_when_the_time_is_over,
    ],
];

fn connect_trace(options: &str, command: &[&str]) -> Command {
    let mut line = Command::new("connect-trace");
    line.args(options.split_whitespace());
    if !command.is_empty() {
        line.arg("--").args(command);
    }
    line
}

fn ended(options: &str, command: &[&str]) -> Result<Ended> {
    Process::start(connect_trace(options, command))?.end()
}

/// Returns the number of entered calls in the report.
fn entered(ended: &Ended) -> Result<u64> {
    let rest = ended.stdout.split_once("\nentered ");
    let number = rest.and_then(|(_, rest)| rest.split(' ').next());
    let number = number.with_context(|| format!("no account: {ended}"))?;
    Ok(number.parse()?)
}

fn a_command_and_its_children_are_traced_and_nobody_else(mode: AttachMode) -> Result<()> {
    let attach = mode_name(mode);
    let others = Truth::hold("v4 --count 9")?;
    let script = "truth v4 --count 3; (truth v6 --count 4; truth mapped --count 5) & wait";
    let mut process = Process::start(connect_trace(
        &format!("--attach {attach}"),
        &["sh", "-c", &format!("sleep 1; {script}")],
    ))?;
    process.wait_for_stderr("Tracing connect()")?;
    others.release()?;
    others.end()?;
    let ended = process.end()?.successful()?;
    assert_eq!(entered(&ended)?, 3 + 4 + 5, "{ended}");
    assert!(!ended.stdout.contains("INCOMPLETE"), "{ended}");
    Ok(())
}

fn two_at_once_see_the_same(mode: AttachMode) -> Result<()> {
    let options = format!("--attach {}", mode_name(mode));
    let mut both = [
        Process::start(connect_trace(&options, &[]))?,
        Process::start(connect_trace(&options, &[]))?,
    ];
    for process in &mut both {
        process.wait_for_stderr("Tracing connect()")?;
    }
    let truth = Truth::start("v4 --count 25")?.end()?;
    let [first, second] = both;
    // The end of one trace takes nothing from the other.
    first.signal(libc::SIGINT)?;
    let first = first.end()?.successful()?;
    Truth::start("v4 --count 5")?.end()?;
    second.signal(libc::SIGINT)?;
    let second = second.end()?.successful()?;
    assert_eq!(entered(&first)?, truth.len() as u64, "{first}");
    assert_eq!(entered(&second)?, truth.len() as u64 + 5, "{second}");
    for ended in [first, second] {
        assert!(!ended.stdout.contains("INCOMPLETE"), "{ended}");
    }
    Ok(())
}

fn mode_name(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Fentry => "fentry",
        AttachMode::Kprobe => "kprobe",
    }
}

fn the_exit_status_of_the_command_is_passed_on((): ()) -> Result<()> {
    for status in [0, 1, 7, 255] {
        let ended = ended("-q", &["sh", "-c", &format!("exit {status}")])?;
        assert_eq!(ended.status.code(), Some(status), "{ended}");
        assert_eq!(entered(&ended)?, 0, "{ended}");
    }
    Ok(())
}

fn the_signal_of_the_command_is_passed_on((): ()) -> Result<()> {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let ended = ended("-q", &["sh", "-c", &format!("kill -{signal} $$")])?;
        assert_eq!(ended.status.signal(), Some(signal), "{ended}");
        assert_eq!(entered(&ended)?, 0, "{ended}");
    }
    Ok(())
}

fn a_signal_is_passed_on_to_the_command((): ()) -> Result<()> {
    let script = "trap 'echo caught; exit 3' TERM; echo ready >&2; while :; do sleep 0.1; done";
    let mut process = Process::start(connect_trace("", &["sh", "-c", script]))?;
    process.wait_for_stderr("ready")?;
    process.signal(libc::SIGTERM)?;
    let ended = process.end()?;
    assert_eq!(ended.status.code(), Some(3), "{ended}");
    assert!(ended.stdout.starts_with("caught\n"), "{ended}");
    assert!(ended.stdout.contains("entered 0 "), "{ended}");
    Ok(())
}

fn a_command_that_cannot_be_started_is_one_message((): ()) -> Result<()> {
    for (command, why) in [
        ("/no/such/command", "No such file or directory"),
        ("/etc", "Permission denied"),
    ] {
        let ended = ended("-q", &[command])?;
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        assert_eq!(ended.stdout, "", "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        for part in [command, why] {
            assert!(ended.stderr.contains(part), "{part}: {ended}");
        }
    }
    Ok(())
}

/// Checks that a trace of a process that makes six calls ends when the process ends.
fn ends_after_six_calls(truth: Truth, process: Process) -> Result<()> {
    truth.release()?;
    truth.end()?;
    let ended = process.end()?.successful()?;
    assert!(ended.stderr.contains("have ended"), "{ended}");
    assert_eq!(entered(&ended)?, 6, "{ended}");
    Ok(())
}

fn a_process_that_dies_while_traced_ends_the_trace_with_its_report((): ()) -> Result<()> {
    let truth = Truth::hold("v4 --count 6")?;
    let mut process = Process::start(connect_trace(&format!("-p {}", truth.pid()), &[]))?;
    process.wait_for_stderr("Tracing connect()")?;
    ends_after_six_calls(truth, process)
}

fn its_children_are_traced_after_it_where_they_are_followed((): ()) -> Result<()> {
    let mut shell = Command::new("sh");
    // The child outlives the shell.
    let script = r#"until [ -e "$2" ]; do sleep 0.1; done; (sleep 1; truth v4 --count 8) & exit 0"#;
    shell.args(["-c", script, "sh"]);
    let shell = Truth::hold_command(shell)?;
    let options = format!("--follow -p {}", shell.pid());
    let mut process = Process::start(connect_trace(&options, &[]))?;
    process.wait_for_stderr("Tracing connect()")?;
    shell.release()?;
    let start = Instant::now();
    shell.end_with_text()?;
    let ended = process.end()?.successful()?;
    assert!(start.elapsed() > Duration::from_millis(900), "{ended}");
    assert_eq!(entered(&ended)?, 8, "{ended}");
    Ok(())
}

fn an_id_of_no_running_process_is_refused_with_the_reason((): ()) -> Result<()> {
    let refused = |id: u32, parts: &[&str]| -> Result<()> {
        let ended = ended(&format!("-p {id}"), &[])?;
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        assert_eq!(ended.stdout, "", "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {ended}");
        }
        Ok(())
    };
    let mut zombie = Command::new("true").spawn()?;
    let status = format!("/proc/{}/status", zombie.id());
    until("the process has ended", || {
        let status = fs::read_to_string(&status)?;
        Ok(status.contains("State:\tZ").then_some(()))
    })?;
    refused(
        zombie.id(),
        &[&format!("--pid {}: ", zombie.id()), "has ended"],
    )?;
    zombie.wait()?;
    refused(zombie.id(), &["no such process"])?;

    // A thread of this program other than the first.
    let process = std::process::id();
    let tried = thread::spawn(move || {
        // SAFETY: the call takes no arguments and cannot fail.
        let thread = unsafe { libc::gettid() }.unsigned_abs();
        refused(thread, &["thread", &format!("--pid {process}")])
    });
    tried.join().expect("the thread has not panicked")
}

/// Simulates a process whose end the kernel did not report to the eBPF program: an id without a process remains among
/// the traced ones.
fn a_process_whose_end_the_programs_missed_does_not_keep_the_trace((): ()) -> Result<()> {
    let truth = Truth::hold("v4 --count 6")?;
    let options = format!("--follow -p {}", truth.pid());
    let mut process = Process::start(connect_trace(&options, &[]))?;
    process.wait_for_stderr("Tracing connect()")?;
    // 4194303 is the highest possible id: no process of a guest reaches it.
    bpftool("map update name PIDS key hex ff ff 3f 00 value hex 01")?;
    ends_after_six_calls(truth, process)
}

fn processes_that_outlive_their_command_are_told((): ()) -> Result<()> {
    let ended = ended("-q", &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 0"])?.successful()?;
    let (_, rest) = ended
        .stderr
        .split_once("no longer traced: ")
        .with_context(|| format!("nothing is told: {ended}"))?;
    assert!(ended.stderr.contains("sh: 1 process "), "{ended}");
    let (pid, _) = rest.split_once(';').with_context(|| ended.to_string())?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm"))?;
    assert_eq!(comm, "sleep\n", "{ended}");
    // SAFETY: the call takes no pointers; the process is the one that was just examined.
    unsafe { libc::kill(pid.parse()?, libc::SIGKILL) };
    Ok(())
}

fn a_command_gets_sigterm_when_the_time_is_over((): ()) -> Result<()> {
    let ended = ended("-q -d 0.5", &["sleep", "1000"])?.successful()?;
    assert_eq!(entered(&ended)?, 0, "{ended}");
    assert_eq!(ended.stderr, "", "{ended}");
    Ok(())
}

/// The same happens when a service restarts.
fn a_cgroup_that_is_made_again_is_traced_again((): ()) -> Result<()> {
    const NAME: &str = "connect-trace-again";
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Err(Lacking("a cgroup hierarchy of version 2").into());
    }
    let folder = Path::new("/sys/fs/cgroup").join(NAME);
    let inside = |connects: u32| {
        let truth = Truth::hold(&format!("v4 --count {connects}"))?;
        fs::write(folder.join("cgroup.procs"), truth.pid().to_string())?;
        truth.release()?;
        truth.end()
    };
    fs::create_dir(&folder)?;
    let mut process = Process::start(connect_trace(&format!("--cgroup {NAME}"), &[]))?;
    process.wait_for_stderr("Tracing connect()")?;
    inside(3)?;
    until("the cgroup is free", || Ok(fs::remove_dir(&folder).ok()))?;
    process.wait_for_stderr("removed")?;
    Truth::start("v4 --count 5")?.end()?;
    fs::create_dir(&folder)?;
    process.wait_for_stderr("created again")?;
    inside(4)?;
    process.signal(libc::SIGINT)?;
    let ended = process.end()?.successful()?;
    assert_eq!(entered(&ended)?, 3 + 4, "{ended}");
    until("the cgroup is free", || Ok(fs::remove_dir(&folder).ok()))
}
