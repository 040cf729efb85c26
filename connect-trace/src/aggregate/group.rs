//! Times of connects that have something in common.

use connect_trace_common::FastGroup;

use super::{Latency, Precision};
use crate::event::Connect;

/// Times of connect() and of the port search within it.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Time in `tcp_v4_connect` or `tcp_v6_connect`.
    pub connect: Latency,
    /// Time in `__inet_hash_connect`.
    pub search: Latency,
}

impl Group {
    /// No connect yet.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self {
            connect: Latency::new(precision),
            search: Latency::new(precision),
        }
    }

    /// Adds one connect.
    pub fn record(&mut self, connect: &Connect) {
        self.connect.record(connect.connect_ns);
        if let Some(ns) = connect.search_ns {
            self.search.record(ns);
        }
    }

    /// Adds the connects of another one of the same precision.
    pub fn merge(&mut self, other: &Self) {
        self.connect.merge(&other.connect);
        self.search.merge(&other.search);
    }

    /// Adds connects of which the kernel only kept sums: see [`Latency::merge_fast`].
    pub fn merge_fast(&mut self, fast: &FastGroup) {
        self.connect.merge_fast(&fast.connect);
        self.search.merge_fast(&fast.search);
    }
}
