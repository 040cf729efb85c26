//! Strategies that try again, on every kernel: as the server sees them, with ports that are reserved, held by others or
//! taken by another process with the same strategy. And the setting of `compare --how nginx`.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    Test,
    load::FullRange,
    nginx::{self, Nginx},
    process::Process,
    program::connect_trace,
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        no_connection_fails_while_a_port_is_free,
        a_cursor_takes_one_try_for_each_connection,
        ports_that_are_reserved_or_held_by_others_are_left_alone,
        processes_with_the_same_strategy_share_a_range,
    ],
    OldestAndNewest: [
        random_steps_are_a_setting_of_the_private_network,
        nginx_connects_from_two_addresses_and_takes_no_port_for_itself_alone,
    ],
];

/// The strategies that never fail below exhaustion, on the running kernel.
fn strategies() -> Result<Vec<&'static str>> {
    let windows = match FullRange::here()? {
        FullRange::Refused => &[][..],
        _ => &["window-retry", "window-cursor"],
    };
    Ok([windows, &["cursor"]].concat())
}

/// Makes a run in a private namespace with 400 ports.
fn run_of(arguments: &str) -> Result<Value> {
    let fixed = "load --range 20000-20399 --format json";
    let ended = Process::start(connect_trace(&format!("{fixed} {arguments}")))?.end()?;
    serde_json::from_str(&ended.stdout).with_context(|| ended.to_string())
}

fn no_connection_fails_while_a_port_is_free((): ()) -> Result<()> {
    for strategy in strategies()? {
        for more in ["", " -6 --threads 8", " --protocol udp"] {
            if strategy != "cursor" && more.ends_with("udp") {
                continue;
            }
            let run = run_of(&format!("{strategy}{more}"))?;
            let count = |group: &str| run[group]["connect"]["count"].as_u64();
            // A port that was given out twice would leave another one unused.
            ensure!(
                run["errors"] == 0 && count("even") == Some(200) && count("odd") == Some(200),
                "{strategy}{more}: {run}"
            );
        }
    }
    Ok(())
}

fn random_steps_are_a_setting_of_the_private_network((): ()) -> Result<()> {
    let setting = "/proc/sys/net/ipv4/ip_local_port_step_width";
    let Ok(before) = fs::read_to_string(setting) else {
        let ended = Process::start(connect_trace("load step-width"))?.end()?;
        ensure!(
            ended.status.code() == Some(1) && ended.stderr.contains("from Linux 7.1"),
            "{ended}"
        );
        return Ok(());
    };
    // Each search takes a port of the first parity while there is one, and all ports in the end.
    for more in ["", " --step-width 7 --threads 4", " -6"] {
        let run = run_of(&format!("step-width{more}"))?;
        let count = |group: &str| run[group]["connect"]["count"].as_u64();
        ensure!(
            run["errors"] == 0 && count("even") == Some(200) && count("odd") == Some(200),
            "{more}: {run}"
        );
        // Connections of several threads end in another order than they found their ports.
        let is_in_order = !more.contains("--threads");
        ensure!(
            !is_in_order || run["first_pass_connections"] == 200,
            "{more}: {run}"
        );
    }
    ensure!(
        fs::read_to_string(setting)? == before,
        "of another namespace"
    );
    let ended =
        Process::start(connect_trace("load step-width --target 127.0.0.1:9 --yes"))?.end()?;
    ensure!(
        ended.status.code() == Some(2) && ended.stderr.contains("does not change"),
        "{ended}"
    );
    Ok(())
}

fn a_cursor_takes_one_try_for_each_connection((): ()) -> Result<()> {
    let run = run_of("cursor --threads 8")?;
    ensure!(run["tries"] == 400 && run["most_tries"] == 1, "{run}");
    // The other end of a connection may be closed later than its port comes again, which is then taken still.
    let run = run_of("cursor --close --until-occupancy 5% -c 4000")?;
    let tries = run["tries"].as_u64().context("a number")?;
    ensure!(run["errors"] == 0 && tries < 8000, "{run}");
    Ok(())
}

/// A setting of the kernel, restored on drop.
struct Setting {
    path: String,
    before: String,
}

impl Setting {
    fn new(name: &str, value: &str) -> Result<Self> {
        let path = format!("/proc/sys/net/ipv4/{name}");
        let before = fs::read_to_string(&path).context(path.clone())?;
        fs::write(&path, value).context(path.clone())?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.before);
    }
}

/// Returns the ports of the clients, in the order in which they come. They stay open until the clients close them.
fn serve(port: u16, clients: usize) -> Result<thread::JoinHandle<Result<Vec<u16>>>> {
    let server = TcpListener::bind(loopback(port))?;
    Ok(thread::spawn(move || {
        let mut held = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..clients {
            let (stream, peer) = server.accept()?;
            ports.push(peer.port());
            held.push(stream);
        }
        for mut stream in held {
            // Ends when the client has closed its connection, perhaps by a reset.
            let _ = stream.read(&mut [0]);
        }
        Ok(ports)
    }))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Starts a run in the present network. It connects once more, before it begins.
fn run_to(port: u16, strategy: &str, connections: usize) -> Result<Process> {
    let target = loopback(port);
    Process::start(connect_trace(&format!(
        "load {strategy} --target {target} --yes -c {connections} --format json"
    )))
}

fn ends_without_errors(run: Process) -> Result<()> {
    let ended = run.end()?;
    let run: Value = serde_json::from_str(&ended.stdout).with_context(|| ended.to_string())?;
    ensure!(run["errors"] == 0, "{run}");
    Ok(())
}

/// Returns the strategies, each with a server's port and 400 ports of its own: a port that one of them has bound is no
/// port for a search, and the other way round, for any destination and in TIME_WAIT too.
fn with_ports(server: u16) -> Result<impl Iterator<Item = (&'static str, u16, u16)>> {
    let strategies = strategies()?.into_iter().zip(0..);
    Ok(
        strategies
            .map(move |(strategy, number)| (strategy, server + number, 20_000 + number * 400)),
    )
}

fn range_of(low: u16) -> Result<Setting> {
    Setting::new("ip_local_port_range", &format!("{low} {}", low + 399))
}

fn ports_that_are_reserved_or_held_by_others_are_left_alone((): ()) -> Result<()> {
    for (strategy, port, low) in with_ports(19_001)? {
        let _range = range_of(low)?;
        let reserved = format!("{}-{}", low + 100, low + 199);
        let _reserved = Setting::new("ip_local_reserved_ports", &reserved)?;
        let _others: Vec<TcpListener> = (low + 200..low + 250)
            .map(|port| TcpListener::bind(loopback(port)))
            .collect::<Result<_, _>>()?;
        let free: Vec<u16> = (low..low + 100).chain(low + 250..low + 400).collect();
        let server = serve(port, free.len())?;
        ends_without_errors(run_to(port, strategy, free.len() - 1)?).context(strategy)?;
        let mut seen = server.join().expect("it does not panic")?;
        seen.sort_unstable();
        ensure!(seen == free, "{strategy}: {seen:?}");
    }
    Ok(())
}

fn processes_with_the_same_strategy_share_a_range((): ()) -> Result<()> {
    for (strategy, port, low) in with_ports(19_011)? {
        // Other ports than those of the test above.
        let _range = range_of(low + 2000)?;
        let server = serve(port, 400)?;
        // If one of them ends before the other, its ports are in TIME_WAIT.
        let runs = [run_to(port, strategy, 199)?, run_to(port, strategy, 199)?];
        for run in runs {
            ends_without_errors(run).context(strategy)?;
        }
        server.join().expect("it does not panic")?;
    }
    Ok(())
}

fn nginx_connects_from_two_addresses_and_takes_no_port_for_itself_alone((): ()) -> Result<()> {
    let _nginx = Nginx::start()?;
    let mut addresses = BTreeSet::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(loopback(nginx::PORT)).context("nginx")?;
        stream.write_all(b"GET /proxied HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, peer) = text.split_once("\r\n\r\n").context(text.clone())?;
        // The server's socket is one of IPv6.
        let peer = peer.trim().trim_start_matches("::ffff:");
        let peer: SocketAddr = peer.parse().with_context(|| text.clone())?;
        addresses.insert(peer.ip().to_string());
        // bind() to port 0 would take the odd ports first, connect() takes the even ones.
        ensure!(peer.port().is_multiple_of(2), "{peer}");
    }
    ensure!(
        addresses == ["127.0.0.1", "127.0.0.2"].map(str::to_owned).into(),
        "{addresses:?}"
    );
    Ok(())
}
