//! The use of each port of a range.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Socket, State};
use crate::connect::PortRange;

/// Use of a port for one route. If several apply, the last one of these counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortUse {
    /// A search can find it.
    #[default]
    Free,
    /// Skipped by all searches: net.ipv4.ip_local_reserved_ports.
    Reserved,
    /// Skipped by all searches: a socket listens on it, or is bound to it.
    Listener,
    /// In use by a connection of this route.
    Open,
    /// Kept by the kernel after a connection of this route.
    TimeWait,
}

impl PortUse {
    /// All uses.
    pub const ALL: [Self; 5] = [
        Self::Free,
        Self::Reserved,
        Self::Listener,
        Self::Open,
        Self::TimeWait,
    ];

    /// Returns the letter in recordings.
    fn letter(self) -> char {
        match self {
            Self::Free => '.',
            Self::Reserved => 'r',
            Self::Listener => 'l',
            Self::Open => 'o',
            Self::TimeWait => 't',
        }
    }

    /// Returns the name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Reserved => "reserved",
            Self::Listener => "listener",
            Self::Open => "open",
            Self::TimeWait => "time_wait",
        }
    }

    /// Returns the use in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::TimeWait => "TIME_WAIT",
            other => other.name(),
        }
    }

    /// Returns the use of its port that a socket makes.
    #[must_use]
    pub fn of(state: State) -> Self {
        match state {
            State::Listen | State::BoundInactive | State::Closed => Self::Listener,
            State::TimeWait => Self::TimeWait,
            _ => Self::Open,
        }
    }
}

/// The use of each port of a range, for one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMap {
    range: PortRange,
    uses: Vec<PortUse>,
}

/// Numbers of ports by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UseCounts([u32; PortUse::ALL.len()]);

impl PortMap {
    /// Creates the map of a range in which some ports are reserved and the others are free.
    #[must_use]
    pub fn new(range: PortRange, reserved: &[PortRange]) -> Self {
        let mut map = Self {
            range,
            uses: vec![PortUse::Free; range.ports() as usize],
        };
        for ports in reserved {
            for port in ports.low.max(range.low)..=ports.high.min(range.high) {
                map.set(port, PortUse::Reserved);
            }
        }
        map
    }

    /// Adds the port of a socket. Returns false if it is not in the range.
    pub fn add(&mut self, socket: &Socket) -> bool {
        self.set(socket.local.port(), PortUse::of(socket.state))
    }

    /// Sets the use of a port, unless it has one that counts more. Returns false if it is not in the range.
    pub fn set(&mut self, port: u16, made: PortUse) -> bool {
        let place = usize::from(port).checked_sub(self.range.low.into());
        let Some(known) = place.and_then(|place| self.uses.get_mut(place)) else {
            return false;
        };
        *known = made.max(*known);
        true
    }

    /// Returns the range.
    #[must_use]
    pub fn range(&self) -> PortRange {
        self.range
    }

    /// Returns the use of a port; `None` if it is not in the range.
    #[must_use]
    pub fn of(&self, port: u16) -> Option<PortUse> {
        let place = usize::from(port).checked_sub(self.range.low.into())?;
        self.uses.get(place).copied()
    }

    /// Returns the ports of the range, with their uses.
    pub fn ports(&self) -> impl Iterator<Item = (u16, PortUse)> {
        (self.range.low..=self.range.high).zip(self.uses.iter().copied())
    }

    /// Returns neighbours among the even ports (0) or odd ports (1), the same number of them in each of up to `most` cells.
    #[must_use]
    pub fn cells(&self, parity: u16, most: usize) -> Vec<Cell> {
        let ports: Vec<_> = self
            .ports()
            .filter(|(port, _)| port % 2 == parity)
            .collect();
        let each = ports.len().div_ceil(most).max(1);
        let cells = ports.chunks(each).map(|ports| {
            let mut counts = UseCounts::default();
            for (_, made) in ports {
                counts.0[*made as usize] += 1;
            }
            Cell {
                first: ports[0].0,
                last: ports[ports.len() - 1].0,
                counts,
            }
        });
        cells.collect()
    }

    /// Returns the numbers of even ports (0) or odd ports (1) by use.
    #[must_use]
    pub fn counts(&self, parity: u16) -> UseCounts {
        let mut counts = UseCounts::default();
        for (_, made) in self.ports().filter(|(port, _)| port % 2 == parity) {
            counts.0[made as usize] += 1;
        }
        counts
    }

    /// Returns the numbers of all ports by use.
    #[must_use]
    pub fn all_counts(&self) -> UseCounts {
        let [even, odd] = [self.counts(0), self.counts(1)];
        UseCounts(std::array::from_fn(|at| even.0[at] + odd.0[at]))
    }
}

/// The form in recordings: the range, and a letter for each of its ports.
impl Serialize for PortMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let letters: String = self.uses.iter().map(|made| made.letter()).collect();
        (self.range, letters).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PortMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (range, letters) = <(PortRange, String)>::deserialize(deserializer)?;
        let known = |letter| {
            PortUse::ALL
                .into_iter()
                .find(|made| made.letter() == letter)
        };
        let uses: Option<Vec<PortUse>> = letters.chars().map(known).collect();
        uses.filter(|uses| uses.len() == range.ports() as usize)
            .map(|uses| Self { range, uses })
            .ok_or_else(|| D::Error::custom("not a letter for each port of the range"))
    }
}

/// Neighbours among the ports of one parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
    /// Numbers of ports by use.
    pub counts: UseCounts,
}

impl UseCounts {
    /// Returns the use that most of the ports have which a search cannot find; free if it finds all.
    #[must_use]
    pub fn main(&self) -> PortUse {
        let taken = PortUse::ALL
            .into_iter()
            .filter(|&made| made != PortUse::Free);
        let most = taken.max_by_key(|&made| self.of(made));
        most.filter(|&made| self.of(made) > 0).unwrap_or_default()
    }

    /// Returns the number of ports with a use.
    #[must_use]
    pub fn of(&self, made: PortUse) -> u32 {
        self.0[made as usize]
    }

    /// Returns the number of ports that connections of the route hold, TIME_WAIT included.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.of(PortUse::Open) + self.of(PortUse::TimeWait)
    }

    /// Returns the number of ports that a search cannot find.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.total() - self.of(PortUse::Free)
    }

    /// Returns the number of all ports.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(low: u16, high: u16) -> PortRange {
        PortRange { low, high }
    }

    #[test]
    fn the_use_that_counts_most_is_kept() {
        use PortUse::{Free, Listener, Open, Reserved, TimeWait};
        let reserved = [range(1, 20_000), range(20_003, 65_535)];
        let mut map = PortMap::new(range(20_000, 20_004), &reserved);
        assert!(map.set(20_003, Open));
        assert!(map.set(20_003, Listener));
        assert!(map.set(20_001, TimeWait));
        assert!(!map.set(19_999, Open));
        assert!(!map.set(20_005, Open));
        let uses: Vec<_> = map.ports().map(|(_, made)| made).collect();
        assert_eq!(uses, [Reserved, TimeWait, Free, Open, Reserved]);
        assert_eq!(map.of(20_001), Some(TimeWait));
        assert_eq!(map.of(19_999), None);
        let [even, odd] = [map.counts(0), map.counts(1)];
        assert_eq!((even.total(), even.taken(), even.held()), (3, 2, 0));
        assert_eq!((odd.total(), odd.taken(), odd.held()), (2, 2, 2));
        assert_eq!(map.all_counts().of(Reserved), 2);
    }

    #[test]
    fn the_largest_range_has_all_ports() {
        let map = PortMap::new(range(1, 65_535), &[]);
        assert_eq!(map.all_counts().total(), 65_535);
        assert_eq!(map.ports().last(), Some((65_535, PortUse::Free)));
    }
}
