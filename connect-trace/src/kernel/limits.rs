//! Limits of this process and its host that a trace can meet. The kernel's error codes for them look like a missing
//! feature or privilege; here each limit has its own name and remedy.

use std::{fs, io, path::Path};

use anyhow::Error;
use rustix::process::{Resource, getrlimit};

use super::{
    btf::{Btf, VMLINUX},
    pods::HIERARCHIES,
    requirement::MissingRequirement,
};

/// A structure that only kernels before 5.11 have, which count the memory of maps and programs against
/// `RLIMIT_MEMLOCK`; later kernels charge it to the cgroup like any other memory.
const COUNTED_AS_LOCKED: &str = "bpf_map_memory";

/// Bytes of memory that a trace takes at its start besides the ring buffer of the records: the kernel's types, the maps
/// and the verifier (docs/check.md).
const AT_START: u64 = 32 << 20;

/// Number of files that a trace may have open at once, with some processes and cgroups to trace.
const FILES: u64 = 96;

/// Checks that this process may open as many files as a trace needs.
///
/// # Errors
/// States how many files it may open.
pub(crate) fn files() -> Result<(), MissingRequirement> {
    match most_files() {
        Some(most) if most < FILES => Err(MissingRequirement::limit(
            format!("this process may open {most} files, but a trace needs up to {FILES}"),
            MORE_FILES,
        )),
        _ => Ok(()),
    }
}

/// Returns the maximum number of files that this process may open; `None` if there is none.
pub(crate) fn most_files() -> Option<u64> {
    limit(Resource::Nofile)
}

/// Returns the number of CPUs that run.
pub(crate) fn cpus() -> u32 {
    // SAFETY: sysconf has no preconditions.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(online).unwrap_or(0).max(1)
}

/// Checks that the cgroup of this process may use the memory that a trace takes: beyond that limit the kernel kills the
/// process without a message.
///
/// # Errors
/// States how much memory the cgroup may use.
pub(crate) fn memory(btf: &Btf, buffer_bytes: u64) -> Result<(), MissingRequirement> {
    if btf.structure(COUNTED_AS_LOCKED).is_some() {
        return Ok(());
    }
    let needed = AT_START + buffer_bytes;
    match memory_of_cgroup() {
        Some(most) if most < needed => Err(MissingRequirement::limit(
            format!(
                "the cgroup of this process is limited to {} MiB of memory, but a trace needs up to {} MiB to start",
                most >> 20,
                needed.div_ceil(1 << 20)
            ),
            MORE_MEMORY,
        )),
        _ => Ok(()),
    }
}

/// Returns the lowest memory limit of this process's cgroup and its ancestors, in bytes; `None` if there is no limit.
fn memory_of_cgroup() -> Option<u64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |folder: &Path| -> Option<u64> {
        let limit = fs::read_to_string(folder.join("memory.max")).ok()?;
        limit.trim().parse().ok()
    };
    HIERARCHIES
        .iter()
        .flat_map(|root| {
            let folder = Path::new(root).join(path);
            let within = folder.ancestors().take_while(|at| at.starts_with(root));
            within.filter_map(limit).collect::<Vec<_>>()
        })
        .min()
}

const MORE_FILES: &str = "raise the limit (ulimit -n 1024; LimitNOFILE=1024 of a systemd service)";
const MORE_MEMORY: &str = "raise the limit (memory.max of the cgroup, MemoryMax= of a systemd service, docker \
                           run --memory), or reduce --ring-buffer";

/// Names the limit that caused an error, if a limit did.
#[must_use]
pub(crate) fn named(error: Error) -> Error {
    if error.chain().any(|cause| cause.is::<MissingRequirement>()) {
        return error;
    }
    let errno = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    let lack = match errno {
        Some(libc::EMFILE) => MissingRequirement::limit(
            format!(
                "this process may open {} files, but a trace needs more: {error:#}",
                most_files().map_or_else(|| "so many".to_owned(), |most| most.to_string())
            ),
            MORE_FILES,
        ),
        Some(libc::ENFILE) => MissingRequirement::limit(
            format!("this host has reached its limit of open files: {error:#}"),
            "raise the limit (sysctl fs.file-max)",
        ),
        Some(libc::ENOMEM) => MissingRequirement::limit(
            format!("this process has used all the memory that it may use: {error:#}"),
            MORE_MEMORY,
        ),
        Some(libc::EPERM) => match locked_memory() {
            Some(most) => MissingRequirement::limit(
                format!(
                    "this process may lock {} KiB of memory, and this kernel counts eBPF memory against that \
                     limit: {error:#}",
                    most >> 10
                ),
                "add CAP_SYS_RESOURCE, or raise the limit (ulimit -l unlimited; LimitMEMLOCK=infinity of a \
                 systemd service)",
            ),
            None => return error,
        },
        _ => return error,
    };
    lack.into()
}

/// Returns whether an error is a limit's error, as made by [`named`].
#[must_use]
pub(crate) fn is_named(error: &Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        cause
            .downcast_ref::<MissingRequirement>()
            .is_some_and(|lack| lack.is_limit)
    })
}

/// Returns the limit of locked memory in bytes, if there is one and the kernel counts eBPF memory against it.
fn locked_memory() -> Option<u64> {
    let most = limit(Resource::Memlock)?;
    let btf = Btf::parse(fs::read(VMLINUX).ok()?).ok()?;
    btf.structure(COUNTED_AS_LOCKED).map(|_| most)
}

/// Returns a limit of this process; `None` if there is none.
fn limit(resource: Resource) -> Option<u64> {
    getrlimit(resource).current
}
