//! An estimate of the run time of the programs, for a service on a host whose kernel does not measure it.

use std::time::Duration;

use connect_trace_common::Counters;

/// Time of all programs for a call that gets a record: their instructions, of which each takes a nanosecond in the machine
/// of docs/overhead.md. Real CPUs are faster, so that less is traced than the limit allows, not more.
pub(crate) const RECORDED_NS: u64 = 1_610;
/// Time of the first program alone, for a call that the filters leave out or that is not sampled.
const LEFT_OUT_NS: u64 = 379;

/// Returns the estimated run time since the start.
pub(crate) fn run_time(counters: &Counters) -> Duration {
    let sampled = counters.entered.saturating_sub(counters.unsampled);
    let left_out = counters.unsampled + counters.filtered;
    Duration::from_nanos(RECORDED_NS * sampled + LEFT_OUT_NS * left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_record_costs_less() {
        let counters = Counters {
            entered: 1_000_000,
            unsampled: 900_000,
            filtered: 100_000,
            ..Counters::default()
        };
        assert_eq!(run_time(&counters), Duration::from_millis(161 + 379));
        assert_eq!(run_time(&Counters::default()), Duration::ZERO);
    }
}
