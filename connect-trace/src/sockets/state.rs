//! States of TCP sockets.

use serde::{Deserialize, Serialize};

/// State of a TCP socket, with the number that the kernel has for it (net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Connected.
    Established = 1,
    /// connect() sent its SYN.
    SynSent,
    /// A SYN arrived; not accepted yet.
    SynReceived,
    /// Closed here; the peer has not confirmed that.
    FinWait1,
    /// Closed here; the peer has not closed.
    FinWait2,
    /// Closed by both, here first: the kernel keeps the port for a minute.
    TimeWait,
    /// Not connected.
    Closed,
    /// Closed by the peer, not here.
    CloseWait,
    /// Closed by both, by the peer first; the peer has not confirmed that.
    LastAck,
    /// Waits for connections.
    Listen,
    /// Closed by both at once.
    Closing,
    /// A request for a connection, in the form that the kernel has had since 4.4.
    NewSynReceived,
    /// Bound to a port, and neither connected nor listening; told by Linux 6.8 and later.
    BoundInactive,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Established,
        Self::SynSent,
        Self::SynReceived,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Closed,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynReceived,
        Self::BoundInactive,
    ];

    /// Returns the state with the kernel's number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Returns the name as `ss` prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived | Self::NewSynReceived => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Closed | Self::BoundInactive => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }
}

/// Numbers of sockets by state.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts([u32; State::ALL.len()]);

impl StateCounts {
    /// Adds a socket.
    pub fn add(&mut self, state: State) {
        self.0[state as usize - 1] += 1;
    }

    /// Returns the number of sockets in a state.
    #[must_use]
    pub fn of(&self, state: State) -> u32 {
        self.0[state as usize - 1]
    }

    /// Returns the states that sockets are in, with their numbers.
    pub fn present(&self) -> impl Iterator<Item = (State, u32)> {
        let counts = State::ALL.into_iter().zip(self.0);
        counts.filter(|&(_, count)| count > 0)
    }

    /// Returns the number of all sockets.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(State::of_number(0), None);
        assert_eq!(State::of_number(1), Some(State::Established));
        assert_eq!(State::of_number(6), Some(State::TimeWait));
        assert_eq!(State::of_number(10), Some(State::Listen));
        assert_eq!(State::of_number(13), Some(State::BoundInactive));
        assert_eq!(State::of_number(14), None);
        for state in State::ALL {
            assert_eq!(State::of_number(state as u8), Some(state));
        }
    }

    #[test]
    fn sockets_are_counted_by_state() {
        let mut counts = StateCounts::default();
        for state in [State::TimeWait, State::Established, State::TimeWait] {
            counts.add(state);
        }
        assert_eq!(counts.total(), 3);
        assert_eq!(counts.of(State::Listen), 0);
        let present: Vec<_> = counts.present().collect();
        assert_eq!(present, [(State::Established, 1), (State::TimeWait, 2)]);
    }
}
