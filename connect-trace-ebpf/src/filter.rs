//! What is traced, decided before any other work.

use crate::{layout::FILTER_PIDS, maps::PIDS};

/// Whether calls of this thread are traced.
#[inline(always)]
pub fn wants(pid_tgid: u64) -> bool {
    let pid = (pid_tgid >> 32) as u32;
    FILTER_PIDS.load() == 0 || PIDS.get_ptr(&pid).is_some()
}
