//! `connect-trace report` as a user meets it, on recordings that are made here.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{self, Command, Output},
};

use connect_trace::{
    accounting::Accounting,
    event::{Comm, Connect, Family, PortRange, SourcePort},
    recording::{End, Start, Writer},
    report::{Checks, KernelSide},
};
use serde_json::{Value, json};

const SECOND: u64 = 1_000_000_000;

/// A folder of a test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("connect-trace-{test}-{}", process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files takes one more");
        Self(path)
    }

    /// The path of a file in it.
    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A file in it.
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).expect("the folder is there");
        self.path(name)
    }

    /// A recording in it: of three seconds, with an even connect in the first and odd ones in the last.
    fn recording(&self, name: &str, filters: &str) -> String {
        let path = self.path(name);
        write(&path, filters).expect("the folder takes a small file");
        path
    }
}

fn write(path: &str, filters: &str) -> anyhow::Result<()> {
    let mut writer = Writer::create(path.as_ref())?;
    writer.begin(&Start {
        version: "0.1.0".to_owned(),
        host: "web1".to_owned(),
        kernel: "6.12.0".to_owned(),
        attached: "fentry/fexit".to_owned(),
        filters: filters.to_owned(),
        wall_ns: 1_700_000_000 * SECOND,
        monotonic_ns: 10 * SECOND,
    })?;
    for (second, port) in [(0, 20_000), (2, 20_001), (2, 20_003)] {
        writer.connect(&connect(second, port))?;
    }
    let mut accounting = Accounting::default();
    accounting.kernel.entered = 3;
    accounting.kernel.reported = 3;
    accounting.decoded = 3;
    writer.finish(|events| End {
        events,
        monotonic_ns: 13 * SECOND,
        kernel_side: KernelSide {
            checks: Checks {
                mode: "off".to_owned(),
                ..Checks::default()
            },
            accounting,
            ..KernelSide::default()
        },
    })?;
    Ok(())
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// In the middle of a second of the trace.
fn connect(second: u64, port: u16) -> Connect {
    let local = IpAddr::from([127, 0, 0, 1]);
    Connect {
        start_ns: (10 + second) * SECOND + SECOND / 2,
        connect_ns: 20_000,
        search_ns: Some(10_000),
        family: Family::V4,
        source: Some(local),
        port: SourcePort::Searched(port),
        destination: Some(SocketAddr::new(local, 443)),
        errno: 0,
        pid: 1,
        tid: 1,
        comm: Comm::of("test"),
        uid: 0,
        netns: Some(1),
        cgroup_id: 1,
        range: Some(PortRange {
            low: 20_000,
            high: 21_999,
            by_parity: true,
        }),
        strategy: None,
        address_bound: None,
        scanned: None,
        checks: None,
        checks_watched: false,
    }
}

fn report(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_connect-trace"))
        .arg("report")
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .expect("the command was built with this test")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("everything that is printed is text")
}

/// What it prints of a good recording.
#[track_caller]
fn reported(arguments: &[&str]) -> String {
    let output = report(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

/// What it says of a bad one.
#[track_caller]
fn complaint(arguments: &[&str]) -> (String, String) {
    let output = report(arguments);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.starts_with("connect-trace: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    (text(&output.stdout), message)
}

#[test]
fn a_recording_is_reported_as_its_trace_was() {
    let folder = Folder::new("whole");
    let out = reported(&[&folder.recording("a", "")]);
    assert!(out.starts_with("3 connect()s in 3.00 s\n"), "{out}");
    assert!(
        out.contains("Linux 6.12.0, attached by fentry/fexit\n"),
        "{out}"
    );
    assert!(
        out.contains("\nentered 3 = reported 3 + lost 0 + in flight 0\n"),
        "{out}"
    );
    // One of the ports is of the second pass, which is not logged, but in the report.
    let warning = "\nwarning: ports are running out from 127.0.0.1 to 127.0.0.1:443 ";
    assert!(out.contains(warning), "{out}");
}

#[test]
fn an_interval_cuts_by_the_time_of_the_events() {
    let folder = Folder::new("interval");
    let out = reported(&[&folder.recording("a", ""), "--interval", "1", "-T"]);
    let of: Vec<&str> = out
        .lines()
        .filter(|line| line.contains(" in 1.00 s"))
        .collect();
    assert_eq!(
        of,
        [
            "1 connect() in 1.00 s",
            "0 connect()s in 1.00 s",
            "2 connect()s in 1.00 s"
        ],
        "{out}"
    );
    assert_eq!(out.matches("\nentered 3 = ").count(), 1, "{out}");
    assert!(!out.contains("INCOMPLETE"), "{out}");
}

#[test]
fn filters_narrow_what_is_reported() {
    let folder = Folder::new("filters");
    let recording = folder.recording("a", "");
    let out = reported(&[&recording, "--dport", "1-442"]);
    assert!(out.starts_with("0 connect()s in "), "{out}");
    let out = reported(&[&recording, "--dport", "443", "--comm", "test"]);
    assert!(out.starts_with("3 connect()s in "), "{out}");
}

#[test]
fn filters_of_the_trace_itself_are_said() {
    let folder = Folder::new("filtered");
    let output = report(&[&folder.recording("a", "--min-latency 1000000ns")]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0));
    assert!(message.contains("recorded with --min-latency"), "{message}");
}

#[test]
fn several_stand_side_by_side_at_the_end() {
    let folder = Folder::new("several");
    let (one, other) = (folder.recording("a", ""), folder.recording("b", ""));
    let out = reported(&[&one, &other]);
    for path in [one, other] {
        assert!(out.contains(&format!("=== {path} ===\nweb1, 20")), "{out}");
    }
    let (_, table) = out.split_once("connect(), us  ").expect("there is a table");
    assert_eq!(
        table.matches("  web1, Linux 6.12.0, 20").count(),
        2,
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
}

#[test]
fn json_says_which_file_its_lines_are_of() {
    let folder = Folder::new("json");
    let (one, other) = (
        folder.recording("a", ""),
        folder.recording("b", "--dport 443"),
    );
    let output = report(&[&one, &other, "--format", "json", "--events"]);
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/output.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let out = text(&output.stdout);
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for line in &lines {
        let errors: Vec<_> = schema.iter_errors(line).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {line}");
    }
    let types: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["type"].as_str())
        .collect();
    let of_one = ["recording", "event", "event", "event", "report"];
    assert_eq!(types, [of_one, of_one].concat(), "{out}");
    assert_eq!(
        (&lines[0]["file"], &lines[5]["file"]),
        (&json!(one), &json!(other))
    );
    assert_eq!(lines[0]["start"], "2023-11-14T22:13:20.000000000Z");
    assert_eq!(lines[5]["filters"], "--dport 443");
}

#[test]
fn intervals_in_which_nothing_was_are_one_report() {
    let folder = Folder::new("gap");
    let out = reported(&[&folder.recording("a", ""), "-i", "0.25"]);
    let of: Vec<&str> = out.lines().filter(|line| line.contains(" s")).collect();
    let of: Vec<&str> = of
        .into_iter()
        .filter(|line| line.contains("connect()") && line.contains(" in "))
        .collect();
    assert_eq!(
        of,
        [
            "0 connect()s in 0.50 s",
            "1 connect() in 0.25 s",
            "0 connect()s in 1.75 s",
            "2 connect()s in 0.25 s",
            "0 connect()s in 0.25 s",
        ],
        "{out}"
    );
}

#[test]
fn a_bad_file_is_one_message_and_exit_status_1() {
    let folder = Folder::new("bad");
    let whole = fs::read(folder.recording("whole", "")).unwrap();
    let position = whole.windows(9).position(|at| at == b"format: 1").unwrap();
    let mut later = whole.clone();
    later[position + 8] = b'2';
    for (name, bytes, expected) in [
        ("empty", &[][..], "is empty"),
        ("picture", b"\x89PNG\r\n\x1a\n", "is no recording"),
        ("head", &whole[..100], "was cut before its first connect()"),
        ("later", &later, "format 2"),
    ] {
        let path = folder.file(name, bytes);
        let (out, message) = complaint(&[&path]);
        assert_eq!(out, "", "{name}");
        let message = message.strip_prefix("connect-trace: ").unwrap_or_default();
        assert!(message.starts_with(&path), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let (_, message) = complaint(&[&folder.path("nothing")]);
    assert!(message.contains("there is no such file"), "{message}");
    let (_, message) = complaint(&[&folder.path("")]);
    assert!(message.contains("is a directory"), "{message}");
}

#[test]
fn one_that_was_cut_is_reported_as_far_as_it_goes_and_marked() {
    let folder = Folder::new("cut");
    let whole = fs::read(folder.recording("whole", "")).unwrap();
    let cut = folder.file("cut", &whole[..whole.len() - 1]);
    let (out, message) = complaint(&[&cut]);
    assert!(out.starts_with("3 connect()s in "), "{out}");
    assert!(out.contains("\nINCOMPLETE: the recording was cut"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    assert!(message.contains("cut at byte "), "{message}");
    assert!(message.contains("3 connect()s read"), "{message}");
}

#[test]
fn a_bad_file_does_not_keep_the_others_from_being_reported() {
    let folder = Folder::new("among");
    let (good, bad) = (folder.recording("good", ""), folder.file("bad", b""));
    let (out, message) = complaint(&[&bad, &good]);
    assert!(out.contains("3 connect()s in 3.00 s"), "{out}");
    assert!(message.contains("is empty"), "{message}");
}

#[test]
fn a_filter_that_needs_the_other_host_asks_for_its_number() {
    let (_, message) = complaint(&["any", "--netns", "/run/netns/blue"]);
    assert!(message.contains("number"), "{message}");
}
