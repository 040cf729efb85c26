//! The service, `connect-trace serve`: its account while it runs, while it reloads its options, and within its budget.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use connect_trace::probes::attach::AttachMode;
use serde_json::Value;

use crate::{
    Test,
    process::until,
    program::attach,
    service::{Metrics, Namespace, Service, temporary},
    truth::{Truth, truth},
};

pub const TESTS_OF_MODES: &[Test<AttachMode>] = crate::tests![
    OldestAndNewest: [
        a_reload_changes_the_filters_and_no_counter_goes_back,
    ],
];

pub const TESTS: &[Test<()>] = crate::tests![
    OldestAndNewest: [
        every_call_is_in_the_metrics_and_no_reading_of_them,
        calls_that_both_filters_select_are_not_lost_by_a_reload,
        a_budget_is_kept_without_detaching,
        a_budget_comes_and_goes_by_a_reload,
    ],
    Oldest: [
        every_filter_can_be_changed_by_a_reload,
        a_bad_file_keeps_the_old_filters,
    ],
];

const CALLS: &str = "connect_trace_connects_total";

/// A service with a configuration file.
struct Configured {
    service: Service,
    file: PathBuf,
}

impl Configured {
    fn start(content: &str, arguments: &str) -> Result<Self> {
        let file = temporary("toml");
        fs::write(&file, content)?;
        let service = Service::start(&format!("--config {} {arguments}", file.display()))?;
        Ok(Self { service, file })
    }

    /// Writes the file and sends SIGHUP; waits until the service says `answer` once more.
    fn reload(&mut self, content: &str, answer: &str) -> Result<()> {
        fs::write(&self.file, content)?;
        self.service.reload(answer)
    }

    /// Waits until the service has counted this number of calls since an earlier reading, and checks that it counts no
    /// other and that no counter went back.
    fn counted(&self, earlier: &mut Metrics, expected: usize) -> Result<()> {
        let expected = expected as f64;
        let now = self.service.metrics()?;
        now.ensure_not_before(earlier)?;
        let more = now.calls() - earlier.calls();
        anyhow::ensure!(more == expected, "{more} calls instead of {expected}");
        *earlier = now;
        Ok(())
    }

    fn end(self) -> Result<()> {
        fs::remove_file(&self.file)?;
        self.service.end()?;
        Ok(())
    }
}

fn every_call_is_in_the_metrics_and_no_reading_of_them((): ()) -> Result<()> {
    let service = Service::start("")?;
    // The ring buffer is read for the first time after a moment.
    until("the service is healthy", || {
        Ok((service.get("/healthz")?.status == 200).then_some(()))
    })?;
    let before = service.metrics()?;
    assert_eq!(before.calls(), 0.0);
    truth("v4 --count 30")?;
    truth("v6 --count 11")?;
    let after = service.metrics()?;
    after.ensure_not_before(&before)?;
    assert_eq!(after.sum(CALLS, &["network_type=\"ipv4\""]), 30.0);
    assert_eq!(after.sum(CALLS, &["network_type=\"ipv6\""]), 11.0);
    assert_eq!(after.calls(), 41.0);
    let page = service.get_through_tcp("/metrics")?;
    assert!(page.head.contains("text/plain"), "{page:?}");
    service.metrics_when("the reading through TCP is counted", |metrics| {
        metrics.calls() == 42.0
    })?;
    service.end()?;
    Ok(())
}

fn a_reload_changes_the_filters_and_no_counter_goes_back(mode: AttachMode) -> Result<()> {
    let mut configured = Configured::start("ipv4 = true\n", attach(mode))?;
    let pid = configured.service.process.pid();
    let mut seen = configured.service.metrics()?;
    truth("v4 --count 21")?;
    truth("v6 --count 12")?;
    configured.counted(&mut seen, 21)?;
    // The other way round, in the middle of a workload that neither selects.
    let other = Truth::start("rate --threads 1 --seconds 600")?;
    configured.reload(
        "ipv6 = true\ncomm = \"truth\"\n",
        "Reloaded: comm truth (before: none); ",
    )?;
    // Calls that the old filters let in have returned.
    let mut seen = configured.service.metrics_at_rest()?;
    truth("v4 --count 5")?;
    truth("v6 --count 17")?;
    configured.counted(&mut seen, 17)?;
    drop(other);
    configured.reload("", "Reloaded: comm none (before: truth); ")?;
    let mut seen = configured.service.metrics()?;
    truth("v4 --count 8")?;
    truth("v6 --count 9")?;
    configured.counted(&mut seen, 17)?;
    assert_eq!(configured.service.process.pid(), pid);
    assert!(!configured.service.process.has_ended()?);
    let account = seen.sum("connect_trace_account_complete", &[]);
    assert_eq!(account, 1.0, "{seen:?}");
    configured.end()
}

fn every_filter_can_be_changed_by_a_reload((): ()) -> Result<()> {
    let namespace = Namespace::name("reload")?;
    let mut configured = Configured::start("", "")?;
    let mut seen = configured.service.metrics()?;
    let held = Truth::hold("v4 --count 6")?;
    // Of each filter, one that selects the calls of `truth v4`, and another that does not.
    let pid = held.pid();
    let own = std::process::id();
    for (right, wrong) in [
        ("uid = 0".to_owned(), "uid = [1000, 1001]".to_owned()),
        (
            "comm = [\"a\", \"truth\"]".to_owned(),
            "comm = \"a\"".to_owned(),
        ),
        (
            format!("netns = \"{}\"", namespace.path().display()),
            "netns = \"/proc/self/ns/net\"\ncomm = \"b\"".to_owned(),
        ),
        ("dport = \"1-65535\"".to_owned(), "dport = 1".to_owned()),
        (
            "daddr = [\"127.0.0.0/8\", \"fd00::/8\"]".to_owned(),
            "daddr = \"10.0.0.0/8\"".to_owned(),
        ),
        ("ipv4 = true".to_owned(), "ipv6 = true".to_owned()),
        (
            "min-latency = \"1ns\"".to_owned(),
            "failed = true".to_owned(),
        ),
        (
            format!("pid = [{pid}, {own}]\nuid = 0"),
            format!("pid = {own}"),
        ),
    ] {
        configured.reload(&wrong, "Reloaded: ")?;
        truth("v4 --count 4")?;
        configured
            .counted(&mut seen, 0)
            .with_context(|| wrong.clone())?;
        configured.reload(&right, "Reloaded: ")?;
        if right.starts_with("pid") {
            break;
        }
        truth("v4 --count 4")?;
        configured
            .counted(&mut seen, 4)
            .with_context(|| right.clone())?;
    }
    truth("v4 --count 4")?;
    configured
        .counted(&mut seen, 0)
        .context("of another process")?;
    held.release()?;
    held.end()?;
    configured.counted(&mut seen, 6).context("of the process")?;
    configured.end()
}

/// Returns the number of programs that the kernel skipped, in each of which it may have hidden a call: a kernel that preempts
/// does so while another thread of that CPU was stopped inside a program, or in a system call on a map.
fn skipped(metrics: &Metrics) -> f64 {
    metrics.sum("connect_trace_kernel_misses_total", &["kind=\"recursion\""])
}

fn calls_that_both_filters_select_are_not_lost_by_a_reload((): ()) -> Result<()> {
    const NEITHER: &str = "comm = \"truth\"\ndport = \"1-65535\"\nuid = 0\n";
    const OTHER: &str = "comm = [\"truth\", \"a\"]\ndaddr = \"127.0.0.0/8\"\nipv4 = true\n";
    let mut configured = Configured::start(NEITHER, "")?;
    let before = configured.service.metrics()?;
    let load = Truth::start("rate --threads 2 --seconds 8")?;
    let mut seen = before.clone();
    for content in [OTHER, NEITHER].into_iter().cycle().take(10) {
        configured.reload(content, "Reloaded: ")?;
        let now = configured.service.metrics()?;
        now.ensure_not_before(&seen)?;
        seen = now;
    }
    let made = load.calls()? as f64;
    let after = configured
        .service
        .metrics_when("all calls are read", |metrics| {
            let unread = made - (metrics.calls() - before.calls());
            (0.0..=skipped(metrics)).contains(&unread)
        });
    let after = after.with_context(|| format!("{made} calls were made"))?;
    assert_eq!(
        after.sum(
            "connect_trace_connect_calls_total",
            &["outcome=\"left_out\""]
        ),
        0.0
    );
    configured.end()
}

fn a_bad_file_keeps_the_old_filters((): ()) -> Result<()> {
    let mut configured = Configured::start("ipv4 = true\n", "")?;
    let mut seen = configured.service.metrics()?;
    for (bad, message) in [
        (
            "ipv6 = true\nmax_overhead = \"1%\"\n",
            "did you mean `max-overhead`?",
        ),
        ("ipv6 = ", "the options before stay in force"),
        (
            "ipv6 = true\nuid = \"nobody-of-this-name\"\n",
            "no such user",
        ),
        (
            "comm = \"\\u0000\"\nipv6 = true\nring-buffer = \"3M\"\n",
            "power of two",
        ),
    ] {
        configured.reload(bad, message)?;
        truth("v4 --count 3")?;
        truth("v6 --count 2")?;
        configured
            .counted(&mut seen, 3)
            .with_context(|| bad.to_owned())?;
    }
    let many: Vec<String> = (0..600).map(|uid| uid.to_string()).collect();
    configured.reload(&format!("uid = [{}]\n", many.join(", ")), "do not fit")?;
    truth("v6 --count 2")?;
    configured.counted(&mut seen, 0)?;
    let late = "ipv6 = true\nattach = \"kprobe\"\nlisten = \"127.0.0.1:1\"\n";
    configured.reload(late, "needs a restart of the service: attach\n")?;
    truth("v4 --count 3")?;
    truth("v6 --count 2")?;
    configured.counted(&mut seen, 2)?;
    fs::remove_file(&configured.file)?;
    configured.service.process.signal(libc::SIGHUP)?;
    configured.service.process.wait_for_stderr("No such file")?;
    truth("v6 --count 2")?;
    configured.counted(&mut seen, 2)?;
    configured.service.end()?;
    Ok(())
}

/// Returns the JSON of the last interval.
fn report(service: &Service) -> Result<Value> {
    let page = until("the first interval has ended", || {
        Ok(Some(service.get("/report")?).filter(|page| page.status == 200))
    })?;
    serde_json::from_str(&page.body).context(page.body)
}

fn a_budget_is_kept_without_detaching((): ()) -> Result<()> {
    // A limit below the cost of polling the ring buffer.
    let mut service = Service::start("--max-overhead 0.001% --interval 0.5")?;
    let load = Truth::start("rate --threads 2 --seconds 600")?;
    let mut seen = service.metrics()?;
    for step in [
        "from now on: records of 1 connect() in 64",
        "from now on: no call is looked at",
        "calls are looked at again; from now on: records of 1 connect() in 64",
    ] {
        service.process.wait_for_stderr(step)?;
        let now = service.metrics()?;
        now.ensure_not_before(&seen)?;
        seen = now;
    }
    drop(load);
    let report = until("a report of the time without a look", || {
        let report = report(&service)?;
        let blind = report["accounting"]["blind_ns"].as_u64().unwrap_or(0);
        Ok((blind > 0).then_some(report))
    })?;
    let account = &report["accounting"];
    assert_eq!(account["adds_up"], true, "{account:#}");
    assert_eq!(account["complete"], false, "{account:#}");
    assert!(account["unsampled"].as_u64() > Some(0), "{account:#}");
    let now = service.metrics()?;
    now.ensure_not_before(&seen)?;
    assert_eq!(now.sum("connect_trace_account_complete", &[]), 0.0);
    let ended = service.end()?;
    assert!(!ended.stderr.contains("attached again"), "{ended}");
    Ok(())
}

fn a_budget_comes_and_goes_by_a_reload((): ()) -> Result<()> {
    let mut configured = Configured::start("", "")?;
    let mut seen = configured.service.metrics()?;
    let load = Truth::start("rate --threads 2 --seconds 600")?;
    configured.reload(
        "max-overhead = \"0.001%\"\n",
        "Reloaded: max-overhead 0.001% (before: none).",
    )?;
    configured
        .service
        .process
        .wait_for_stderr("from now on: no call is looked at")?;
    configured.reload("max-overhead = \"500%\"\n", "Reloaded: max-overhead 500%")?;
    configured
        .service
        .process
        .wait_for_stderr("from now on: everything as requested")?;
    configured.reload(
        "max-overhead = \"0.001%\"\n",
        "Reloaded: max-overhead 0.001%",
    )?;
    configured.reload("", "Reloaded: max-overhead none (before: 0.001%).")?;
    drop(load);
    let now = configured.service.metrics()?;
    now.ensure_not_before(&seen)?;
    seen = now;
    truth("v4 --count 14")?;
    configured.counted(&mut seen, 14)?;
    assert_eq!(seen.sum("connect_trace_sample_every", &[]), 1.0, "{seen:?}");
    configured.end()
}
