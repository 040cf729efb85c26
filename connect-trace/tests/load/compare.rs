//! `connect-trace compare`, on 200 ports.

use std::fs;

use connect_trace::load::log;

use super::{
    Folder, RANGE,
    command::{connect_trace, text},
};

pub(super) fn every_strategy_that_the_kernel_can_is_run_as_often_as_asked() {
    let folder = Folder::new("compare");
    let csv = folder.path("attempts.csv");
    let asked = ["compare", "--range", RANGE, "--repeats", "2"];
    let output = connect_trace(&[&asked[..], &["--csv", &csv, "--format", "json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(found["schema"], "connect-trace-compare/1");
    assert!(
        found["measured"]
            .as_str()
            .is_some_and(|how| how.contains("from user space only"))
    );
    let strategies = found["strategies"].as_array().expect("an array");
    let mut names: Vec<&str> = strategies
        .iter()
        .filter_map(|of| of["strategy"].as_str())
        .collect();
    let left_out = found["left_out"].as_array().expect("an array").len();
    // Every window of the article is wider than this range; those of the strategies that try again are not.
    assert_eq!(names.len() + left_out, 8, "{names:?}");
    let any_kernel = ["default", "addresses", "select-test-repeat", "cursor"];
    assert_eq!(names[..4], any_kernel);
    for of in strategies {
        let runs = of["runs"].as_array().expect("an array");
        assert_eq!(runs.len(), 2);
        assert!(runs.iter().all(|run| run["attempts"] == 200));
        let curve = of["curve"].as_array().expect("an array");
        let counted = curve
            .iter()
            .map(|step| step["count"].as_u64().unwrap_or(0) + step["errors"].as_u64().unwrap_or(0));
        assert_eq!(counted.sum::<u64>(), 400, "every attempt is in the curve");
    }
    assert_eq!(strategies[0]["first_pass_connections"], 100);
    assert!(found["recommended"].is_string());

    let file = fs::File::open(&csv).expect("it was written");
    let (head, attempts) = log::read(file).expect("it is whole");
    assert_eq!(
        (head.runs.len(), attempts.len()),
        (names.len() * 2, names.len() * 400)
    );
    let mut made: Vec<&str> = head.runs.iter().map(|run| run.strategy.as_str()).collect();
    made.sort_unstable();
    made.dedup();
    names.sort_unstable();
    assert_eq!(made, names);
}

pub(super) fn the_order_of_the_runs_follows_from_the_seed() {
    let order = |seed| {
        let folder = Folder::new("order");
        let csv = folder.path("attempts.csv");
        let asked = [
            "compare",
            "default",
            "addresses",
            "--range",
            "20000-20019",
            "--repeats",
            "5",
        ];
        let output = connect_trace(&[&asked[..], &["--seed", seed, "--csv", &csv]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let file = fs::File::open(&csv).expect("it was written");
        let (head, _) = log::read(file).expect("it is whole");
        let runs = head.runs.into_iter().map(|run| (run.strategy, run.repeat));
        runs.collect::<Vec<_>>()
    };
    assert_eq!(order("1"), order("1"));
    assert_ne!(order("1"), order("2"));
}

pub(super) fn the_text_has_table_curve_and_recommendation_in_80_columns() {
    let asked = [
        "compare",
        "default",
        "select-test-repeat",
        "--range",
        RANGE,
        "--repeats",
        "1",
    ];
    let out = text(&connect_trace(&asked).stdout);
    for part in [
        "compare: 200 connections, tcp IPv4, ports 20000-20199",
        "from user space",
        "\nstrategy ",
        "\nmean us, in use to",
        "its first pass was exhausted after 100 of 200 ports",
        "\nrecommendation: ",
        "bind()",
    ] {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let lines = text(&connect_trace(&[&asked[..], &["--how", "java"]].concat()).stdout);
    assert!(
        lines.contains("\nselect-test-repeat with java:\n\n// Any kernel."),
        "{lines}"
    );
    assert!(lines.contains("LOW = 20000, HIGH = 20199"), "{lines}");
    let asked = [
        "compare",
        "default",
        "--range",
        RANGE,
        "--until-occupancy",
        "40%",
    ];
    let few = text(&connect_trace(&asked).stdout);
    assert!(few.contains("compare: 80 connections"), "{few}");
    assert!(
        few.contains("use default: nothing needs to be changed"),
        "{few}"
    );
}

pub(super) fn wrong_usage_of_compare_is_one_message_and_exit_status_2() {
    for wrong in [
        &["--repeats", "0"][..],
        &["--repeats", "101"],
        &["--range", "20199-20000"],
        &["-c", "201", "--range", RANGE],
        &["window", "--range", RANGE],
        &["default", "--how", "cobol"],
        &["window", "--window", "201", "--range", RANGE],
        &["-c", "10", "--until-occupancy", "50%"],
        &["--target", "127.0.0.1:80"],
        &["no-such-strategy"],
    ] {
        let output = connect_trace(&[&["compare"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{wrong:?}");
        assert!(output.stdout.is_empty(), "{wrong:?}");
    }
}
