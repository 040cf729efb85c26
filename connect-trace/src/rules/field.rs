//! The fields that a condition can name, and what is known of them in one connection.

use std::net::IpAddr;

use crate::{
    connect::{Comm, Connect, Outcome, Pass, PortChoice, Protocol, SourcePort, scan},
    stats::exhaustion::Taken,
    term::{errno, numbers},
};

/// A property of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Time of the call.
    Latency,
    /// Time of the port search.
    Search,
    /// Number of ports that the search went through.
    Scanned,
    /// Share of its ports that the search found taken.
    Taken,
    /// Port choice.
    Strategy,
    /// Errno, 0 for success.
    Errno,
    /// Source port.
    Port,
    /// Parity of a source port that the search found.
    Parity,
    /// Pass in which the search found the port.
    Pass,
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// Destination port.
    Dport,
    /// Protocol.
    Protocol,
    /// Process id.
    Pid,
    /// Name of the thread.
    Comm,
    /// User id.
    Uid,
}

/// The values that a field takes in the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A time with a unit, in nanoseconds.
    Time,
    /// A percentage with its sign, in thousandths of a percent.
    Percent,
    /// A number up to this one.
    Number(u32),
    /// A name of an errno, or its number.
    Errno,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An address or a network.
    Network,
    /// The name of a thread.
    Name,
}

/// A value of many connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aggregate {
    /// Number of values.
    Count,
    /// Lowest value.
    Min,
    /// Highest value.
    Max,
    /// Mean.
    Mean,
    /// Value that this share of all, from 0 to 1, does not exceed.
    Quantile(f64),
}

/// The bounds between which a number is known to lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Lowest value that it can have.
    pub low: f64,
    /// Highest value that it can have.
    pub high: f64,
}

impl Bounds {
    /// The bounds of a number of which nothing is known.
    pub const UNKNOWN: Self = Self {
        low: 0.0,
        high: f64::INFINITY,
    };

    /// Returns the bounds of a number that is known.
    #[must_use]
    pub fn exactly(number: f64) -> Self {
        Self {
            low: number,
            high: number,
        }
    }
}

/// The value of a field of one connection, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reading {
    /// A number.
    Number(Bounds),
    /// One of the field's words.
    Word(&'static str),
    /// An address.
    Address(IpAddr),
    /// The name of a thread.
    Name(Comm),
    /// The connection has no such value, such as the search of a socket that had a port.
    None,
    /// The connection may have a value, which is not known.
    Unknown,
}

/// Thousandths of a percent in a percent.
pub(super) const PER_PERCENT: f64 = 1_000.0;

const STRATEGIES: [&str; PortChoice::ALL.len()] =
    ["explicit-port", "bind", "address", "range", "default"];
const PROTOCOLS: [&str; Protocol::ALL.len()] = ["tcp", "udp", "udplite", "dccp"];
const PASSES: [&str; 3] = ["first", "second", "single"];
const PARITIES: [&str; 2] = ["even", "odd"];

impl Field {
    /// All fields.
    pub const ALL: [Self; 16] = [
        Self::Latency,
        Self::Search,
        Self::Scanned,
        Self::Taken,
        Self::Strategy,
        Self::Errno,
        Self::Port,
        Self::Parity,
        Self::Pass,
        Self::Source,
        Self::Destination,
        Self::Dport,
        Self::Protocol,
        Self::Pid,
        Self::Comm,
        Self::Uid,
    ];

    /// Returns the name in the grammar.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Search => "search",
            Self::Scanned => "scanned",
            Self::Taken => "taken",
            Self::Strategy => "strategy",
            Self::Errno => "errno",
            Self::Port => "port",
            Self::Parity => "parity",
            Self::Pass => "pass",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Dport => "dport",
            Self::Protocol => "protocol",
            Self::Pid => "pid",
            Self::Comm => "comm",
            Self::Uid => "uid",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Latency | Self::Search => Kind::Time,
            Self::Taken => Kind::Percent,
            Self::Scanned | Self::Pid | Self::Uid => Kind::Number(u32::MAX),
            Self::Port | Self::Dport => Kind::Number(u16::MAX as u32),
            Self::Errno => Kind::Errno,
            Self::Strategy => Kind::Word(&STRATEGIES),
            Self::Protocol => Kind::Word(&PROTOCOLS),
            Self::Pass => Kind::Word(&PASSES),
            Self::Parity => Kind::Word(&PARITIES),
            Self::Source | Self::Destination => Kind::Network,
            Self::Comm => Kind::Name,
        }
    }

    /// Returns true for fields that measure something: only these have aggregates.
    pub(super) fn is_measure(self) -> bool {
        matches!(
            self,
            Self::Latency | Self::Search | Self::Scanned | Self::Taken
        )
    }

    /// Returns the field of a connection.
    pub(super) fn of(self, connect: &Connect) -> Reading {
        let exactly = |number: f64| Reading::Number(Bounds::exactly(number));
        match self {
            Self::Latency => exactly(connect.connect_ns as f64),
            Self::Search => match connect.search_ns {
                Some(ns) => exactly(ns as f64),
                None => of_search(connect, Reading::Number(Bounds::UNKNOWN)),
            },
            Self::Scanned => match connect.scanned {
                Some(ports) => exactly(ports.into()),
                None => of_search(connect, Reading::Number(scanned(connect))),
            },
            Self::Taken => taken(connect),
            Self::Strategy => match connect.port_choice {
                Some(choice) => Reading::Word(choice.name()),
                // No port was chosen yet.
                None if connect.source.is_none() && connect.port == SourcePort::None => {
                    Reading::None
                }
                None => Reading::Unknown,
            },
            Self::Errno => exactly(connect.errno.into()),
            Self::Port => number(connect.port.number()),
            Self::Parity => match (connect.port, Outcome::of(connect)) {
                (SourcePort::Searched(_), Outcome::Even) => Reading::Word("even"),
                (SourcePort::Searched(_), Outcome::Odd) => Reading::Word("odd"),
                _ => Reading::None,
            },
            Self::Pass => match (connect.port, connect.pass()) {
                (_, Some(Pass::First)) => Reading::Word("first"),
                (_, Some(Pass::Second)) => Reading::Word("second"),
                (_, Some(Pass::Only)) => Reading::Word("single"),
                (SourcePort::Searched(_), None) => Reading::Unknown,
                (_, None) => Reading::None,
            },
            Self::Source => connect.source.map_or(Reading::None, Reading::Address),
            Self::Destination => connect
                .destination
                .map_or(Reading::None, |to| Reading::Address(to.ip())),
            Self::Dport => number(connect.destination.map(|to| to.port())),
            Self::Protocol => Reading::Word(connect.kind.protocol.name()),
            Self::Pid => exactly(connect.pid.into()),
            Self::Comm => Reading::Name(connect.comm),
            Self::Uid => exactly(connect.uid.into()),
        }
    }
}

impl Field {
    /// Returns a value in words.
    pub(super) fn in_words(self, reading: Reading) -> String {
        match reading {
            Reading::Number(bounds) => self.bounds_in_words(bounds),
            Reading::Word(word) => word.to_owned(),
            Reading::Address(address) => address.to_string(),
            Reading::Name(name) => name.to_string(),
            Reading::None | Reading::Unknown => "-".to_owned(),
        }
    }

    /// Returns a number, or both of its bounds, in words.
    #[must_use]
    pub fn bounds_in_words(self, bounds: Bounds) -> String {
        if bounds.low.total_cmp(&bounds.high).is_eq() {
            self.number_in_words(bounds.low)
        } else if bounds.high.is_infinite() {
            format!("{} or more", self.number_in_words(bounds.low))
        } else {
            let [low, high] = [bounds.low, bounds.high].map(|end| self.number_in_words(end));
            format!("{low} to {high}")
        }
    }

    /// Returns a number of values, or both of its bounds, in words.
    pub(crate) fn count_in_words(bounds: Bounds) -> String {
        Self::Scanned.bounds_in_words(bounds)
    }

    /// Returns a number in its unit for programs: nanoseconds, percent, or none.
    pub(crate) fn shown(self, bounds: Bounds) -> Bounds {
        match self {
            Self::Taken => Bounds {
                low: bounds.low / PER_PERCENT,
                high: bounds.high / PER_PERCENT,
            },
            _ => bounds,
        }
    }

    fn number_in_words(self, number: f64) -> String {
        match self.kind() {
            Kind::Time => numbers::time(number),
            Kind::Percent => format!("{}%", numbers::tenths(number / PER_PERCENT)),
            Kind::Errno if number == 0.0 => "success".to_owned(),
            Kind::Errno => errno::name(number as i32),
            _ if number.fract() == 0.0 => format!("{number}"),
            _ => numbers::tenths(number),
        }
    }
}

fn number(number: Option<u16>) -> Reading {
    number.map_or(Reading::None, |number| {
        Reading::Number(Bounds::exactly(number.into()))
    })
}

/// Returns a reading of the port search, or none if the call made no search.
fn of_search(connect: &Connect, reading: Reading) -> Reading {
    match connect.port {
        SourcePort::Bound(_) => Reading::None,
        SourcePort::None if connect.source.is_none() => Reading::None,
        _ => reading,
    }
}

/// Returns the bounds of the number of ports that a search went through, if that is not known: its pass tells one half
/// from the other.
fn scanned(connect: &Connect) -> Bounds {
    let Some(all) = connect.range.and_then(scan::all) else {
        return Bounds::UNKNOWN;
    };
    let (low, high) = match connect.pass() {
        Some(Pass::First) => (1, all.div_ceil(2)),
        Some(Pass::Second) => (all / 2 + 1, all),
        _ => (1, all),
    };
    Bounds {
        low: low.into(),
        high: high.into(),
    }
}

/// Returns the share of its ports that the search found taken.
fn taken(connect: &Connect) -> Reading {
    // A port of UDP is taken for all destinations: such ports are no part of a route's.
    if connect.kind.protocol.is_udp() {
        return Reading::None;
    }
    let percent = |percent: f64| percent * PER_PERCENT;
    let exact = Taken::by(connect).filter(|_| connect.scanned.is_some() || connect.errno != 0);
    let bounds = match (exact, connect.range.and_then(scan::all)) {
        (Some(taken), _) => Bounds::exactly(percent(taken.exact_percent())),
        (None, Some(all)) => {
            let scanned = scanned(connect);
            let share = |scanned: f64| percent((scanned - 1.0) * 100.0 / f64::from(all));
            Bounds {
                low: share(scanned.low),
                high: share(scanned.high),
            }
        }
        (None, None) => Bounds::UNKNOWN,
    };
    of_search(connect, Reading::Number(bounds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    #[test]
    fn the_words_are_the_names_of_their_values() {
        assert_eq!(STRATEGIES, PortChoice::ALL.map(PortChoice::name));
        assert_eq!(PROTOCOLS, Protocol::ALL.map(Protocol::name));
    }

    #[test]
    fn a_search_of_unknown_length_has_the_bounds_of_its_pass() {
        let unknown = |port| Connect {
            scanned: None,
            ..connect_from(port)
        };
        let bounds = |low, high| Reading::Number(Bounds { low, high });
        assert_eq!(Field::Scanned.of(&unknown(20_000)), bounds(1.0, 1_000.0));
        assert_eq!(
            Field::Scanned.of(&unknown(20_001)),
            bounds(1_001.0, 2_000.0)
        );
        assert_eq!(
            Field::Taken.of(&unknown(20_001)),
            bounds(50_000.0, 99_950.0)
        );
        let known = Connect {
            scanned: Some(1_501),
            ..connect_from(20_001)
        };
        assert_eq!(Field::Taken.of(&known), bounds(75_000.0, 75_000.0));
    }

    #[test]
    fn a_call_without_a_search_has_no_values_of_one() {
        let bound = Connect {
            port: SourcePort::Bound(80),
            scanned: None,
            search_ns: None,
            ..connect_from(0)
        };
        let early = Connect {
            port: SourcePort::None,
            source: None,
            range: None,
            port_choice: None,
            errno: libc::ENETUNREACH,
            ..bound
        };
        for connect in [bound, early] {
            for field in [Field::Search, Field::Scanned, Field::Taken, Field::Pass] {
                assert_eq!(field.of(&connect), Reading::None, "{field:?} {connect:?}");
            }
        }
        assert_eq!(Field::Strategy.of(&early), Reading::None);
        let unseen = Connect {
            port_choice: None,
            ..bound
        };
        assert_eq!(Field::Strategy.of(&unseen), Reading::Unknown);
    }
}
