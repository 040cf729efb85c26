//! The command line as a user runs it, on any machine; parts that need a kernel with probes are tested in guests.

mod command;
#[path = "fixtures/folder.rs"]
mod folder;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
};

use self::{
    command::{connect_trace, text},
    folder::Folder,
};

#[test]
fn help_has_examples_the_exit_status_and_how_to_read_a_report() {
    let help = text(&connect_trace(&["--help"]).stdout);
    for part in [
        "Examples:",
        "Reading the report:",
        "Exit status:",
        "-p 1234",
        "--check-established",
    ] {
        assert!(help.contains(part), "{part} is missing from:\n{help}");
    }
    let short = text(&connect_trace(&["-h"]).stdout);
    assert!(
        short.lines().count() < help.lines().count() / 2,
        "-h is not short:\n{short}"
    );
}

#[test]
fn the_own_text_of_the_help_fits_80_columns() {
    let help = text(&connect_trace(&["--help"]).stdout);
    let (_, own) = help.split_once("Examples:").expect("the help has examples");
    for line in own.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn wrong_usage_is_one_message_and_exit_status_2() {
    for wrong in [
        &["--no-such-option"][..],
        &["--pid", "0"],
        &["--pid", "me"],
        &["--pid", "4194305"],
        &["--duration", "0"],
        &["--duration", "-1"],
        &["--interval", "nan"],
        &["--attach", "uprobe"],
        &["--check-established", "always"],
        &["--ring-buffer", "3M"],
        &["--max-in-flight", "0"],
        &["--max-overhead", "1"],
        &["--max-overhead", "0%"],
        &["--max-overhead", "a lot"],
        &["argument"],
        &["-4", "-6"],
        &["-4", "--daddr", "::1"],
        &["--follow"],
        &["--follow", "--", "true"],
        &["--pid", "1", "--", "true"],
        &["--record", "-", "--", "true"],
        &["--record-size", "1M"],
        &["--record", "file", "--record-size", "1M"],
        &[
            "--record",
            "folder/",
            "--record-size",
            "1M",
            "--record-keep",
            "3M",
        ],
        &["--record", "folder/", "--record-time", "0"],
        &["--record", "file", "--record-sample", "0"],
        &["serve", "--record", "file", "--record-keep", "1G"],
        &["--quiet", "--verbose"],
        &["--dport", "0"],
        &["--dport", "9-8"],
        &["--daddr", "10.0.0.0/33"],
        &["--min-latency", "1 ms"],
        &["--min-latency", "2h"],
        &["--duration", "1x"],
        &["--interval", "1us"],
        &["--oneline", "--format", "json"],
        &["--flame", "graph.png"],
        &["--flame", "-", "--record", "-"],
        &["--flame", "-", "--", "true"],
        &["flame", "--frequency", "0"],
        &["flame", "--folded", "-", "--speedscope", "-"],
        &["flame", "--svg", "-", "--", "true"],
        &["flame", "-4", "--daddr", "::1"],
        &["--oneline", "--events"],
        &["--oneline", "--by", "pid"],
        &["--by", "colour"],
        &["--top", "0"],
        &["--format", "xml"],
        &["--expect", "strategy != binds"],
        &["--junit", "file"],
        &["report", "--expect", "pid > 0", "--html", "page", "file"],
        &["report"],
        &["--events", "report", "file"],
        &["completions", "tcsh"],
        &["man", "load-runner"],
        &["try", "full-range"],
        &["explain"],
        &["explain", "10.0.0.7:0"],
        &["explain", "10.0.0.7", "--start", "0"],
        &["explain", "10.0.0.7", "--local-range", "9-8"],
        &["explain", "10.0.0.7", "--source", "here"],
        &["ports", "10.0.0.7:0"],
        &["ports", "--top", "0"],
        &["ports", "--service", "here"],
        &["man", "load", "--output-dir", "man1"],
    ] {
        let output = connect_trace(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_mistyped_subcommand_is_told_which_was_meant_and_a_command_how_it_is_traced() {
    for (line, tip) in [
        ("chek", "a similar subcommand exists: 'check'"),
        ("-v reprot file", "a similar subcommand exists: 'report'"),
        ("lod full-range", "a similar subcommand exists: 'load'"),
        (
            "--format json compar",
            "a similar subcommand exists: 'compare'",
        ),
        (
            "curl http://localhost",
            "put '--' before it: connect-trace -- curl\n",
        ),
    ] {
        let output = connect_trace(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{line}");
        let message = text(&output.stderr);
        assert!(
            message.starts_with("error: unexpected argument "),
            "{message}"
        );
        assert!(message.contains(tip), "{line}: {message}");
    }
    // Arguments of subcommands, and options.
    for line in ["check chek", "man lod", "--chek", "completions"] {
        let output = connect_trace(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{line}");
        let message = text(&output.stderr);
        assert!(!message.contains("subcommand exists"), "{line}: {message}");
        assert!(!message.contains("put '--'"), "{line}: {message}");
    }
}

/// Looks a name up in /etc/passwd, and then by the `getent` on the PATH.
#[test]
fn a_user_may_be_known_to_the_hosts_other_sources_alone() {
    let folder = Folder::new("getent");
    let fake = folder.file(
        "getent",
        b"#!/bin/sh\n\
          [ \"$1 $2\" = 'passwd ada' ] && echo 'ada:*:1815:1815::/:' && exit 0\n\
          [ \"$2\" = broken ] && exit 3\n\
          exit 2\n",
    );
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let nowhere = folder.path("nowhere");
    for (user, path, expected) in [
        // The user is found; the missing recording is the next error.
        (
            "ada",
            folder.path(""),
            "connect-trace: /no/such/file: there is no such file\n",
        ),
        (
            "root",
            nowhere.clone(),
            "connect-trace: /no/such/file: there is no such file\n",
        ),
        (
            "nobody-at-all",
            folder.path(""),
            "connect-trace: --uid nobody-at-all: no such user\n",
        ),
        (
            "broken",
            folder.path(""),
            "connect-trace: --uid broken: `getent passwd` ended with exit status: 3",
        ),
        (
            "ada",
            nowhere,
            "connect-trace: --uid ada: no such user in /etc/passwd, and there is no getent",
        ),
    ] {
        let mut command = command::command();
        command.args(["report", "--uid", user, "/no/such/file"]);
        let output = command.env("PATH", path).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{user}");
        let message = text(&output.stderr);
        assert!(message.starts_with(expected), "{user}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn an_unknown_process_is_named_and_exit_status_1() {
    // The largest process id that Linux allows, practically never in use.
    let output = connect_trace(&["--pid", "4194304"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("--pid"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn what_a_filter_names_and_does_not_exist_is_named_and_exit_status_1() {
    for (option, name) in [
        ("--cgroup", "/no/such/cgroup"),
        ("--uid", "no-such-user"),
        ("--netns", "4194304"),
        ("--netns", "/no/such/namespace"),
        ("--netns", "/etc/passwd"),
    ] {
        let output = connect_trace(&[option, name]);
        assert_eq!(output.status.code(), Some(1), "{option} {name}");
        let message = text(&output.stderr);
        assert!(
            message.starts_with(&format!("connect-trace: {option} {name}: ")),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(output.stdout.is_empty(), "{option} {name}");
    }
}

/// The help of every command, compared with a snapshot; `UPDATE_SNAPSHOTS=1` writes the snapshots again.
#[test]
fn the_help_is_as_it_was_last_looked_at() {
    for (name, arguments) in [
        ("short", &["-h"][..]),
        ("long", &["--help"]),
        ("report", &["report", "--help"]),
        ("flame", &["flame", "--help"]),
        ("serve", &["serve", "--help"]),
        #[cfg(feature = "top")]
        ("top", &["top", "--help"]),
        ("mitigate", &["mitigate", "--help"]),
        ("check", &["check", "--help"]),
        ("explain", &["explain", "--help"]),
        ("ports", &["ports", "--help"]),
        ("load", &["load", "--help"]),
        ("compare", &["compare", "--help"]),
        ("try", &["try", "--help"]),
    ] {
        let help = text(&connect_trace(arguments).stdout);
        let file = format!("{}/tests/help/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&file, &help).expect("the folder is there");
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(help, expected, "{file}");
    }
}

/// The tests in tests/shells run the script in a shell.
#[test]
fn completions_know_the_options_of_every_shell_and_no_hidden_subcommand() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = connect_trace(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = text(&output.stdout);
        for option in ["min-latency", "check-established", "report", "speedscope"] {
            assert!(script.contains(option), "{option} of {shell}");
        }
        for hidden in ["load-runner", "try-standby", "try-price"] {
            assert!(!script.contains(hidden), "{hidden} of {shell}");
        }
    }
}

/// Returns the pages of `connect-trace man` by file name.
fn pages() -> BTreeMap<String, String> {
    let folder = Folder::new("man");
    let written = folder.path("share/man1");
    let output = connect_trace(&["man", "--output-dir", &written]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    let files = fs::read_dir(&written).expect("the folder was made");
    let read = |file: io::Result<fs::DirEntry>| {
        let file = file.expect("it can be read");
        let page = fs::read_to_string(file.path()).expect("a page is text");
        (file.file_name().display().to_string(), page)
    };
    files.map(read).collect()
}

/// The tests in tests/shells format the pages.
#[test]
fn each_subcommand_has_a_manual_page_with_its_options() {
    let pages = pages();
    for (page, subcommand, option) in [
        ("connect-trace.1", None, "min\\-latency"),
        ("connect-trace-report.1", Some("report"), "from\\-load"),
        ("connect-trace-flame.1", Some("flame"), "speedscope"),
        ("connect-trace-serve.1", Some("serve"), "listen"),
        #[cfg(feature = "top")]
        ("connect-trace-top.1", Some("top"), "no\\-ports"),
        ("connect-trace-mitigate.1", Some("mitigate"), "when\\-above"),
        ("connect-trace-check.1", Some("check"), "format"),
        ("connect-trace-explain.1", Some("explain"), "local\\-range"),
        ("connect-trace-ports.1", Some("ports"), "netns"),
        ("connect-trace-load.1", Some("load"), "until\\-occupancy"),
        ("connect-trace-compare.1", Some("compare"), "repeats"),
        ("connect-trace-try.1", Some("try"), "against"),
        ("connect-trace-completions.1", Some("completions"), "help"),
        ("connect-trace-man.1", Some("man"), "output\\-dir"),
    ] {
        let written = &pages[page];
        let title = page.trim_end_matches(".1");
        let version = env!("CARGO_PKG_VERSION");
        let head = format!(".TH {title} 1 \"\" \"connect-trace {version}\" \"User Commands\"\n");
        assert!(written.contains(&head), "{written}");
        let option = format!("\\fB\\-\\-{option}\\fR");
        assert!(written.contains(&option), "{option} is not in:\n{written}");
        let arguments: Vec<&str> = ["man"].into_iter().chain(subcommand).collect();
        let printed = connect_trace(&arguments);
        assert_eq!(&text(&printed.stdout), written, "{page}");
    }
    assert_eq!(
        pages.len(),
        13 + usize::from(cfg!(feature = "top")),
        "{:?}",
        pages.keys()
    );
}

#[test]
fn manual_pages_refer_to_pages_that_exist() {
    let pages = pages();
    for (name, page) in &pages {
        let page = page
            .replace("\\-", "-")
            .replace("\\fB", "")
            .replace("\\fR", "");
        let words = page.split(|c: char| c.is_whitespace() || c == ',');
        let others: BTreeSet<String> = words
            .filter_map(|word| word.strip_suffix("(1)"))
            .map(|other| format!("{other}.1"))
            .collect();
        for other in &others {
            assert!(pages.contains_key(other), "{name} refers to {other}");
        }
        assert_eq!(others.len(), pages.len() - 1, "{name} refers to {others:?}");
    }
}

#[test]
fn examples_of_the_manual_page_keep_their_lines() {
    let page = text(&connect_trace(&["man"]).stdout).replace("\\-", "-");
    let (_, after) = page
        .split_once("\n.SH EXAMPLES\n.nf\n")
        .expect("they are not filled");
    let (examples, after) = after.split_once("\n.fi\n").expect("they end");
    let help = text(&connect_trace(&["--help"]).stdout);
    let (_, expected) = help.split_once("Examples:\n  ").expect("the help has them");
    let (expected, _) = expected.split_once("\n\n").expect("more follows");
    assert_eq!(examples, expected.replace("\n  ", "\n"));
    for section in [".SH \"READING THE REPORT\"\n", ".SH \"EXIT STATUS\"\n"] {
        assert!(after.contains(section), "{section} is not in:\n{after}");
    }
    // The text there is filled.
    assert!(!after.contains(".nf"), "{after}");
}

#[test]
fn a_folder_for_manual_pages_that_cannot_be_written_is_named() {
    let output = connect_trace(&["man", "--output-dir", "/proc/no/such"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(
        message.starts_with("connect-trace: --output-dir /proc/no/such: "),
        "{message}"
    );
}

#[test]
fn a_host_that_cannot_be_traced_gets_one_message_and_one_that_can_a_report() {
    let output = connect_trace(&["--duration", "0.2"]);
    let (report, messages) = (text(&output.stdout), text(&output.stderr));
    match output.status.code() {
        Some(0) => assert!(report.contains("entered "), "{report}"),
        Some(1) => {
            assert!(messages.starts_with("connect-trace: "), "{messages}");
            assert_eq!(messages.lines().count(), 1, "{messages}");
            assert!(report.is_empty(), "{report}");
        }
        other => panic!("exit status {other:?}\n{messages}"),
    }
}
