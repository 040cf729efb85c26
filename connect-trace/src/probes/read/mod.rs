//! Reading the counts of the programs and the kernel: maps, variables and statistics of runs.

pub mod maps;
pub mod program_info;
pub mod run_stats;
pub mod shared;
