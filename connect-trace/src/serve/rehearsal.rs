//! The HTTP side and the page of the service on connections that were made up or recorded, without probes: for tests, and
//! for work on the page.

use std::{net::TcpListener as StdTcpListener, time::Duration};

use anyhow::Result;
use tokio::{net::TcpListener, sync::mpsc, task::LocalSet};

use super::{
    http,
    listen::Listener,
    page,
    request::{Answer, WAITING, Wanted},
};
use crate::{connect::Connect, live::stage::Stage};

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
