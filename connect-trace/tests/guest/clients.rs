//! Real clients: the connections reported by curl, wrk and Python's asyncio match their records, and the counts of
//! nginx and the kernel match too.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::{Comm, Connect, Family, SourcePort},
    probes::attach::AttachMode,
};

use crate::{
    Test,
    nginx::{self, Nginx},
    process::{Ended, Process, until},
    tcp::{self, Counters},
    trace::{Session, Trace, config, crowd_is_seen},
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    OldestAndNewest: [
        curl_names_the_port_of_each_record,
        curl_in_parallel_names_the_ports_of_the_records,
        curl_that_keeps_a_connection_has_one_record,
        a_refused_curl_has_a_port_and_no_error,
        wrk_and_nginx_count_the_records_of_wrk,
        asyncio_names_the_ports_of_the_records,
    ],
];

/// A port without a listener.
const REFUSED: u16 = 9;

/// Addresses of this machine, and the families of connections to them.
const HOSTS: [(&str, Family); 2] = [("127.0.0.1", Family::V4), ("::1", Family::V6)];

const CONNECTIONS: &str = include_str!("clients/connections.py");

/// Results of clients that were traced.
struct Traced<T> {
    /// Output of the clients.
    said: T,
    trace: Trace,
    /// Counters of the kernel for the same time.
    counted: Counters,
}

/// Runs clients of this name in a trace that has exactly their connections.
fn traced<T>(
    mode: AttachMode,
    name: &str,
    clients: impl FnOnce(&mut Session) -> Result<T>,
) -> Result<Traced<T>> {
    let mut session = Session::start(&config(mode))?;
    let before = Counters::read()?;
    let said = clients(&mut session)?;
    let counted = Counters::read()?.since(before);
    let trace = session.end()?;
    trace.assert_complete();
    let Trace { connects, .. } = &trace;
    assert_eq!(connects.len() as u64, counted.active_opens, "{counted:?}");
    for connect in connects {
        let who_and_result = (connect.comm, connect.errno);
        assert_eq!(who_and_result, (Comm::of(name), 0), "{connect:?}");
    }
    Ok(Traced {
        said,
        trace,
        counted,
    })
}

impl<T> Traced<T> {
    fn of_process(&self, pid: u32) -> Vec<&Connect> {
        let connects = self.trace.connects.iter();
        connects.filter(|connect| connect.pid == pid).collect()
    }
}

/// Fails unless each connection searched for a port, and went to the port `to` of an address of the family.
fn assert_searched(connects: &[&Connect], family: Family, to: u16) {
    let address = match family {
        Family::V4 | Family::Mapped => IpAddr::from(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    for connect in connects {
        assert_eq!(connect.family, family, "{connect:?}");
        assert_eq!(connect.source, Some(address), "{connect:?}");
        let destination = SocketAddr::new(address, to);
        assert_eq!(connect.destination, Some(destination), "{connect:?}");
        let searched = matches!(connect.port, SourcePort::Searched(_));
        assert!(searched && connect.search_ns.is_some(), "{connect:?}");
    }
}

fn ports(connects: &[&Connect]) -> Vec<u16> {
    connects
        .iter()
        .filter_map(|connect| connect.port.number())
        .collect()
}

fn sorted(mut ports: Vec<u16>) -> Vec<u16> {
    ports.sort_unstable();
    ports
}

/// Report of curl on one transfer.
struct Transfer {
    /// Local port; 0 without a connection.
    local_port: u16,
    /// Number of connections that curl made for this transfer.
    connects: usize,
    /// 0, or the error code of the transfer.
    error: u32,
}

/// A run of curl that has ended.
struct Curl {
    pid: u32,
    transfers: Vec<Transfer>,
    ended: Ended,
}

impl Curl {
    fn run(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new("curl");
        let format = "%{local_port} %{num_connects} %{exitcode}\n";
        command
            .args(["--silent", "--output", "/dev/null", "--write-out", format])
            .args(arguments);
        let process = Process::start(command)?;
        let pid = process.pid();
        let ended = process.end()?;
        let transfers = ended.stdout.lines().map(Transfer::parse).collect();
        let transfers = Option::<Vec<_>>::context(transfers, format!("{ended}"))?;
        Ok(Self {
            pid,
            transfers,
            ended,
        })
    }

    /// Returns the local ports of the connections, after a run that did not fail.
    fn ports(&self) -> Vec<u16> {
        let Self {
            transfers, ended, ..
        } = self;
        assert!(ended.status.success(), "{ended}");
        let made = transfers.iter().filter(|transfer| transfer.connects > 0);
        made.map(|transfer| {
            assert_eq!((transfer.connects, transfer.error), (1, 0), "{ended}");
            transfer.local_port
        })
        .collect()
    }
}

impl Transfer {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            local_port: words.next()?.parse().ok()?,
            connects: words.next()?.parse().ok()?,
            error: words.next()?.parse().ok()?,
        })
    }
}

fn curl_names_the_port_of_each_record(mode: AttachMode) -> Result<()> {
    let _nginx = Nginx::start()?;
    let traced = traced(mode, "curl", |_| {
        let v4 = format!("http://127.0.0.1:{}/[1-40]", nginx::PORT);
        let v6 = format!("http://[::1]:{}/[1-40]", nginx::PORT);
        Ok([Curl::run(&[&v4])?, Curl::run(&[&v6])?])
    })?;
    for (curl, (_, family)) in traced.said.iter().zip(HOSTS) {
        let connects = traced.of_process(curl.pid);
        assert_searched(&connects, family, nginx::PORT);
        // One after the other, so that the order is the same too.
        assert_eq!(ports(&connects), curl.ports());
        assert_eq!(connects.len(), 40, "{}", curl.ended);
    }
    assert_eq!(traced.trace.connects.len(), 2 * 40);
    Ok(())
}

fn curl_in_parallel_names_the_ports_of_the_records(mode: AttachMode) -> Result<()> {
    let _nginx = Nginx::start()?;
    let url = format!("http://127.0.0.1:{}/[1-60]", nginx::PORT);
    let arguments = ["--parallel", "--parallel-immediate", &url];
    let traced = traced(mode, "curl", |_| Curl::run(&arguments))?;
    let connects = traced.of_process(traced.said.pid);
    assert_searched(&connects, Family::V4, nginx::PORT);
    assert_eq!(sorted(ports(&connects)), sorted(traced.said.ports()));
    assert_eq!(connects.len(), 60, "{}", traced.said.ended);
    assert_eq!(traced.trace.connects.len(), 60);
    Ok(())
}

fn curl_that_keeps_a_connection_has_one_record(mode: AttachMode) -> Result<()> {
    let _nginx = Nginx::start()?;
    let url = format!("http://127.0.0.1:{}/kept/[1-20]", nginx::PORT);
    let traced = traced(mode, "curl", |_| Curl::run(&[&url]))?;
    let connects = traced.of_process(traced.said.pid);
    assert_searched(&connects, Family::V4, nginx::PORT);
    assert_eq!(ports(&connects), traced.said.ports());
    assert_eq!(traced.said.transfers.len(), 20, "{}", traced.said.ended);
    assert_eq!(traced.trace.connects.len(), 1);
    Ok(())
}

fn a_refused_curl_has_a_port_and_no_error(mode: AttachMode) -> Result<()> {
    /// `CURLE_COULDNT_CONNECT`.
    const COULD_NOT_CONNECT: u32 = 7;
    let traced = traced(mode, "curl", |_| {
        let v4 = format!("http://127.0.0.1:{REFUSED}/");
        let v6 = format!("http://[::1]:{REFUSED}/");
        Ok([Curl::run(&[&v4])?, Curl::run(&[&v6])?])
    })?;
    for (curl, (_, family)) in traced.said.iter().zip(HOSTS) {
        let error = curl.transfers.first().map(|transfer| transfer.error);
        assert_eq!(error, Some(COULD_NOT_CONNECT), "{}", curl.ended);
        let connects = traced.of_process(curl.pid);
        assert_searched(&connects, family, REFUSED);
        assert_eq!(connects.len(), 1, "{}", curl.ended);
    }
    assert_eq!(traced.trace.connects.len(), 2);
    assert_eq!(traced.counted.attempt_fails, 2);
    Ok(())
}

/// Final report of wrk.
struct Wrk {
    pid: u32,
    requests: u64,
    /// Number of connections that could not be made.
    connect_errors: u64,
    /// Number of connections that broke and were replaced.
    broken: u64,
    ended: Ended,
}

impl Wrk {
    const THREADS: u64 = 2;
    const CONNECTIONS: u64 = 16;

    fn run(session: &mut Session) -> Result<Self> {
        let mut command = Command::new("wrk");
        command
            .arg(format!("-t{}", Self::THREADS))
            .arg(format!("-c{}", Self::CONNECTIONS))
            .arg("-d1s")
            .arg(format!("http://127.0.0.1:{}/", nginx::PORT));
        let mut process = Process::start(command)?;
        until("wrk ends", || {
            // Read now: the ring buffer might not hold all of the records.
            session.connects();
            Ok(process.has_ended()?.then_some(()))
        })?;
        let pid = process.pid();
        let ended = process.end()?.successful()?;
        // Printed only if it is not 0.
        let errors = |kind: &str| number_between(&ended.stdout, kind, ",");
        Ok(Self {
            pid,
            requests: requests(&ended.stdout).with_context(|| format!("{ended}"))?,
            connect_errors: errors("Socket errors: connect ").unwrap_or(0),
            broken: errors(", read ").unwrap_or(0) + errors(", write ").unwrap_or(0),
            ended,
        })
    }

    /// Returns the number of connect() calls: one that tests the address, one for each connection at the start, and one
    /// after each response and each broken connection. The threads of wrk stop only between two of these steps.
    fn connects(&self) -> u64 {
        1 + Self::CONNECTIONS + self.requests + self.broken
    }
}

/// Returns the number in the line `  2199 requests in 2.08s, 317.82KB read`.
fn requests(text: &str) -> Option<u64> {
    let (before, _) = text.split_once(" requests in ")?;
    before.split_whitespace().last()?.parse().ok()
}

fn number_between(text: &str, before: &str, after: &str) -> Option<u64> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after)?.0.parse().ok()
}

fn wrk_and_nginx_count_the_records_of_wrk(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    let nginx = Nginx::start()?;
    let before = nginx.accepted()?;
    let traced = traced(mode, "wrk", |session| {
        let wrk = Wrk::run(session)?;
        until("no handshake is under way", || {
            Ok((!tcp::handshakes_are_under_way()?).then_some(()))
        })?;
        Ok(wrk)
    })?;
    // Subtract the connection of the status request.
    let accepted = nginx.accepted()? - before - 1;

    let wrk = &traced.said;
    let connects = traced.of_process(wrk.pid);
    assert_searched(&connects, Family::V4, nginx::PORT);
    assert_eq!(wrk.connect_errors, 0, "{}", wrk.ended);
    assert_eq!(connects.len() as u64, wrk.connects(), "{}", wrk.ended);
    // At its end wrk may close a socket before the answer to its SYN has come: the handshake fails, and nginx never
    // sees the connection.
    let failed = traced.counted.attempt_fails;
    assert_eq!(connects.len() as u64, accepted + failed, "{}", wrk.ended);
    let threads: BTreeSet<_> = connects.iter().map(|connect| connect.tid).collect();
    assert_eq!(threads.len() as u64, Wrk::THREADS + 1, "{threads:?}");
    Ok(())
}

fn asyncio_names_the_ports_of_the_records(mode: AttachMode) -> Result<()> {
    const COUNT: usize = 200;
    let nginx = Nginx::start()?;
    let before = nginx.accepted()?;
    let mut command = Command::new("python3");
    command.args(["-c", CONNECTIONS]);
    command.args([nginx::PORT.to_string(), COUNT.to_string()]);
    command.args(HOSTS.map(|(host, _)| host));
    let traced = traced(mode, "python3", |_| {
        let process = Process::start(command)?;
        Ok((process.pid(), process.end()?.successful()?))
    })?;
    // Subtract the connection of the status request.
    let accepted = nginx.accepted()? - before - 1;

    let (pid, ended) = &traced.said;
    let connects = traced.of_process(*pid);
    for (host, family) in HOSTS {
        let lines = ended.stdout.lines();
        let said = lines.filter_map(|line| line.strip_prefix(host)?.strip_prefix(' '));
        let said: Result<Vec<u16>, _> = said.map(str::parse).collect();
        let said = said.with_context(|| format!("{ended}"))?;
        let connects = connects.iter().copied();
        let connects: Vec<_> = connects
            .filter(|connect| connect.family == family)
            .collect();
        assert_searched(&connects, family, nginx::PORT);
        assert_eq!(sorted(ports(&connects)), sorted(said));
        assert_eq!(connects.len(), COUNT, "{host}");
    }
    assert_eq!(connects.len(), traced.trace.connects.len());
    assert_eq!(accepted, connects.len() as u64);
    Ok(())
}
