//! The ring buffer of the ends, decoded.

use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};

use crate::{
    connect::{ConnectionEvent, Decoder},
    stats::EndsAccount,
};

/// A ring buffer of ends, and the decoder of their records.
pub(super) struct EndRecords {
    ring: RingBuf<MapData>,
    decoder: Decoder,
    established: u64,
    ended: u64,
    undecodable: u64,
}

impl EndRecords {
    /// Creates a reader of this ring buffer. The decoder must not be that of the connect() calls, which remembers the
    /// record before.
    pub(super) fn new(ring: RingBuf<MapData>, decoder: Decoder) -> Self {
        Self {
            ring,
            decoder,
            established: 0,
            ended: 0,
            undecodable: 0,
        }
    }

    /// Passes every end in the ring buffer to `each`, and stops after `budget`. Returns whether the buffer was emptied.
    pub(super) fn drain(
        &mut self,
        budget: Duration,
        mut each: impl FnMut(&mut ConnectionEvent),
    ) -> bool {
        /// Number of records between two readings of the clock.
        const BATCH: u32 = 1024;
        let start = Instant::now();
        let mut batch = 0;
        while let Some(record) = self.ring.next() {
            match self.decoder.decode_end(&record) {
                Some(mut event) => {
                    if event.end_ns.is_some() {
                        self.ended += 1;
                    } else {
                        self.established += 1;
                    }
                    each(&mut event);
                }
                None => self.undecodable += 1,
            }
            batch += 1;
            if batch % BATCH == 0 && start.elapsed() > budget {
                return false;
            }
        }
        true
    }

    /// Adds the numbers of events that were read to the account.
    pub(super) fn account(&self, account: &mut EndsAccount) {
        account.established_read = self.established;
        account.ended_read = self.ended;
        account.undecodable = self.undecodable;
    }
}
