//! Times of day: computed from the kernel's `CLOCK_MONOTONIC`, and formatted for people and for programs.

use std::time::{Duration, SystemTime};

/// Nanoseconds per second.
const SECOND: i128 = 1_000_000_000;

/// Smaller differences between two readings are not a step: reading takes time on a loaded host.
const STEP: Duration = Duration::from_millis(10);

/// Converts `CLOCK_MONOTONIC`, which the records use, to the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Time of day since 1970 minus `CLOCK_MONOTONIC`.
    offset_ns: i128,
    /// True for the clock of the running kernel, which can be set.
    live: bool,
}

impl Clock {
    /// Returns the clock of the running kernel, as currently set.
    #[must_use]
    pub fn now() -> Self {
        Self {
            offset_ns: offset_ns(),
            live: true,
        }
    }

    /// Returns the clock of a recording: the time of day (since 1970) minus `CLOCK_MONOTONIC`, in
    /// nanoseconds, as returned by [`offset_ns`](Self::offset_ns).
    #[must_use]
    pub fn fixed(offset_ns: i64) -> Self {
        Self {
            offset_ns: offset_ns.into(),
            live: false,
        }
    }

    /// Time of day (since 1970) minus `CLOCK_MONOTONIC`, in nanoseconds.
    #[must_use]
    pub fn offset_ns(&self) -> i64 {
        i64::try_from(self.offset_ns).unwrap_or(i64::MAX)
    }

    /// Returns true if this clock was set by at least `step` against another one.
    #[must_use]
    pub(crate) fn is_step_of(&self, step: Duration, other: &Self) -> bool {
        (self.offset_ns - other.offset_ns).unsigned_abs() >= step.as_nanos()
    }

    /// Returns the time of day.
    #[must_use]
    pub(crate) fn time(&self) -> Time {
        self.at(monotonic_ns())
    }

    /// Returns the time of day of a `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn at(&self, monotonic_ns: u64) -> Time {
        Time {
            unix_ns: self.offset_ns + i128::from(monotonic_ns),
        }
    }

    /// Follows the kernel's clock, and returns by how many nanoseconds it was set since the last call; `None` if it
    /// was not set. A suspended host counts as a change, because `CLOCK_MONOTONIC` stands still meanwhile.
    pub fn follow(&mut self) -> Option<i128> {
        if !self.live {
            return None;
        }
        self.follow_to(offset_ns())
    }

    fn follow_to(&mut self, offset_ns: i128) -> Option<i128> {
        let step = offset_ns - self.offset_ns;
        let is_one = step.unsigned_abs() > STEP.as_nanos();
        if is_one {
            self.offset_ns = offset_ns;
        }
        is_one.then_some(step)
    }
}

/// Returns the offset from the most precise of a few readings: another thread may run between reading the two clocks.
fn offset_ns() -> i128 {
    let reading = || {
        let before = read(libc::CLOCK_MONOTONIC);
        let day = read(libc::CLOCK_REALTIME);
        let after = read(libc::CLOCK_MONOTONIC);
        (after - before, day - (before + after) / 2)
    };
    let readings = [(); 5].map(|()| reading());
    readings.into_iter().min().map_or(0, |(_, offset)| offset)
}

fn read(clock: libc::clockid_t) -> i128 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec that outlives the call. Both clocks exist in every kernel, so the call
    // does not fail; if it did, the time would be 0.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    i128::from(time.tv_sec) * SECOND + i128::from(time.tv_nsec)
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`, and so of the records.
#[must_use]
pub(crate) fn monotonic_ns() -> u64 {
    // The time since the boot is not negative.
    u64::try_from(read(libc::CLOCK_MONOTONIC)).unwrap_or(0)
}

/// A time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Nanoseconds since 1970, UTC, as `CLOCK_REALTIME` counts them.
    unix_ns: i128,
}

impl From<SystemTime> for Time {
    fn from(at: SystemTime) -> Self {
        let unix_ns = match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => nanoseconds(since),
            Err(before) => -nanoseconds(before.duration()),
        };
        Self { unix_ns }
    }
}

/// Reads the time zone, which libc does at the first local time only: a service cannot open the file later.
pub(crate) fn read_time_zone() {
    Time::from(SystemTime::now()).local();
}

impl Time {
    /// Returns the time that is earlier by this duration.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self {
            unix_ns: self.unix_ns - nanoseconds(duration),
        }
    }

    fn local(self) -> libc::tm {
        let seconds = self.unix_ns.div_euclid(SECOND);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        // SAFETY: all zeros is a valid tm, and localtime_r fills it or leaves it unchanged.
        unsafe {
            let mut local: libc::tm = std::mem::zeroed();
            libc::localtime_r(&raw const seconds, &raw mut local);
            local
        }
    }

    /// Returns local date and time as `YYYY-MM-DD HH:MM:SS`.
    #[must_use]
    pub fn date_and_time(self) -> String {
        let local = self.local();
        format!(
            "{:04}-{:02}-{:02} {}",
            i64::from(local.tm_year) + 1900,
            local.tm_mon + 1,
            local.tm_mday,
            self.of_day()
        )
    }

    /// Returns local time as `HH:MM:SS`.
    #[must_use]
    pub fn of_day(self) -> String {
        let local = self.local();
        format!(
            "{:02}:{:02}:{:02}",
            local.tm_hour, local.tm_min, local.tm_sec
        )
    }

    /// Returns local time as `HH:MM:SS.mmm`.
    #[must_use]
    pub fn of_day_with_ms(self) -> String {
        let ms = self.unix_ns.rem_euclid(SECOND) / 1_000_000;
        format!("{}.{ms:03}", self.of_day())
    }

    /// Returns UTC as `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ` (RFC 3339).
    #[must_use]
    pub fn rfc3339(self) -> String {
        let (seconds, ns) = (
            self.unix_ns.div_euclid(SECOND),
            self.unix_ns.rem_euclid(SECOND),
        );
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
    }
}

/// Returns year, month and day of a day since 1970, in the Gregorian calendar. The calculation begins at the
/// first of March of the year 0, so that a leap day is the last day of its year.
fn date(days: i128) -> (i128, i128, i128) {
    const DAYS_TO_1970: i128 = 719_468;
    const DAYS_OF_400_YEARS: i128 = 146_097;
    let days = days + DAYS_TO_1970;
    let (era, day) = (
        days.div_euclid(DAYS_OF_400_YEARS),
        days.rem_euclid(DAYS_OF_400_YEARS),
    );
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months of 31, 30, 31, 30, 31 days, from March on.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 {
        (year, month + 3)
    } else {
        (year + 1, month - 9)
    };
    (era * 400 + year, month, day)
}

fn nanoseconds(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(unix_s: i128) -> String {
        let unix_ns = unix_s * SECOND;
        Time { unix_ns }.rfc3339()
    }

    #[test]
    fn a_time_for_programs_is_utc_of_the_gregorian_calendar() {
        // Expected values by date(1): `date -u -d @951782400 --rfc-3339=seconds`.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000000Z"),
            (1_795_424_645, "2026-11-23T09:04:05.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.000000000Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }

    #[test]
    fn a_record_has_the_time_of_day_at_which_it_began() {
        let clock = Clock::fixed(1_795_424_645_000_000_000);
        let time = clock.at(1_234_567_890);
        assert_eq!(time.rfc3339(), "2026-11-23T09:04:06.234567890Z");
        assert!(
            time.of_day_with_ms().ends_with(":04:06.234"),
            "whatever the zone"
        );
        assert_eq!(
            time.before(Duration::from_millis(235)).rfc3339(),
            "2026-11-23T09:04:05.999567890Z"
        );
    }

    #[test]
    fn the_clock_of_this_host_is_that_of_the_system() {
        let (clock, now) = (Clock::now(), Time::from(SystemTime::now()));
        let monotonic_ns = u64::try_from(read(libc::CLOCK_MONOTONIC)).unwrap();
        let difference = clock.at(monotonic_ns).unix_ns - now.unix_ns;
        assert!(difference.abs() < 60 * SECOND, "{difference} ns");
    }

    #[test]
    fn a_step_is_noticed_once_and_followed() {
        let mut clock = Clock {
            offset_ns: 5 * SECOND,
            live: true,
        };
        assert_eq!(clock.follow_to(5 * SECOND + 10_000_000), None);
        assert_eq!(clock.follow_to(3 * SECOND), Some(-2 * SECOND));
        assert_eq!(clock.follow_to(3 * SECOND), None);
        assert_eq!(clock.at(0).unix_ns, 3 * SECOND);
        let mut fixed = Clock::fixed(0);
        assert_eq!(fixed.follow(), None, "a recording's does not change");
    }
}
