//! `connect-trace check` on any machine, whatever can be traced there: its parts agree with each other and with
//! docs/check.md. Guests test its findings on particular kernels.

mod command;
#[path = "fixtures/folder.rs"]
mod folder;

use std::process::Output;

use serde_json::Value;

use self::{
    command::{connect_trace, text},
    folder::Folder,
};

/// Names of all findings.
const FINDINGS: [&str; 30] = [
    "capabilities",
    "lockdown",
    "process_ids",
    "run_statistics",
    "kept_privileges",
    "landlock",
    "btf",
    "offsets",
    "functions",
    "prototypes",
    "search_start",
    "preemption",
    "fentry",
    "kprobe",
    "attach_mode",
    "return_slots",
    "skip_counter",
    "flame_graph",
    "range",
    "first_pass",
    "reserved",
    "listeners",
    "services",
    "tw_reuse",
    "time_wait_buckets",
    "conntrack",
    "step_width",
    "socket_range",
    "socket_range_step",
    "other_ranges",
];

fn check(arguments: &[&str]) -> Output {
    connect_trace(&[&["check"], arguments].concat())
}

fn object() -> (Output, Value) {
    let output = check(&["--format", "json"]);
    let object = serde_json::from_slice(&output.stdout);
    let object = object.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, object)
}

#[test]
fn the_object_has_every_finding_and_the_exit_status_is_its_verdict() {
    let (output, object) = object();
    assert_eq!(object["schema"], 1);
    let findings = object["findings"].as_array().expect("a list");
    let names: Vec<&str> = findings
        .iter()
        .map(|finding| finding["name"].as_str().expect("a text"))
        .collect();
    assert_eq!(names, FINDINGS);

    let works = object["works"].as_bool().expect("a truth value");
    assert_eq!(output.status.code(), Some(i32::from(!works)), "{object}");
    assert_eq!(object["attach_mode"].is_string(), works, "{object}");
    let blocks = |finding: &&Value| {
        finding["required"] == true
            && (finding["state"] == "missing" || finding["state"] == "unknown")
    };
    assert_eq!(findings.iter().find(blocks).is_none(), works, "{object}");
}

#[test]
fn a_window_is_compared_with_the_range() {
    let (_, object) = object();
    let all = object["findings"].as_array().expect("a list");
    let range = all.iter().find(|finding| finding["name"] == "range");
    let (first, last) = range
        .map(|range| (&range["data"]["first"], &range["data"]["last"]))
        .expect("it has a range");
    for (window, state) in [
        (format!("{first}-{last}"), "ok"),
        ("1-2".to_owned(), "limited"),
    ] {
        let output = check(&["--format", "json", "--window", &window]);
        let object: Value = serde_json::from_slice(&output.stdout).expect("an object");
        let findings = object["findings"].as_array().expect("a list");
        let found = findings.last().expect("there are findings");
        assert_eq!(
            (&found["name"], &found["state"]),
            (&"window".into(), &state.into())
        );
        assert_eq!(&found["data"]["first"], first, "{found}");
    }
    assert_eq!(check(&["--window", "2-1"]).status.code(), Some(2));
}

#[test]
fn what_is_missing_or_unknown_has_a_note_and_a_remedy() {
    let (_, object) = object();
    for finding in object["findings"].as_array().expect("a list") {
        match finding["state"].as_str() {
            Some("ok") => assert_ne!(finding["value"], "", "{finding}"),
            Some("limited") => assert!(finding["note"].is_string(), "{finding}"),
            Some("missing" | "unknown") => {
                assert!(finding["note"].is_string(), "{finding}");
                assert!(finding["remedy"].is_string(), "{finding}");
            }
            other => panic!("{other:?}: {finding}"),
        }
    }
}

#[test]
fn the_text_has_every_finding_fits_a_terminal_and_ends_with_the_verdict() {
    let (_, object) = object();
    let output = check(&[]);
    let text = text(&output.stdout);
    assert_eq!(text.lines().last(), object["verdict"].as_str(), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for finding in object["findings"].as_array().expect("a list") {
        let (state, name) = (&finding["state"], &finding["name"]);
        let (state, name) = (state.as_str(), name.as_str());
        let (state, name) = (state.expect("a text"), name.expect("a text"));
        let line = format!("  {state:7}  {}  ", name.replace('_', " "));
        assert!(text.contains(&line), "{line:?} is missing from:\n{text}");
    }
    let works = object["works"] == true;
    assert_eq!(output.status.code(), Some(i32::from(!works)), "{text}");
}

#[test]
fn every_finding_is_documented() {
    const DOCS: &str = include_str!("../../docs/check.md");
    for name in FINDINGS {
        assert!(DOCS.contains(&format!("\n| `{name}` | ")), "{name}");
    }
}

#[test]
fn a_trace_works_where_the_check_says_so_and_nowhere_else() {
    let (_, object) = object();
    let trace = connect_trace(&["--duration", "0.1"]);
    let works = object["works"] == true;
    let messages = text(&trace.stderr);
    assert_eq!(trace.status.success(), works, "{object}\n{messages}");
    if let Some(mode) = object["attach_mode"].as_str() {
        assert!(
            messages.contains(&format!("Attached by {mode}")),
            "{messages}"
        );
    }
}

#[test]
fn an_unknown_format_is_wrong_usage() {
    let output = check(&["--format", "xml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_configuration_is_checked_without_the_host() {
    let folder = Folder::new("configuration");
    let file = &folder.path("x.toml");
    let checked = |content: &str, format: &str| {
        folder.file("x.toml", content.as_bytes());
        let output = check(&["--config", file, "--format", format]);
        (output.status.code(), text(&output.stdout).to_owned())
    };
    let right = "dport = [443, \"8000-8999\"]\nuid = 0\n";
    let expected = format!("{file}: 2 options, no mistakes.\n");
    assert_eq!(checked(right, "text"), (Some(0), expected));
    let wrong = "dport = 443\nmax_overhead = \"1%\"\n";
    let (status, printed) = checked(wrong, "text");
    assert_eq!(status, Some(1), "{printed}");
    let line = format!("{file}:2:1: max_overhead: unknown key; did you mean `max-overhead`?\n");
    assert!(printed.starts_with(&line), "{printed}");
    let (status, printed) = checked("uid = \"no such user\"\n", "json");
    assert_eq!(status, Some(1), "{printed}");
    let object: Value = serde_json::from_str(&printed).expect("an object");
    assert_eq!(object["works"], false);
    assert_eq!(object["mistakes"][0]["key"], "uid", "{object}");
    let file = &folder.path("missing.toml");
    let missing = check(&["--config", file]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains(file), "{missing:?}");
}

#[test]
fn a_service_with_a_wrong_configuration_is_wrong_usage() {
    let folder = Folder::new("wrong-configuration");
    let file = folder.file("x.toml", b"ring-buffer = \"3M\"\nlisten = 80\n");
    let output = connect_trace(&["serve", "--config", &file]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let messages = text(&output.stderr);
    assert!(messages.contains(":1:15: ring-buffer: "), "{messages}");
    assert!(messages.contains(":2:10: listen: "), "{messages}");
    let output = connect_trace(&["serve", "--config", "/no/such/file"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
