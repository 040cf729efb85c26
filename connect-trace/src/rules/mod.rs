//! Rules on connections, such as `strategy != bind` or `p99 < 1ms`: their grammar, and their evaluation on one connection
//! or on all of a trace.

pub(crate) mod args;
mod condition;
mod distribution;
mod evaluation;
mod field;
mod parse;

pub use self::{
    args::RuleArgs,
    condition::Condition,
    evaluation::{Finding, Findings, Offender, Rules, Verdict},
    field::{Aggregate, Bounds, Field},
    parse::ParseError,
};
