//! `connect-trace try` on every kernel: unmodified programs use a strategy, and notice nothing of it.

use std::{fs, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use connect_trace_guest::truth::Record;
use serde_json::Value;

use crate::{
    Lacking, Test,
    load::FullRange,
    nginx::{self, Nginx},
    process::{Ended, Process},
    truth::Range,
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        an_exhausted_range_is_cured_in_a_traced_comparison,
        a_strategy_that_the_kernel_refuses_is_named_with_the_kernels_that_have_it,
        threads_are_supervised_on_every_kernel,
    ],
    OldestAndNewest: [
        a_program_has_the_results_that_it_has_without_supervision,
    ],
    Newest: [
        nginx_as_a_proxy_connects_from_ports_of_both_parities,
        curl_wrk_and_asyncio_are_supervised,
        wrk_on_an_exhausted_range_is_cured_without_root,
    ],
];

const CONNECTIONS: &str = include_str!("clients/connections.py");
const PROXY: &str = include_str!("clients/proxy.conf");

/// File that reports are written to.
const REPORT: &str = "/tmp/try.json";

/// Addresses that every kernel can bind.
const ADDRESSES: &str = "addresses --addresses 127.0.0.2,127.0.0.3,::1";

/// Returns the strategies that the running kernel can carry out; the last one makes the program's calls, if it can.
fn strategies() -> Result<&'static [&'static str]> {
    Ok(match FullRange::here()? {
        FullRange::Refused => &[ADDRESSES],
        FullRange::KeepsStep | FullRange::RemovesStep => {
            &[ADDRESSES, "full-range", "window-retry-7"]
        }
    })
}

fn supervised(options: &str, command: &[&str]) -> Command {
    let mut line = Command::new("connect-trace");
    line.arg("try").args(options.split_whitespace());
    line.args(["--format", "json", "--output", REPORT, "--"]);
    line.args(command);
    line
}

/// Runs a command to its successful end, and returns its output and the report.
fn run(options: &str, command: &[&str]) -> Result<(Ended, Value)> {
    let ended = Process::start(supervised(options, command))?.end()?;
    Ok((ended.successful()?, read_report()?))
}

fn read_report() -> Result<Value> {
    let text = fs::read_to_string(REPORT).context(REPORT)?;
    serde_json::from_str(&text).context(text)
}

/// Returns the result of each call, except those whose number depends on what else happens.
fn results(text: &str) -> Result<Vec<String>> {
    let records = Record::parse_report(text)?;
    let fixed = records
        .iter()
        .filter(|record| !["threads", "dies"].contains(&record.case.as_str()));
    Ok(fixed
        .map(|record| {
            let errno = record.outcome.as_ref().map(|outcome| outcome.errno);
            let Record {
                case,
                family,
                explicit,
                ..
            } = record;
            format!("{case} {family:?} {explicit:?} {errno:?}")
        })
        .collect())
}

fn a_program_has_the_results_that_it_has_without_supervision((): ()) -> Result<()> {
    let _range = Range::read()?;
    let mut alone = Command::new("truth");
    alone.arg("all");
    let alone = results(&Process::start(alone)?.end()?.successful()?.stdout)?;
    ensure!(alone.len() > 300, "{} calls", alone.len());
    for &strategy in strategies()? {
        // More addresses would be more ports.
        let options = match strategy {
            ADDRESSES => "addresses --addresses 127.0.0.1,::1",
            strategy => strategy,
        };
        let (ended, report) = run(options, &["truth", "all"])?;
        let with = results(&ended.stdout)?;
        for (number, (without, with)) in alone.iter().zip(&with).enumerate() {
            assert_eq!(without, with, "{strategy}: call {number}");
        }
        assert_eq!(alone.len(), with.len(), "{strategy}");
        let supervision = &report["supervision"];
        assert_eq!(supervision["left_alone"]["forbidden"], 0, "{report}");
        // Before Linux 6.9, threads of the processes that are killed may be out of reach.
        assert!(supervision["set"].as_u64() > Some(100), "{report}");
    }
    Ok(())
}

fn an_exhausted_range_is_cured_in_a_traced_comparison((): ()) -> Result<()> {
    /// Number of ports of the range, and of connections.
    const PORTS: u64 = 500;
    let _range = Range::read()?;
    let effect = FullRange::here()?;
    let compared: &[&str] = match effect {
        FullRange::Refused => &["addresses"],
        FullRange::KeepsStep | FullRange::RemovesStep => &["full-range", "window-retry-50"],
    };
    let addresses = if effect == FullRange::Refused {
        "--addresses 127.0.0.2,127.0.0.3"
    } else {
        ""
    };
    let options = format!("--against default {} {addresses}", compared.join(" "));
    let command = ["truth", "exhaust", "20000-20499", "--set-range", "--quiet"];
    let (_, report) = run(&options, &command)?;
    let measured = report["measured"].as_str().unwrap_or_default();
    assert!(measured.starts_with("traced by "), "{measured}");
    assert!(measured.contains(", 0 of "), "{measured}");
    let of = |name: &str| {
        let strategies = report["strategies"].as_array();
        let mut strategies = strategies.into_iter().flatten();
        let found = strategies.find(|found| found["strategy"] == name);
        found.with_context(|| format!("no {name} in {report}"))
    };
    let default = of("default")?;
    let run = &default["runs"][0];
    assert_eq!(run["connections"], PORTS, "{report}");
    assert_eq!(run["before_odd"], PORTS / 2, "{report}");
    assert!(
        run["supervision"].is_null(),
        "it is as without connect-trace"
    );
    for name in compared {
        let strategy = of(name)?;
        let run = &strategy["runs"][0];
        let counts = (&run["connections"], &run["failed"]);
        assert_eq!(counts, (&PORTS.into(), &0.into()), "{report}");
        assert_eq!(run["supervision"]["set"], PORTS, "{report}");
        let price = &strategy["price"];
        let times = ["with_ns", "without_ns"].map(|name| price[name].as_u64());
        assert!(times[0] > times[1] && times[1] > Some(0), "{report}");
        let before_odd = run["before_odd"].as_u64();
        match *name {
            "full-range" => effect.assert_first_pass(before_odd.unwrap_or(0), PORTS, &report),
            "window-retry-50" => assert!(before_odd < Some(50), "{report}"),
            // Each of the two addresses has half of the ports.
            _ => assert_eq!(before_odd, None, "{report}"),
        }
    }
    Ok(())
}

fn a_strategy_that_the_kernel_refuses_is_named_with_the_kernels_that_have_it((): ()) -> Result<()> {
    let effect = FullRange::here()?;
    let ended = Process::start(supervised("full-range", &["echo", "run"]))?.end()?;
    match effect {
        FullRange::Refused => {
            assert_eq!(ended.status.code(), Some(1), "{ended}");
            assert!(ended.stderr.contains("6.1.32"), "{ended}");
            assert_eq!(ended.stdout, "", "the command is not run");
        }
        FullRange::KeepsStep => {
            assert!(ended.stderr.contains("full-range cannot help"), "{ended}");
            assert_eq!(ended.stdout, "run\n", "{ended}");
        }
        FullRange::RemovesStep => assert_eq!(ended.stderr, "", "{ended}"),
    }
    Ok(())
}

/// Before Linux 6.9, the descriptors of a thread are those of its process only if the kernel says so (kcmp).
fn threads_are_supervised_on_every_kernel((): ()) -> Result<()> {
    const SCRIPT: &str = "
import socket, threading
listener = socket.create_server(('127.0.0.1', 0), backlog=512)
ports = []
def connect():
    for _ in range(20):
        one = socket.create_connection(listener.getsockname())
        ports.append(one.getsockname())
threads = [threading.Thread(target=connect) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
for address, _ in ports: print(address)
";
    let (ended, report) = run(ADDRESSES, &["python3", "-c", SCRIPT])?;
    assert_eq!(ended.stdout.lines().count(), 160, "{ended}");
    assert_eq!(report["supervision"]["set"], 160, "{report}");
    let second = ended.stdout.lines().filter(|line| *line == "127.0.0.2");
    assert_eq!(second.count(), 80, "{ended}");
    Ok(())
}

/// Asserts that ports are as the strategy has them: of both parities, unless the kernel keeps the step.
fn assert_ports(strategy: &str, ports: &[u16]) -> Result<()> {
    let odd = ports.iter().filter(|&port| port % 2 == 1).count();
    let cured = strategy.starts_with("window")
        || strategy == "full-range" && FullRange::here()? == FullRange::RemovesStep;
    if cured {
        assert!(odd * 5 > ports.len(), "{strategy}: {ports:?}");
    } else {
        assert_eq!(odd, 0, "{strategy}: {ports:?}");
    }
    Ok(())
}

fn nginx_as_a_proxy_connects_from_ports_of_both_parities((): ()) -> Result<()> {
    const REQUESTS: usize = 60;
    let _nginx = Nginx::start()?;
    fs::create_dir_all("/tmp/proxy")?;
    let path = "/tmp/proxy/nginx.conf";
    fs::write(path, PROXY)?;
    for strategy in strategies()?.iter().rev().take(2) {
        let command = ["nginx", "-e", "stderr", "-c", path];
        let mut proxy = Process::start(supervised(strategy, &command))?;
        proxy.wait_for_stderr("getrlimit(RLIMIT_NOFILE)")?;
        let mut curl = Command::new("curl");
        let url = format!("http://127.0.0.1:8081/port?[1-{REQUESTS}]");
        curl.args(["--silent", "--fail", &url]);
        // The server behind the proxy says from which port the proxy connects.
        let ended = Process::start(curl)?.end()?.successful()?;
        let ports: Vec<u16> = ended
            .stdout
            .lines()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        assert_eq!(ports.len(), REQUESTS, "{ended}");
        assert_ports(strategy, &ports)?;
        proxy.signal(libc::SIGTERM)?;
        let ended = proxy.end()?.successful()?;
        assert_eq!(ended.stdout, "", "{ended}");
        assert_eq!(read_report()?["supervision"]["set"], REQUESTS);
    }
    Ok(())
}

fn wrk_on_an_exhausted_range_is_cured_without_root((): ()) -> Result<()> {
    /// A user without privileges.
    const NOBODY: u32 = 65_534;
    let effect = FullRange::here()?;
    if effect == FullRange::Refused {
        return Err(Lacking("IP_LOCAL_PORT_RANGE").into());
    }
    let _nginx = Nginx::start()?;
    let _range = Range::read()?.set(20_000, 20_499)?;
    let _ = fs::remove_file(REPORT);
    let url = format!("http://127.0.0.1:{}/kept", nginx::PORT);
    // Ports in TIME_WAIT are reused on the loopback after a second.
    let mut line = supervised(
        "--against --no-trace --pause 3s default full-range",
        &["wrk", "-t2", "-c400", "-d1s", &url],
    );
    line.uid(NOBODY).gid(NOBODY);
    let ended = Process::start(line)?.end()?.successful()?;
    let report = read_report()?;
    // Root may not write to the file of another user there.
    fs::remove_file(REPORT)?;
    let [default, full_range] = [0, 1].map(|number| &report["strategies"][number]["runs"][0]);
    // wrk first tries the server with one connection more, whose port is free again after a second in TIME_WAIT.
    let even_ports = default["before_odd"].as_u64();
    assert!(matches!(even_ports, Some(250 | 251)), "{report}");
    for run in [default, full_range] {
        assert_eq!(run["failed"], 0, "{report}");
        assert!(run["connections"].as_u64() >= Some(400), "{report}");
    }
    let before_odd = full_range["before_odd"].as_u64().context("before_odd")?;
    effect.assert_first_pass(before_odd, 500, &report);
    assert!(!ended.stdout.contains("Socket errors"), "{ended}");
    Ok(())
}

fn curl_wrk_and_asyncio_are_supervised((): ()) -> Result<()> {
    let nginx = Nginx::start()?;
    let port = nginx::PORT;
    for strategy in strategies()?.iter().rev().take(2) {
        let set = |report: &Value| report["supervision"]["set"].as_u64().unwrap_or(0);
        for host in ["127.0.0.1", "[::1]"] {
            let url = format!("http://{host}:{port}/[1-40]");
            let format = "%{local_port}\n";
            let command = ["curl", "-s", "-o", "/dev/null", "-w", format, &url];
            let (ended, report) = run(strategy, &command)?;
            let ports = ended.stdout.lines().map(str::parse);
            let ports: Vec<u16> = ports.collect::<Result<_, _>>()?;
            assert_eq!((ports.len(), set(&report)), (40, 40), "{report}");
            assert_ports(strategy, &ports)?;
        }

        let number = port.to_string();
        let command = [
            "python3",
            "-c",
            CONNECTIONS,
            &number,
            "100",
            "127.0.0.1",
            "::1",
        ];
        let (ended, report) = run(strategy, &command)?;
        let ports = ended
            .stdout
            .lines()
            .filter_map(|line| line.split(' ').nth(1));
        let ports: Vec<u16> = ports.map(str::parse).collect::<Result<_, _>>()?;
        assert_eq!((ports.len(), set(&report)), (200, 200), "{report}");
        assert_ports(strategy, &ports)?;

        const AT_ONCE: u64 = 16;
        let before = nginx.accepted()?;
        let url = format!("http://127.0.0.1:{port}/");
        let command = ["wrk", "-t2", "-c16", "-d1s", &url];
        let (ended, report) = run(strategy, &command)?;
        // Without the connection of the request itself.
        let accepted = nginx.accepted()? - before - 1;
        assert!(accepted > 50, "{ended}");
        assert!(!ended.stdout.contains("Socket errors: connect"), "{ended}");
        // At its end wrk may close sockets before the answers to their SYNs have come.
        let missing = set(&report).checked_sub(accepted);
        assert!(
            missing <= Some(AT_ONCE) && missing.is_some(),
            "{accepted}: {report}"
        );
    }
    Ok(())
}
