//! A connection after its connect(): how its handshake and how the connection ended.

use connect_trace_common::{
    EndRecord,
    end::{CLOSING, FIN_WAIT2, LAST_ACK, SYN_RECV, SYN_SENT},
};

use super::Connect;

/// A connection that was established, or that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEvent {
    /// The connect() that began the connection.
    pub connect: Connect,
    /// Nanoseconds from the return of connect() to the end of the handshake, successful or not; absent if the end of the
    /// handshake was not seen.
    pub handshake_ns: Option<u64>,
    /// Number of retransmissions of the SYN; absent if the end of the handshake was not seen.
    pub syn_retransmits: Option<u32>,
    /// The fate of the connection.
    pub fate: Fate,
    /// Time of the end, in nanoseconds of `CLOCK_MONOTONIC`; absent if the connection was established just now.
    pub end_ns: Option<u64>,
    /// Error of the socket at the end (`sk_err`), 0 if there was none.
    pub errno: i32,
}

/// The fate of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// The handshake succeeded.
    Established,
    /// The handshake was refused by the peer (RST), or by a host on the way (ICMP port unreachable).
    Refused,
    /// No answer to the SYN came in time.
    Unanswered,
    /// A host on the way, or this one, said that there is no way to the destination.
    Unreachable,
    /// The program closed the socket during the handshake.
    GivenUp,
    /// The handshake failed with another error.
    Failed,
    /// This side closed first, and the peer confirmed it: the connection is in TIME_WAIT now.
    ClosedHere,
    /// The peer closed first.
    ClosedByPeer,
    /// The peer reset the connection, or sent data that no process could read any more.
    Reset,
    /// The peer did not confirm data, or probes, in time.
    TimedOut,
    /// This side gave the connection up without waiting for the peer: with unread data, with SO_LINGER of zero, or by
    /// the kernel for lack of memory.
    Aborted,
    /// The connection broke with another error.
    Broken,
}

impl Fate {
    /// All fates.
    pub const ALL: [Self; 12] = [
        Self::Established,
        Self::Refused,
        Self::Unanswered,
        Self::Unreachable,
        Self::GivenUp,
        Self::Failed,
        Self::ClosedHere,
        Self::ClosedByPeer,
        Self::Reset,
        Self::TimedOut,
        Self::Aborted,
        Self::Broken,
    ];

    /// Returns the name in text, JSON and recordings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Unreachable => "unreachable",
            Self::GivenUp => "given-up",
            Self::Failed => "failed",
            Self::ClosedHere => "closed-here",
            Self::ClosedByPeer => "closed-by-peer",
            Self::Reset => "reset",
            Self::TimedOut => "timed-out",
            Self::Aborted => "aborted",
            Self::Broken => "broken",
        }
    }

    /// Returns true if it is the end of a handshake.
    #[must_use]
    pub fn is_of_handshake(self) -> bool {
        self <= Self::Failed
    }

    /// Returns the fate of a connection whose socket had this state and this error when it was closed. docs/ends.md has the
    /// functions of the kernel behind each pair.
    fn of_end(state: u32, errno: i32) -> Self {
        let in_handshake = matches!(state, SYN_SENT | SYN_RECV);
        match (errno, in_handshake) {
            (0, true) => Self::GivenUp,
            (libc::ECONNREFUSED, true) => Self::Refused,
            // A simultaneous open that the peer resets.
            (libc::ECONNRESET, true) => Self::Refused,
            (libc::ETIMEDOUT, true) => Self::Unanswered,
            (libc::EHOSTUNREACH | libc::ENETUNREACH, true) => Self::Unreachable,
            (_, true) => Self::Failed,
            (0, false) => match state {
                FIN_WAIT2 | CLOSING => Self::ClosedHere,
                LAST_ACK => Self::ClosedByPeer,
                _ => Self::Aborted,
            },
            (libc::ECONNRESET | libc::EPIPE, false) => Self::Reset,
            (libc::ETIMEDOUT, false) => Self::TimedOut,
            (libc::ECONNABORTED, false) => Self::Aborted,
            (_, false) => Self::Broken,
        }
    }
}

impl ConnectionEvent {
    /// Creates the event from the kernel's record and the connect() that was decoded from it.
    pub(super) fn of(record: &EndRecord, connect: Connect) -> Self {
        let is_end = record.ended_ns != 0;
        let errno = i32::try_from(record.error).unwrap_or(0);
        let fate = if is_end {
            Fate::of_end(record.state, errno)
        } else {
            Fate::Established
        };
        let handshake_end = match record.established_ns {
            0 => fate.is_of_handshake().then_some(record.ended_ns),
            established => Some(established),
        };
        let returned_ns = connect.start_ns.saturating_add(connect.connect_ns);
        Self {
            connect,
            handshake_ns: handshake_end.map(|end| end.saturating_sub(returned_ns)),
            syn_retransmits: handshake_end.map(|_| record.syn_retransmits),
            fate,
            end_ns: is_end.then_some(record.ended_ns),
            errno,
        }
    }

    /// Returns the time of the event, in nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn at_ns(&self) -> u64 {
        let Connect {
            start_ns,
            connect_ns,
            ..
        } = self.connect;
        let established = || {
            let handshake_ns = self.handshake_ns.unwrap_or(0);
            start_ns
                .saturating_add(connect_ns)
                .saturating_add(handshake_ns)
        };
        self.end_ns.unwrap_or_else(established)
    }

    /// Returns the nanoseconds from the start of connect() to the event.
    #[must_use]
    pub fn age_ns(&self) -> u64 {
        self.at_ns().saturating_sub(self.connect.start_ns)
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;
    use crate::fixtures::connect_from;

    /// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1` and `TCP_CLOSE_WAIT`.
    const OTHERS: [u32; 3] = [1, 4, 8];

    #[test]
    fn the_order_tells_the_fates_of_handshakes_from_the_others() {
        let of_handshakes = Fate::ALL.map(Fate::is_of_handshake);
        assert_eq!(of_handshakes, std::array::from_fn(|index| index < 6));
        assert!(Fate::ALL.is_sorted());
    }

    #[test]
    fn state_and_error_tell_how_it_ended() {
        for (state, errno, fate) in [
            (SYN_SENT, libc::ECONNREFUSED, Fate::Refused),
            (SYN_SENT, libc::ETIMEDOUT, Fate::Unanswered),
            (SYN_SENT, libc::ENETUNREACH, Fate::Unreachable),
            (SYN_SENT, libc::EACCES, Fate::Failed),
            (SYN_RECV, libc::ECONNRESET, Fate::Refused),
            (SYN_SENT, 0, Fate::GivenUp),
            (FIN_WAIT2, 0, Fate::ClosedHere),
            (CLOSING, 0, Fate::ClosedHere),
            (LAST_ACK, 0, Fate::ClosedByPeer),
            (FIN_WAIT2, libc::ECONNRESET, Fate::Reset),
            (LAST_ACK, libc::ETIMEDOUT, Fate::TimedOut),
        ] {
            assert_eq!(Fate::of_end(state, errno), fate, "{state} {errno}");
        }
        for state in OTHERS {
            assert_eq!(Fate::of_end(state, 0), Fate::Aborted);
            assert_eq!(Fate::of_end(state, libc::EPIPE), Fate::Reset);
            assert_eq!(Fate::of_end(state, libc::EHOSTUNREACH), Fate::Broken);
        }
    }

    #[test]
    fn the_handshake_begins_when_connect_returns() {
        let connect = connect_from(20_000);
        let returned_ns = connect.start_ns + connect.connect_ns;
        let record = EndRecord {
            established_ns: returned_ns + 300,
            syn_retransmits: 2,
            ..EndRecord::zeroed()
        };
        let established = ConnectionEvent::of(&record, connect);
        assert_eq!(established.fate, Fate::Established);
        assert_eq!(established.handshake_ns, Some(300));
        assert_eq!(established.syn_retransmits, Some(2));
        assert_eq!(established.at_ns(), returned_ns + 300);
        assert_eq!(established.age_ns(), 20_300);
        let record = EndRecord {
            ended_ns: returned_ns + 5_000,
            state: LAST_ACK,
            ..record
        };
        let ended = ConnectionEvent::of(&record, connect);
        assert_eq!(ended.fate, Fate::ClosedByPeer);
        assert_eq!((ended.handshake_ns, ended.age_ns()), (Some(300), 25_000));
        assert_eq!(ended.syn_retransmits, Some(2));
    }

    #[test]
    fn a_handshake_whose_end_was_not_seen_has_no_time() {
        let record = EndRecord {
            ended_ns: 90_000,
            state: FIN_WAIT2,
            ..EndRecord::zeroed()
        };
        let event = ConnectionEvent::of(&record, connect_from(20_000));
        assert_eq!((event.handshake_ns, event.syn_retransmits), (None, None));
        let failed = EndRecord {
            state: SYN_SENT,
            ..record
        };
        let failed = ConnectionEvent::of(&failed, connect_from(20_000));
        assert_eq!(failed.handshake_ns, Some(90_000 - 21_000));
    }
}
