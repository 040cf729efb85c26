//! Resources that this process uses: CPU time and memory.

use std::{fs, mem::MaybeUninit, time::Duration};

/// Resources that a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// CPU time of all its threads, user and system, since its start (`getrusage`).
    pub cpu: Duration,
    /// Present memory in bytes (`VmRSS` of `/proc/self/status`); 0 without /proc. The ring buffer is the kernel's
    /// memory; the part of it that the process has read is included.
    pub resident_bytes: u64,
    /// Largest amount of memory until now, in bytes (`VmHWM`).
    pub most_resident_bytes: u64,
}

impl ProcessUsage {
    /// Reads the usage of this process.
    #[must_use]
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            cpu: cpu(),
            resident_bytes: bytes(&status, "VmRSS:"),
            most_resident_bytes: bytes(&status, "VmHWM:"),
        }
    }
}

/// Returns the CPU time of this process until now.
#[must_use]
pub(crate) fn cpu() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes an rusage to the pointer, for which all zeros is valid too. The call cannot fail for
    // this process.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Returns the bytes of a line of `/proc/PID/status`, whose unit is KiB.
fn bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Gives memory that was freed back to the kernel: reading the kernel's types takes megabytes, which glibc would keep.
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number, and has no effect on memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_lines_of_the_status() {
        let status = "Name:\tconnect-trace\nVmHWM:\t   12000 kB\nVmRSS:\t   10004 kB\n";
        assert_eq!(bytes(status, "VmRSS:"), 10_004 << 10);
        assert_eq!(bytes(status, "VmHWM:"), 12_000 << 10);
        assert_eq!(bytes(status, "VmSwap:"), 0);
    }

    #[test]
    fn this_process_has_memory_and_its_cpu_time_grows() {
        let before = ProcessUsage::now();
        assert!(before.resident_bytes > 0);
        assert!(before.most_resident_bytes >= before.resident_bytes);
        let mut sum = 0_u64;
        // Loops until the clock of the CPU time has moved.
        while cpu() <= before.cpu {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(ProcessUsage::now().cpu > before.cpu);
    }
}
