//! The kernel's choice of each port. `matching` compares every record of every case of `truth`; this module tests
//! sockets with a range of their own.

use std::{net::TcpListener, process};

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::PortChoice,
    probes::attach::AttachMode,
    stats::{Key, by::By, key::PortChoiceKey},
};

use crate::{
    Lacking, Test,
    matching::{Extent, matched},
    socket::{Address, connect_within},
    trace::{Session, config},
    truth::truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [a_strategy_is_what_was_done_with_the_socket_before],
];

/// Two ranges of equal width, one of them also with a bound address, within the default range.
const OWN: [(u16, u16, Address); 3] = [
    (42_000, 42_499, Address::Any),
    (42_307, 42_806, Address::Any),
    (43_000, 43_099, Address::Loopback),
];

fn a_strategy_is_what_was_done_with_the_socket_before(mode: AttachMode) -> Result<()> {
    let session = Session::start(&config(mode))?;
    let mut of_truth = Vec::new();
    for case in [
        "v4",
        "v6",
        "mapped",
        "bind-port",
        "bind-any",
        "bind-address",
    ] {
        of_truth.extend(truth(&format!("{case} --count 2"))?);
    }
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let port = listener.local_addr()?.port();
    let mut own = Vec::new();
    for (low, high, address) in OWN {
        own.extend(connect_within(low, high, address, port)?);
    }
    let trace = session.end()?;
    trace.assert_complete();
    // These contain every strategy of truth, for every family.
    matched(&of_truth, &trace.connects, Extent::More)?;

    if own.is_empty() {
        return Err(Lacking("the option IP_LOCAL_PORT_RANGE").into());
    }
    let connects = trace.connects.iter();
    let connects: Vec<_> = connects
        .filter(|connect| connect.pid == process::id())
        .collect();
    assert_eq!(connects.len(), OWN.len(), "{connects:?}");
    for (connect, (low, high, address)) in connects.iter().zip(OWN) {
        let range = connect.range.context("the search was entered")?;
        assert_eq!(
            (range.ports.low, range.ports.high),
            (low, high),
            "{connect:?}"
        );
        let address_bound = address == Address::Loopback;
        assert_eq!(connect.address_bound, Some(address_bound), "{connect:?}");
        let choice = PortChoiceKey {
            port_choice: PortChoice::Range,
            width: u32::from(high - low) + 1,
            address_bound,
        };
        let key = Key::of(connect, By::Strategy);
        assert_eq!(key, Key::PortChoice(Some(choice)), "{connect:?}");
    }
    Ok(())
}
