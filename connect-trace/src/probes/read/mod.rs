//! Reading the counts of the programs and the kernel: maps, variables and statistics of runs.

pub(crate) mod maps;
pub(crate) mod program_info;
pub(crate) mod run_stats;
pub(crate) mod shared;
