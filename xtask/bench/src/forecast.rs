//! Forecasts of the end of a route's ports, compared with the time at which they end: `cargo xtask bench-forecast`.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use xtask::guest::{Hardware, Kit, Task};
use xtask::tools;
use xtask::tools::kernels::Kernel;
use xtask::vm::{AllKernels, get_kernels};

/// The script that runs in the guest.
const SCRIPT: &str = include_str!("forecast.sh");

/// First port of the range.
const LOW: u32 = 20_000;
/// Seconds of a day, after which the time of day begins again.
const DAY: f64 = 86_400.0;
/// Largest error of a forecast from half of the way on, as a share of the whole way.
const PRECISION: f64 = 0.1;
/// Shares of the way whose forecasts are shown, in percent.
const SHOWN: [u32; 8] = [20, 30, 40, 50, 60, 70, 80, 90];

/// Compare forecasts of the end of a route's ports with the time at which they end
///
/// In each virtual machine, a program takes the ports of a range at a steady rate until none is left: once with all
/// connections held, and once with every third one closed at once, so that its port is in TIME_WAIT for a minute.
/// connect-trace predicts each second when the second pass of searches begins and when connect() fails. The exit status
/// is 1 if a forecast from half of the way on is missing, or is wrong by more than 10 % of the way.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    kernels: AllKernels,
    /// Connections per second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Number of ports in the range, below the number that one process can have open
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(100..=9_000))]
    ports: u32,
}

pub(crate) fn forecast(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernels = get_kernels(&options.kernels.choices, options.kernels.arch)?;
    let kit = Kit::prepare(options.kernels.arch, true)?;
    let mut is_good = true;
    for kernel in &kernels {
        for close_every in [0, 3] {
            let run = run(&kit, kernel, options, close_every)
                .with_context(|| format!("on kernel {}", kernel.name))?;
            let closes = match close_every {
                0 => "none closed".to_owned(),
                every => format!("one in {every} closed at once"),
            };
            print!(
                "Linux {}, {} ports, {} connections a second, {closes}\n{}\n",
                kernel.name,
                options.ports,
                options.rate,
                run.table()
            );
            is_good &= run.ends().iter().all(|end| run.is_within(*end));
        }
    }
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the script on a kernel.
fn run(kit: &Kit, kernel: &Kernel, options: &Options, close_every: u32) -> Result<Run> {
    let numbers = [LOW, LOW + options.ports - 1, options.rate, close_every];
    let numbers = numbers.map(|number| number.to_string());
    let task = Task {
        command: ["sh", "-c", SCRIPT, "forecast"]
            .into_iter()
            .chain(numbers.iter().map(String::as_str))
            .map(str::to_owned)
            .collect(),
        hardware: Hardware::default(),
        ..Task::default()
    };
    let mut printed = Vec::new();
    kit.run_well(kernel, &task, |bytes| {
        printed.extend_from_slice(bytes);
        Ok(())
    })?;
    Run::of(&String::from_utf8_lossy(&printed))
}

/// An end that is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    SecondPass,
    Exhausted,
}

/// A run: times in seconds since its first connection.
#[derive(Debug, Default, PartialEq)]
struct Run {
    second_pass: f64,
    exhausted: f64,
    /// Time of each forecast, and what it says: the second pass, and the end.
    forecasts: Vec<(f64, [Option<f64>; 2])>,
}

impl Run {
    fn of(text: &str) -> Result<Self> {
        let mut run = Self::default();
        let mut start = None;
        for line in text.lines() {
            let mut values = line.split('\t');
            let name = values.next().unwrap_or_default();
            let mut next = || {
                values
                    .next()
                    .with_context(|| format!("too short: {line:?}"))
            };
            let since = |at: f64| -> Result<f64> {
                let start: f64 = start.context("the start comes first")?;
                Ok((at - start).rem_euclid(DAY))
            };
            match name {
                "start" => start = Some(next()?.trim().parse::<f64>()? % DAY),
                "second" => run.second_pass = since(next()?.trim().parse()?)?,
                "none" => run.exhausted = since(next()?.trim().parse()?)?,
                "forecast" => {
                    let at = since(time_of_day(next()?)?)?;
                    let mut told = || -> Result<Option<f64>> {
                        Ok(match next()?.trim() {
                            "null" => None,
                            seconds => Some(at + seconds.parse::<f64>()?),
                        })
                    };
                    run.forecasts.push((at, [told()?, told()?]));
                }
                _ => {}
            }
        }
        // A report of before the start.
        run.forecasts.retain(|(at, _)| *at < DAY / 2.0);
        ensure!(
            run.exhausted > run.second_pass && run.second_pass > 0.0,
            "the ports did not end: {text}"
        );
        Ok(run)
    }

    fn ends(&self) -> [End; 2] {
        [End::SecondPass, End::Exhausted]
    }

    fn actual(&self, end: End) -> f64 {
        match end {
            End::SecondPass => self.second_pass,
            End::Exhausted => self.exhausted,
        }
    }

    /// Returns the first forecast from this share of the way on, in percent, if it is one.
    fn predicted(&self, end: End, percent: u32) -> Option<f64> {
        let from = self.actual(end) * f64::from(percent) / 100.0;
        let (_, told) = self.forecasts.iter().find(|(at, _)| *at >= from)?;
        told[end as usize]
    }

    /// Returns true if all forecasts from half of the way on are within the precision.
    fn is_within(&self, end: End) -> bool {
        let actual = self.actual(end);
        let late = self.forecasts.iter();
        let mut late = late.filter(|(at, _)| (actual / 2.0..actual).contains(at));
        late.all(|(_, told)| {
            told[end as usize]
                .is_some_and(|predicted| (predicted - actual).abs() <= PRECISION * actual)
        })
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{:>8} {:>22} {:>22}\n{:>8} {:>15.1} actual {:>15.1} actual\n",
            "of way", "second pass, s", "EADDRNOTAVAIL, s", "", self.second_pass, self.exhausted
        );
        for percent in SHOWN {
            let _ = write!(text, "{percent:>6} %");
            for end in self.ends() {
                let told = self.predicted(end, percent).map_or_else(
                    || "-".to_owned(),
                    |predicted| {
                        let error = (predicted / self.actual(end) - 1.0) * 100.0;
                        format!("{predicted:.1} {error:>+6.1} %")
                    },
                );
                let _ = write!(text, " {told:>22}");
            }
            text.push('\n');
        }
        text
    }
}

/// Returns the seconds since midnight of a time HH:MM:SS with a fraction.
fn time_of_day(text: &str) -> Result<f64> {
    let parts = text.split(':').map(str::parse::<f64>);
    let parts: Vec<f64> = parts.collect::<Result<_, _>>()?;
    ensure!(parts.len() == 3, "{text:?} is not a time of day");
    Ok(parts[0] * 3_600.0 + parts[1] * 60.0 + parts[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecasts_are_compared_with_the_ends() {
        // The start is ten seconds before midnight.
        let text = "start\t1699999990.000\nsecond\t1700000030.0\nnone\t1700000070.0\n\
            forecast\t22:13:05\tnull\tnull\nforecast\t22:13:10.5\t39.0\t100\nforecast\t22:13:30.0\t18\t65.5\n\
            forecast\t22:13:55\t0.0\t24.0\nforecast\t22:14:25\t0.0\tnull\n";
        let run = Run::of(text).unwrap();
        assert_eq!((run.second_pass, run.exhausted), (40.0, 80.0));
        assert_eq!(run.predicted(End::SecondPass, 20), Some(38.0));
        assert_eq!(run.predicted(End::Exhausted, 50), Some(69.0));
        assert!(run.is_within(End::SecondPass));
        assert!(!run.is_within(End::Exhausted), "{run:?}");
        let table = run.table();
        assert!(
            table.contains("    50 %          38.0   -5.0 %          69.0  -13.7 %"),
            "{table}"
        );
        assert!(Run::of("start\t1.0\n").is_err());
    }
}
