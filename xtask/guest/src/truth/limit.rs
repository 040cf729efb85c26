//! The limit on open files: a case with thousands of sockets raises it first.

use anyhow::{Context, Result};

use super::socket::check;

/// Open files beside the sockets that a case counts: the standard streams, files of /proc.
const OTHERS: u64 = 32;

/// Raises the limit so that `sockets` can be open.
pub(super) fn make_room_for(sockets: usize) -> Result<()> {
    let needed = sockets as u64 + OTHERS;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` may be written to.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })
        .context("reading the limit on open files")?;
    if limit.rlim_cur >= needed {
        return Ok(());
    }
    let old = limit.rlim_max;
    limit = libc::rlimit {
        rlim_cur: needed,
        rlim_max: old.max(needed),
    };
    // SAFETY: `limit` is a valid structure that outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).with_context(|| {
        format!("raising the limit on open files to {needed}, where the hard limit is {old}")
    })
}
