//! Two groups of connections that run side by side: those for which a mitigation acts, and the others. Their times are
//! compared by a test that says if the difference is more than noise.

use std::collections::BTreeMap;

use connect_trace_common::Times;

use super::Group;
use crate::connect::Connect;

/// The group of a connection. A thread or a cgroup belongs to one of them by its id alone, whatever becomes of its
/// connections, so that the groups differ in nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The mitigation acts.
    Mitigated,
    /// The kernel chooses.
    Unmitigated,
}

impl Arm {
    /// Both, in the order of arrays.
    pub const ALL: [Self; 2] = [Self::Mitigated, Self::Unmitigated];

    /// Returns the name in text, JSON and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mitigated => "mitigated",
            Self::Unmitigated => "unmitigated",
        }
    }
}

/// The connections of one arm.
#[derive(Clone, Debug, Default)]
pub struct ArmCalls {
    /// Times of the successful calls.
    pub succeeded: Group,
    /// Number of failed calls.
    pub failed: u64,
    /// Number of failed calls that found no port (EADDRNOTAVAIL).
    pub without_port: u64,
}

/// The connections of one arm since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArmTotals {
    /// Times of the successful calls.
    pub connect: Times,
    /// Number of failed calls.
    pub failed: u64,
    /// Number of failed calls that found no port (EADDRNOTAVAIL).
    pub without_port: u64,
}

/// The connections of both arms since the last report and since the start, and their comparison since the start.
#[derive(Clone, Debug, Default)]
pub struct Arms {
    calls: [ArmCalls; 2],
    totals: [ArmTotals; 2],
    seconds: Seconds,
}

impl Arms {
    /// Adds a connection. `acting_ns` is the mean time that the mitigation itself takes, before connect() begins.
    pub fn record(&mut self, arm: Arm, connect: &Connect, acting_ns: f64) {
        let calls = &mut self.calls[arm as usize];
        let totals = &mut self.totals[arm as usize];
        if connect.errno != 0 {
            let without_port = u64::from(connect.errno == libc::EADDRNOTAVAIL);
            calls.failed += 1;
            calls.without_port += without_port;
            totals.failed += 1;
            totals.without_port += without_port;
            return;
        }
        calls.succeeded.record(connect);
        totals.connect.record(connect.connect_ns);
        let added = match arm {
            Arm::Mitigated => acting_ns,
            Arm::Unmitigated => 0.0,
        };
        self.seconds
            .record(arm, connect.start_ns, connect.connect_ns as f64 + added);
    }

    /// Returns the connections since the last call, in the order of [`Arm::ALL`].
    pub fn take(&mut self) -> [ArmCalls; 2] {
        std::mem::take(&mut self.calls)
    }

    /// Returns the connections since the start, in the order of [`Arm::ALL`].
    #[must_use]
    pub fn totals(&self) -> [ArmTotals; 2] {
        self.totals
    }

    /// Returns the comparison since the start.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.seconds.verdict()
    }
}

/// Smallest number of connections of each arm for which a second is compared.
const CALLS_OF_A_SECOND: u64 = 5;

/// Smallest number of seconds from which a verdict is given.
pub const SECONDS_FOR_A_VERDICT: u64 = 30;

/// Number of the latest seconds whose connections may still come.
const OPEN_SECONDS: usize = 3;

/// The sum of one arm in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u64,
    ns: f64,
}

/// The logarithms of the ratio of the arms' mean times, second by second. Calls of one second are not independent of each
/// other, but the arms share what they depend on: the load and the ports of that second.
#[derive(Clone, Debug, Default)]
struct Seconds {
    open: BTreeMap<u64, [Sum; 2]>,
    /// Number of seconds that were compared, and the sum and the sum of squares of their logarithms.
    compared: u64,
    sum: f64,
    squares: f64,
    /// Number of calls of these seconds.
    calls: [u64; 2],
}

impl Seconds {
    fn record(&mut self, arm: Arm, start_ns: u64, ns: f64) {
        let second = start_ns / 1_000_000_000;
        let sum = &mut self.open.entry(second).or_default()[arm as usize];
        sum.count += 1;
        sum.ns += ns;
        while self.open.len() > OPEN_SECONDS {
            let Some((_, sums)) = self.open.pop_first() else {
                return;
            };
            self.close(sums);
        }
    }

    fn close(&mut self, [mitigated, unmitigated]: [Sum; 2]) {
        if mitigated.count < CALLS_OF_A_SECOND || unmitigated.count < CALLS_OF_A_SECOND {
            return;
        }
        let mean = |sum: Sum| (sum.ns / sum.count as f64).max(1.0);
        let logarithm = (mean(mitigated) / mean(unmitigated)).ln();
        self.compared += 1;
        self.sum += logarithm;
        self.squares += logarithm * logarithm;
        self.calls[0] += mitigated.count;
        self.calls[1] += unmitigated.count;
    }

    fn verdict(&self) -> Verdict {
        let mut all = self.clone();
        // The latest second is not over.
        all.open.pop_last();
        while let Some((_, sums)) = all.open.pop_first() {
            all.close(sums);
        }
        let count = all.compared as f64;
        let seconds = all.compared;
        if seconds < SECONDS_FOR_A_VERDICT {
            return Verdict {
                seconds,
                calls: all.calls,
                ratio: None,
            };
        }
        let mean = all.sum / count;
        let variance = (all.squares - count * mean * mean).max(0.0) / (count - 1.0);
        let half = student_t(count - 1.0) * (variance / count).sqrt();
        Verdict {
            seconds,
            calls: all.calls,
            ratio: Some(Ratio {
                low: (mean - half).exp(),
                mean: mean.exp(),
                high: (mean + half).exp(),
            }),
        }
    }
}

/// Returns the quantile of Student's t-distribution for a two-sided test at 1 %, by the first two terms of the expansion
/// of Cornish and Fisher: 2.754 for 29 degrees of freedom, where tables have 2.756.
fn student_t(degrees: f64) -> f64 {
    const NORMAL: f64 = 2.575_829;
    let cube = NORMAL.powi(3);
    let first = (cube + NORMAL) / 4.0;
    let second = (5.0 * NORMAL.powi(5) + 16.0 * cube + 3.0 * NORMAL) / 96.0;
    NORMAL + first / degrees + second / (degrees * degrees)
}

/// The comparison of the arms: a paired t-test of the logarithm of the ratio of their mean times in each second, two-sided,
/// at 1 %. The time of the mitigation itself is part of its arm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Number of seconds in which both arms had at least five connections.
    pub seconds: u64,
    /// Number of the connections of these seconds, in the order of [`Arm::ALL`].
    pub calls: [u64; 2],
    /// Time of the mitigated arm divided by that of the other; `None` with fewer than [`SECONDS_FOR_A_VERDICT`] seconds.
    pub ratio: Option<Ratio>,
}

/// A ratio of times with its confidence interval of 99 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Lower end of the interval.
    pub low: f64,
    /// Geometric mean over the seconds.
    pub mean: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Verdict {
    /// Returns the outcome.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.ratio {
            None => Outcome::TooLittle,
            Some(ratio) if ratio.high < 1.0 => Outcome::Faster,
            Some(ratio) if ratio.low > 1.0 => Outcome::Slower,
            Some(_) => Outcome::Noise,
        }
    }
}

/// Outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Too few seconds were compared.
    TooLittle,
    /// The mitigated arm is faster, by more than noise.
    Faster,
    /// The mitigated arm is slower, by more than noise.
    Slower,
    /// The difference may be noise.
    Noise,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 4] = [Self::TooLittle, Self::Faster, Self::Slower, Self::Noise];

    /// Returns the name in JSON and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLittle => "too-little",
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Noise => "noise",
        }
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::fixtures::connect_from;

    /// Records `seconds` of 20 calls of each arm, whose times vary by chance around these means in microseconds.
    fn compared(seconds: u64, [mitigated, unmitigated]: [f64; 2], acting_ns: f64) -> Verdict {
        let mut random = Rng::with_seed(7);
        let mut arms = Arms::default();
        for second in 0..seconds {
            // A load that both have in common.
            let load = 0.5 + random.f64();
            for call in 0..20 {
                for (arm, mean) in Arm::ALL.into_iter().zip([mitigated, unmitigated]) {
                    let us = mean * load * (0.5 + random.f64());
                    let connect = Connect {
                        start_ns: second * 1_000_000_000 + call,
                        connect_ns: (us * 1e3) as u64,
                        ..connect_from(20_000)
                    };
                    arms.record(arm, &connect, acting_ns);
                }
            }
        }
        arms.verdict()
    }

    #[test]
    fn a_difference_is_told_from_noise() {
        let same = compared(200, [100.0, 100.0], 0.0);
        assert_eq!(same.outcome(), Outcome::Noise, "{same:?}");
        let faster = compared(200, [90.0, 100.0], 0.0);
        assert_eq!(faster.outcome(), Outcome::Faster, "{faster:?}");
        let ratio = faster.ratio.unwrap();
        assert!(ratio.low < 0.9 && 0.9 < ratio.high, "{ratio:?}");
        let slower = compared(200, [100.0, 90.0], 0.0);
        assert_eq!(slower.outcome(), Outcome::Slower, "{slower:?}");
    }

    #[test]
    fn the_time_of_the_mitigation_counts() {
        let verdict = compared(200, [90.0, 100.0], 30_000.0);
        assert_eq!(verdict.outcome(), Outcome::Slower, "{verdict:?}");
    }

    #[test]
    fn there_is_no_verdict_from_too_little() {
        // The last second is not over.
        let verdict = compared(SECONDS_FOR_A_VERDICT, [10.0, 1_000.0], 0.0);
        assert_eq!(verdict.seconds, SECONDS_FOR_A_VERDICT - 1);
        assert_eq!(verdict.outcome(), Outcome::TooLittle);
        let enough = compared(SECONDS_FOR_A_VERDICT + 1, [10.0, 1_000.0], 0.0);
        assert_eq!(enough.outcome(), Outcome::Faster);

        let mut arms = Arms::default();
        for second in 0..100 {
            let connect = Connect {
                start_ns: second * 1_000_000_000,
                ..connect_from(20_000)
            };
            arms.record(Arm::Mitigated, &connect, 0.0);
        }
        assert_eq!(arms.verdict().seconds, 0, "the other arm has no calls");
    }

    #[test]
    fn chance_alone_seldom_gives_a_verdict() {
        let mut random = Rng::with_seed(1);
        let wrong = (0..1_000).filter(|_| {
            let mut seconds = Seconds::default();
            for _ in 0..60 {
                let mut sum = || Sum {
                    count: 10,
                    ns: (0..10).map(|_| 1e4 * (0.1 + random.f64())).sum(),
                };
                let sums = [sum(), sum()];
                seconds.close(sums);
            }
            seconds.verdict().outcome() != Outcome::Noise
        });
        let wrong = wrong.count();
        assert!((1..30).contains(&wrong), "{wrong} of 1000 at 1 %");
    }

    #[test]
    fn failed_calls_are_counted_and_not_timed() {
        let mut arms = Arms::default();
        let failed = Connect {
            errno: libc::EADDRNOTAVAIL,
            ..connect_from(0)
        };
        arms.record(Arm::Unmitigated, &failed, 0.0);
        arms.record(
            Arm::Unmitigated,
            &Connect {
                errno: libc::ETIMEDOUT,
                ..failed
            },
            0.0,
        );
        arms.record(Arm::Mitigated, &connect_from(20_001), 0.0);
        let [mitigated, unmitigated] = arms.take();
        assert_eq!((unmitigated.failed, unmitigated.without_port), (2, 1));
        assert_eq!(unmitigated.succeeded.connect.count(), 0);
        assert_eq!(
            (mitigated.failed, mitigated.succeeded.connect.count()),
            (0, 1)
        );
        assert_eq!(arms.take()[0].succeeded.connect.count(), 0);
    }
}
