//! `connect-trace report --expect` as a user runs it, on recordings that the tests write.

mod command;
#[path = "fixtures/recording.rs"]
mod fixtures;
#[path = "fixtures/folder.rs"]
mod folder;
#[path = "command/report.rs"]
mod of_report;

use std::fs;

use connect_trace::connect::{Comm, Connect, PortChoice, SourcePort};
use serde_json::{Value, json};

use self::{
    command::{connect_trace, text},
    fixtures::{connect, write_recording},
    folder::Folder,
    of_report::{complaint, report},
};

/// Writes a recording of four calls: two bind a port before connect(), and the last one of these finds none.
fn recording(folder: &Folder, name: &str) -> String {
    let path = folder.path(name);
    let good = Connect {
        scanned: Some(1),
        ..connect(0, 20_000, 20_000)
    };
    let bad = Connect {
        pid: 7,
        comm: Comm::of("client"),
        port_choice: Some(PortChoice::Bind),
        port: SourcePort::Bound(20_001),
        scanned: None,
        destination: Some(([10, 0, 0, 1], 80).into()),
        ..good
    };
    let failed = Connect {
        errno: libc::EADDRNOTAVAIL,
        connect_ns: 3_000_000,
        ..bad
    };
    write_recording(path.as_ref(), "", 0, [good, good, bad, failed]).expect("a small file");
    path
}

fn judged(arguments: &[&str], status: i32) -> String {
    let output = report(arguments);
    let (out, message) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{out}{message}");
    out
}

#[test]
fn a_rule_that_holds_is_a_line_and_nothing_else() {
    let folder = Folder::new("held");
    let recording = recording(&folder, "a");
    let rules = ["--expect", "scanned < 100", "--expect", "max < 10ms"];
    let out = judged(&[&[recording.as_str()], &rules[..]].concat(), 0);
    let expected = "
rules of 4 connect() calls: 2 held
  held      scanned < 100: of 4 connect() calls
  held      max < 10ms: 3 ms of 4 connect() calls
";
    assert!(out.ends_with(expected), "{out}");
    let without = judged(&[&recording], 0);
    assert_eq!(out.strip_suffix(expected), Some(without.as_str()));
}

#[test]
fn a_rule_that_is_broken_names_who_broke_it_and_sets_the_status() {
    let folder = Folder::new("broken");
    let recording = recording(&folder, "a");
    let out = judged(
        &[
            &recording,
            "--expect",
            "strategy != bind",
            "--expect",
            "errno != EADDRNOTAVAIL",
            "--expect",
            "count > 4",
        ],
        3,
    );
    let expected = "
rules of 4 connect() calls: 3 broken
  broken    strategy != bind: by 2 of 4 connect() calls
            client (pid 7) to 10.0.0.1:80: 2 calls, bind
  broken    errno != EADDRNOTAVAIL: by 1 of 4 connect() calls
            client (pid 7) to 10.0.0.1:80: 1 call, EADDRNOTAVAIL
  broken    count > 4: 4
";
    assert!(out.ends_with(expected), "{out}");
}

#[test]
fn filters_choose_the_calls_and_are_named() {
    let folder = Folder::new("filtered");
    let recording = recording(&folder, "a");
    let rule = ["--expect", "strategy != bind"];
    let arguments = [&[recording.as_str(), "--comm", "test"], &rule[..]].concat();
    let out = judged(&arguments, 0);
    let expected = "\nrules of 2 connect() calls, with --comm test: 1 held\n";
    assert!(out.contains(expected), "{out}");
    let arguments = [&[recording.as_str(), "--comm", "nobody"], &rule[..]].concat();
    let out = judged(&arguments, 0);
    let expected = "  held      strategy != bind: of 0 connect() calls\n";
    assert!(out.ends_with(expected), "{out}");
}

#[test]
fn a_rule_is_of_the_whole_trace_also_with_intervals() {
    let folder = Folder::new("intervals");
    let recording = recording(&folder, "a");
    let rule = ["--expect", "count == 4", "-i", "1ms"];
    let out = judged(&[&[recording.as_str()], &rule[..]].concat(), 0);
    assert_eq!(
        out.matches("\nrules of 4 connect() calls: 1 held\n")
            .count(),
        1,
        "{out}"
    );
}

#[test]
fn no_rule_passes_on_a_recording_that_was_cut_or_cannot_be_read() {
    let folder = Folder::new("cut");
    let recording = recording(&folder, "a");
    let bytes = fs::read(&recording).expect("it was written");
    let cut = folder.file("cut", &bytes[..bytes.len() - 10]);
    let out = judged(
        &[&cut, "--expect", "latency < 1h", "--expect", "max < 1us"],
        3,
    );
    let expected = "
  unproven  latency < 1h: calls are missing
            the recording was cut: it is not known how many calls are missing
  broken    max < 1us: 3 ms or more of 4 connect() calls
";
    assert!(out.contains(expected), "{out}");
    let file = folder.path("results.xml");
    judged(
        &[
            &folder.path("none"),
            "--expect",
            "latency < 1h",
            "--junit",
            &file,
        ],
        3,
    );
    let xml = fs::read_to_string(&file).expect("it was written");
    assert!(
        xml.contains("there is no such file") && xml.contains(r#" errors="1" "#),
        "{xml}"
    );
    judged(&[&folder.path("none")], 1);
}

#[test]
fn a_minimum_of_the_report_leaves_what_it_hides_unproven() {
    let folder = Folder::new("minimum");
    let recording = recording(&folder, "a");
    let rules = [
        "--expect",
        "strategy != range",
        "--expect",
        "max < 1s",
        "-m",
        "1ms",
    ];
    let out = judged(&[&[recording.as_str()], &rules[..]].concat(), 3);
    let expected = "
  unproven  strategy != range: 3 calls are not decided
            3 calls were below --min-latency, without a record
  held      max < 1s: 3 ms of 4 connect() calls
";
    assert!(out.contains(expected), "{out}");
}

#[test]
fn json_has_the_results_in_a_line_of_their_own() {
    let folder = Folder::new("json");
    let recording = recording(&folder, "a");
    let rules = [
        "--expect",
        "strategy != bind",
        "--expect",
        "latency.p50 < 1ms",
    ];
    let out = judged(
        &[&[&*recording, "--format", "json"], &rules[..]].concat(),
        3,
    );
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str()).collect();
    assert_eq!(kinds, ["recording", "report", "rules"].map(Some));
    let expected = json!({
        "schema": "connect-trace/1",
        "type": "rules",
        "verdict": "broken",
        "filters": [],
        "connects": 4,
        "rules": [
            {
                "rule": "strategy != bind",
                "verdict": "broken",
                "broken": 2,
                "undecided": 0,
                "value": null,
                "reasons": [],
                "offenders": [{
                    "pid": 7,
                    "comm": "client",
                    "destination_address": "10.0.0.1",
                    "destination_port": 80,
                    "connects": 2,
                    "value": "bind",
                }],
                "offenders_other": 0,
            },
            {
                "rule": "latency.p50 < 1ms",
                "verdict": "held",
                "broken": 1,
                "undecided": 0,
                "value": { "low": 20_015.0, "high": 20_015.0 },
                "reasons": [],
                "offenders": [{
                    "pid": 7,
                    "comm": "client",
                    "destination_address": "10.0.0.1",
                    "destination_port": 80,
                    "connects": 1,
                    "value": "3 ms",
                }],
                "offenders_other": 0,
            },
        ],
    });
    assert_eq!(lines[2], expected);
    let schema = include_str!("../../docs/output.schema.json");
    let schema = serde_json::from_str(schema).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("it is a schema");
    for line in &lines {
        let errors: Vec<String> = validator
            .iter_errors(line)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn a_build_server_gets_a_suite_for_each_recording() {
    let folder = Folder::new("junit");
    let recordings = ["a", "b"].map(|name| recording(&folder, name));
    let file = folder.file("results.xml", b"an older file");
    judged(
        &[
            &recordings[0],
            &recordings[1],
            "--expect",
            "strategy != bind",
            "--expect",
            "latency < 1h",
            "--junit",
            &file,
        ],
        3,
    );
    let xml = fs::read_to_string(&file).expect("it was written");
    let counts = r#"tests="4" failures="2" errors="0" skipped="0""#;
    assert!(
        xml.contains(&format!("<testsuites name=\"connect-trace\" {counts}>")),
        "{xml}"
    );
    for recording in &recordings {
        assert!(
            xml.contains(&format!("<testsuite name=\"{recording}\" ")),
            "{xml}"
        );
    }
    assert_eq!(xml.matches("<testcase ").count(), 4, "{xml}");
    assert_eq!(
        xml.matches("client (pid 7) to 10.0.0.1:80: 2 calls, bind")
            .count(),
        2
    );

    let nowhere = folder.path("none/results.xml");
    let arguments = [&*recordings[0], "--expect", "pid > 0", "--junit", &nowhere];
    let (out, message) = complaint(&arguments);
    assert!(out.is_empty() && message.contains("--junit "), "{message}");
}

#[test]
fn a_wrong_rule_is_wrong_usage_with_a_mark_at_its_place() {
    let output = report(&["file", "--expect", "strategy != binds"]);
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    let expected = "not one of explicit-port, bind, address, range, default\n\n  \
        strategy != binds\n              ^^^^^\n";
    assert!(message.contains(expected), "{message}");
    let output = connect_trace(&["--junit", "file"]);
    assert_eq!(output.status.code(), Some(2), "without rules");
}
