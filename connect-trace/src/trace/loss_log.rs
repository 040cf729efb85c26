//! Logs the first loss of each kind while a trace goes on: the report, which lists all losses, may be hours away.

use std::time::{Duration, Instant};

use connect_trace_common::{Counters, EndCounters};

/// Interval between two readings of the counters.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A kind of loss: its counter, and the log message.
type Kind = (fn(&Counters, &EndCounters) -> u64, &'static str);

const KINDS: [Kind; 5] = [
    (
        |counters, _| counters.ring_full,
        "the ring buffer is full: records are lost; --ring-buffer makes it larger",
    ),
    (
        |counters, _| counters.in_flight_full,
        "too many calls are in flight: connect() calls are lost; --max-in-flight allows more",
    ),
    (
        |counters, _| counters.return_missed,
        "returns of connect() were not seen: these calls are lost",
    ),
    (
        |_, ends| ends.map_full,
        "too many connections at once: the ends of some are not seen; --max-connections allows more",
    ),
    (
        |_, ends| ends.established_lost + ends.ended_lost,
        "the ring buffer of the ends is full: events are lost; --ring-buffer makes it larger",
    ),
];

/// The kinds of loss that were logged.
#[derive(Default)]
pub(crate) struct LossLog {
    told: [bool; KINDS.len()],
    looked: Option<Instant>,
}

impl LossLog {
    /// Reads the counters once a second, and logs each kind of loss that has begun.
    pub(crate) fn look(&mut self, counters: impl FnOnce() -> (Counters, EndCounters)) {
        if self
            .looked
            .is_none_or(|looked| looked.elapsed() >= LOOK_EVERY)
        {
            self.looked = Some(Instant::now());
            let (counters, ends) = counters();
            for message in self.begun(&counters, &ends) {
                log::warn!("{message}");
            }
        }
    }

    /// Returns the messages of the kinds that have begun since the last call.
    fn begun(&mut self, counters: &Counters, ends: &EndCounters) -> Vec<&'static str> {
        let kinds = KINDS.iter().zip(&mut self.told);
        kinds
            .filter_map(|((count, message), told)| {
                let begins = !*told && count(counters, ends) > 0;
                *told |= begins;
                begins.then_some(*message)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once() {
        let mut log = LossLog::default();
        let mut counters = Counters::default();
        let mut ends = EndCounters::default();
        assert!(log.begun(&counters, &ends).is_empty());
        counters.return_missed = 1;
        let [told] = log.begun(&counters, &ends)[..] else {
            panic!("one kind has begun");
        };
        assert!(told.contains("returns"), "{told}");
        counters.return_missed = 2;
        assert!(log.begun(&counters, &ends).is_empty());
        counters.ring_full = 1;
        counters.in_flight_full = 1;
        ends.map_full = 1;
        assert_eq!(log.begun(&counters, &ends).len(), 3);
    }
}
