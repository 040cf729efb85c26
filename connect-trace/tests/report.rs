//! `connect-trace report` as a user runs it, on recordings that the tests write.

mod command;
#[path = "fixtures/recording.rs"]
mod fixtures;
#[path = "fixtures/folder.rs"]
mod folder;
#[path = "command/report.rs"]
mod of_report;

use std::fs;

use connect_trace::connect::{Connect, PortRange, SearchRange};
use serde_json::{Value, json};

use self::{
    command::{command, text},
    fixtures::{connect, write_recording},
    folder::Folder,
    of_report::{complaint, report},
};

const SECOND: u64 = 1_000_000_000;

/// Writes a recording of three seconds, with an even port in the first second and odd ports in the last.
fn recording(folder: &Folder, name: &str, filters: &str) -> String {
    let path = folder.path(name);
    let connects = [(0, 20_000), (2, 20_001), (2, 20_003)].map(|(second, port)| Connect {
        range: Some(SearchRange {
            ports: PortRange {
                low: 20_000,
                high: 21_999,
            },
            by_parity: true,
        }),
        port_choice: None,
        address_bound: None,
        // In the middle of a second of the trace.
        ..connect(second * SECOND + SECOND / 2, 20_000, port)
    });
    write_recording(path.as_ref(), filters, SECOND / 2, connects)
        .expect("the folder takes a small file");
    path
}

/// Returns the output of `connect-trace report` for a good recording.
#[track_caller]
fn reported(arguments: &[&str]) -> String {
    let output = report(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

#[test]
fn a_recording_is_reported_as_its_trace_was() {
    let folder = Folder::new("whole");
    let out = reported(&[&recording(&folder, "a", "")]);
    // The date is in local time.
    let (origin, report) = out.split_once('\n').expect("there are lines");
    assert!(origin.starts_with("web1, 2023-11-1"), "{out}");
    assert!(report.starts_with("3 connect() calls in 3.00 s\n"), "{out}");
    assert!(
        out.contains("Linux 6.12.0, attached by fentry/fexit\n"),
        "{out}"
    );
    assert!(
        out.contains("\nentered 3 = reported 3 + lost 0 + in flight 0\n"),
        "{out}"
    );
    // One of the ports is of the second pass: the pass is not logged, but is in the report.
    let warning = "\nwarning: ports are running out from 127.0.0.1 to 127.0.0.1:443 ";
    assert!(out.contains(warning), "{out}");
}

#[test]
fn an_interval_cuts_by_the_time_of_the_events() {
    let folder = Folder::new("interval");
    let out = reported(&[&recording(&folder, "a", ""), "--interval", "1", "-T"]);
    let of: Vec<&str> = out
        .lines()
        .filter(|line| line.contains(" in 1.00 s"))
        .collect();
    assert_eq!(
        of,
        [
            "1 connect() call in 1.00 s",
            "0 connect() calls in 1.00 s",
            "2 connect() calls in 1.00 s"
        ],
        "{out}"
    );
    assert_eq!(out.matches("\nentered 3 = ").count(), 1, "{out}");
    assert!(!out.contains("INCOMPLETE"), "{out}");
}

#[test]
fn an_interval_is_one_line_if_that_is_wanted() {
    let folder = Folder::new("oneline");
    let output = report(&[&recording(&folder, "a", ""), "-i", "1s", "--oneline"]);
    let (out, message) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{message}");
    assert_eq!(
        message.matches("ports are running out").count(),
        1,
        "{message}"
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3 + 3, "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    for (line, figures) in lines[3..].iter().zip([
        ["1", "0", "20.0", "20.0", "-", "-", "0%", "-"],
        ["0", "0", "-", "-", "-", "-", "-", "-"],
        ["2", "0", "-", "-", "20.0", "20.0", "100%", "-"],
    ]) {
        let found: Vec<&str> = line.split_whitespace().skip(1).collect();
        assert_eq!(found, figures, "{out}");
    }
}

#[test]
fn filters_narrow_what_is_reported() {
    let folder = Folder::new("filters");
    let recording = recording(&folder, "a", "");
    let out = reported(&[&recording, "--dport", "1-442"]);
    assert!(out.contains("\n0 connect() calls in "), "{out}");
    let out = reported(&[&recording, "--dport", "443", "--comm", "test"]);
    assert!(out.contains("\n3 connect() calls in "), "{out}");
}

#[test]
fn a_minimum_counts_the_faster_ones_beside_the_groups_as_a_trace_does() {
    let folder = Folder::new("minimum");
    let path = folder.path("a");
    let slow_ns = 3_000_000;
    let connects =
        [(0, 20_000), (0, slow_ns), (2, 20_000), (2, slow_ns)].map(|(second, ns)| Connect {
            destination: Some(([10, 0, 0, 1], 443).into()),
            ..connect(second * SECOND + SECOND / 2, ns, 20_000)
        });
    write_recording(path.as_ref(), "", SECOND / 2, connects)
        .expect("the folder takes a small file");
    let arguments = [&path, "--min-latency", "1ms", "--by", "destination"];
    let out = reported(&arguments);
    assert!(out.contains("\n4 connect() calls in 3.00 s\n"), "{out}");
    let words = "\nbelow --min-latency: 2 are one row for every destination; ";
    assert!(out.contains(words), "{out}");
    for row in [
        "10.0.0.1:443                 2  99%",
        "below --min-latency          2   1%",
    ] {
        assert!(out.contains(&format!("\n{row} ")), "{row}:\n{out}");
    }
    let by_interval = [&arguments[..], &["-i", "1", "--format", "json"]].concat();
    let counts: Vec<[Value; 4]> = reported(&by_interval)
        .lines()
        .map(|line| serde_json::from_str(line).expect("it is JSON"))
        .filter(|line: &Value| line["type"] == "report")
        .map(|line| {
            let count = |group: &Value| group["connect"]["count"].clone();
            let all = [&line["connects"], &line["connects_fast"]].map(Value::clone);
            let [all, fast] = all;
            [all, fast, count(&line["groups"][0]), count(&line["fast"])]
        })
        .collect();
    let some = [2, 1, 1, 1].map(Value::from);
    let none = [json!(0), json!(0), Value::Null, Value::Null];
    assert_eq!(counts, [some.clone(), none, some]);
    // By parity, calls below --min-latency are counted with the others, without percentiles.
    let out = reported(&[&path, "--min-latency", "1ms"]);
    assert!(
        out.contains("\nbelow --min-latency: 2 are part of counts, "),
        "{out}"
    );
    assert!(
        out.contains("\n  even ports            4   1510.0        - "),
        "{out}"
    );
}

#[test]
fn filters_of_the_trace_itself_are_said() {
    let folder = Folder::new("filtered");
    let output = report(&[&recording(&folder, "a", "--min-latency 1000000ns")]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0));
    assert!(message.contains("recorded with --min-latency"), "{message}");
}

#[test]
fn several_stand_side_by_side_at_the_end() {
    let folder = Folder::new("several");
    let (one, other) = (recording(&folder, "a", ""), recording(&folder, "b", ""));
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
fn a_folder_stands_for_the_recordings_below_it() {
    let folder = Folder::new("below");
    let inner = folder.path("host=web1/date=2023-11-14");
    fs::create_dir_all(&inner).expect("the folder takes more");
    let files = ["0.csv.zst", "1.csv.zst"].map(|name| {
        let path = format!("{inner}/{name}");
        fs::rename(recording(&folder, name, ""), &path).expect("it was written");
        path
    });
    folder.file("README", b"not a recording");
    let out = reported(&[&folder.path("")]);
    let each: Vec<&str> = files.iter().map(String::as_str).collect();
    assert_eq!(out, reported(&each));
    assert_eq!(out.matches("=== ").count(), 2, "{out}");
    let (_, message) = complaint(&[&folder.file("a file", b"")]);
    assert!(message.contains("is empty"), "{message}");
    let page = folder.path("page.html");
    let output = report(&[&folder.path("host=web1"), "--html", &page]);
    let message = text(&output.stderr);
    assert!(message.contains("6 connect() calls"), "{message}");
}

#[test]
fn json_says_which_file_its_lines_are_of() {
    let folder = Folder::new("json");
    let (one, other) = (
        recording(&folder, "a", ""),
        recording(&folder, "b", "--dport 443"),
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
    let out = reported(&[&recording(&folder, "a", ""), "-i", "0.25"]);
    let of: Vec<&str> = out.lines().filter(|line| line.contains(" s")).collect();
    let of: Vec<&str> = of
        .into_iter()
        .filter(|line| line.contains("connect()") && line.contains(" in "))
        .collect();
    assert_eq!(
        of,
        [
            "0 connect() calls in 0.50 s",
            "1 connect() call in 0.25 s",
            "0 connect() calls in 1.75 s",
            "2 connect() calls in 0.25 s",
            "0 connect() calls in 0.25 s",
        ],
        "{out}"
    );
}

#[test]
fn a_bad_file_is_one_message_and_exit_status_1() {
    let folder = Folder::new("bad");
    let whole = fs::read(recording(&folder, "whole", "")).unwrap();
    let position = whole.windows(9).position(|at| at == b"format: 1").unwrap();
    let mut later = whole.clone();
    later[position + 8] = b'2';
    for (name, bytes, expected) in [
        ("empty", &[][..], "is empty"),
        ("picture", b"\x89PNG\r\n\x1a\n", "is not a recording"),
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
fn a_recording_comes_from_stdin_by_the_name_of_a_dash() {
    let folder = Folder::new("stdin");
    let path = recording(&folder, "a", "");
    let read = |arguments: &[&str]| {
        let file = fs::File::open(&path).expect("it was written");
        let mut report = command();
        report.arg("report").args(arguments).stdin(file);
        report.output().expect("the command was built")
    };
    let output = read(&["-"]);
    assert_eq!(text(&output.stdout), reported(&[&path]));
    assert_eq!(text(&output.stderr), "");
    let output = read(&["-", "--html", "-"]);
    assert_eq!(output.status.code(), Some(1));
    let why = text(&output.stderr);
    assert!(
        why.starts_with("connect-trace: -: a page reads its input twice"),
        "{why}"
    );
}

#[test]
fn one_that_was_cut_is_reported_as_far_as_it_goes_and_marked() {
    let folder = Folder::new("cut");
    let whole = fs::read(recording(&folder, "whole", "")).unwrap();
    let cut = folder.file("cut", &whole[..whole.len() - 1]);
    let (out, message) = complaint(&[&cut]);
    assert!(out.contains("\n3 connect() calls in "), "{out}");
    assert!(out.contains("\nINCOMPLETE: the recording was cut"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    assert!(message.contains("cut at byte "), "{message}");
    assert!(message.contains("3 connect() calls read"), "{message}");
}

#[test]
fn a_bad_file_does_not_keep_the_others_from_being_reported() {
    let folder = Folder::new("among");
    let (good, bad) = (recording(&folder, "good", ""), folder.file("bad", b""));
    let (out, message) = complaint(&[&bad, &good]);
    assert!(out.contains("3 connect() calls in 3.00 s"), "{out}");
    assert!(message.contains("is empty"), "{message}");
}

#[test]
fn a_filter_that_needs_the_other_host_asks_for_its_number() {
    let (_, message) = complaint(&["any", "--netns", "/run/netns/blue"]);
    assert!(message.contains("number"), "{message}");
}
