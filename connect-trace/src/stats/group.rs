//! Times of the connect() calls of a group, and the ports that they scanned.

use connect_trace_common::FastGroup;

use super::{Latency, Precision, Scanned};
use crate::connect::Connect;

/// Times of connect() and of the port search within it, and the lengths of the searches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Time in `tcp_v4_connect` or `tcp_v6_connect`.
    pub connect: Latency,
    /// Time in `__inet_hash_connect`.
    pub search: Latency,
    /// Ports that the searches went through; without searches of which the kernel only kept sums.
    pub scanned: Scanned,
}

impl Group {
    /// Creates an empty group.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self {
            connect: Latency::new(precision),
            search: Latency::new(precision),
            scanned: Scanned::default(),
        }
    }

    /// Adds one connect().
    pub fn record(&mut self, connect: &Connect) {
        self.connect.record(connect.connect_ns);
        if let Some(ns) = connect.search_ns {
            self.search.record(ns);
        }
        if let Some(ports) = connect.scanned {
            self.scanned.record(ports);
        }
    }

    /// Adds the calls of another group: see [`Latency::merge`].
    pub fn merge(&mut self, other: &Self) {
        self.connect.merge(&other.connect);
        self.search.merge(&other.search);
        self.scanned.merge(&other.scanned);
    }

    /// Adds calls of which the kernel only kept sums: see [`Latency::merge_fast`].
    pub fn merge_fast(&mut self, fast: &FastGroup) {
        self.connect.merge_fast(&fast.connect);
        self.search.merge_fast(&fast.search);
    }
}
