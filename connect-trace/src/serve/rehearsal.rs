//! The HTTP side and the page of the service on connections that were made up or recorded, without probes: for tests, and
//! for work on the page.

use std::{
    net::TcpListener as StdTcpListener,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use tokio::{net::TcpListener, sync::mpsc, task::LocalSet};

use super::{
    history::{Ended, History},
    http,
    listen::Listener,
    page,
    request::{Answer, WAITING, Wanted},
};
use crate::{
    connect::Connect,
    metrics::Totals,
    overhead::{limiter::Level, process_usage::ProcessUsage},
    stats::{Collection, Traced, by::By, report::KernelSide},
};

/// Serves until the process ends. Each request for the page ends an interval, whose connections are the next element;
/// when there is none, the page is refused. The first `before` intervals have ended at the start.
///
/// # Errors
/// If the socket cannot be used.
pub fn rehearse(
    listener: StdTcpListener,
    interval: Duration,
    before: usize,
    intervals: Vec<Vec<Connect>>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        listener.set_nonblocking(true)?;
        let listener = Listener::Tcp(TcpListener::from_std(listener)?);
        let (requests, mut waiting) = mpsc::channel(WAITING);
        tokio::task::spawn_local(http::serve(listener, requests));
        let mut stage = Stage::new(interval);
        // The last of the intervals before ends now.
        stage.at -= interval * u32::try_from(before)?;
        let mut intervals = intervals.into_iter();
        for connects in intervals.by_ref().take(before) {
            stage.add(&connects);
        }
        while let Some(request) = waiting.recv().await {
            let answer = match request.wanted {
                Wanted::Page { nonce } => match intervals.next() {
                    Some(connects) => {
                        stage.add(&connects);
                        page::answer(&stage.history, nonce)
                    }
                    None => Answer::text(503, "the rehearsal is over"),
                },
                _ => Answer::text(404, "a rehearsal has the page only"),
            };
            // The client may have gone.
            let _ = request.answer.send(answer);
        }
        Ok(())
    })
}

/// Calls below have no record.
const MIN_LATENCY: Duration = Duration::from_micros(100);

/// A service without probes.
pub(super) struct Stage {
    pub(super) history: History,
    pub(super) totals: Totals,
    pub(super) side: KernelSide,
    /// End of the last interval.
    pub(super) at: SystemTime,
    collection: Collection,
}

impl Stage {
    pub(super) fn new(interval: Duration) -> Self {
        let traced = Traced {
            kernel: "6.12.0".to_owned(),
            attached: "rehearsal".to_owned(),
            filters: Vec::new(),
        };
        Self {
            history: History::new(interval),
            totals: Totals::default(),
            side: KernelSide::default(),
            at: SystemTime::now(),
            collection: Collection::new(traced, By::Parity, 1),
        }
    }

    /// Adds an interval with these connections, as the programs in the kernel would tell of them.
    pub(super) fn add(&mut self, connects: &[Connect]) {
        let accounting = &mut self.side.accounting;
        for connect in connects {
            self.totals.record(connect);
            accounting.kernel.entered += 1;
            if connect.errno == 0 && Duration::from_nanos(connect.connect_ns) < MIN_LATENCY {
                accounting.kernel.fast += 1;
                self.side.fast.record(connect);
            } else {
                accounting.kernel.reported += 1;
                accounting.decoded += 1;
                self.collection.connect(connect);
            }
        }
        let interval = self.history.interval();
        self.at += interval;
        let side = self.side.clone();
        let report = self.collection.take(self.at, interval, None, side);
        self.history.add(&Ended {
            report: &report,
            totals: &self.totals,
            min_latency: MIN_LATENCY,
            next: interval,
            level: Level::Full,
            own: ProcessUsage::now(),
        });
    }
}
