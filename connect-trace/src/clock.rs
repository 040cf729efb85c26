//! The time of day, and the clock of the events.

use std::time::SystemTime;

/// Local time as `HH:MM:SS`.
#[must_use]
pub fn time_of_day(at: SystemTime) -> String {
    let local = local(at);
    format!(
        "{:02}:{:02}:{:02}",
        local.tm_hour, local.tm_min, local.tm_sec
    )
}

/// Local date and time as `YYYY-MM-DD HH:MM:SS`.
#[must_use]
pub fn date_and_time(at: SystemTime) -> String {
    let local = local(at);
    format!(
        "{:04}-{:02}-{:02} {}",
        i64::from(local.tm_year) + 1900,
        local.tm_mon + 1,
        local.tm_mday,
        time_of_day(at)
    )
}

fn local(at: SystemTime) -> libc::tm {
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let seconds = libc::time_t::try_from(seconds).unwrap_or(libc::time_t::MAX);
    // SAFETY: all zeros is a valid tm, and localtime_r fills it or leaves it so.
    unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut local);
        local
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`, and so of the events.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid timespec, and this clock is there on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // The time since the boot is not negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
