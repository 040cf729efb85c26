//! Connections and listeners as `ss` of iproute2 lists them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A line of `ss -tan`.
#[derive(Debug)]
struct Line {
    state: String,
    local: SocketAddr,
    remote: Option<SocketAddr>,
}

fn lines() -> Result<Vec<Line>> {
    let listed = Command::new("ss").args(["-H", "-t", "-a", "-n"]).output();
    let listed = listed.context("cannot run ss")?;
    ensure!(listed.status.success(), "{listed:?}");
    let text = String::from_utf8(listed.stdout)?;
    let line = |line: &str| -> Option<Line> {
        let mut words = line.split_whitespace();
        let state = words.next()?.to_owned();
        Some(Line {
            state,
            local: address(words.nth(2)?)?,
            remote: words.next().and_then(address),
        })
    };
    text.lines()
        .map(|text| line(text).with_context(|| format!("ss: {text:?}")))
        .collect()
}

/// Parses `ADDRESS:PORT`; a v4-mapped address is one of IPv4, and `*` is any.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.rsplit_once(':')?;
    let ip = ip.trim_matches(['[', ']']).split('%').next()?;
    let ip: IpAddr = match ip {
        "*" => "::".parse().ok()?,
        ip => ip.parse().ok()?,
    };
    Some(SocketAddr::new(ip.to_canonical(), port.parse().ok()?))
}

/// Returns the ports of a route with the states of their connections.
pub fn ports(source: IpAddr, destination: SocketAddr) -> Result<BTreeMap<u16, String>> {
    let lines = lines()?.into_iter();
    let of_route =
        lines.filter(|line| line.local.ip() == source && line.remote == Some(destination));
    Ok(of_route
        .map(|line| (line.local.port(), line.state))
        .collect())
}

/// Returns the ports that sockets listen on.
pub fn listening() -> Result<BTreeSet<u16>> {
    let lines = lines()?.into_iter();
    let listening = lines.filter(|line| line.state == "LISTEN");
    Ok(listening.map(|line| line.local.port()).collect())
}

/// Returns the uses of the ports of an object of `connect-trace ports --format json`, without the free ones.
pub fn uses(object: &Value) -> Result<BTreeMap<u16, String>> {
    let mut uses = BTreeMap::new();
    for lane in ["even", "odd"] {
        for run in object[lane]["runs"].as_array().context("runs")? {
            let [first, last] = ["first", "last"].map(|end| run[end].as_u64().unwrap_or(0) as u16);
            let name = run["use"].as_str().context("use")?;
            for port in (first..=last).step_by(2).filter(|_| name != "free") {
                uses.insert(port, name.to_owned());
            }
        }
    }
    Ok(uses)
}

/// Compares an object of `connect-trace ports --format json` with what `ss` lists now. Other programs of the machine may
/// listen too: ports that were listened on `before` the object was made, and still are, must be in it.
pub fn compare(object: &Value, before: &BTreeSet<u16>) -> Result<()> {
    let text = |field: &str| object[field].as_str().context(field.to_owned());
    let (source, destination) = (text("source")?.parse()?, text("destination")?.parse()?);
    let range = &object["range"];
    let end = |at: usize| range[at].as_u64().unwrap_or(0) as u16;
    let range = end(0)..=end(1);
    let listed = ports(source, destination)?;

    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for state in listed.values() {
        *states.entry(state).or_default() += 1;
    }
    let outside = listed.keys().filter(|port| !range.contains(port)).count();
    assert_eq!(object["states"], serde_json::json!(states), "{object}");
    assert_eq!(object["out_of_range"], outside, "{object}");

    let of_use = |made: &str| -> Result<BTreeSet<u16>> {
        let uses = uses(object)?.into_iter();
        Ok(uses
            .filter(|(_, other)| other == made)
            .map(|(port, _)| port)
            .collect())
    };
    let of_state = |is_wait: bool| -> BTreeSet<u16> {
        let of_state = listed
            .iter()
            .filter(|(port, state)| range.contains(port) && (*state == "TIME-WAIT") == is_wait);
        of_state.map(|(&port, _)| port).collect()
    };
    assert_eq!(of_use("open")?, of_state(false), "{object}");
    assert_eq!(of_use("time_wait")?, of_state(true), "{object}");
    let listening = &listening()? & before;
    let listening: BTreeSet<u16> = listening.range(range).copied().collect();
    assert!(of_use("listener")?.is_superset(&listening), "{object}");
    Ok(())
}
