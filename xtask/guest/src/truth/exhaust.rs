//! The case that uses up a range of ports, from one source address to one destination, and summarizes the mean latency
//! of even and odd ports on the way.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use anyhow::Result;

use super::limit::make_room_for;
use super::listener::Listener;
use super::range::PortRange;
use super::record::{Family, Record};
use super::socket::Socket;
use super::witness::Witness;

/// Connects from every port of the range, and then `extra` more times.
pub(super) fn exhaust(range: PortRange, family: Family, extra: usize) -> Result<Vec<Record>> {
    let listener = Listener::outside(Some(range), family, range.ports())?;
    make_room_for(range.ports() + extra)?;
    let mut witness = Witness::new("exhaust")?;
    witness.connect_and_hold(family, range.ports() + extra, listener.address())?;
    Ok(witness.into_records())
}

/// Connects from every port of the range, and closes the connections of the first half, the client first, so that their
/// ports are in TIME_WAIT while the second half connects. The kernel must not reuse them (`tcp_tw_reuse`).
pub(super) fn exhaust_waiting(range: PortRange, family: Family) -> Result<Vec<Record>> {
    let listener = Listener::outside(Some(range), family, range.ports())?;
    make_room_for(range.ports())?;
    let mut witness = Witness::new("exhaust")?;
    let first_half = range.ports() / 2;
    for _ in 0..first_half {
        let mut client = Socket::new(family)?;
        witness.connect(&mut client, listener.address())?;
        let server = listener.accept()?;
        drop(client);
        drop(server);
    }
    witness.connect_and_hold(family, range.ports() - first_half, listener.address())?;
    Ok(witness.into_records())
}

/// Cost of the port search as seen from user space.
#[derive(Default)]
pub(super) struct Summary {
    even: Mean,
    odd: Mean,
    failed: Mean,
    /// Number of the call, counted from 1 over all calls, and its port.
    first_odd: Option<(usize, u16)>,
}

#[derive(Default)]
struct Mean {
    count: u32,
    total: Duration,
    /// Least time of a call: the time of one without an interrupt.
    least: Option<Duration>,
}

impl Summary {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut summary = Self::default();
        for (index, record) in records.iter().enumerate() {
            let Some(outcome) = &record.outcome else {
                continue;
            };
            let port = outcome.local.port();
            let mean = match outcome.errno {
                0 if port % 2 == 0 => &mut summary.even,
                0 => {
                    summary.first_odd.get_or_insert((index + 1, port));
                    &mut summary.odd
                }
                _ => &mut summary.failed,
            };
            let time = Duration::from_nanos(outcome.end_ns - record.start_ns);
            mean.count += 1;
            mean.total += time;
            mean.least = Some(mean.least.map_or(time, |least| least.min(time)));
        }
        summary
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "even ports:   {}", self.even)?;
        writeln!(f, "odd ports:    {}", self.odd)?;
        writeln!(f, "failed:       {}", self.failed)?;
        match self.first_odd {
            Some((position, port)) => write!(f, "first odd:    connect {position}, port {port}"),
            None => write!(f, "first odd:    none"),
        }
    }
}

impl Display for Mean {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.total.checked_div(self.count), self.least) {
            (Some(mean), Some(least)) => {
                let [mean, least] = [mean, least].map(|time| time.as_nanos() as f64 / 1_000.0);
                write!(
                    f,
                    "{:6} connects, {mean:9.1} us on average, {least:9.3} us at least",
                    self.count
                )
            }
            _ => write!(f, "{:6} connects", 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_odd_port_is_counted_from_one() {
        let line = |port: u16, errno: i32, end_ns: u64| {
            format!(
                "exhaust\t1\t1\t4\t1000\t{end_ns}\t{errno}\t{errno}\t127.0.0.1\t{port}\t127.0.0.1\
                 \t2000\t1\tunknown\t0\ttruth\tnone\tyes"
            )
            .parse::<Record>()
            .unwrap()
        };
        let records = [
            line(20, 0, 3_000),
            line(22, 0, 5_000),
            line(21, 0, 9_000),
            line(0, 99, 2_000),
        ];
        let summary = Summary::of(&records);
        assert_eq!(summary.first_odd, Some((3, 21)));
        assert_eq!(
            summary.even.to_string(),
            "     2 connects,       3.0 us on average,     2.000 us at least"
        );
        assert_eq!((summary.odd.count, summary.failed.count), (1, 1));
    }
}
