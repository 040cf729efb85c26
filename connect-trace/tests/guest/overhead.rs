//! The cost of a trace, and its budget.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::CheckMode,
    overhead::limiter::Level,
    probes::{ProbeConfig, attach::AttachMode},
};
use serde_json::Value;

use crate::{
    Test,
    output::Lines,
    program::{attach, bpftool, report, tracing},
    trace::{Session, config},
    truth::{Truth, truth},
};

pub const TESTS_OF_MODES: &[Test<AttachMode>] = crate::tests![
    OldestAndNewest: [
        the_cost_is_that_of_every_connect,
    ],
    All: [
        every_level_traces_what_it_says,
    ],
];

pub const TESTS: &[Test<()>] = crate::tests![
    OldestAndNewest: [
        nothing_is_measured_unless_it_is_asked_for,
        a_budget_that_cannot_be_kept_is_given_up_step_by_step,
        what_was_given_up_comes_back_when_the_load_ends,
    ],
];

fn number(value: &Value, field: &str) -> u64 {
    value[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} of {value:#}"))
}

fn the_cost_is_that_of_every_connect(mode: AttachMode) -> Result<()> {
    let process = tracing(&format!(
        "--overhead --format json -i 1 --check-established off {}",
        attach(mode)
    ))?;
    for case in ["v4 --count 40", "v6 --count 30", "mapped --count 20"] {
        truth(case)?;
    }
    process.signal(libc::SIGINT)?;
    let lines = Lines::of(&report(process)?)?;
    let mut runs: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen = 0;
    for report in &lines.reports {
        let cost = &report["overhead"];
        seen += number(cost, "connects_seen");
        let programs = cost["programs"].as_array().context("no programs")?;
        let mut run_ns = 0;
        for program in programs {
            let name = program["program"].as_str().context("no name")?.to_owned();
            *runs.entry(name).or_default() += number(program, "runs");
            run_ns += number(program, "run_ns");
            assert_eq!(
                number(program, "runs") > 0,
                number(program, "run_ns") > 0,
                "{program:#}"
            );
        }
        assert_eq!(number(cost, "run_ns"), run_ns, "{cost:#}");
        let percent = run_ns as f64 / number(report, "elapsed_ns") as f64 * 100.0;
        let told = cost["core_percent"].as_f64().unwrap_or_default();
        assert!((told - percent).abs() < 1e-6, "{percent}: {cost:#}");
        assert!(number(cost, "daemon_cpu_ns") > 0, "{cost:#}");
        let resident = number(cost, "resident_bytes");
        assert!(resident > 1 << 20, "{cost:#}");
        assert!(resident <= number(cost, "most_resident_bytes"), "{cost:#}");
    }
    assert_eq!(seen, 90);
    let (entry, exit) = match mode {
        AttachMode::Fentry => ("fentry", "fexit"),
        AttachMode::Kprobe => ("kprobe", "kretprobe"),
    };
    // A v4-mapped connect() goes through both functions, and through the search once.
    for (function, expected) in [
        ("tcp_v4_connect", 60),
        ("tcp_v6_connect", 50),
        ("inet_hash_connect", 90),
    ] {
        for kind in [entry, exit] {
            let name = format!("{kind}_{function}");
            assert_eq!(runs.get(&name), Some(&expected), "{name}: {runs:#?}");
        }
    }
    Ok(())
}

fn nothing_is_measured_unless_it_is_asked_for((): ()) -> Result<()> {
    let process = tracing("--format json")?;
    truth("v4 --count 5")?;
    let programs = bpftool("prog list")?;
    assert!(programs.contains("thread_exit"), "{programs}");
    assert!(!programs.contains("run_cnt"), "{programs}");
    process.signal(libc::SIGINT)?;
    let lines = Lines::of(&report(process)?)?;
    let report = lines.report()?;
    assert!(report["overhead"].is_null() && report["budget"].is_null());
    Ok(())
}

fn every_level_traces_what_it_says(mode: AttachMode) -> Result<()> {
    let mut session = Session::start(&ProbeConfig {
        checks: CheckMode::Count,
        time_wait: true,
        run_stats: true,
        may_sample: true,
        ..config(mode)
    })?;
    let level_switch = session.tracer.probes().level_switch();
    let mut level = Level::Full;
    let mut go = |to| {
        let gone = level_switch.go(level, to);
        level = to;
        gone
    };
    // Differences after a load: calls entered, calls without a record, calls with one, records with a count of checks.
    let mut before = [0; 4];
    let mut after = |session: &mut Session, load: &str| -> Result<[u64; 4]> {
        truth(load)?;
        let connects = session.connects();
        let counted = connects.iter().filter(|connect| connect.checks.is_some());
        let counted = counted.count() as u64;
        let reported = connects.len() as u64;
        let kernel = session.tracer.probes().maps().counters();
        let now = [kernel.entered, kernel.unsampled, reported, counted];
        let more = std::array::from_fn(|which| now[which] - before[which]);
        before = now;
        Ok(more)
    };
    assert_eq!(after(&mut session, "v4 --count 12")?, [12, 0, 12, 12]);
    go(Level::Unwatched)?;
    assert_eq!(after(&mut session, "mapped --count 13")?, [13, 0, 13, 0]);
    go(Level::Sampled(4))?;
    let [entered, unsampled, reported, counted] = after(&mut session, "v4 --count 400")?;
    assert_eq!((entered, unsampled + reported, counted), (400, 400, 0));
    // Seven standard deviations.
    assert!((40..=160).contains(&reported), "{reported} of 400");
    let [entered, unsampled, reported, _] = after(&mut session, "mapped --count 40")?;
    assert_eq!((entered, unsampled + reported), (40, 40));
    go(Level::Detached)?;
    assert_eq!(after(&mut session, "v6 --count 14")?, [0; 4]);
    go(Level::Sampled(64))?;
    let [entered, unsampled, reported, _] = after(&mut session, "v6 --count 100")?;
    assert_eq!((entered, unsampled + reported), (100, 100));
    assert!(unsampled > 50, "{unsampled}");
    go(Level::Full)?;
    assert_eq!(after(&mut session, "v6 --count 15")?, [15, 0, 15, 15]);
    let met = |session: &mut Session| session.tracer.probes().maps().time_wait();
    let earlier = met(&mut session);
    assert_eq!(after(&mut session, "time-wait")?, [5, 0, 5, 5]);
    let counts = met(&mut session).since(&earlier);
    assert_eq!((counts.refused, counts.reused, counts.calls), (3, 2, 4));

    let runs = session.tracer.probes().runs()?.context("no statistics")?;
    let searches = runs.iter().filter(|program| {
        program.name.ends_with("_inet_hash_connect") && !program.name.contains("ret")
    });
    for program in searches {
        // All calls except those while detached, on kernels that accept a program twice and on those that need it
        // loaded again.
        assert_eq!(
            program.runs,
            12 + 13 + 400 + 40 + 100 + 15 + 5,
            "{program:?}"
        );
    }
    let trace = session.end()?;
    trace.assert_complete();
    let accounting = trace.accounting;
    assert!(accounting.sampled(), "{accounting:#?}");
    Ok(())
}

/// Returns the levels of a report, in their order, each of which must begin at the end of the one before.
fn levels(budget: &Value) -> Result<Vec<&str>> {
    let steps = budget["steps"].as_array().context("no steps")?;
    let mut end = 0;
    steps
        .iter()
        .map(|step| {
            assert_eq!(number(step, "begins_ns"), end, "{budget:#}");
            end += number(step, "lasted_ns");
            step["level"].as_str().context("no level")
        })
        .collect()
}

fn warned_of(report: &Value, kind: &str) -> bool {
    let warnings = report["warnings"].as_array().into_iter().flatten();
    warnings.into_iter().any(|warning| warning["kind"] == kind)
}

fn a_budget_that_cannot_be_kept_is_given_up_step_by_step((): ()) -> Result<()> {
    // A limit below the cost of polling the ring buffer.
    let mut process = tracing("--max-overhead 0.001% --check-established count --format json")?;
    let load = Truth::start("rate --threads 2 --seconds 600")?;
    for step in [
        "from now on: port checks not watched",
        "from now on: records of 1 connect() in 64",
        "from now on: probes detached",
        "probes attached again; from now on: records of 1 connect() in 64",
    ] {
        process.wait_for_stderr(step)?;
    }
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    drop(load);
    let lines = Lines::of(&ended)?;
    let report = lines.report()?;
    let budget = &report["budget"];
    let levels = levels(budget)?;
    let expected = ["full", "unwatched", "sampled", "detached"];
    assert_eq!(levels[..4], expected, "{budget:#}");
    for field in ["unwatched_ns", "sampled_ns", "blind_ns"] {
        assert!(number(budget, field) > 0, "{budget:#}");
    }
    let account = &report["accounting"];
    assert_eq!(number(account, "blind_ns"), number(budget, "blind_ns"));
    assert!(number(account, "unsampled") > 0, "{account:#}");
    assert_eq!(
        number(account, "entered"),
        number(budget, "connects_entered")
    );
    assert_eq!(account["adds_up"], true, "{account:#}");
    assert_eq!(account["complete"], false, "{account:#}");
    assert_eq!(account["in_ring"], 0, "{account:#}");
    for kind in ["blind", "sampled", "unwatched"] {
        assert!(warned_of(report, kind), "{kind}: {:#}", report["warnings"]);
    }
    assert!(!warned_of(report, "incomplete"), "{:#}", report["warnings"]);
    Ok(())
}

fn what_was_given_up_comes_back_when_the_load_ends((): ()) -> Result<()> {
    let mut process = tracing("--max-overhead 4% --check-established count --format json -i 2")?;
    // Calls that fail at once give the highest possible rate.
    let load = [
        Truth::start("unreachable --count 1000000")?,
        Truth::start("unreachable --count 1000000")?,
    ];
    process.wait_for_stderr("from now on: probes detached")?;
    drop(load);
    process.wait_for_stderr("from now on: everything as requested")?;
    let after = truth("v4 --count 21")?.len() as u64;
    process.signal(libc::SIGINT)?;
    let reports = Lines::of(&report(process)?)?.reports;
    let of_reports: Vec<Vec<&str>> = reports
        .iter()
        .map(|report| levels(&report["budget"]))
        .collect::<Result<_>>()?;
    // A report begins with the last level of the one before, and sample rates differ.
    let mut course = of_reports.concat();
    course.dedup();
    assert_eq!(course[..3], ["full", "unwatched", "sampled"], "{course:?}");
    let back = ["detached", "sampled", "unwatched", "full"];
    assert!(course.ends_with(&back), "{course:?}");

    let of_budgets = |field| -> u64 {
        let budgets = reports
            .iter()
            .map(|report| number(&report["budget"], field));
        budgets.sum()
    };
    let account = &reports.last().context("no report")?["accounting"];
    assert_eq!(number(account, "entered"), of_budgets("connects_entered"));
    assert_eq!(
        number(account, "unsampled"),
        of_budgets("connects_unsampled")
    );
    assert_eq!(number(account, "blind_ns"), of_budgets("blind_ns"));
    assert_eq!(account["adds_up"], true, "{account:#}");
    // All calls after the return of the full level are counted: since the last reattachment there were no others.
    let since = reports.iter().zip(of_reports).rev();
    let since = since.take_while(|(_, levels)| !levels.contains(&"detached"));
    let (mut connects, mut counted) = (0, 0);
    for (report, _) in since {
        connects += number(report, "connects");
        counted += number(&report["checks"], "connects_counted");
    }
    assert_eq!((connects, counted), (after, after));
    Ok(())
}
