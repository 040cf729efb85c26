//! Properties of the running kernel: its types (BTF), its symbols, its permissions. Every difference between kernels is
//! decided here, by looking for the feature and never by the version number.

pub mod access;
pub mod btf;
pub(crate) mod cast;
pub(crate) mod cgroups;
pub(crate) mod ends;
pub mod layout;
pub(crate) mod limits;
pub(crate) mod mitigation;
pub(crate) mod mounts;
pub mod pods;
pub mod port_tables;
pub mod preemption;
pub(crate) mod process;
pub mod prototypes;
mod registers;
pub(crate) mod requirement;
pub(crate) mod sandbox;
pub mod symbols;
pub(crate) mod sysctls;
pub mod text;

/// Returns the kernel's release, as `uname -r` prints it: for people to read, never to decide from.
#[must_use]
pub fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
        |_| "(unknown release)".to_owned(),
        |release| release.trim().to_owned(),
    )
}

/// Returns the name of this host; empty if it cannot be read.
pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
