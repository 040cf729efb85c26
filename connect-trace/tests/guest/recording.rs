//! Recordings: their content, the remains after a kill and on a full disk, and the reports of `report`.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::{
    connect::Connect,
    probes::attach::AttachMode,
    recording::{Ending, Recording, Row},
};

use serde_json::Value;

use crate::{
    Test,
    matching::{Extent, matched},
    output::{Lines, assert_adds_up},
    process::{Ended, Process, until},
    program::{attach, connect_trace, tracing},
    truth::{Truth, truth},
};

pub const TESTS_OF_MODES: &[Test<AttachMode>] = crate::tests![
    Oldest: [
        a_recording_has_what_truth_says_and_gives_the_report_of_its_trace,
        a_killed_recording_has_what_was_written_before,
    ],
];

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [
        a_full_disk_ends_the_recording_and_not_the_trace,
        a_limit_of_file_size_ends_the_recording_and_not_the_trace,
        a_recording_that_cannot_be_created_is_said_before_tracing,
        a_recording_that_may_not_be_read_is_named,
        a_minimum_leaves_groups_of_slow_connects_and_one_of_all_others,
        a_recording_on_stdout_is_alone_there_and_is_reported_from_stdin,
    ],
];

/// A folder for one test, removed on drop.
pub struct Folder {
    path: PathBuf,
    mounted: bool,
}

impl Folder {
    pub fn new(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("recording-{name}"));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self {
            path,
            mounted: false,
        })
    }

    /// Creates a folder that is a separate file system.
    pub fn mounted(name: &str, options: &str) -> Result<Self> {
        let mut folder = Self::new(name)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        mount.arg(&folder.path);
        Process::start(mount)?.end()?.successful()?;
        folder.mounted = true;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> PathBuf {
        self.path.join("r.csv.zst")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.mounted {
            let unmounted = Command::new("umount").arg(&self.path).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                eprintln!("cannot unmount {}", self.path.display());
                return;
            }
        }
        // After an error the files remain in a guest that ends soon.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Starts a trace that is recorded.
fn recording(file: &Path, arguments: &str) -> Result<Process> {
    tracing(&format!("--record {} {arguments}", file.display()))
}

/// Reads the intact part of a recording.
pub fn read(file: &Path) -> Result<(Vec<Connect>, Ending)> {
    let mut recording = Recording::open(file)?;
    let mut connects = Vec::new();
    loop {
        let batch = recording.next_batch();
        if batch.is_empty() {
            break;
        }
        connects.extend(batch.into_iter().filter_map(Row::connect));
    }
    let ending = recording.ending().context("it has been read")?.clone();
    Ok((connects, ending))
}

/// Waits until `count` connections can be read from a recording that is being written.
fn wait_for(file: &Path, count: usize) -> Result<()> {
    until(&format!("{} has {count} connects", file.display()), || {
        Ok((read(file)?.0.len() >= count).then_some(()))
    })
}

fn report(file: &Path) -> Result<Ended> {
    Process::start(connect_trace(&format!("report {}", file.display())))?.end()
}

fn after_the_first_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

fn a_recording_has_what_truth_says_and_gives_the_report_of_its_trace(
    mode: AttachMode,
) -> Result<()> {
    let folder = Folder::new("whole")?;
    let process = recording(&folder.file(), attach(mode))?;
    let mut records = Vec::new();
    for case in [
        "v4 --count 20",
        "v6",
        "mapped",
        "bind-port",
        "bind-any",
        "bind-address",
        "refused",
        "unreachable",
        "v6-unreachable",
        "taken",
        "nonblocking",
        "exhaust 27000-27255 --set-range --extra 5",
    ] {
        records.extend(truth(case)?);
    }
    process.signal(libc::SIGINT)?;
    let traced = process.end()?.successful()?;

    let (connects, ending) = read(&folder.file())?;
    matched(&records, &connects, Extent::Exact)?;
    let Ending::Whole(end) = ending else {
        anyhow::bail!("{ending:?}");
    };
    assert_eq!(end.events, connects.len() as u64);
    assert_eq!(end.kernel_side.accounting.kernel.entered, end.events);
    assert!(
        end.kernel_side.accounting.complete(),
        "{:?}",
        end.kernel_side.accounting
    );

    let reported = report(&folder.file())?.successful()?;
    let (origin, reported) = reported.stdout.split_once('\n').context("lines")?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let origin_is_told = origin.starts_with(&format!("{}, 20", host.trim_end()));
    assert!(origin_is_told, "{origin}");
    assert_eq!(
        after_the_first_line(reported),
        after_the_first_line(&traced.stdout),
        "all but the seconds is the same"
    );
    let counted = |text: &str| text.split(' ').next().map(str::to_owned);
    assert_eq!(counted(reported), counted(&traced.stdout));
    Ok(())
}

fn a_recording_on_stdout_is_alone_there_and_is_reported_from_stdin((): ()) -> Result<()> {
    let folder = Folder::new("stdout")?;
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        let file = folder.file();
        command.args(["-c", line]).env("FILE", file);
        Process::start(command)
    };
    let mut process = shell("exec connect-trace --record - >$FILE")?;
    process.wait_for_stderr("Tracing connect()")?;
    let records = truth("v4 --count 20")?;
    process.signal(libc::SIGINT)?;
    let traced = process.end()?.successful()?;
    let (connects, ending) = read(&folder.file())?;
    matched(&records, &connects, Extent::Exact)?;
    ensure!(matches!(ending, Ending::Whole(_)), "{ending:?}");
    assert!(traced.stderr.contains("\nentered "), "{traced}");
    let reported = shell("connect-trace report - <$FILE")?
        .end()?
        .successful()?;
    assert!(
        reported.stdout.contains("connect() calls in "),
        "{reported}"
    );
    Ok(())
}

fn a_killed_recording_has_what_was_written_before(mode: AttachMode) -> Result<()> {
    let folder = Folder::new("killed")?;
    let process = recording(&folder.file(), attach(mode))?;
    let mut records = truth("v4 --count 30")?;
    wait_for(&folder.file(), 30)?;
    records.extend(truth("v6 --count 500")?);
    process.signal(libc::SIGKILL)?;
    process.end()?;

    let (connects, ending) = read(&folder.file())?;
    matched(&records, &connects, Extent::Fewer)?;
    assert!(connects.len() >= 30, "{} connects", connects.len());
    ensure!(matches!(ending, Ending::Broken(_)), "{ending:?}");
    let reported = report(&folder.file())?;
    assert_eq!(reported.status.code(), Some(1), "{reported}");
    let counted = format!("\n{} connect() calls in ", connects.len());
    assert!(reported.stdout.contains(&counted), "{reported}");
    assert!(
        reported
            .stdout
            .contains("\nINCOMPLETE: the recording was cut"),
        "{reported}"
    );
    assert!(reported.stderr.contains(": cut at byte "), "{reported}");
    assert_eq!(reported.stderr.lines().count(), 1, "{reported}");
    Ok(())
}

fn a_limit_of_file_size_ends_the_recording_and_not_the_trace((): ()) -> Result<()> {
    let folder = Folder::new("limit")?;
    // One block of 512 bytes: the head fits, and no batch.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 1; exec connect-trace --record \"$0\""]);
    command.arg(folder.file());
    let mut process = Process::start(command)?;
    process.wait_for_stderr("Tracing connect()")?;
    truth("v4 --count 25")?;
    process.wait_for_stderr("File too large")?;
    process.signal(libc::SIGINT)?;
    let traced = process.end()?;
    assert_eq!(traced.status.code(), Some(1), "{traced}");
    let identity = "entered 25 = reported 25 + lost 0 + in flight 0\n";
    assert!(traced.stdout.contains(identity), "{traced}");
    Ok(())
}

fn a_minimum_leaves_groups_of_slow_connects_and_one_of_all_others((): ()) -> Result<()> {
    const EXHAUST: &str = "exhaust 27000-27999 --set-range --extra 20";
    // Some searches of an exhausted range are long; searches of a fresh range are short.
    let mut times: Vec<u64> = truth(EXHAUST)?
        .iter()
        .filter_map(|record| Some(record.outcome.as_ref()?.end_ns - record.start_ns))
        .collect();
    times.sort_unstable();
    let minimum = format!("{}ns", times[times.len() / 2]);
    let folder = Folder::new("minimum")?;
    let file = folder.file();
    let process = recording(
        &file,
        &format!("--min-latency {minimum} --by destination --events --format json"),
    )?;
    let count = truth(EXHAUST)?.len() + truth("v4 --count 6")?.len() + truth("v6 --count 3")?.len();
    process.signal(libc::SIGINT)?;
    let ended = process.end()?.successful()?;
    let lines = Lines::of(&ended)?;
    let report = lines.report()?;
    assert_eq!(report["connects"], count, "{ended}");
    assert_adds_up(report);
    let groups = report["groups"].as_array().context("there are groups")?;
    assert!(!groups.is_empty() && !report["fast"].is_null(), "{report}");
    for group in groups {
        let of_it = |event: &&Value| {
            let host: Option<IpAddr> = event["destination_address"].as_str()?.parse().ok();
            let port = u16::try_from(event["destination_port"].as_u64()?).ok();
            Some(group["key"] == SocketAddr::new(host?, port?).to_string())
        };
        let events = lines
            .events
            .iter()
            .filter(|event| of_it(event) == Some(true));
        assert_eq!(group["connect"]["count"], events.count(), "{group}");
    }
    let said = connect_trace(&format!(
        "report {} --by destination --format json",
        file.display()
    ));
    let said = Lines::of(&Process::start(said)?.end()?.successful()?)?;
    let again = said.reports.last().context("there is a report")?;
    for field in ["connects", "groups", "fast"] {
        assert_eq!(again[field], report[field], "{field}");
    }
    Ok(())
}

fn a_full_disk_ends_the_recording_and_not_the_trace((): ()) -> Result<()> {
    // Two pages: room for some hundred connections.
    let folder = Folder::mounted("full", "size=8k")?;
    let process = recording(&folder.file(), "")?;
    let records = truth("v4 --count 25")?;
    wait_for(&folder.file(), records.len())?;
    let mut more = 0;
    while !process.stderr().contains("No space left on device") {
        more += Truth::start("rate --threads 1 --seconds 1")?.calls()?;
        ensure!(more < 1_000_000, "{more} calls fit in 8 KiB");
    }
    more += Truth::start("rate --threads 1 --seconds 1")?.calls()?;
    process.signal(libc::SIGINT)?;
    let traced = process.end()?;

    assert_eq!(traced.status.code(), Some(1), "{traced}");
    let all = records.len() + usize::try_from(more)?;
    let identity = format!("entered {all} = reported {all} + lost 0 + in flight 0\n");
    assert!(traced.stdout.contains(&identity), "{all} calls: {traced}");
    let complaints = traced.stderr.matches("connect-trace: ").count();
    assert_eq!(complaints, 1, "{traced}");
    let (connects, ending) = read(&folder.file())?;
    let kept = format!("after {} connect() calls", connects.len());
    assert!(traced.stderr.contains(&kept), "{kept}: {traced}");
    assert!((records.len()..all).contains(&connects.len()), "{kept}");
    let of_truth = connects
        .iter()
        .filter(|connect| connect.pid == records[0].pid);
    let of_truth: Vec<Connect> = of_truth.copied().collect();
    matched(&records, &of_truth, Extent::Exact)?;
    // A batch that did not fit was cut off: the file ends with a whole batch.
    let Ending::Broken(broken) = ending else {
        anyhow::bail!("{ending:?}");
    };
    assert_eq!(
        broken.offset,
        fs::metadata(folder.file())?.len(),
        "{broken}"
    );
    Ok(())
}

fn a_recording_that_cannot_be_created_is_said_before_tracing((): ()) -> Result<()> {
    let folder = Folder::new("uncreated")?;
    let read_only = Folder::mounted("read-only", "ro")?;
    fs::write(folder.file(), "precious")?;
    for (path, expected) in [
        (read_only.file(), "Read-only file system"),
        (folder.path.clone(), "is a directory"),
        (folder.path.join("nothing/file"), "no such directory"),
        (folder.file(), "not overwritten"),
    ] {
        let arguments = format!("-d 1 --record {}", path.display());
        let ended = Process::start(connect_trace(&arguments))?.end()?;
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        assert_eq!(ended.stdout, "", "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        assert!(ended.stderr.contains(expected), "{ended}");
    }
    assert_eq!(fs::read_to_string(folder.file())?, "precious");
    Ok(())
}

fn a_recording_that_may_not_be_read_is_named((): ()) -> Result<()> {
    let folder = Folder::new("unreadable")?;
    let process = recording(&folder.file(), "-d 0.2")?;
    process.end()?.successful()?;
    let mut command = connect_trace(&format!("report {}", folder.file().display()));
    command.uid(65_534).gid(65_534);
    let ended = Process::start(command)?.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert_eq!(ended.stdout, "", "{ended}");
    assert!(ended.stderr.contains("Permission denied"), "{ended}");
    Ok(())
}
