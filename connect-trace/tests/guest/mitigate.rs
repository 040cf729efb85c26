//! `connect-trace mitigate`: the connections of an unmodified program in a cgroup.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use connect_trace_common::mitigation::{WHOLE, is_in_share};
use connect_trace_guest::truth::Record;
use serde_json::Value;

use crate::{
    Lacking, Test,
    nginx::{self, Nginx},
    output::Lines,
    process::{Ended, Process, until},
    service::{Metrics, get, temporary},
    truth::{Range, Truth},
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        a_program_finds_odd_ports_before_the_even_ones_are_used_up,
        addresses_are_used_in_turn,
    ],
    Newest: [
        a_share_acts_for_the_threads_that_it_has,
        wrk_in_a_cgroup_is_mitigated,
        the_metrics_are_those_of_the_report,
        a_mitigation_goes_on_if_its_reports_are_refused,
        full_range_is_refused_or_helps,
        a_mitigation_ends_with_its_cgroup,
    ],
];

/// A cgroup, removed on drop.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(name: &str) -> Result<Self> {
        let hierarchy = Path::new("/sys/fs/cgroup");
        if !hierarchy.join("cgroup.controllers").exists() {
            return Err(Lacking("version 2 of the cgroup hierarchy").into());
        }
        let folder = hierarchy.join(name);
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }

    /// Runs a case of `truth` in it.
    fn truth(&self, case: &str) -> Result<Vec<Record>> {
        let held = Truth::hold(case)?;
        fs::write(self.0.join("cgroup.procs"), held.pid().to_string())?;
        held.release()?;
        held.end()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn command(cgroup: &Cgroup, arguments: &str) -> Command {
    let mut command = Command::new("connect-trace");
    command.args(["mitigate", "--format", "json", "-i", "1h", "--cgroup"]);
    command.arg(&cgroup.0).args(arguments.split_whitespace());
    command
}

/// Starts a mitigation.
fn mitigate(cgroup: &Cgroup, arguments: &str) -> Result<Process> {
    let mut process = Process::start(command(cgroup, arguments))?;
    process.wait_for_stderr("Mitigating: ")?;
    Ok(process)
}

/// Starts select-test-repeat, which takes a kernel of 6.1 or later.
fn select(cgroup: &Cgroup, arguments: &str) -> Result<Process> {
    let arguments = format!("{arguments} select-test-repeat");
    if has_select_test_repeat() {
        return mitigate(cgroup, &arguments);
    }
    let ended = Process::start(command(cgroup, &arguments))?.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert!(ended.stderr.contains("SO_REUSEADDR"), "{ended}");
    assert!(ended.stderr.contains("6.1"), "{ended}");
    Err(Lacking("SO_REUSEADDR for programs").into())
}

/// Returns true on kernels of which the documentation says so.
fn has_select_test_repeat() -> bool {
    !fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| release.starts_with("5."))
}

/// Number of calls by which [`known`] makes the route known.
const CALLS: usize = 20;

/// Waits until a mitigation that listens on a Unix socket knows the route of `truth`.
fn known(cgroup: &Cgroup, socket: &Path) -> Result<()> {
    cgroup.truth("exhaust 19000-19019 --set-range")?;
    acting(socket)
}

/// Waits until a mitigation that listens on a Unix socket acts on a route.
fn acting(socket: &Path) -> Result<()> {
    until("the route is known", || {
        let metrics = Metrics::parse(&get(socket, "/metrics")?.body)?;
        let acting = metrics.sum("connect_trace_mitigation_routes", &[r#"state="acting""#]);
        Ok((acting > 0.0).then_some(()))
    })
}

/// Returns the options of a mitigation that acts on every route and listens on this Unix socket.
fn always(socket: &Path) -> String {
    format!("--when-above 0% --listen unix:{}", socket.display())
}

/// Ends a mitigation, and returns its only report.
fn ended(process: Process) -> Result<(Value, Ended)> {
    process.signal(libc::SIGINT)?;
    let ended = process.end()?.successful()?;
    let report = Lines::of(&ended)?.report()?.clone();
    let mitigation = &report["mitigation"];
    let count = |name: &str| mitigation[name].as_u64().context(name.to_owned());
    let parts = [
        "applied",
        "exhausted",
        "refused",
        "other_share",
        "idle",
        "no_route",
        "bound",
        "own_range",
    ];
    let mut decided = 0;
    for part in parts {
        decided += count(part)?;
    }
    ensure!(count("calls")? == decided, "{mitigation:#}");
    let account = &report["accounting"];
    ensure!(account["adds_up"] == true, "{account:#}");
    ensure!(account["lost"] == 0, "{account:#}");
    Ok((report, ended))
}

/// Returns the local ports of the successful calls, in their order.
fn ports(records: &[Record]) -> Vec<u16> {
    let outcomes = records.iter().filter_map(|record| record.outcome.as_ref());
    let successful = outcomes.filter(|outcome| outcome.errno == 0);
    successful.map(|outcome| outcome.local.port()).collect()
}

/// Returns the number of successful calls before the first odd port.
fn before_odd(records: &[Record]) -> Result<usize> {
    let first = ports(records).iter().position(|port| port % 2 == 1);
    first.context("no odd port")
}

fn a_program_finds_odd_ports_before_the_even_ones_are_used_up((): ()) -> Result<()> {
    let cgroup = Cgroup::create("mitigated")?;
    let untouched = cgroup.truth("exhaust 20000-21499 --set-range")?;
    assert_eq!(before_odd(&untouched)?, 750);
    let socket = temporary("mitigate");
    let process = select(&cgroup, &always(&socket))?;
    known(&cgroup, &socket)?;
    let records = cgroup.truth("exhaust 22000-23499 --set-range --extra 3")?;
    // Not in the cgroup.
    let others = crate::truth::truth("exhaust 24000-24499 --set-range")?;
    let (report, ended) = ended(process)?;
    assert_eq!(before_odd(&others)?, 250);

    // Every port is used once, and none beyond: as without the mitigation.
    let mut found = ports(&records);
    assert!(before_odd(&records)? < 50, "{ended}");
    found.sort_unstable();
    assert_eq!(found, (22_000..=23_499).collect::<Vec<u16>>());
    assert_eq!(records.len(), 1_503);
    let mitigation = &report["mitigation"];
    assert_eq!(mitigation["calls"], 1_503 + CALLS, "{mitigation:#}");
    assert_eq!(mitigation["refused"], 0, "{mitigation:#}");
    let applied = mitigation["applied"].as_u64().context("applied")?;
    assert!(applied > 1_000, "{mitigation:#}");
    let tested = mitigation["ports_tested"].as_u64().context("tested")?;
    let taken = mitigation["ports_taken"].as_u64().context("taken")?;
    assert_eq!(tested - taken, applied, "{mitigation:#}");
    assert_eq!(mitigation["verdict"], Value::Null);

    let after = cgroup.truth("exhaust 25000-25499 --set-range")?;
    assert_eq!(before_odd(&after)?, 250, "the mitigation has ended");
    Ok(())
}

fn a_share_acts_for_the_threads_that_it_has((): ()) -> Result<()> {
    let cgroup = Cgroup::create("shared")?;
    let process = select(&cgroup, "--when-above 0% --share 50%")?;
    let records = cgroup.truth("threads 26000-29999 --set-range --threads 8 --count 400")?;
    let (report, _) = ended(process)?;
    let mitigation = &report["mitigation"];
    let count = |name: &str| mitigation[name].as_u64().unwrap_or_default();
    let in_share = |record: &&Record| is_in_share(record.tid.into(), WHOLE / 2);
    let all = records.len() as u64;
    let mine = records.iter().filter(in_share).count() as u64;
    assert_eq!(count("calls"), all, "{mitigation:#}");
    // The share is looked at only once the route is known.
    let unknown = count("no_route");
    let acted = count("applied") + count("exhausted");
    assert!(
        acted <= mine && acted + unknown >= mine,
        "{mine}: {mitigation:#}"
    );
    let others = count("other_share");
    let theirs = all - mine;
    assert!(
        others <= theirs && others + unknown >= theirs,
        "{mitigation:#}"
    );
    assert_eq!(mitigation["verdict"]["outcome"], "too-little");
    Ok(())
}

/// Runs wrk with this number of connections in a cgroup, against nginx.
fn wrk(cgroup: &Cgroup, connections: u32) -> Result<Ended> {
    let mut line = Command::new("sh");
    let url = format!("http://127.0.0.1:{}/kept", nginx::PORT);
    line.arg("-c").arg(format!(
        "echo $$ > {}/cgroup.procs; exec wrk -t2 -c{connections} -d1s {url}",
        cgroup.0.display()
    ));
    let ended = Process::start(line)?.end()?.successful()?;
    ensure!(!ended.stdout.contains("Socket errors"), "{ended}");
    Ok(ended)
}

fn wrk_in_a_cgroup_is_mitigated((): ()) -> Result<()> {
    let cgroup = Cgroup::create("wrk")?;
    let _nginx = Nginx::start()?;
    let _range = Range::read()?.set(20_000, 20_999)?;
    let socket = temporary("mitigate");
    let process = select(&cgroup, &always(&socket))?;
    wrk(&cgroup, 10)?;
    acting(&socket)?;
    wrk(&cgroup, 800)?;
    let (report, _) = ended(process)?;
    let mitigation = &report["mitigation"];
    assert_eq!(mitigation["refused"], 0, "{mitigation:#}");
    assert!(mitigation["applied"].as_u64() > Some(700), "{mitigation:#}");
    let bound = report["strategies"].as_array().into_iter().flatten();
    let bound = bound.filter(|one| one["strategy"] == "explicit-port");
    let calls: u64 = bound
        .filter_map(|one| one["connect"]["count"].as_u64())
        .sum();
    assert_eq!(Some(calls), mitigation["applied"].as_u64(), "{report:#}");
    Ok(())
}

fn the_metrics_are_those_of_the_report((): ()) -> Result<()> {
    let cgroup = Cgroup::create("measured")?;
    let socket = temporary("mitigate");
    let process = select(&cgroup, &format!("--share 50% {}", always(&socket)))?;
    known(&cgroup, &socket)?;
    cgroup.truth("threads 30000-31999 --set-range --threads 4 --count 100")?;
    let metrics = until("no call is in flight", || {
        let metrics = Metrics::parse(&get(&socket, "/metrics")?.body)?;
        let at_rest = metrics.sum("connect_trace_in_flight", &[]) == 0.0;
        Ok((at_rest && metrics.calls() >= 420.0).then_some(metrics))
    })?;
    let (report, _) = ended(process)?;
    let mitigation = &report["mitigation"];
    for (name, labels, field) in [
        ("decisions", r#"decision="applied""#, "applied"),
        ("decisions", r#"decision="other_share""#, "other_share"),
        ("decisions", r#"decision="no_route""#, "no_route"),
        ("ports", r#"result="tested""#, "ports_tested"),
        ("ports", r#"result="taken""#, "ports_taken"),
    ] {
        let value = metrics.sum(&format!("connect_trace_mitigation_{name}_total"), &[labels]);
        assert_eq!(
            Some(value),
            mitigation[field].as_f64(),
            "{labels}: {mitigation:#}"
        );
    }
    for (arm, number) in [("mitigated", 0), ("unmitigated", 1)] {
        let label = format!("arm=\"{arm}\"");
        let name = "connect_trace_mitigation_connect_duration_seconds_count";
        let count = metrics.sum(name, &[&label]);
        let reported = mitigation["arms"][number]["connect"]["count"].as_f64();
        assert_eq!(Some(count), reported, "{mitigation:#}");
    }
    Ok(())
}

fn addresses_are_used_in_turn((): ()) -> Result<()> {
    let cgroup = Cgroup::create("addressed")?;
    let socket = temporary("mitigate");
    let strategy = "addresses --addresses 127.0.0.7,127.0.0.8";
    let process = mitigate(&cgroup, &format!("{} {strategy}", always(&socket)))?;
    known(&cgroup, &socket)?;
    let records = cgroup.truth("exhaust 32000-32999 --set-range")?;
    let (report, ended) = ended(process)?;
    let sources = records.iter().filter_map(|record| record.outcome.as_ref());
    let mut counts = [0_u64; 3];
    for outcome in sources {
        let place = match outcome.local.ip().to_string().as_str() {
            "127.0.0.7" => 1,
            "127.0.0.8" => 2,
            _ => 0,
        };
        counts[place] += 1;
    }
    let mitigation = &report["mitigation"];
    assert_eq!(counts[0], 0, "{ended}");
    assert!(counts[1] > 300 && counts[2] > 300, "{counts:?}: {ended}");
    let applied = mitigation["applied"].as_u64().context("applied")?;
    assert!((1_000..=1_000 + CALLS as u64).contains(&applied), "{ended}");
    Ok(())
}

fn a_mitigation_goes_on_if_its_reports_are_refused((): ()) -> Result<()> {
    let cgroup = Cgroup::create("refused")?;
    if !has_select_test_repeat() {
        return Err(Lacking("SO_REUSEADDR for programs").into());
    }
    let mut line = Command::new("sh");
    line.args([
        "-c",
        r#"exec connect-trace mitigate --cgroup "$0" -i 300ms $1 select-test-repeat >/dev/full"#,
    ]);
    let socket = temporary("mitigate");
    line.arg(&cgroup.0).arg(always(&socket));
    let mut process = Process::start(line)?;
    process.wait_for_stderr("no more reports are printed")?;
    known(&cgroup, &socket)?;
    let records = cgroup.truth("exhaust 34000-34999 --set-range")?;
    assert!(before_odd(&records)? < 50, "it goes on");
    process.signal(libc::SIGINT)?;
    let ended = process.end()?.successful()?;
    assert_eq!(
        ended.stderr.matches("no more reports").count(),
        1,
        "{ended}"
    );
    Ok(())
}

fn full_range_is_refused_or_helps((): ()) -> Result<()> {
    let cgroup = Cgroup::create("ranged")?;
    let ended = Process::start(command(&cgroup, "-d 1 full-range"))?.end()?;
    if ended.status.success() {
        return Ok(());
    }
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert!(ended.stderr.contains("IP_LOCAL_PORT_RANGE"), "{ended}");
    assert!(ended.stderr.contains("connect-trace try"), "{ended}");
    Ok(())
}

fn a_mitigation_ends_with_its_cgroup((): ()) -> Result<()> {
    let cgroup = Cgroup::create("short-lived")?;
    let mut process = select(&cgroup, "")?;
    fs::remove_dir(&cgroup.0)?;
    fs::create_dir(&cgroup.0)?;
    process.wait_for_stderr("/short-lived was removed")?;
    let ended = process.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert_eq!(Lines::of(&ended)?.reports.len(), 1, "{ended}");
    Ok(())
}
