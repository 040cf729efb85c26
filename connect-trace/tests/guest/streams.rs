//! A trace with a stdout or stderr that cannot be written; and a static program that looks users up.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result};
use connect_trace::recording::Ending;

use crate::{
    Test,
    process::{Ended, Process, until},
    recording::{Folder, read},
    truth::truth,
};

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [
        a_stderr_that_cannot_be_written_costs_a_trace_its_messages_alone,
        a_stdout_that_is_full_costs_a_trace_its_report_and_not_its_recording,
        a_full_stdout_is_printed_to_again_once_there_is_room,
        a_reader_of_stdout_that_goes_away_leaves_a_whole_recording_and_the_status_of_the_command,
        a_static_program_finds_a_user_that_only_the_hosts_getent_knows,
    ],
];

/// A traced command: makes five connections, prints nothing, and ends with the status 3.
const TRACED: &str = "sh -c 'truth v4 --count 5 >/dev/null 2>&1; exit 3'";
/// The account in the report of [`TRACED`].
const IDENTITY: &str = "entered 5 = reported 5 + lost 0 + in flight 0\n";

/// Runs a shell line until it ends; `$0` is a file to record to.
fn shell(line: &str, file: &Path) -> Result<Ended> {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("set -o pipefail; {line}")])
        .arg(file);
    Process::start(shell)?.end()
}

/// Checks that a recording is whole, and returns its number of connections.
fn whole(file: &Path) -> Result<usize> {
    let (connects, ending) = read(file)?;
    let Ending::Whole(end) = ending else {
        anyhow::bail!("{ending:?}");
    };
    assert_eq!(end.events, connects.len() as u64);
    Ok(connects.len())
}

fn a_stderr_that_cannot_be_written_costs_a_trace_its_messages_alone((): ()) -> Result<()> {
    let folder = Folder::new("stderr")?;
    let report = folder.file().with_extension("report");
    let shown = report.display();
    // A pipe without a reader, no descriptor at all, and a full disk.
    for stderr in [
        format!("2>&1 >{shown} | true"),
        format!("2>&- >{shown}"),
        format!("2>/dev/full >{shown}"),
    ] {
        let line = format!("connect-trace -v --record $0 -- {TRACED} {stderr}");
        let ended = shell(&line, &folder.file())?;
        assert_eq!(ended.status.code(), Some(3), "{ended}");
        let printed = fs::read_to_string(&report)?;
        assert!(printed.contains(IDENTITY), "{stderr}: {printed}");
        assert_eq!(whole(&folder.file())?, 5, "{stderr}");
        fs::remove_file(folder.file())?;
    }
    Ok(())
}

fn a_stdout_that_is_full_costs_a_trace_its_report_and_not_its_recording((): ()) -> Result<()> {
    let folder = Folder::new("stdout")?;
    for options in ["", "--events -i 0.1"] {
        let traced = TRACED.replace("exit 3", "exit 0");
        let line = format!("connect-trace -q {options} --record $0 -- {traced} >/dev/full");
        let ended = shell(&line, &folder.file())?;
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        let message =
            "connect-trace: cannot print on stdout: No space left on device (os error 28)\n";
        assert_eq!(ended.stderr, message, "{ended}");
        assert_eq!(whole(&folder.file())?, 5, "{options}");
        fs::remove_file(folder.file())?;
    }
    Ok(())
}

fn a_full_stdout_is_printed_to_again_once_there_is_room((): ()) -> Result<()> {
    let folder = Folder::new("room")?;
    let disk = Folder::mounted("small", "size=8k")?;
    let (filler, printed) = (disk.file().with_extension("filler"), disk.file());
    fs::File::create(&printed)?;
    // Write until the disk is full.
    let full = fs::write(&filler, [0; 64 << 10]);
    full.err().context("the small disk is not full")?;
    let mut command = Command::new("sh");
    let line = "exec connect-trace --format json -i 0.1 --record $0 >$1";
    command.args(["-c", line]).arg(folder.file()).arg(&printed);
    let mut process = Process::start(command)?;
    process.wait_for_stderr("cannot print on stdout: No space left on device")?;
    truth("v4 --count 5")?;
    fs::remove_file(&filler)?;
    until("a report is printed", || {
        let text = fs::read_to_string(&printed)?;
        Ok(text.contains(r#""type":"report""#).then_some(()))
    })?;
    process.signal(libc::SIGINT)?;
    let ended = process.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    let refusals = ended.stderr.matches("cannot print on stdout").count();
    assert_eq!(refusals, 1, "{ended}");
    assert_eq!(whole(&folder.file())?, 5);
    Ok(())
}

fn a_reader_of_stdout_that_goes_away_leaves_a_whole_recording_and_the_status_of_the_command(
    (): (),
) -> Result<()> {
    let folder = Folder::new("reader")?;
    // Only the report is printed, after the command has ended.
    let line = format!("connect-trace -q --record $0 -- {TRACED} | true");
    let ended = shell(&line, &folder.file())?;
    assert_eq!(ended.status.code(), Some(3), "{ended}");
    assert_eq!(ended.stderr, "", "{ended}");
    assert_eq!(whole(&folder.file())?, 5);
    Ok(())
}

fn a_static_program_finds_a_user_that_only_the_hosts_getent_knows((): ()) -> Result<()> {
    let folder = Folder::new("getent")?;
    let getent = folder.file().with_file_name("getent");
    let script = "#!/bin/sh\n[ \"$*\" = 'passwd ada' ] && echo ada:x:1815:1815::/: || exit 2\n";
    fs::write(&getent, script)?;
    fs::set_permissions(&getent, fs::Permissions::from_mode(0o755))?;
    let ended = |user| {
        let line = format!("PATH=${{0%/*}}:$PATH; connect-trace -q --uid {user} -d 0.1");
        shell(&line, &getent)
    };
    let report = ended("ada")?.successful()?.stdout;
    assert!(report.contains("only --uid 1815\n"), "{report}");
    let refused = ended("bob")?;
    let message = "connect-trace: --uid bob: no such user\n";
    assert_eq!(refused.stderr, message, "{refused}");
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    Ok(())
}
