//! The command line of `connect-trace compare`.

use clap::{Args, ValueEnum as _};

use super::how::Language;
use crate::load::args::{FIRST_WINDOW, StrategyName, WorkloadArgs};
use crate::load::{plan::Plan, strategy::Strategy};

/// `connect-trace compare`
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Strategies to compare [default: all that this kernel supports]
    #[arg(value_name = "STRATEGY", value_enum)]
    pub strategies: Vec<StrategyName>,

    /// Options shared with `connect-trace load`.
    #[command(flatten)]
    pub common: WorkloadArgs,

    /// Number of runs of each strategy, in random order
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,

    /// Leave out a strategy that this kernel refuses, even if it is named, to run the same comparison on several kernels
    #[arg(long)]
    pub skip_refused: bool,

    /// Print the lines that use the best strategy in this language, or the setting of this program (docs/how-to.md)
    #[arg(long, value_name = "LANGUAGE", value_enum, help_heading = "Output")]
    pub how: Option<Language>,

    /// Measure from user space only. By default the runs are traced if possible, which adds a few percent to each
    /// connect()
    #[arg(long)]
    pub no_trace: bool,
}

/// Default windows: those of the article.
const WINDOWS: [u16; 4] = [500, 1000, 5000, 10_000];

impl CompareArgs {
    /// Returns the strategies to compare.
    #[must_use]
    pub fn strategies(&self) -> Vec<Strategy> {
        let names = match self.strategies.as_slice() {
            [] => StrategyName::value_variants(),
            names => names,
        };
        let ports = self.common.range.ports();
        let of = |&name: &StrategyName| {
            let windows: &[u16] = match name {
                StrategyName::Window => &WINDOWS,
                StrategyName::WindowRetry | StrategyName::WindowCursor => &[FIRST_WINDOW],
                _ => return self.common.strategies(name),
            };
            // A window as wide as the range would be the same as full-range.
            let fit = windows
                .iter()
                .copied()
                .filter(|&window| u32::from(window) < ports);
            self.common.of_windows(name, &fit.collect::<Vec<_>>())
        };
        names.iter().flat_map(of).collect()
    }

    /// Returns the plan of a run. All runs request the same number of connections: by default, the number of
    /// ports in the range, even for a strategy with several addresses.
    ///
    /// # Errors
    /// Names the options that contradict each other.
    pub fn plan(&self, strategy: Strategy, repeat: u32) -> Result<Plan, String> {
        let mut workload = self.common.workload(false, None)?;
        let share = workload.until_occupancy.take().unwrap_or(1.0);
        let ports = f64::from(self.common.range.ports());
        let all = ((ports * share).ceil() as u32).max(1);
        workload.connections.get_or_insert(all);
        workload.plan(strategy, repeat)
    }

    /// Returns a message if the options contradict each other or cannot be carried out.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let strategies = self.strategies();
        if strategies.is_empty() {
            return Some("the range is narrower than every window: give --window".to_owned());
        }
        if self.common.connections.is_some() && self.common.until_occupancy.is_some() {
            return Some("--connections and --until-occupancy both limit the number of connections: give one of \
                         them".to_owned());
        }
        let mut plans = strategies
            .into_iter()
            .map(|strategy| self.plan(strategy, 1));
        plans.find_map(Result::err)
    }
}
