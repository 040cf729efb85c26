//! The tables that a port search locks, and the tracepoints that show waits for their locks.

use anyhow::Result;

use super::btf::Btf;

/// The layout of `struct inet_hashinfo` and of its tables, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortTables {
    /// Offset of `inet_timewait_death_row.hashinfo`, a pointer.
    pub death_row_hashinfo: u32,
    /// Offset of `inet_hashinfo.bhash`, an array of buckets, which begin with their locks.
    pub bhash: u32,
    /// Offset of `inet_hashinfo.bhash_size`, the number of buckets of `bhash`, and of `bhash2`.
    pub bhash_size: u32,
    /// Offset of `inet_hashinfo.bhash2`.
    pub bhash2: u32,
    /// Offset of `inet_hashinfo.ehash_locks`, an array of `spinlock_t`.
    pub ehash_locks: u32,
    /// Offset of `inet_hashinfo.ehash_locks_mask`, the number of these locks minus one.
    pub ehash_locks_mask: u32,
    /// Size of `struct inet_bind_hashbucket`.
    pub bucket_bytes: u32,
    /// Size of `spinlock_t`.
    pub spinlock_bytes: u32,
}

/// The structure of the kernel's tracepoint `lock:contention_begin` (since 5.19).
const CONTENTION: &str = "trace_event_raw_contention_begin";

impl PortTables {
    /// Returns the layout; `None` if this kernel has no tracepoints of lock contention, or its types do not show the
    /// tables.
    ///
    /// # Errors
    /// If the BTF is broken.
    pub(super) fn of(btf: &Btf) -> Result<Option<Self>> {
        if btf.structure(CONTENTION).is_none() {
            return Ok(None);
        }
        let hashinfo = |path| btf.member("inet_hashinfo", path);
        let (
            Some(death_row),
            Some(bhash),
            Some(bhash_size),
            Some(bhash2),
            Some(ehash_locks),
            Some(ehash_locks_mask),
            Some(lock),
            Some(bucket_bytes),
            Some(spinlock_bytes),
        ) = (
            btf.member("inet_timewait_death_row", "hashinfo")?,
            hashinfo("bhash")?,
            hashinfo("bhash_size")?,
            hashinfo("bhash2")?,
            hashinfo("ehash_locks")?,
            hashinfo("ehash_locks_mask")?,
            btf.member("inet_bind_hashbucket", "lock")?,
            btf.structure_bytes("inet_bind_hashbucket")?,
            btf.structure_bytes("spinlock")?,
        )
        else {
            return Ok(None);
        };
        if lock.offset != 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            death_row_hashinfo: death_row.offset,
            bhash: bhash.offset,
            bhash_size: bhash_size.offset,
            bhash2: bhash2.offset,
            ehash_locks: ehash_locks.offset,
            ehash_locks_mask: ehash_locks_mask.offset,
            bucket_bytes,
            spinlock_bytes,
        }))
    }
}
