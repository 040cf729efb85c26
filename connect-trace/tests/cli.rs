//! The command line as a user meets it, on any machine; what needs a kernel that can be probed is
//! tested in guests.

mod command;

use self::command::{connect_trace, text};

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
        &["--quiet", "--verbose"],
        &["--dport", "0"],
        &["--dport", "9-8"],
        &["--daddr", "10.0.0.0/33"],
        &["--min-latency", "1 ms"],
        &["--min-latency", "2h"],
        &["--duration", "1x"],
        &["--interval", "1us"],
        &["--oneline", "--format", "json"],
        &["--oneline", "--events"],
        &["--oneline", "--by", "pid"],
        &["--by", "colour"],
        &["--top", "0"],
        &["--format", "xml"],
        &["report"],
        &["--events", "report", "file"],
        &["completions", "tcsh"],
    ] {
        let output = connect_trace(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}

#[test]
fn an_unknown_process_is_named_and_exit_status_1() {
    // The largest process id that Linux allows: as good as never given out.
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

/// The help of every command, as it is; `UPDATE_SNAPSHOTS=1` writes it anew.
#[test]
fn the_help_is_as_it_was_last_looked_at() {
    for (name, arguments) in [
        ("short", &["-h"][..]),
        ("long", &["--help"]),
        ("report", &["report", "--help"]),
        ("check", &["check", "--help"]),
        ("load", &["load", "--help"]),
        ("compare", &["compare", "--help"]),
    ] {
        let help = text(&connect_trace(arguments).stdout);
        let file = format!("{}/tests/help/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&file, &help).expect("the folder is there");
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(help, expected, "{file}");
    }
}

#[test]
fn completions_know_the_options_of_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = connect_trace(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = text(&output.stdout);
        for option in ["min-latency", "check-established", "report"] {
            assert!(script.contains(option), "{option} of {shell}");
        }
    }
}

#[test]
fn the_manual_page_has_the_options_and_the_examples() {
    let output = connect_trace(&["man"]);
    assert_eq!(output.status.code(), Some(0));
    let page = text(&output.stdout);
    assert!(page.contains(".TH connect-trace 1"), "{page}");
    for part in ["min\\-latency", "Examples:", "Exit status:"] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
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
