//! Events and JSON of `connect-trace`, checked against its schema and against truth.

use std::{
    ffi::CStr,
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::connect::{
    CallKind, Comm, Connect, Family, Operation, Owner, PortChoice, PortRange, Protocol,
    SearchRange, SourcePort,
};
use serde_json::Value;

use crate::{
    Lacking, Test,
    matching::{Extent, matched},
    process::{Ended, Process, until},
    program::{assert_fits_a_terminal, connect_trace, report, tracing},
    truth::{Truth, truth},
};

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [
        json_is_valid_and_agrees_with_truth,
        groups_add_up_to_all_connects,
        groups_by_destination_are_those_of_truth,
        a_pod_is_known_by_the_cgroup_of_its_container,
        lines_of_events_have_a_header_and_fit_their_terminal,
        a_name_of_any_bytes_is_escaped,
        fast_connects_are_in_the_interval_that_they_came_in,
        a_clock_that_is_set_is_warned_of,
        a_pipe_that_closes_among_events_ends_it_well,
    ],
];

const SCHEMA: &str = include_str!("../../../docs/output.schema.json");

/// The JSON lines of a run, each of which must be valid.
pub struct Lines {
    pub events: Vec<Value>,
    pub connections: Vec<Value>,
    pub reports: Vec<Value>,
}

impl Lines {
    pub fn of(ended: &Ended) -> Result<Self> {
        let validator = jsonschema::draft202012::new(&serde_json::from_str(SCHEMA)?)?;
        let mut lines = Self {
            events: Vec::new(),
            connections: Vec::new(),
            reports: Vec::new(),
        };
        for line in ended.stdout.lines() {
            let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            if let Err(error) = validator.validate(&value) {
                anyhow::bail!("{error} at {}: {line}", error.instance_path());
            }
            match value["type"].as_str() {
                Some("event") => lines.events.push(value),
                Some("connection") => lines.connections.push(value),
                _ => lines.reports.push(value),
            }
        }
        Ok(lines)
    }

    /// Returns the only report.
    pub fn report(&self) -> Result<&Value> {
        ensure!(self.reports.len() == 1, "{} reports", self.reports.len());
        Ok(&self.reports[0])
    }
}

fn json_is_valid_and_agrees_with_truth((): ()) -> Result<()> {
    let process = tracing("--format json --events -i 1 --check-established time")?;
    let truth = truth("all")?;
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    let lines = Lines::of(&ended)?;
    assert!(lines.reports.len() > 1, "{}", lines.reports.len());

    let connects: Vec<Connect> = lines.events.iter().map(connect).collect::<Result<_>>()?;
    matched(&truth, &connects, Extent::Exact)?;
    assert!(connects.iter().any(|connect| connect.checks > Some(0)));

    let reported: u64 = lines
        .reports
        .iter()
        .map(|line| number(&line["connects"]))
        .sum();
    assert_eq!(reported, connects.len() as u64);
    let last = lines.reports.last().context("there are some")?;
    let accounting = &last["accounting"];
    assert_eq!(number(&accounting["reported"]), reported, "{accounting}");
    assert_eq!(accounting["complete"], true, "{accounting}");
    for line in &lines.reports {
        assert_adds_up(line);
    }
    // Times of day are in the order in which the lines were printed, with a tolerance of one polling interval.
    let first = &lines.reports[0];
    for event in &lines.events {
        assert!(event["time"].as_str() >= first["start"].as_str(), "{event}");
        assert!(event["time"].as_str() <= last["end"].as_str(), "{event}");
    }
    Ok(())
}

/// Converts a line of JSON back into the record that it was made from.
pub fn connect(event: &Value) -> Result<Connect> {
    let missing = || format!("what is missing or wrong in {event}");
    let address = |field: &str| -> Result<Option<IpAddr>> {
        let text = event[field].as_str();
        text.map(str::parse).transpose().with_context(missing)
    };
    let small = |field: &str| {
        event[field]
            .as_u64()
            .and_then(|value| u32::try_from(value).ok())
    };
    let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let of = |field: &str| event[field].as_u64().with_context(missing);
    let range = &event["port_range"];
    let named = |field: &str| event[field].as_str().with_context(missing);
    let (protocol, operation) = (named("protocol")?, named("operation")?);
    Ok(Connect {
        kind: CallKind {
            protocol: Protocol::ALL
                .into_iter()
                .find(|known| known.name() == protocol)
                .context("no known protocol")?,
            operation: Operation::ALL
                .into_iter()
                .find(|known| known.name() == operation)
                .context("no known operation")?,
        },
        start_ns: of("start_ns")?,
        connect_ns: of("connect_ns")?,
        search_ns: event["search_ns"].as_u64(),
        family: match event["family"].as_str() {
            Some("IPv4") => Family::V4,
            Some("IPv6") => Family::V6,
            _ => Family::Mapped,
        },
        source: address("source_address")?,
        port: match (event["port_origin"].as_str(), port(&event["source_port"])) {
            (Some("search"), Some(port)) => SourcePort::Searched(port),
            (Some("bind"), Some(port)) => SourcePort::Bound(port),
            _ => SourcePort::None,
        },
        destination: address("destination_address")?
            .zip(port(&event["destination_port"]))
            .map(SocketAddr::from),
        errno: i32::try_from(of("errno")?)?,
        pid: small("pid").with_context(missing)?,
        tid: small("tid").with_context(missing)?,
        comm: Comm::of(event["comm"].as_str().with_context(missing)?),
        uid: small("uid").with_context(missing)?,
        netns: small("netns"),
        cgroup_id: of("cgroup_id")?,
        owner: Owner::ALL
            .into_iter()
            .find(|owner| event["owner"] == owner.name()),
        range: port(&range["low"])
            .zip(port(&range["high"]))
            .map(|(low, high)| SearchRange {
                ports: PortRange { low, high },
                by_parity: range["by_parity"] == true,
            }),
        port_choice: PortChoice::ALL
            .into_iter()
            .find(|strategy| event["strategy"] == strategy.name()),
        address_bound: event["address_bound"].as_bool(),
        scanned: small("scanned"),
        checks: small("checks"),
        checks_watched: event["checks_watched"] == true,
        phases: None,
    })
}

#[track_caller]
fn number(value: &Value) -> u64 {
    let number = value.as_u64();
    number.unwrap_or_else(|| panic!("{value} is no number"))
}

/// Asserts that every connection of a report is in one group and in one bucket.
#[track_caller]
pub fn assert_adds_up(report: &Value) {
    let groups = report["groups"].as_array().into_iter().flatten();
    let others = [&report["rest"], &report["fast"]];
    let others = others.into_iter().filter(|group| !group.is_null());
    let (mut connects, mut share) = (0, 0);
    for group in groups.chain(others) {
        for times in [&group["connect"], &group["search"]] {
            let buckets = times["buckets"].as_array().into_iter().flatten();
            let in_buckets: u64 = buckets.map(|bucket| number(&bucket["count"])).sum();
            assert_eq!(in_buckets, number(&times["count"]), "{group}");
        }
        connects += number(&group["connect"]["count"]);
        share += number(&group["connect"]["total_ns"]);
    }
    assert_eq!(connects, number(&report["connects"]), "{report}");
    assert_eq!(share > 0, connects > 0, "{report}");
}

fn groups_add_up_to_all_connects((): ()) -> Result<()> {
    for by in [
        "pass", "errno", "source", "pid", "comm", "uid", "cgroup", "pod", "netns", "family",
    ] {
        let process = tracing(&format!("--format json --by {by} --top 1"))?;
        truth("v4 --count 5")?;
        truth("v6-unreachable --count 4")?;
        process.signal(libc::SIGINT)?;
        let ended = report(process)?;
        let lines = Lines::of(&ended)?;
        let line = lines.report()?;
        assert_eq!(line["by"], by);
        assert_eq!(number(&line["connects"]), 9, "{line}");
        assert_eq!(line["groups"].as_array().map(Vec::len), Some(1), "{line}");
        assert_adds_up(line);
        let one_for_all = ["comm", "uid", "cgroup", "pod"].contains(&by);
        assert_eq!(line["rest"].is_null(), one_for_all, "{line}");
    }
    Ok(())
}

fn groups_by_destination_are_those_of_truth((): ()) -> Result<()> {
    let process = tracing("--by destination")?;
    let records = [truth("v4 --count 6")?, truth("v6 --count 3")?];
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    assert_fits_a_terminal(&ended);
    for records in records {
        let key = records[0].remote.to_string();
        let line = ended.stdout.lines().find(|line| line.starts_with(&key));
        let line = line.with_context(|| format!("{key}: {ended}"))?;
        let count = line[key.len()..].split_whitespace().next();
        assert_eq!(count, Some(records.len().to_string().as_str()), "{ended}");
    }
    assert!(ended.stdout.contains("\nby destination, "), "{ended}");
    assert!(ended.stdout.contains("\nwarning: p99 of fewer"), "{ended}");
    Ok(())
}

fn a_pod_is_known_by_the_cgroup_of_its_container((): ()) -> Result<()> {
    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    let hierarchy = Path::new("/sys/fs/cgroup");
    if !hierarchy.join("cgroup.controllers").exists() {
        return Err(Lacking("version 2 of the cgroup hierarchy").into());
    }
    let pod = hierarchy.join(format!("kubepods-pod{}.slice", UID.replace('-', "_")));
    let container = pod.join(format!("cri-containerd-{}.scope", "ab".repeat(32)));
    let process = tracing("--format json --by pod")?;
    // Begun after the trace, as most pods are.
    fs::create_dir_all(&container)?;
    let held = Truth::hold("v4 --count 5")?;
    fs::write(container.join("cgroup.procs"), held.pid().to_string())?;
    held.release()?;
    held.end()?;
    truth("v4 --count 3")?;
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    for folder in [&container, &pod] {
        fs::remove_dir(folder)?;
    }
    let lines = Lines::of(&ended)?;
    let line = lines.report()?;
    for (key, count) in [(UID, 5), ("none", 3)] {
        let groups = line["groups"].as_array().context("no groups")?;
        let group = groups.iter().find(|group| group["key"] == key);
        let group = group.with_context(|| format!("no group {key}: {line}"))?;
        assert_eq!(number(&group["connect"]["count"]), count, "{line}");
    }
    Ok(())
}

/// Waits until a trace has printed one more report than now.
fn another_report(process: &Process) -> Result<()> {
    let is_report = |line: &&str| {
        line.contains(r#""type":"report""#) || line.contains(" in ") && line.contains(" connect()")
    };
    let reports = || process.stdout().lines().filter(is_report).count();
    let before = reports();
    until("there is another report", || {
        Ok((reports() > before).then_some(()))
    })
}

fn fast_connects_are_in_the_interval_that_they_came_in((): ()) -> Result<()> {
    let process = tracing("--min-latency 1000s -i 1 --format json")?;
    truth("v4 --count 20")?;
    another_report(&process)?;
    truth("v6 --count 30")?;
    another_report(&process)?;
    process.signal(libc::SIGINT)?;
    let lines = Lines::of(&report(process)?)?;
    let fast: u64 = lines
        .reports
        .iter()
        .filter_map(|report| report["connects_fast"].as_u64())
        .sum();
    assert_eq!(fast, 50, "{:#?}", lines.reports);
    Ok(())
}

fn lines_of_events_have_a_header_and_fit_their_terminal((): ()) -> Result<()> {
    let mut traces = Vec::new();
    for (columns, width) in [(20, 80), (80, 80), (120, 120), (500, 120)] {
        let mut command = connect_trace("--events -i 2");
        command.env("COLUMNS", columns.to_string());
        let mut process = Process::start(command)?;
        process.wait_for_stderr("Tracing connect()")?;
        traces.push((process, width));
    }
    truth("v4 --count 3")?;
    truth("v6-unreachable --count 2")?;
    for (process, _) in &traces {
        another_report(process)?;
    }
    truth("bind-port --count 1")?;
    for (process, width) in traces {
        process.signal(libc::SIGINT)?;
        let ended = report(process)?;
        let lines: Vec<&str> = ended.stdout.lines().collect();
        // The text after "12:34:56.789"; a name is cut at 80 columns.
        let is_event = |line: &str| line.as_bytes().get(12) == Some(&b' ') && line.contains(" tru");
        let events: Vec<_> = lines.iter().filter(|line| is_event(line)).collect();
        // bind-port connects once per family: IPv4, IPv6 and v4-mapped.
        assert_eq!(events.len(), 3 + 2 + 3, "{ended}");
        let failed = events.iter().filter(|line| line.contains(" ENETUNREACH"));
        assert_eq!(failed.count(), 2, "{ended}");
        // Titles come before the first event, before the first event after a report, and when the columns change: every
        // event is aligned with them.
        let mut header = None;
        for line in &lines {
            if line.starts_with("TIME ") {
                assert_ne!(header, Some(*line), "a header too many: {ended}");
                header = Some(*line);
            } else if line.contains(" in ") && line.contains(" connect()") {
                header = None;
            }
            if is_event(line) {
                let header = header.with_context(|| format!("no header: {ended}"))?;
                assert_eq!(line.find(" tru"), header.find(" COMM"), "{line:?}: {ended}");
                let returned = if width < 120 { " RET" } else { " RETURN" };
                let column = header.find(returned).context("a column")? + 1;
                assert!(line[column..].starts_with(['o', 'E']), "{line:?}: {ended}");
            }
        }
        for line in &lines {
            let of_them = line.chars().count();
            assert!(of_them <= width, "{of_them} columns in {line:?}: {ended}");
        }
        assert!(!ended.stdout.contains('\x1b'), "no terminal, no colour");
    }
    Ok(())
}

fn a_name_of_any_bytes_is_escaped((): ()) -> Result<()> {
    let name = c"\x1b[31m\xff\"\n";
    for (format, shown) in [
        ("text", r#"\x1b[31m\xff\""#),
        ("json", r#"\\x1b[31m\\xff\\\"\\n"#),
    ] {
        let arguments = format!("--events --by comm --format {format}");
        let process = tracing(&arguments)?;
        thread::spawn(|| connect_as(name))
            .join()
            .expect("no panic in it")?;
        process.signal(libc::SIGINT)?;
        let ended = report(process)?;
        let printable = |character: char| character == '\n' || !character.is_control();
        assert!(ended.stdout.chars().all(printable), "{ended}");
        assert!(ended.stdout.contains(shown), "{shown}: {ended}");
        if format == "json" {
            assert_eq!(Lines::of(&ended)?.events.len(), 1, "{ended}");
        }
    }
    Ok(())
}

/// Calls connect() to a port without a listener, with another name for this thread.
fn connect_as(name: &CStr) -> Result<()> {
    // SAFETY: the request takes a NUL-terminated string, such as `name`.
    let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    ensure!(result == 0, "the thread keeps its name");
    let refused = TcpStream::connect("127.0.0.1:1");
    ensure!(refused.is_err(), "somebody listens");
    Ok(())
}

fn a_clock_that_is_set_is_warned_of((): ()) -> Result<()> {
    let process = tracing("--format json -d 4 -i 2")?;
    step_clock(5)?;
    let ended = report(process)?;
    step_clock(-5)?;
    let lines = Lines::of(&ended)?;
    let steps: Vec<bool> = lines
        .reports
        .iter()
        .map(|line| {
            let warnings = line["warnings"].as_array().into_iter().flatten();
            warnings
                .filter(|warning| warning["kind"] == "clock_step")
                .count()
                == 1
        })
        .collect();
    // Which of the reports has the step depends on the machine's load.
    let told = steps.iter().filter(|&&told| told).count();
    assert_eq!(told, 1, "{ended}");
    Ok(())
}

pub fn step_clock(seconds: i64) -> Result<()> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec that outlives both calls.
    let result = unsafe {
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time);
        time.tv_sec += seconds;
        libc::clock_settime(libc::CLOCK_REALTIME, &raw const time)
    };
    ensure!(
        result == 0,
        "cannot set the clock: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn a_pipe_that_closes_among_events_ends_it_well((): ()) -> Result<()> {
    for format in ["text", "json"] {
        let mut shell = Command::new("sh");
        let line = format!("connect-trace --events --format {format} | head -n 2");
        shell.arg("-c").arg(format!("set -o pipefail; {line}"));
        let mut process = Process::start(shell)?;
        process.wait_for_stderr("Tracing connect()")?;
        // The second load writes into a pipe without a reader.
        truth("v4 --count 20")?;
        thread::sleep(Duration::from_millis(500));
        truth("v4 --count 20")?;
        let ended = report(process)?;
        assert_eq!(ended.stdout.lines().count(), 2, "{ended}");
        for trouble in ["panic", "connect-trace: "] {
            assert!(!ended.stderr.contains(trouble), "{ended}");
        }
    }
    Ok(())
}
