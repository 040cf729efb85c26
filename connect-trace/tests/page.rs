//! `connect-trace report --html` and `--svg` as a user runs them. The `browser` tests show the page in a browser.

mod command;
mod fixtures;
#[path = "fixtures/folder.rs"]
mod folder;
#[path = "command/report.rs"]
mod report;

use std::{fs, io::Write as _, path::Path, process::Stdio};

use connect_trace::connect::SourcePort;

use self::{
    command::{command, text},
    fixtures::recording::{connect, write_recording},
    folder::Folder,
    report::report,
};

/// Asserts success with an empty stdout, and returns stderr.
#[track_caller]
fn said(arguments: &[&str]) -> String {
    let output = report(arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    text(&output.stderr)
}

/// Asserts failure with an empty stdout, and returns the one line on stderr.
#[track_caller]
fn complaint(arguments: &[&str]) -> String {
    let (out, message) = report::complaint(arguments);
    assert_eq!(out, "");
    message
}

/// Returns the names of all files in a folder, hidden files included.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry
            .expect("it can be read")
            .file_name()
            .display()
            .to_string()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Writes a log of 400 attempts with the default and 400 with each of two repeats of select-test-repeat.
fn log_of_three(folder: &Folder) -> String {
    let runs = [
        ("default", 1),
        ("select-test-repeat", 1),
        ("select-test-repeat", 2),
    ]
    .map(|(strategy, repeat)| fixtures::run(strategy, repeat, 400));
    let path = folder.path("log.csv");
    fixtures::write_log(Path::new(&path), runs.to_vec()).expect("the folder takes a small file");
    path
}

fn recording(folder: &Folder, name: &str) -> String {
    let path = folder.path(name);
    let connects = [
        (0, 20_000, 20_000),
        (1, 30_000, 20_002),
        (2, 2_000_000, 20_001),
    ]
    .map(|(second, ns, port)| connect(second * 1_000_000_000, ns, port));
    let failed = connect_trace::connect::Connect {
        port: SourcePort::None,
        errno: libc::EADDRNOTAVAIL,
        ..connect(2_500_000_000, 1_000_000, 0)
    };
    let all = connects.into_iter().chain([failed]);
    write_recording(Path::new(&path), "", 1_000_000_000, all)
        .expect("the folder takes a small file");
    path
}

#[test]
fn a_recording_becomes_a_page_with_its_kernel_range_date_and_command() {
    let folder = Folder::new("page-recording");
    let (file, html) = (recording(&folder, "a"), folder.path("a.html"));
    let said = said(&[&file, "--html", &html]);
    assert_eq!(said, format!("wrote {html}: 4 connect() calls\n"));
    let page = fs::read_to_string(&html).unwrap();
    for part in [
        "Linux 6.12.0",
        "<dd>9024-65535</dd>",
        "<dd>web1</dd>",
        "<dd>2023-11-1",
        &format!("<code>connect-trace report {file} --html {html}</code>"),
        "<td>2</td><td>1</td><td>1<small>EADDRNOTAVAIL</small></td>",
        "Not available for a recording",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(
        names(&folder.path("")),
        ["a", "a.html"],
        "nothing else is left"
    );
}

#[test]
fn filters_narrow_what_is_drawn() {
    let folder = Folder::new("page-filters");
    let (file, html) = (recording(&folder, "a"), folder.path("a.html"));
    let said_of = |filter: &[&str]| said(&[&[&file, "--html", &html], filter].concat());
    assert!(said_of(&["--min-latency", "1ms"]).ends_with(": 2 connect() calls\n"));
    assert!(said_of(&["--failed"]).ends_with(": 1 connect() calls\n"));
    assert!(said_of(&["--dport", "80"]).ends_with(": 0 connect() calls\n"));
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("It has no connect() call"), "of the last");
    assert!(page.contains("<dt>Only</dt><dd>--dport 80</dd>"), "{page}");
}

#[test]
fn a_log_becomes_a_page_with_a_run_for_each_repeat_and_a_curve_for_each_strategy() {
    let folder = Folder::new("page-log");
    let (file, html) = (log_of_three(&folder), folder.path("a.html"));
    let said = said(&["--from-load", &file, "--html", &html]);
    assert_eq!(said, format!("wrote {html}: 1,200 connect() calls\n"));
    let page = fs::read_to_string(&html).unwrap();
    for name in ["default", "select-test-repeat #1", "select-test-repeat #2"] {
        assert!(page.contains(&format!("<h3>{name}</h3>")), "{name}");
    }
    assert_eq!(
        page.matches("<path class=\"curve c0 d0\" d=\"M5").count(),
        1,
        "default"
    );
    assert!(
        page.contains("<title>select-test-repeat</title>"),
        "the curve"
    );
    assert!(!page.contains("class=\"curve c2"), "there are two");
}

#[test]
fn several_logs_are_on_one_page_by_the_names_of_their_files() {
    let folder = Folder::new("page-logs");
    let (before, html) = (log_of_three(&folder), folder.path("a.html"));
    let after = folder.path("after.csv");
    fs::copy(&before, &after).unwrap();
    let said = said(&["--from-load", &before, &after, "--html", &html]);
    assert_eq!(said, format!("wrote {html}: 2,400 connect() calls\n"));
    let page = fs::read_to_string(&html).unwrap();
    for name in ["log default", "log select-test-repeat #2", "after default"] {
        assert!(page.contains(&format!("<h3>{name}</h3>")), "{name}");
    }
    assert!(page.contains("<title>after select-test-repeat</title>"));
}

#[test]
fn the_page_of_a_full_run_is_less_than_two_megabytes() {
    let folder = Folder::new("page-size");
    let (file, html) = (folder.path("log.csv"), folder.path("a.html"));
    let run = fixtures::run("default", 1, 56_512);
    fixtures::write_log(Path::new(&file), vec![run]).unwrap();
    said(&["--from-load", &file, "--html", &html]);
    let bytes = fs::metadata(&html).unwrap().len();
    assert!(bytes < 2_000_000, "{bytes}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(
        !page.contains(" points are drawn: "),
        "all points are drawn"
    );
}

#[test]
fn nothing_on_a_page_comes_from_elsewhere() {
    let folder = Folder::new("page-alone");
    let (file, html) = (log_of_three(&folder), folder.path("a.html"));
    said(&["--from-load", &file, "--html", &html]);
    let page = fs::read_to_string(&html).unwrap();
    for elsewhere in [
        "src=",
        "href=",
        "url(",
        "@import",
        "import(",
        "fetch(",
        "XMLHttpRequest",
        "<link",
    ] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    let namespace = "http://www.w3.org/2000/svg";
    assert_eq!(
        page.matches("//www.").count(),
        page.matches(namespace).count()
    );
}

#[test]
fn of_too_many_points_a_part_is_drawn_and_the_page_says_which() {
    let folder = Folder::new("page-many");
    let (file, html) = (folder.path("many"), folder.path("a.html"));
    write_recording(Path::new(&file), "", 1_000_000_000, fixtures::many(210_000)).unwrap();
    said(&[&file, "--html", &html]);
    let page = fs::read_to_string(&html).unwrap();
    let (_, note) = page
        .split_once(" of 210,000 points are drawn: ")
        .expect("it is said");
    assert!(note.starts_with("every failure, "), "{note:.200}");
    assert!(page.contains("210,000 connect() calls."), "all are counted");
    assert!(page.len() < 6_000_000, "{}", page.len());
}

#[test]
fn charts_become_files_of_a_folder() {
    let folder = Folder::new("page-svg");
    let (file, svg) = (log_of_three(&folder), folder.path("charts"));
    let said = said(&["--from-load", &file, "--svg", &svg]);
    assert_eq!(
        said,
        format!("wrote {svg}: 10 charts of 1,200 connect() calls\n")
    );
    let names = names(&svg);
    let expected = [
        "default-buckets.svg",
        "default-number.svg",
        "default-time.svg",
        "occupancy.svg",
        "select-test-repeat-1-buckets.svg",
    ];
    assert_eq!(names[..5], expected);
    for name in names {
        let chart = fs::read_to_string(Path::new(&svg).join(&name)).unwrap();
        assert!(chart.starts_with("<svg xmlns="), "{name}");
        assert!(chart.ends_with("</svg>\n"), "{name}");
        assert!(!chart.contains("var(") && chart.len() < 100_000, "{name}");
    }
}

#[test]
fn a_page_that_is_there_is_replaced_only_by_a_whole_one() {
    let folder = Folder::new("page-replaced");
    let html = folder.file("a.html", b"precious");
    complaint(&["--from-load", &folder.path("nothing"), "--html", &html]);
    assert_eq!(fs::read(&html).unwrap(), b"precious");
    assert_eq!(names(&folder.path("")), ["a.html"]);
    said(&["--from-load", &log_of_three(&folder), "--html", &html]);
    assert!(fs::read(&html).unwrap().starts_with(b"<!doctype html>"));
    assert_eq!(names(&folder.path("")), ["a.html", "log.csv"]);
}

#[test]
fn an_output_that_cannot_be_is_one_message_and_leaves_nothing() {
    let folder = Folder::new("page-output");
    let file = log_of_three(&folder);
    let (own, missing) = (folder.path(""), folder.path("no/such/a.html"));
    let message = |option, path: &str| complaint(&["--from-load", &file, option, path]);
    assert!(message("--html", &own).contains("is a directory"));
    assert!(message("--html", &missing).contains("there is no such directory"));
    assert!(message("--html", "/dev/full").contains("No space left"));
    assert!(message("--svg", &file).contains(&format!("--svg {file}: cannot be created")));
    assert_eq!(names(&own), ["log.csv"]);
}

#[test]
fn a_bad_log_is_one_message_and_no_page() {
    let folder = Folder::new("page-bad-log");
    let whole = fs::read(log_of_three(&folder)).unwrap();
    let html = folder.path("a.html");
    let newer = String::from_utf8(whole.clone()).unwrap().replacen(
        "\"connect_trace_load\":1",
        "\"connect_trace_load\":2",
        1,
    );
    let recording = fs::read(recording(&folder, "recording")).unwrap();
    for (bytes, expected) in [
        (&[][..], "it is empty"),
        (&whole[..whole.len() / 2], ""),
        (
            b"a,b\n1,2\n",
            "it is not what `connect-trace load --csv` writes",
        ),
        (&recording, "it is not what"),
        (newer.as_bytes(), "format 2"),
    ] {
        let file = folder.file("bad", bytes);
        let message = complaint(&["--from-load", &file, "--html", &html]);
        assert!(
            message.starts_with(&format!("connect-trace: {file}: ")),
            "{message}"
        );
        assert!(message.contains(expected), "{message}");
    }
    let own = folder.path("");
    assert!(complaint(&["--from-load", &own, "--html", &html]).contains("is a directory"));
    assert_eq!(names(&own), ["bad", "log.csv", "recording"]);
}

#[test]
fn a_cut_recording_is_a_page_that_says_so_and_exit_status_1() {
    let folder = Folder::new("page-cut");
    let whole = fs::read(recording(&folder, "whole")).unwrap();
    let (cut, html) = (
        folder.file("cut", &whole[..whole.len() - 1]),
        folder.path("a.html"),
    );
    let output = report(&[&cut, "--html", &html]);
    let messages = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{messages}");
    assert!(
        messages.starts_with(&format!("connect-trace: {cut}: cut at byte ")),
        "{messages}"
    );
    assert!(
        messages.ends_with(&format!("wrote {html}: 4 connect() calls\n")),
        "{messages}"
    );
    let page = fs::read_to_string(&html).unwrap();
    assert!(
        page.contains("INCOMPLETE: the recording is cut at byte "),
        "{page}"
    );
}

#[test]
fn a_bad_recording_is_no_page_and_among_others_is_left_out() {
    let folder = Folder::new("page-bad");
    let (good, bad) = (recording(&folder, "good"), folder.file("bad", b""));
    let html = folder.path("a.html");
    assert!(complaint(&[&bad, "--html", &html]).contains("is empty"));
    assert!(complaint(&["/dev/null", "--html", &html]).contains("is empty"));
    assert!(!Path::new(&html).exists());
    let output = report(&[&bad, &good, "--html", &html]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        fs::read_to_string(&html)
            .unwrap()
            .contains("4 connect() calls.")
    );
}

#[test]
fn a_recording_from_a_pipe_is_refused_with_what_to_do() {
    let folder = Folder::new("page-pipe");
    let (file, html) = (recording(&folder, "a"), folder.path("a.html"));
    let mut child = command()
        .args(["report", "/dev/stdin", "--html", &html])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command was built with this test");
    let mut pipe = child.stdin.take().expect("it is piped");
    // The reader may close the pipe before all is written.
    let _ = pipe.write_all(&fs::read(file).unwrap());
    drop(pipe);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("copy it to a file first"));
    assert!(!Path::new(&html).exists());
}

#[test]
fn a_log_of_more_runs_than_a_page_shows_is_refused() {
    let folder = Folder::new("page-runs");
    let (file, html) = (folder.path("log"), folder.path("a.html"));
    let runs = (1..=1_001).map(|repeat| fixtures::run("default", repeat, 2));
    fixtures::write_log(Path::new(&file), runs.collect()).unwrap();
    let message = complaint(&["--from-load", &file, "--html", &html]);
    assert!(message.contains("1001 runs"), "{message}");
}

#[test]
fn options_that_make_no_sense_together_are_wrong_usage() {
    for wrong in [
        &["--from-load", "log"][..],
        &["--from-load", "log", "--html", "a", "recording"],
        &["--from-load", "log", "--html", "a", "--pid", "1"],
        &["--html", "a"],
        &["recording", "--html", "a", "--events"],
        &["recording", "--html", "a", "--format", "json"],
        &["recording", "--svg", "a", "--interval", "1"],
        &["recording", "--html"],
    ] {
        let output = report(wrong);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {message}");
        assert!(message.starts_with("error: "), "{message}");
    }
}
