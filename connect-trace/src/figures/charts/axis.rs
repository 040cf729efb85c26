//! Axes: positions of the ticks.

pub(in crate::figures) use crate::term::numbers::{count, plain, time};

/// The span of an axis, in its own units; for a log axis, the exponents of the powers of ten.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    /// Lower end.
    pub low: f64,
    /// Upper end, above the lower one.
    pub high: f64,
}

impl Span {
    /// Creates a span from zero to `high`, or to one if `high` is not a number above zero.
    pub(in crate::figures) fn up_to(high: f64) -> Self {
        let high = if high.is_finite() && high > 0.0 {
            high
        } else {
            1.0
        };
        Self { low: 0.0, high }
    }

    /// Creates the span of a log axis for times in nanoseconds, with a margin.
    pub(in crate::figures) fn of_times(times: impl Iterator<Item = f64>) -> Self {
        let powers = times.map(|ns| ns.max(1.0).log10());
        let (low, high) = powers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), power| {
            (low.min(power), high.max(power))
        });
        if low > high {
            return Self {
                low: 3.0,
                high: 6.0,
            };
        }
        let air = ((high - low) * 0.04).max(0.1);
        Self {
            low: low - air,
            high: high + air,
        }
    }

    /// Returns the position of a value, 0 at the lower and 1 at the upper end.
    pub(in crate::figures) fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Returns the ticks of a log axis, in nanoseconds: powers of ten, and values between them if there are few.
    pub(in crate::figures) fn log_ticks(self) -> Vec<f64> {
        let decades = self.low.floor() as i32..=self.high.ceil() as i32;
        let steps: &[f64] = if self.high - self.low > 2.5 {
            &[1.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let all =
            decades.flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
        all.filter(|ns| (0.0..=1.0).contains(&self.share(ns.log10())))
            .collect()
    }

    /// Returns about `about` ticks of a linear axis, at round numbers.
    pub(in crate::figures) fn ticks(self, about: u32) -> Vec<f64> {
        let rough = (self.high - self.low) / f64::from(about);
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|step| step * power)
            .into_iter()
            .find(|&step| step >= rough)
            .unwrap_or(rough);
        let first = (self.low / step).ceil();
        (0..=2 * about)
            .map(|number| (first + f64::from(number)) * step)
            .take_while(|&tick| tick <= self.high + step * 1e-9)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_at_round_numbers_within_the_span() {
        assert_eq!(
            Span::up_to(57.9).ticks(6),
            [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
        );
        assert_eq!(Span::up_to(f64::NAN).high, 1.0);
        let wide = Span {
            low: 3.9,
            high: 7.5,
        };
        assert_eq!(wide.log_ticks(), [1e4, 1e5, 1e6, 1e7]);
        let narrow = Span {
            low: 4.1,
            high: 5.1,
        };
        assert_eq!(narrow.log_ticks(), [20_000.0, 50_000.0, 100_000.0]);
    }

    #[test]
    fn a_span_of_equal_times_or_of_none_has_a_width() {
        for times in [&[][..], &[20_000.0], &[0.0, 0.0]] {
            let span = Span::of_times(times.iter().copied());
            assert!(span.high > span.low, "{times:?}");
            assert!(!span.log_ticks().is_empty(), "{times:?}");
        }
    }
}
