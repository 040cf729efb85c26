//! The summary of a flame graph.

use std::fmt::Write as _;

use connect_trace_common::StackCounts;

use super::{
    Calls,
    samples::{Account, BLOCKED, PREEMPTED, Samples, YIELDED},
};
use crate::{
    kernel::prototypes::{CONNECT, UDP},
    term::numbers::{count, counted, time},
};

/// The times of a flame graph, and the account of its samples.
pub(super) struct Summary {
    calls: Calls,
    counts: StackCounts,
    account: Account,
    hertz: u32,
    on_cpu: u64,
    total_ns: u64,
    search_ns: u64,
    /// Times without a CPU, with their names.
    off_cpu: [(&'static str, u64); 3],
}

/// Returns true if this is the function of the port search, of TCP or UDP.
pub(super) fn is_search(name: &str) -> bool {
    let ([.., of_tcp], [.., of_udp]) = (CONNECT, UDP);
    // Clang adds a suffix to symbols.
    let name = name.split('.').next().unwrap_or_default();
    [of_tcp.symbol, of_udp.symbol].contains(&name)
}

impl Summary {
    pub(super) fn new(samples: &Samples, calls: Calls, counts: StackCounts, hertz: u32) -> Self {
        let tree = &samples.tree;
        let below = |root: &'static str| tree.time_in(|name| name == root);
        Self {
            calls,
            counts,
            account: samples.account,
            hertz,
            on_cpu: samples.on_cpu,
            total_ns: tree.total_ns(),
            search_ns: tree.time_in(is_search),
            off_cpu: [
                ("preempted", below(PREEMPTED)),
                ("yielded in cond_resched", below(YIELDED)),
                ("blocked", below(BLOCKED)),
            ],
        }
    }

    /// Returns true if every sample is in the graph, or of a call that is not wanted.
    pub(super) fn is_complete(&self) -> bool {
        let Account {
            arrived,
            unpaired,
            dropped,
            ..
        } = self.account;
        let arrived_all = self.counts.taken == arrived + self.counts.ring_full;
        arrived_all && self.account.adds_up() && self.counts.ring_full + unpaired + dropped == 0
    }

    /// Returns true if the share of the port search differs from that by the times of the calls by more than chance
    /// does: something else than the samples' number is wrong with them.
    pub(super) fn is_in_step(&self) -> bool {
        /// Difference that matters to a reader.
        const POINTS: f64 = 0.05;
        /// Difference that chance hardly ever reaches, in standard deviations.
        const DEVIATIONS: f64 = 5.0;
        let (drawn, clocked) = (
            self.search_ns as f64 / self.total_ns as f64,
            self.calls.search_ns as f64 / self.calls.connect_ns as f64,
        );
        let deviation = (clocked * (1.0 - clocked) / self.on_cpu as f64).sqrt();
        // Comparisons with a share of nothing, which is no number, are false.
        (drawn - clocked).abs() > (DEVIATIONS * deviation).max(POINTS)
    }

    /// Returns the losses.
    pub(super) fn losses(&self) -> String {
        let Account {
            arrived,
            unpaired,
            dropped,
            ..
        } = self.account;
        format!(
            "of {} samples, {} found the ring buffer full (--ring-buffer makes it larger), {} too many waiting, and \
             of {} switches away from a thread the end is not known; {arrived} arrived",
            self.counts.taken, self.counts.ring_full, dropped, unpaired
        )
    }

    /// Returns the summary, in lines.
    pub(super) fn text(&self) -> String {
        let off_ns: u64 = self.off_cpu.iter().map(|(_, ns)| ns).sum();
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} in {}: {} on a CPU ({} at {} Hz), {} without one{}",
            time(self.total_ns as f64),
            counted(self.calls.count, "connect() call", "connect() calls"),
            time(self.total_ns.saturating_sub(off_ns) as f64),
            counted(self.on_cpu, "sample", "samples"),
            self.hertz,
            time(off_ns as f64),
            self.kinds(),
        );
        let _ = writeln!(
            text,
            "port search: {} of the time in the graph, {} of that of all these calls by their own clocks ({})",
            share(self.search_ns, self.total_ns),
            share(self.calls.search_ns, self.calls.connect_ns),
            time(self.calls.connect_ns as f64),
        );
        let Account {
            in_graph,
            resumed,
            without_record,
            unpaired,
            dropped,
            ..
        } = self.account;
        let lost = self.counts.ring_full + unpaired + dropped;
        let _ = write!(
            text,
            "samples taken {} = in the graph {} + ends of times without a CPU {} + of calls without a record {} + \
             lost {}",
            count(self.counts.taken),
            count(in_graph),
            count(resumed),
            count(without_record),
            count(lost),
        );
        text
    }

    fn kinds(&self) -> String {
        let parts = self.off_cpu.iter().filter(|(_, ns)| *ns > 0);
        let parts: Vec<String> = parts
            .map(|(name, ns)| format!("{name} {}", time(*ns as f64)))
            .collect();
        if parts.is_empty() {
            return String::new();
        }
        format!(" ({})", parts.join(", "))
    }
}

/// Returns a share in percent.
pub(super) fn share(part: u64, of: u64) -> String {
    if of == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", 100.0 * part as f64 / of as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_has_its_name_with_any_suffix_of_the_compiler() {
        assert!(is_search("__inet_hash_connect") && is_search("__inet_hash_connect.llvm.12"));
        assert!(!is_search("inet_hash_connect") && !is_search("__inet_hash_connect2"));
    }

    #[test]
    fn samples_in_step_with_the_calls_are_told_from_chance() {
        let summary = |on_cpu, search_ns| Summary {
            calls: Calls {
                count: 1_000,
                connect_ns: 1_000_000,
                search_ns: 900_000,
            },
            counts: StackCounts::default(),
            account: Account::default(),
            hertz: 999,
            on_cpu,
            total_ns: 1_000_000,
            search_ns,
            off_cpu: [("preempted", 0); 3],
        };
        assert!(summary(2_000, 840_000).is_in_step());
        assert!(summary(2_000, 960_000).is_in_step());
        assert!(!summary(2_000, 860_000).is_in_step(), "four points");
        assert!(!summary(500, 840_000).is_in_step(), "few samples");
        assert!(!summary(0, 840_000).is_in_step(), "none at all");
        let empty = Summary {
            total_ns: 0,
            calls: Calls::default(),
            ..summary(0, 0)
        };
        assert!(!empty.is_in_step());
    }

    #[test]
    fn a_share_of_nothing_is_none() {
        assert_eq!(share(1, 3), "33.3 %");
        assert_eq!(share(0, 0), "-");
    }
}
