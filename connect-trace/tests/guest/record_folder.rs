//! Recordings in a folder, one file after another: their bound, a full disk, a kill, and a clock that is set.

use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::{
    connect::Connect,
    recording::{Ending, Recording, Row, Start},
};
use connect_trace_guest::truth::Record;
use serde_json::{Value, json};

use crate::{
    Test,
    matching::{Extent, matched},
    output::step_clock,
    process::{Process, until},
    program::{connect_trace, tracing},
    recording::Folder,
    service::Service,
    truth::{Range, Truth, truth},
};

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [
        a_folder_keeps_its_bound_and_the_newest_calls_of_a_flood,
        a_full_disk_ends_the_recordings_of_a_folder_and_not_the_trace,
        a_kill_cuts_the_last_file_and_the_next_trace_goes_on_in_the_folder,
        a_clock_that_is_set_begins_another_file,
        slow_and_failed_calls_are_recorded_and_the_others_counted,
        the_minutes_before_a_failure_are_kept_and_nothing_without_one,
        a_service_without_privileges_keeps_the_minutes_before_a_failure,
        the_ports_of_the_moment_are_kept_with_their_holders,
    ],
];

/// A file of a folder, as far as it can be read.
struct Part {
    start: Start,
    connects: Vec<Connect>,
    ending: Ending,
}

impl Part {
    fn read(path: &Path) -> Result<Self> {
        let mut recording = Recording::open(path)?;
        let mut connects = Vec::new();
        while recording.ending().is_none() {
            connects.extend(recording.next_batch().into_iter().filter_map(Row::connect));
        }
        Ok(Self {
            start: recording.start().clone(),
            ending: recording.ending().context("it has been read")?.clone(),
            connects,
        })
    }
}

/// Returns all files below a folder, in the order of their paths. Files may go away meanwhile.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn parts(folder: &Path) -> Result<Vec<Part>> {
    files(folder).iter().map(|path| Part::read(path)).collect()
}

fn bytes(folder: &Path) -> u64 {
    let sizes = files(folder).into_iter().map(fs::metadata);
    sizes.flatten().map(|metadata| metadata.len()).sum()
}

/// Starts a trace that is recorded into a folder.
fn recording(folder: &Folder, arguments: &str) -> Result<Process> {
    tracing(&format!(
        "--record {}/ {arguments}",
        folder.path().display()
    ))
}

fn a_folder_keeps_its_bound_and_the_newest_calls_of_a_flood((): ()) -> Result<()> {
    const KEEP: u64 = 512 << 10;
    /// More than a file without calls has.
    const WITH_CALLS: u64 = 8 << 10;
    let folder = Folder::new("bound")?;
    let process = recording(
        &folder,
        "--record-size 64k --record-keep 512k --record-time 2",
    )?;
    let mut calls = 0;
    let mut oldest = None;
    // The room is full after some 20,000 calls.
    while oldest.as_ref().is_none_or(|path: &PathBuf| path.exists()) {
        let rate = Truth::start("rate --refused --threads 4 --seconds 2")?;
        let has_calls = |path: &PathBuf| fs::metadata(path).is_ok_and(|of| of.len() > WITH_CALLS);
        oldest = oldest.or_else(|| files(folder.path()).into_iter().find(has_calls));
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            let size = bytes(folder.path());
            ensure!(size <= KEEP, "{size} bytes");
            thread::sleep(Duration::from_millis(20));
        }
        calls += rate.calls()?;
        ensure!(calls < 2_000_000, "{calls} calls fit");
    }
    process.signal(libc::SIGINT)?;
    let traced = process.end()?.successful()?;
    let identity = format!("entered {calls} = reported {calls} + lost 0 + in flight 0\n");
    assert!(traced.stdout.contains(&identity), "{calls}: {traced}");
    ensure!(bytes(folder.path()) <= KEEP);

    let parts = parts(folder.path())?;
    ensure!(parts.len() > 1, "{} files", parts.len());
    let mut last = 0;
    for part in &parts {
        let Ending::Whole(end) = &part.ending else {
            anyhow::bail!("{:?}", part.ending);
        };
        let accounting = end.kernel_side.accounting;
        assert!(accounting.complete(), "{accounting:?}");
        assert_eq!(accounting.decoded, part.connects.len() as u64);
        ensure!(part.start.monotonic_ns >= last, "they follow each other");
        last = end.monotonic_ns;
    }
    let kept: usize = parts.iter().map(|part| part.connects.len()).sum();
    ensure!(
        (1..usize::try_from(calls)?).contains(&kept),
        "{kept} of {calls}"
    );
    let report = connect_trace(&format!("report {}", folder.path().display()));
    let reported = Process::start(report)?.end()?.successful()?;
    assert!(!reported.stdout.contains("INCOMPLETE"), "{reported}");
    Ok(())
}

fn a_full_disk_ends_the_recordings_of_a_folder_and_not_the_trace((): ()) -> Result<()> {
    let folder = Folder::mounted("full-folder", "size=200k")?;
    let process = recording(&folder, "--record-size 64k --record-keep 1m")?;
    let mut calls = 0;
    let mut is_full = false;
    while !is_full {
        calls += Truth::start("rate --refused --threads 4 --seconds 1")?.calls()?;
        is_full = process.stderr().contains("No space left on device");
        ensure!(calls < 1_000_000, "{calls} calls fit in 200 KiB");
    }
    calls += Truth::start("rate --refused --threads 1 --seconds 1")?.calls()?;
    process.signal(libc::SIGINT)?;
    let traced = process.end()?;

    assert_eq!(traced.status.code(), Some(1), "{traced}");
    let identity = format!("entered {calls} = reported {calls} + lost 0 + in flight 0\n");
    assert!(traced.stdout.contains(&identity), "{calls}: {traced}");
    let complaints = traced.stderr.matches("connect-trace: ").count();
    assert_eq!(complaints, 1, "{traced}");
    let parts = parts(folder.path())?;
    let kept: usize = parts.iter().map(|part| part.connects.len()).sum();
    let kept = format!("after {kept} connect() calls");
    assert!(traced.stderr.contains(&kept), "{kept}: {traced}");
    let (last, others) = parts.split_last().context("there are files")?;
    ensure!(!others.is_empty(), "one file alone");
    for part in others {
        ensure!(matches!(part.ending, Ending::Whole(_)), "{:?}", part.ending);
    }
    if let Ending::Broken(broken) = &last.ending {
        assert_eq!(broken.damage, None, "{broken}");
    }
    Ok(())
}

fn a_kill_cuts_the_last_file_and_the_next_trace_goes_on_in_the_folder((): ()) -> Result<()> {
    let folder = Folder::new("killed-folder")?;
    let process = recording(&folder, "--record-time 500ms")?;
    let records = truth("v4 --count 30")?;
    // The last calls may be read after the next file has begun.
    let most = files(folder.path()).len() + 1;
    until("a later file has begun", || {
        let files = files(folder.path());
        let last = files.last().context("there are files")?;
        let has_begun = files.len() > most && fs::metadata(last)?.len() > 0;
        Ok(has_begun.then_some(()))
    })?;
    process.signal(libc::SIGKILL)?;
    process.end()?;
    let killed = parts(folder.path())?;
    let (last, others) = killed.split_last().context("there are files")?;
    ensure!(
        matches!(last.ending, Ending::Broken(_)),
        "{:?}",
        last.ending
    );
    let connects: Vec<Connect> = others
        .iter()
        .flat_map(|part| part.connects.clone())
        .collect();
    matched(&records, &connects, Extent::Exact)?;

    let process = recording(&folder, "-d 0.2")?;
    process.end()?.successful()?;
    let now = parts(folder.path())?;
    assert_eq!(now.len(), killed.len() + 1);
    let endings = now
        .iter()
        .filter(|part| matches!(part.ending, Ending::Broken(_)));
    assert_eq!(endings.count(), 1);
    let report = connect_trace(&format!("report {}", folder.path().display()));
    let reported = Process::start(report)?.end()?;
    assert_eq!(reported.status.code(), Some(1), "{reported}");
    assert_eq!(
        reported.stderr.matches(": cut at byte ").count(),
        1,
        "{reported}"
    );
    Ok(())
}

fn a_clock_that_is_set_begins_another_file((): ()) -> Result<()> {
    const HOUR: i64 = 3_600;
    let folder = Folder::new("clock-folder")?;
    let process = recording(&folder, "--record-time 1d")?;
    let first = truth("v4 --count 5")?;
    let before = files(folder.path());
    step_clock(30 * HOUR)?;
    let another = until("another file begins", || {
        Ok((files(folder.path()).len() > before.len()).then_some(()))
    });
    let later = truth("v4 --count 7");
    step_clock(-30 * HOUR)?;
    another?;
    let later = later?;
    process.signal(libc::SIGINT)?;
    process.end()?.successful()?;
    let parts = parts(folder.path())?;
    let offsets: Vec<u64> = parts
        .iter()
        .map(|part| (part.start.wall_ns - part.start.monotonic_ns) / 1_000_000_000)
        .collect();
    let step = u64::try_from(30 * HOUR)?;
    let set = offsets
        .iter()
        .position(|&offset| offset >= offsets[0] + step - 1);
    let set = set.with_context(|| format!("{offsets:?}"))?;
    let of = |parts: &[Part]| -> Vec<Connect> {
        parts
            .iter()
            .flat_map(|part| part.connects.clone())
            .collect()
    };
    // The file that begins when the clock is set back sorts before the one of the day after.
    matched(&first, &of(&parts[..set]), Extent::Exact)?;
    matched(&later, &of(&parts[set..]), Extent::Exact)?;
    Ok(())
}

fn slow_and_failed_calls_are_recorded_and_the_others_counted((): ()) -> Result<()> {
    let folder = Folder::new("choice-folder")?;
    let process = recording(&folder, "--record-min-latency 1h")?;
    let succeeded = truth("v4 --count 40")?.len();
    let failed = truth("exhaust 27000-27015 --set-range --extra 5")?;
    let all = succeeded + failed.len();
    process.signal(libc::SIGINT)?;
    let traced = process.end()?.successful()?;
    let identity = format!("entered {all} = reported {all} + lost 0 + in flight 0\n");
    assert!(traced.stdout.contains(&identity), "{traced}");
    let parts = parts(folder.path())?;
    ensure!(
        parts
            .iter()
            .flat_map(|part| &part.connects)
            .all(|connect| connect.errno != 0)
    );
    assert_eq!(
        parts.iter().map(|part| part.connects.len()).sum::<usize>(),
        5
    );
    let report = connect_trace(&format!("report {}", folder.path().display()));
    let reported = Process::start(report)?.end()?.successful()?;
    let words = "recorded with --record-min-latency 3600000000000ns";
    assert!(reported.stderr.contains(words), "{reported}");
    let identity = format!(
        "entered {all} = reported 5 + lost 0 + in flight 0 + left out {}\n",
        all - 5
    );
    assert!(
        reported.stdout.contains(&identity),
        "{identity}: {reported}"
    );
    Ok(())
}

fn the_minutes_before_a_failure_are_kept_and_nothing_without_one((): ()) -> Result<()> {
    const FAILED: usize = 5;
    let folder = Folder::new("keep-folder")?;
    let process = recording(&folder, "--keep 10m")?;
    let mut records = truth("v4 --count 30")?;
    thread::sleep(Duration::from_secs(1));
    ensure!(files(folder.path()).is_empty(), "before any failure");
    records.extend(truth("exhaust 27020-27035 --set-range --extra 5")?);
    until("a file is there", || {
        Ok((!files(folder.path()).is_empty()).then_some(()))
    })?;
    process.signal(libc::SIGINT)?;
    let traced = process.end()?.successful()?;

    // The calls that came after the first file was written are in another one.
    let parts = parts(folder.path())?;
    let mut kept = Vec::new();
    for part in &parts {
        let Ending::Whole(end) = &part.ending else {
            anyhow::bail!("{:?}", part.ending);
        };
        let accounting = end.kernel_side.accounting;
        ensure!(accounting.complete(), "{accounting:?}");
        assert_eq!(accounting.decoded, part.connects.len() as u64);
        kept.extend(part.connects.iter().copied());
    }
    matched(&records, &kept, Extent::Exact)?;
    let report = connect_trace(&format!(
        "report {}/ --format json",
        folder.path().display()
    ));
    let reported = Process::start(report)?.end()?.successful()?;
    let mut failed = 0;
    for line in reported.stdout.lines() {
        let line: Value = serde_json::from_str(line)?;
        if line["type"] == "recording" {
            let reason = &line["kept"];
            assert_eq!(reason["condition"], "errno == EADDRNOTAVAIL");
            failed += reason["calls"].as_u64().context("a number")?;
        }
    }
    assert_eq!(failed, FAILED as u64);
    for file in files(folder.path()) {
        let words = format!("{}: errno == EADDRNOTAVAIL held for", file.display());
        ensure!(traced.stderr.contains(&words), "{words}: {traced}");
    }
    Ok(())
}

fn a_service_without_privileges_keeps_the_minutes_before_a_failure((): ()) -> Result<()> {
    let folder = Folder::new("keep-service")?;
    let service = Service::start(&format!(
        "--record {}/ --keep 10m --keep-when taken>90%",
        folder.path().display()
    ))?;
    let failed = truth("exhaust 27040-27055 --set-range --extra 2")?;
    until("a file is there", || {
        Ok((!files(folder.path()).is_empty()).then_some(()))
    })?;
    service.end()?;
    let kept: Vec<Connect> = parts(folder.path())?
        .into_iter()
        .flat_map(|part| part.connects)
        .filter(|connect| connect.errno != 0)
        .collect();
    let has_failed = |record: &&Record| {
        let outcome = record.outcome.as_ref();
        outcome.and_then(|outcome| outcome.kernel_errno) == Some(libc::EADDRNOTAVAIL)
    };
    let failed = failed.iter().filter(has_failed);
    matched(failed, &kept, Extent::Exact)?;
    Ok(())
}

fn the_ports_of_the_moment_are_kept_with_their_holders((): ()) -> Result<()> {
    const PORTS: u16 = 16;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let to = listener.local_addr()?;
    let (low, high) = (62_700, 62_700 + PORTS - 1);
    let _range = Range::read()?.set(low, high)?;
    // The kernel does not tell the process of a socket.
    for (arguments, pid) in [
        ("--ports --keep-above 99%", json!(std::process::id())),
        ("", Value::Null),
    ] {
        let folder = Folder::new("keep-ports")?;
        let process = recording(&folder, &format!("--keep 10m {arguments}"))?;
        let held = (0..PORTS).map(|_| TcpStream::connect(to));
        let held: Vec<TcpStream> = held.collect::<io::Result<_>>()?;
        let accepted = held.iter().map(|_| listener.accept());
        let accepted: Vec<_> = accepted.collect::<io::Result<_>>()?;
        let failed = TcpStream::connect(to).err();
        let errno = failed.and_then(|error| error.raw_os_error());
        assert_eq!(errno, Some(libc::EADDRNOTAVAIL));
        until("a file is there", || {
            Ok((!files(folder.path()).is_empty()).then_some(()))
        })?;
        // Reset, so that the next round finds all ports free.
        for client in &held {
            socket2::SockRef::from(client).set_linger(Some(Duration::ZERO))?;
        }
        drop((held, accepted));
        process.signal(libc::SIGINT)?;
        process.end()?.successful()?;
        let path = folder.path().display();
        let report = connect_trace(&format!("report {path}/ --format json"));
        let reported = Process::start(report)?.end()?.successful()?;
        let line = reported.stdout.lines().next().context("a line")?;
        let line: Value = serde_json::from_str(line)?;
        let condition = match arguments {
            "" => "errno == EADDRNOTAVAIL",
            _ => "ports in use > 99%",
        };
        assert_eq!(line["kept"]["condition"], condition, "{line}");
        let ports = &line["kept"]["ports"];
        assert_eq!(ports["range"], json!([low, high]), "{line}");
        assert_eq!(ports["destination"], to.to_string());
        for parity in ["even", "odd"] {
            assert_eq!(ports[parity]["uses"]["open"], PORTS / 2, "{line}");
        }
        assert_eq!(ports["holders"][0]["pid"], pid, "{line}");
        let text = Process::start(connect_trace(&format!("report {path}/")))?;
        let text = text.end()?.successful()?.stdout;
        ensure!(text.contains("16 of the 16 ports"), "{text}");
    }
    Ok(())
}
