//! Permission of this process to trace: privileges, lockdown, the process-id namespace.

use std::{fmt, fs, io, os::unix::fs::MetadataExt as _};

use anyhow::{Result, ensure};

use super::requirement::MissingRequirement;

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// File in which the kernel shows its lockdown modes, the present one in brackets (security/lockdown).
pub const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Inode of the first process-id namespace, `PROC_PID_INIT_INO`, to which the ids given by the eBPF helpers belong.
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;
/// Inode of the first user namespace, `PROC_USER_INIT_INO`, in which the kernel checks capabilities.
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Privileges of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// The effective capabilities as the kernel's bit set; 0 if unknown.
    pub capabilities: u64,
    /// True if the capabilities are valid on the host, and not only in a user namespace of a container.
    pub of_host: bool,
    /// The effective user id.
    pub uid: u32,
}

impl Privileges {
    /// Reads the privileges of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self {
            capabilities: effective_capabilities(),
            of_host: is_namespace("user", INITIAL_USER_NAMESPACE),
            // SAFETY: the call takes nothing and cannot fail.
            uid: unsafe { libc::geteuid() },
        }
    }

    /// Checks that the privileges allow tracing.
    ///
    /// # Errors
    /// Names the missing privilege.
    pub fn check(self) -> Result<(), MissingRequirement> {
        let enough = self.has(CAP_SYS_ADMIN) || self.has(CAP_BPF) && self.has(CAP_PERFMON);
        if !enough {
            return Err(MissingRequirement::new(
                "tracing needs root, or the capabilities CAP_BPF and CAP_PERFMON",
                "run it with sudo",
            ));
        }
        if !self.of_host {
            return Err(MissingRequirement::new(
                "tracing needs the privileges of root on the host, but this process is in a user namespace, as \
                 in a rootless container",
                "run it on the host, or in a container without a user namespace (docker run \
                 --privileged --userns=host)",
            ));
        }
        Ok(())
    }

    /// Returns whether CAP_SYS_ADMIN is among them, which stands for all capabilities of tracing.
    pub(crate) fn is_admin(self) -> bool {
        self.has(CAP_SYS_ADMIN)
    }

    fn has(self, capability: u32) -> bool {
        self.capabilities & 1 << capability != 0
    }
}

/// Lists the capabilities that matter for tracing.
impl fmt::Display for Privileges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
            (CAP_BPF, "CAP_BPF"),
            (CAP_PERFMON, "CAP_PERFMON"),
        ];
        let held: Vec<&str> = all
            .into_iter()
            .filter(|&(capability, _)| self.has(capability))
            .map(|(_, name)| name)
            .collect();
        let held = if held.is_empty() {
            "none of CAP_SYS_ADMIN, CAP_BPF, CAP_PERFMON".to_owned()
        } else {
            held.join(", ")
        };
        let whose = if self.of_host {
            ""
        } else {
            ", in a user namespace"
        };
        write!(formatter, "uid {}: {held}{whose}", self.uid)
    }
}

/// Checks privileges and lockdown, which are known before anything is tried.
///
/// # Errors
/// Names the missing privilege, or what forbids tracing, and what to do.
pub fn check() -> Result<()> {
    Privileges::of_this_process().check()?;
    if let Ok(mode) = lockdown() {
        check_lockdown(&mode)?;
    }
    Ok(())
}

/// Returns the kernel's lockdown mode: `none`, `integrity` or `confidentiality`.
///
/// # Errors
/// If the mode cannot be read: the kernel has no lockdown (before 5.4, or built without it), or securityfs is not
/// mounted.
pub fn lockdown() -> io::Result<String> {
    let modes = fs::read_to_string(LOCKDOWN)?;
    present_mode(&modes).map(str::to_owned).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not name the present mode",
        )
    })
}

fn present_mode(modes: &str) -> Option<&str> {
    Some(modes.split_once('[')?.1.split_once(']')?.0)
}

/// Checks that a lockdown mode lets eBPF programs read the kernel's memory.
///
/// # Errors
/// If the mode forbids it.
pub fn check_lockdown(mode: &str) -> Result<(), MissingRequirement> {
    if mode == "confidentiality" {
        return Err(MissingRequirement::new(
            format!(
                "the kernel is locked down ({LOCKDOWN}: confidentiality), which forbids eBPF programs \
                 to read kernel memory"
            ),
            "boot with lockdown=integrity or without lockdown",
        ));
    }
    Ok(())
}

/// Checks that this process sees the same process ids as the kernel's helpers.
///
/// # Errors
/// If this process is in a process-id namespace other than the first.
pub fn check_pid_namespace() -> Result<()> {
    ensure!(
        is_namespace("pid", INITIAL_PID_NAMESPACE),
        MissingRequirement::new(
            "--pid and a COMMAND need process ids of the host, but this process is in a PID namespace",
            "run it in the PID namespace of the host (docker run --pid=host)"
        )
    );
    Ok(())
}

/// Returns whether this process is in the first namespace of a kind; true if that cannot be read.
fn is_namespace(kind: &str, initial: u64) -> bool {
    fs::metadata(format!("/proc/self/ns/{kind}"))
        .map_or(true, |namespace| namespace.ino() == initial)
}

/// Returns the effective capabilities of this process as the kernel's bit set; 0 if unknown.
fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privileges(capabilities: &[u32], of_host: bool) -> Privileges {
        Privileges {
            capabilities: capabilities.iter().fold(0, |set, bit| set | 1 << bit),
            of_host,
            uid: 1000,
        }
    }

    #[test]
    fn root_or_two_capabilities_of_the_host_are_enough() {
        for enough in [&[CAP_SYS_ADMIN][..], &[CAP_BPF, CAP_PERFMON]] {
            assert!(privileges(enough, true).check().is_ok(), "{enough:?}");
            let error = privileges(enough, false).check().unwrap_err();
            assert!(error.what.contains("user namespace"), "{error}");
        }
        for little in [&[][..], &[CAP_BPF], &[CAP_PERFMON]] {
            let error = privileges(little, true).check().unwrap_err();
            assert!(error.remedy.contains("sudo"), "{error}");
        }
    }

    #[test]
    fn the_lockdown_mode_in_brackets_decides() {
        assert_eq!(
            present_mode("none [integrity] confidentiality\n"),
            Some("integrity")
        );
        assert_eq!(present_mode("none integrity"), None);
        for fine in ["none", "integrity"] {
            assert!(check_lockdown(fine).is_ok());
        }
        assert!(check_lockdown("confidentiality").is_err());
    }
}
