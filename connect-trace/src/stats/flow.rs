//! Ports that connections of a route took and freed, by second.

/// Length of the history, in seconds.
pub(crate) const SECONDS: usize = 60;

/// Pause in the traffic of a route after which its history begins again, in seconds. A shorter one is part of a rate that
/// varies.
const PAUSE_S: u64 = 20;

/// Slots of the ring: those of the history, the running second, and a few for events that are read late.
const SLOTS: usize = SECONDS + 4;

/// Changes of ports in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ports that no connection held before.
    pub opened: u32,
    /// Ports taken from a connection in TIME_WAIT.
    pub reused: u32,
    /// Ports that became free at the end of their connection.
    pub freed: u32,
    /// Ports that the kernel keeps in TIME_WAIT after the end of their connection.
    pub kept: u32,
}

/// One change of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A free port was taken.
    Opened,
    /// A port was taken from a connection in TIME_WAIT.
    Reused,
    /// A port became free.
    Freed,
    /// A port went into TIME_WAIT.
    Kept,
}

/// The history of a route: its changes of even and of odd ports in each second.
#[derive(Clone, Debug)]
pub struct Flow {
    /// First second whose changes are all known.
    began_s: u64,
    /// Second of the latest change.
    last_s: u64,
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    changes: [Changes; 2],
}

impl Flow {
    /// Creates the history of a route whose changes are known from now on.
    #[must_use]
    pub fn new(now_ns: u64) -> Self {
        let now_s = second(now_ns);
        Self {
            began_s: now_s + 1,
            last_s: now_s,
            slots: [Slot::default(); SLOTS],
        }
    }

    /// Adds a change of a port.
    pub fn add(&mut self, port: u16, change: Change, at_ns: u64) {
        let at_s = second(at_ns);
        if at_s > self.last_s + PAUSE_S {
            self.began_s = at_s + 1;
        }
        self.last_s = self.last_s.max(at_s);
        let slot = &mut self.slots[at_s as usize % SLOTS];
        if slot.second > at_s {
            // Read a minute late.
            return;
        }
        if slot.second < at_s {
            *slot = Slot {
                second: at_s,
                ..Slot::default()
            };
        }
        let changes = &mut slot.changes[usize::from(port % 2)];
        *match change {
            Change::Opened => &mut changes.opened,
            Change::Reused => &mut changes.reused,
            Change::Freed => &mut changes.freed,
            Change::Kept => &mut changes.kept,
        } += 1;
    }

    /// Returns the changes of even and of odd ports in the last `SECONDS` whole seconds, or since the traffic began,
    /// the oldest first. All changes until `now_ns` must have been added.
    #[must_use]
    pub fn window(&self, now_ns: u64) -> Vec<[Changes; 2]> {
        let now_s = second(now_ns);
        if now_s > self.last_s + PAUSE_S {
            return Vec::new();
        }
        let first = self.began_s.max(now_s.saturating_sub(SECONDS as u64));
        (first..now_s)
            .map(|at_s| {
                let slot = &self.slots[at_s as usize % SLOTS];
                if slot.second == at_s {
                    slot.changes
                } else {
                    <[Changes; 2]>::default()
                }
            })
            .collect()
    }
}

fn second(ns: u64) -> u64 {
    ns / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn changes_are_counted_by_second_and_parity() {
        let mut flow = Flow::new(10 * S + S / 2);
        flow.add(20_000, Change::Opened, 10 * S + S / 2);
        for at in 11..14 {
            flow.add(20_000, Change::Opened, at * S);
            flow.add(20_001, Change::Kept, at * S + 1);
        }
        flow.add(20_002, Change::Freed, 12 * S);
        flow.add(20_002, Change::Reused, 12 * S);
        let window = flow.window(14 * S);
        assert_eq!(window.len(), 3, "the second of the start is not whole");
        let even = Changes {
            opened: 1,
            ..Changes::default()
        };
        let odd = Changes {
            kept: 1,
            ..Changes::default()
        };
        assert_eq!(window[0], [even, odd]);
        let twelfth = Changes {
            freed: 1,
            reused: 1,
            ..even
        };
        assert_eq!(window[1][0], twelfth);
        assert_eq!(flow.window(16 * S)[3..], [<[Changes; 2]>::default(); 2]);
    }

    #[test]
    fn the_window_is_a_minute_at_most_and_begins_again_after_a_pause() {
        let mut flow = Flow::new(0);
        for at in 0..200 {
            flow.add(1, Change::Opened, at * S);
        }
        let window = flow.window(200 * S);
        assert_eq!(window.len(), SECONDS);
        assert!(window.iter().all(|[_, odd]| odd.opened == 1));
        flow.add(1, Change::Opened, 1);
        assert_eq!(flow.window(200 * S), window, "read far too late");
        assert!(
            flow.window(240 * S).is_empty(),
            "nothing for twenty seconds"
        );
        flow.add(1, Change::Opened, 219 * S);
        assert_eq!(flow.window(221 * S).len(), SECONDS, "a short pause");
        flow.add(1, Change::Opened, 240 * S);
        assert_eq!(flow.window(243 * S).len(), 2, "a long pause");
    }
}
