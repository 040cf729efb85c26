//! The times at which candidate checks are watched.

use std::{mem, time::Duration};

use tokio::time::Instant;

use crate::{
    connect::{Connect, Family},
    probes::checks::{Burst, Families},
};

/// Pause after a burst as a multiple of the burst's duration. Attaching and detaching wait for grace periods of the
/// kernel, mostly 50 to 200 ms, at times more than a second, during which connect() calls take two to four times as
/// long.
const BURST_PAUSE: u32 = 200;
/// Shortest pause after a burst: the first burst is attached before any connect(), so its duration says little.
const BURST_PAUSE_LEAST: Duration = Duration::from_secs(60);

/// Schedule for watching `__inet{,6}_check_established`: from the start until enough calls were seen; after that only
/// with traffic, and for at most a two-hundredth of the time.
#[derive(Default)]
pub(super) struct BurstSchedule {
    /// The families that searched for a port since the last burst.
    families: Families,
    /// Earliest time of the next burst; `None` while the first one runs.
    next: Option<Instant>,
    pub(super) bursts: u64,
    pub(super) watched: Duration,
}

/// Next step of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The first burst, which runs since the start, must end once it has seen enough calls.
    EndOfFirst,
    /// Another burst must begin, for these families.
    Burst(Families),
}

impl BurstSchedule {
    pub(super) fn saw(&mut self, connect: &Connect) {
        if connect.search_ns.is_none() {
            return;
        }
        match connect.family {
            Family::V4 | Family::Mapped => self.families.v4 = true,
            Family::V6 => self.families.v6 = true,
        }
    }

    /// Returns true until the first burst has ended.
    pub(super) fn is_first(&self) -> bool {
        self.next.is_none()
    }

    /// Returns the step that is due now.
    pub(super) fn due(&mut self) -> Option<Due> {
        if !self.families.any() || self.next.is_some_and(|next| next > Instant::now()) {
            return None;
        }
        let families = mem::take(&mut self.families);
        Some(match self.next {
            None => Due::EndOfFirst,
            Some(_) => Due::Burst(families),
        })
    }

    pub(super) fn done(&mut self, burst: Burst) {
        self.bursts += 1;
        self.watched += burst.watched;
        let took = match self.next {
            None => burst.attaching,
            Some(_) => burst.watched + burst.attaching,
        };
        self.next = Some(Instant::now() + (took * BURST_PAUSE).max(BURST_PAUSE_LEAST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_for_traffic_and_then_for_two_hundred_times_what_the_last_one_took() {
        let burst = |attaching| Burst {
            watched: Duration::from_millis(3),
            attaching: Duration::from_millis(attaching),
        };
        let mut schedule = BurstSchedule::default();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(schedule.due(), None, "no traffic, however long");
        schedule.saw(&connect_from(20_000));
        assert_eq!(schedule.due(), Some(Due::EndOfFirst));

        schedule.done(burst(5_000));
        schedule.done(burst(497));
        schedule.saw(&Connect {
            family: Family::V6,
            ..connect_from(20_000)
        });
        tokio::time::advance(Duration::from_millis(99_999)).await;
        assert_eq!(schedule.due(), None, "a two-hundredth of the time");
        tokio::time::advance(Duration::from_millis(1)).await;
        let families = Families {
            v4: false,
            v6: true,
        };
        assert_eq!(schedule.due(), Some(Due::Burst(families)), "what searched");
        schedule.done(burst(50));
        schedule.saw(&connect_from(20_000));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(schedule.due(), None, "a minute at least");
        schedule.families = Families::default();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(schedule.due(), None, "no traffic since");
        assert_eq!(
            (schedule.bursts, schedule.watched),
            (3, Duration::from_millis(9))
        );
    }
}
