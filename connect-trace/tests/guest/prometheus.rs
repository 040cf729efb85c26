//! Debian's Prometheus scrapes two services, each of which traces a network namespace as if that were a host, and gives
//! by PromQL what the program `truth` knows of its connections there.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use connect_trace_guest::truth::{Explicit, Family, Record};
use serde_json::Value;

use crate::{
    Test,
    output::Lines,
    process::{Process, until},
    program::tracing,
    truth::Truth,
};

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [
        prometheus_gives_the_truth_of_two_hosts,
    ],
];

/// The rules that are shipped, of which Prometheus makes series and alerts.
const RULES: &str = include_str!("../../../packaging/prometheus/connect-trace.rules.yml");

const FOLDER: &str = "/tmp/prometheus";

/// Address of Prometheus.
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9_090);

/// The descriptor at which systemd passes the first socket.
const PASSED: RawFd = 3;

/// A network namespace with a service in it: a host of a fleet.
struct Host {
    /// Keeps the namespace.
    _namespace: Process,
    /// Id of the process that keeps the namespace.
    inside: String,
    service: Process,
    /// Address of the service, of the namespace that Prometheus is in.
    address: String,
}

impl Host {
    /// Starts the service in a namespace of its own, with a listener that it takes as systemd would pass it: in the
    /// namespace of the test, where Prometheus can reach it.
    fn start() -> Result<Self> {
        let mut command = Command::new("unshare");
        let script = "ip link set lo up && echo up >&2 && exec sleep 100000";
        command.args(["-n", "sh", "-c", script]);
        let mut namespace = Process::start(command)?;
        namespace.wait_for_stderr("up")?;
        let inside = namespace.pid().to_string();

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?.to_string();
        let script = format!(
            "LISTEN_FDS=1 LISTEN_PID=$$ exec connect-trace serve --netns {inside} --interval 1 --metrics-routes 5"
        );
        let mut command = enter(&inside);
        command.args(["sh", "-c", &script]);
        let fd = listener.as_raw_fd();
        // SAFETY: between fork and exec this closure calls fcntl and dup2 alone, which are safe to call there; the
        // descriptor is open, as the listener lives until the process has started.
        unsafe {
            command.pre_exec(move || {
                let result = if fd == PASSED {
                    libc::fcntl(fd, libc::F_SETFD, 0)
                } else {
                    libc::dup2(fd, PASSED)
                };
                if result < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let mut service = Process::start(command)?;
        service.wait_for_stderr("Serving on")?;
        Ok(Self {
            _namespace: namespace,
            inside,
            service,
            address,
        })
    }

    /// Runs cases of `truth` in the namespace, one after the other.
    fn truth(&self, cases: &[&str]) -> Result<Vec<Record>> {
        let records = cases.iter().map(|case| {
            let mut command = enter(&self.inside);
            command.arg("truth").args(case.split_whitespace());
            let truth = Truth::hold_command(command)?;
            truth.release()?;
            truth.end()
        });
        Ok(records.collect::<Result<Vec<_>>>()?.concat())
    }
}

/// Returns the beginning of a command that runs in the network namespace of a process.
fn enter(pid: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", pid, "-n"]);
    command
}

/// A running Prometheus.
struct Prometheus {
    _process: Process,
}

impl Prometheus {
    /// Starts it with a job that has these hosts, each in a pool of its own, and waits until it has scraped both.
    fn start(hosts: &[Host]) -> Result<Self> {
        fs::create_dir_all(FOLDER).with_context(|| format!("cannot create {FOLDER}"))?;
        let mut configuration = String::from(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n\
             rule_files: [connect-trace.rules.yml]\n\
             scrape_configs:\n- job_name: connect-trace\n  static_configs:\n",
        );
        for (pool, host) in hosts.iter().enumerate() {
            configuration += &format!(
                "  - {{targets: ['{}'], labels: {{pool: pool{pool}}}}}\n",
                host.address
            );
        }
        for (name, text) in [
            ("connect-trace.rules.yml", RULES),
            ("prometheus.yml", configuration.as_str()),
        ] {
            let path = format!("{FOLDER}/{name}");
            fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
        }
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={FOLDER}/prometheus.yml"))
            .arg(format!("--storage.tsdb.path={FOLDER}/data"))
            .arg(format!("--web.listen-address={}:{}", SERVER.0, SERVER.1));
        let mut process = Process::start(command)?;
        process.wait_for_stderr("Server is ready to receive web requests")?;
        let prometheus = Self { _process: process };
        prometheus.until("sum(up)", hosts.len() as f64)?;
        Ok(prometheus)
    }

    /// Returns the samples that a query gives, each with its labels.
    fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let mut stream = TcpStream::connect(SERVER).context("Prometheus")?;
        let path: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        write!(
            stream,
            "GET /api/v1/query?query={path} HTTP/1.0\r\nHost: prometheus\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("HTTP")?;
        let json: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        ensure!(json["status"] == "success", "{query}: {body}");
        let samples = json["data"]["result"].as_array().context("a vector")?;
        let samples = samples.iter().map(|sample| {
            let value = sample["value"][1].as_str().context("a value")?;
            Ok((sample["metric"].clone(), value.parse()?))
        });
        samples.collect()
    }

    /// Returns the only sample that a query gives.
    fn one(&self, query: &str) -> Result<f64> {
        match self.query(query)?.as_slice() {
            [(_, value)] => Ok(*value),
            samples => bail!("{query} gives {samples:?}"),
        }
    }

    /// Fails unless the query gives this number.
    fn assert(&self, query: &str, expected: f64) -> Result<()> {
        let found = self.one(query)?;
        ensure!(found == expected, "{query}: {found} and not {expected}");
        Ok(())
    }

    /// Waits until the query gives this number.
    fn until(&self, query: &str, expected: f64) -> Result<()> {
        let mut last = Vec::new();
        let waited = until(query, || {
            last = self.query(query)?;
            Ok(matches!(last[..], [(_, value)] if value == expected).then_some(()))
        });
        waited.with_context(|| format!("{expected} expected, {last:?} found"))
    }
}

/// A number that a workload knows of its records, and that a query gives.
struct Fact {
    query: &'static str,
    of: fn(&[Record]) -> usize,
}

const FACTS: [Fact; 6] = [
    Fact {
        query: "connect_trace_connects_total",
        of: <[Record]>::len,
    },
    Fact {
        query: "connect_trace_connects_total{error_type='EADDRNOTAVAIL'}",
        of: |records| count(records, failed),
    },
    Fact {
        query: "connect_trace_connects_total{network_type='ipv6'}",
        of: |records| count(records, |record| record.family == Family::V6),
    },
    Fact {
        query: "connect_trace_port_searches_total{pass='exhausted'}",
        of: |records| count(records, |record| searches(record) && failed(record)),
    },
    Fact {
        query: "connect_trace_port_searches_total{pass='second'}",
        of: |records| count(records, is_of_second_pass),
    },
    Fact {
        query: "connect_trace_connect_duration_seconds_count{parity='none'}",
        of: |records| count(records, |record| !searches(record) || failed(record)),
    },
];

fn count(records: &[Record], is: impl Fn(&Record) -> bool) -> usize {
    records.iter().filter(|record| is(record)).count()
}

fn errno(record: &Record) -> Option<i32> {
    record
        .outcome
        .as_ref()
        .and_then(|outcome| outcome.kernel_errno)
}

fn failed(record: &Record) -> bool {
    errno(record) == Some(libc::EADDRNOTAVAIL)
}

/// Returns whether the kernel searches for a port.
fn searches(record: &Record) -> bool {
    matches!(record.explicit, Explicit::None | Explicit::Address)
}

/// Returns whether the search found an odd port: the ranges of the workloads begin with an even one.
fn is_of_second_pass(record: &Record) -> bool {
    let port = record
        .outcome
        .as_ref()
        .map_or(0, |outcome| outcome.local.port());
    searches(record) && errno(record) == Some(0) && port % 2 == 1
}

fn prometheus_gives_the_truth_of_two_hosts(_: ()) -> Result<()> {
    let hosts = [Host::start()?, Host::start()?];
    let prometheus = Prometheus::start(&hosts)?;
    // Counters that Prometheus has seen at zero: only then has it seen all of their increase.
    prometheus.until(
        "count(connect_trace_connects_total{error_type='EADDRNOTAVAIL'} == 0)",
        20.0,
    )?;
    let [one, other] = &hosts;
    let trace = tracing(&format!(
        "--format json --events --netns {} --netns {}",
        one.inside, other.inside
    ))?;
    let records = [
        hosts[0].truth(&[
            "exhaust 20000-20199 --set-range --extra 5",
            "taken --count 2",
        ])?,
        hosts[1].truth(&[
            "refused --count 40",
            "exhaust 20000-20099 --set-range --extra 3 --family 6",
        ])?,
    ];
    let both = records.concat();
    let all = both.len() as f64;
    prometheus.until("sum(connect_trace_connects_total)", all)?;
    for Fact { query, of } in FACTS {
        for (pool, records) in records.iter().enumerate() {
            let of_pool = format!("sum by (pool) ({query}) and on (pool) up{{pool='pool{pool}'}}");
            prometheus.assert(&of_pool, of(records) as f64)?;
        }
        ensure!(of(&both) > 0, "{query} tests nothing");
        prometheus.assert(&format!("sum({query})"), of(&both) as f64)?;
    }

    // Every call is accounted for, by the service and by its times.
    prometheus.assert("sum(connect_trace_connect_calls_total)", all)?;
    prometheus.assert(
        "sum(connect_trace_connect_calls_total{outcome=~'reported|summed'})",
        all,
    )?;
    prometheus.assert("sum(connect_trace_connect_duration_seconds_count)", all)?;
    prometheus.assert("min(connect_trace_account_complete)", 1.0)?;
    prometheus.assert("sum(connect_trace_label_overflow_total)", 0.0)?;
    prometheus.assert("sum(connect_trace_in_flight)", 0.0)?;

    // Each service knows its own namespace.
    prometheus.assert(
        "connect_trace_local_ports{kind='range',pool='pool0'}",
        200.0,
    )?;
    prometheus.assert(
        "connect_trace_local_ports{kind='range',pool='pool1'}",
        100.0,
    )?;
    prometheus.assert(
        "count(connect_trace_local_ports{kind='listening_in_range'})",
        2.0,
    )?;

    // The share of the second pass, by the rule that is shipped.
    for (pool, records) in records.iter().enumerate() {
        let query = format!("instance:connect_trace_second_pass:ratio_rate5m{{pool='pool{pool}'}}");
        let share = count(records, is_of_second_pass) as f64 / count(records, searches) as f64;
        until(&query, || {
            let found = prometheus.query(&query)?;
            Ok(matches!(found[..], [(_, value)] if (value - share).abs() < 1e-9).then_some(()))
        })
        .with_context(|| format!("{share} expected, {:?} found", prometheus.query(&query)))?;
    }
    prometheus.until(
        "count(ALERTS{alertname='ConnectTraceAddressNotAvailable',alertstate='firing'})",
        2.0,
    )?;
    prometheus.until(
        "count(ALERTS{alertname='ConnectTraceSecondPass',alertstate='pending'})",
        2.0,
    )?;
    prometheus.until(
        "count(ALERTS{alertname!~'ConnectTrace(AddressNotAvailable|SecondPass)'}) or vector(0)",
        0.0,
    )?;

    trace.signal(libc::SIGINT)?;
    let traced = Lines::of(&trace.end()?.successful()?)?;
    quantiles_are_in_their_buckets(&prometheus, &both, &traced)?;
    let [one, other] = hosts;
    for host in [one, other] {
        host.service.signal(libc::SIGTERM)?;
        host.service.end()?.successful()?;
    }
    Ok(())
}

/// Compares quantiles with the times of single calls by a trace of its own, whose programs ran beside those of the
/// services: they are in the same power of ten, unless they lie at its edge. And below each edge there are at least as many
/// calls as the callers say, who measured the way into the kernel and back too.
fn quantiles_are_in_their_buckets(
    prometheus: &Prometheus,
    records: &[Record],
    traced: &Lines,
) -> Result<()> {
    /// Factor by which a time may lie beyond an edge.
    const MARGIN: f64 = 1.25;
    let times = traced.events.iter().map(|event| {
        let ns = event["connect_ns"].as_u64();
        Ok(ns.with_context(|| event.to_string())? as f64 / 1e9)
    });
    let mut times: Vec<f64> = times.collect::<Result<_>>()?;
    times.sort_by(f64::total_cmp);
    ensure!(times.len() == records.len(), "{} events", times.len());
    let buckets = "sum by (le) (connect_trace_connect_duration_seconds_bucket)";
    for quantile in [0.1, 0.5, 0.9] {
        let exact = times[(times.len() as f64 * quantile).ceil() as usize - 1];
        let found = prometheus.one(&format!("histogram_quantile({quantile}, {buckets})"))?;
        let upper = 10_f64.powf(found.log10().ceil());
        let bucket = upper / 10.0 / MARGIN..=upper * MARGIN;
        ensure!(
            bucket.contains(&exact),
            "quantile {quantile}: {found}, {exact} traced"
        );
    }
    for (labels, found) in prometheus.query(buckets)? {
        let edge: f64 = labels["le"].as_str().context("le")?.parse()?;
        let is_below = |record: &Record| {
            let outcome = record.outcome.as_ref();
            outcome.is_some_and(|outcome| ((outcome.end_ns - record.start_ns) as f64) < edge * 1e9)
        };
        let least = count(records, is_below);
        ensure!(found >= least as f64, "{labels}: {found}, at least {least}");
    }
    Ok(())
}
