//! Limits of this process and its host that a trace meets. The kernel refuses then as if it lacked something, or a
//! privilege were missing; each limit has its own name and remedy here.

use std::{fs, io, path::Path};

use anyhow::Error;

use super::{
    btf::{Btf, VMLINUX},
    lack::Lack,
};

/// A structure of the kernels before 5.11, which count the memory of maps and programs against
/// `RLIMIT_MEMLOCK`; later ones count it as any other of the cgroup.
const COUNTED_AS_LOCKED: &str = "bpf_map_memory";

/// The usual mount points of version 2 of the hierarchy of cgroups.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Memory that a trace takes at its start beside the ring buffer of the records: the kernel's types, the maps and
/// the verifier (docs/check.md).
const AT_START: u64 = 32 << 20;

/// Files that a trace may have open at once, with some processes and cgroups to trace.
const FILES: u64 = 96;

/// Checks that this process may open the files that a trace does.
///
/// # Errors
/// Says how many it may open.
pub fn files() -> Result<(), Lack> {
    match limit(libc::RLIMIT_NOFILE) {
        Some(most) if most < FILES => Err(Lack::limit(
            format!(
                "this process may not open more than {most} files, and a trace does, up to {FILES}"
            ),
            MORE_FILES,
        )),
        _ => Ok(()),
    }
}

/// Returns how many CPUs run.
pub fn cpus() -> u32 {
    // SAFETY: sysconf has no preconditions.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(online).unwrap_or(0).max(1)
}

/// Checks that this process's cgroup may have the memory that a trace takes: beyond it the kernel ends the
/// process without a word.
///
/// # Errors
/// Says what it may have.
pub fn memory(btf: &Btf, ring_buffer_bytes: u32) -> Result<(), Lack> {
    if btf.structure(COUNTED_AS_LOCKED).is_some() {
        return Ok(());
    }
    let needed = AT_START + u64::from(ring_buffer_bytes);
    match memory_of_cgroup() {
        Some(most) if most < needed => Err(Lack::limit(
            format!(
                "the cgroup of this process may have {} MiB of memory, and a trace takes up to {} MiB as it \
                 starts",
                most >> 20,
                needed.div_ceil(1 << 20)
            ),
            MORE_MEMORY,
        )),
        _ => Ok(()),
    }
}

/// The least limit of memory of this process's cgroup and of those that it is in; `None` where there is none.
fn memory_of_cgroup() -> Option<u64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |folder: &Path| -> Option<u64> {
        let limit = fs::read_to_string(folder.join("memory.max")).ok()?;
        limit.trim().parse().ok()
    };
    CGROUPS
        .iter()
        .flat_map(|root| {
            let folder = Path::new(root).join(path);
            let within = folder.ancestors().take_while(|at| at.starts_with(root));
            within.filter_map(limit).collect::<Vec<_>>()
        })
        .min()
}

const MORE_FILES: &str =
    "raise the limit (ulimit -n 1024; for a service of systemd LimitNOFILE=1024)";
const MORE_MEMORY: &str = "raise the limit (memory.max of the cgroup, MemoryMax= of a service of systemd, docker run \
     --memory), or take a smaller --ring-buffer";

/// Names the limit that an error comes from, if it comes from one.
#[must_use]
pub fn named(error: Error) -> Error {
    if error.chain().any(|cause| cause.is::<Lack>()) {
        return error;
    }
    let errno = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    let lack = match errno {
        Some(libc::EMFILE) => Lack::limit(
            format!(
                "this process may not open more than {} files, which a trace does: {error:#}",
                limit(libc::RLIMIT_NOFILE)
                    .map_or_else(|| "so many".to_owned(), |most| most.to_string())
            ),
            MORE_FILES,
        ),
        Some(libc::ENFILE) => Lack::limit(
            format!("this host has as many files open as it may: {error:#}"),
            "raise the limit (sysctl fs.file-max)",
        ),
        Some(libc::ENOMEM) => Lack::limit(
            format!("the memory that this process may take is used up: {error:#}"),
            MORE_MEMORY,
        ),
        Some(libc::EPERM) => match locked_memory() {
            Some(most) => Lack::limit(
                format!(
                    "this process may lock {} KiB of memory, against which this kernel counts the memory \
                     of eBPF: {error:#}",
                    most >> 10
                ),
                "give it CAP_SYS_RESOURCE too, or raise the limit (ulimit -l unlimited; for a service of \
                 systemd LimitMEMLOCK=infinity)",
            ),
            None => return error,
        },
        _ => return error,
    };
    lack.into()
}

/// Returns whether an error is that of a limit, by [`named`].
#[must_use]
pub fn is_named(error: &Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        cause
            .downcast_ref::<Lack>()
            .is_some_and(|lack| lack.is_limit)
    })
}

/// The limit of locked memory in bytes, where there is one and the kernel counts eBPF against it.
fn locked_memory() -> Option<u64> {
    let most = limit(libc::RLIMIT_MEMLOCK)?;
    let btf = Btf::parse(fs::read(VMLINUX).ok()?).ok()?;
    btf.structure(COUNTED_AS_LOCKED).map(|_| most)
}

/// A limit of this process; `None` where there is none.
fn limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: room for a limit.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}
