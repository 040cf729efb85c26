//! The options of rules.

use std::path::PathBuf;

use clap::Args;

use super::Condition;

/// Rules.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Rules")]
pub struct RuleArgs {
    /// A rule that all connect() calls must keep, such as 'strategy != bind', or a rule on them together, such as
    /// 'p99 < 1ms'. If one is broken, or cannot be proven, the exit status is 3. Can be repeated (docs/rules.md)
    #[arg(long = "expect", value_name = "RULE", value_parser = Condition::parse)]
    pub expect: Vec<Condition>,

    /// With --expect, write the results into this file as JUnit XML, or - for stdout. An existing file is replaced
    #[arg(long, value_name = "FILE", requires = "expect")]
    pub junit: Option<PathBuf>,
}
