//! Whether this process may trace: privileges, lockdown, the process-id namespace.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Result, bail, ensure};

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Inode of the first process-id namespace, `PROC_PID_INIT_INO`: the eBPF helpers give ids of it.
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// Checks what can be told before trying.
///
/// # Errors
/// Says which privilege is missing, or what forbids tracing, and what to do.
pub fn check() -> Result<()> {
    let has = effective_capabilities();
    ensure!(
        has & 1 << CAP_SYS_ADMIN != 0 || has & 1 << CAP_BPF != 0 && has & 1 << CAP_PERFMON != 0,
        "tracing needs root, or the capabilities CAP_BPF and CAP_PERFMON: run it with sudo"
    );
    if let Ok(modes) = fs::read_to_string(LOCKDOWN)
        && modes.contains("[confidentiality]")
    {
        bail!(
            "the kernel is locked down ({LOCKDOWN}: confidentiality), which forbids eBPF programs to \
             read kernel memory: boot with lockdown=integrity or without lockdown"
        );
    }
    Ok(())
}

/// Checks that process ids mean here what they mean to the kernel's helpers.
///
/// # Errors
/// In a process-id namespace of its own.
pub fn check_pid_namespace() -> Result<()> {
    let inode = fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino());
    ensure!(
        inode
            .as_ref()
            .is_ok_and(|&inode| inode == INITIAL_PID_NAMESPACE)
            || inode.is_err(),
        "--pid and a COMMAND take process ids of the host, and this process has a namespace of its own \
         for them: run it in the host's (docker run --pid=host)"
    );
    Ok(())
}

/// The effective capabilities of this process as the kernel's bit set; none where unknown.
fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}
