//! Limits of the machine that a run meets: open files and memory.

use std::{fs, io};

use anyhow::{Result, bail, ensure};

/// Descriptors that a thread needs besides its connections.
const SPARE_FILES: u64 = 16;

/// Minimum limit of open files.
const LEAST_FILES: u64 = 128;

/// Approximate memory of a connection and its other end: two sockets, a file and an inode.
const BYTES_PER_CONNECTION: u64 = 6 << 10;

/// Raises the limit of open files to its maximum, and returns the number of connections that one table of files holds.
///
/// # Errors
/// If the limit is too low.
pub(super) fn connections_per_table() -> Result<usize> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is that of an rlimit, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        bail!(
            "cannot read the limit of open files: {}",
            io::Error::last_os_error()
        );
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            ..limit
        };
        // SAFETY: the pointer is that of an rlimit, which outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    ensure!(
        limit.rlim_cur >= LEAST_FILES,
        "the limit of open files is {}, but at least {LEAST_FILES} are needed: raise it (ulimit -Hn)",
        limit.rlim_cur
    );
    Ok(usize::try_from(limit.rlim_cur - SPARE_FILES).unwrap_or(usize::MAX))
}

/// Checks that the machine can hold this number of connections at once.
///
/// # Errors
/// Names the limit that is too low.
pub(super) fn check(connections: u32) -> Result<()> {
    let connections = u64::from(connections);
    if let Some(free) = free_files()
        && free < connections
    {
        bail!(
            "this machine can open {free} more files (fs.file-max), but {connections} connections need one \
             each: open fewer (--connections), or raise fs.file-max"
        );
    }
    if let Some(available) = available_memory()
        && available < connections * BYTES_PER_CONNECTION
    {
        bail!(
            "this machine has {} MiB of memory available, but {connections} connections need about {} MiB: open \
             fewer (--connections)",
            available >> 20,
            (connections * BYTES_PER_CONNECTION) >> 20
        );
    }
    Ok(())
}

fn free_files() -> Option<u64> {
    let text = fs::read_to_string("/proc/sys/fs/file-nr").ok()?;
    let mut numbers = text.split_whitespace().map(|word| word.parse::<u64>().ok());
    let (open, _, most) = (numbers.next()??, numbers.next()?, numbers.next()??);
    Some(most.saturating_sub(open))
}

fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_any_machine_has_memory_for_are_told() {
        let why = check(u32::MAX).unwrap_err().to_string();
        assert!(why.contains("--connections"), "{why}");
        check(1).unwrap();
    }

    #[test]
    fn a_table_holds_fewer_connections_than_files() {
        assert!(connections_per_table().unwrap() >= (LEAST_FILES - SPARE_FILES) as usize);
    }
}
