//! A short `/proc/kallsyms` with only the symbols that the tests need: each trace reads the whole file, which takes a
//! third of its start time under emulation.

use std::{
    ffi::CString,
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::kernel::{
    prototypes::{CHECKS, CONNECT, DCCP, TIME_WAIT, UDP},
    symbols::{KALLSYMS, Symbols, TABLE_PERTURB},
};

/// Symbols that the tests need in addition to the tracer's.
const OF_TESTS: [&str; 4] = [
    "_sys_io_uring_setup",
    "bpf_rdonly_cast",
    DIRECT_CALLS,
    KPROBES_BY_FTRACE,
];

/// Function of kernels whose ftrace makes direct calls, without which no program is attached by fentry: those for x86-64,
/// and those for arm64 since 6.4.
const DIRECT_CALLS: &str = "register_ftrace_direct";

/// Function of kernels whose kprobes enter functions by ftrace: those for x86-64.
const KPROBES_BY_FTRACE: &str = "kprobe_ftrace_handler";

const FEW: &str = "/run/kallsyms";

static MOUNTED: AtomicBool = AtomicBool::new(false);

/// Replaces the list of symbols by the short one. Fails unless the tracer finds the same symbols in both.
pub fn shorten() -> Result<()> {
    let functions = CONNECT.iter().chain(&UDP).chain(&DCCP).chain(&CHECKS);
    let functions: Vec<&'static str> = functions
        .chain([&TIME_WAIT])
        .map(|function| function.name)
        .collect();
    let whole = Symbols::of_running_kernel(&functions)?;

    let wanted = |line: &str| {
        let name = line.split_whitespace().nth(2).unwrap_or_default();
        let mut names = functions.iter().chain(&[TABLE_PERTURB]);
        names.any(|wanted| name.starts_with(wanted))
            || OF_TESTS.iter().any(|wanted| name.ends_with(wanted))
    };
    let all = fs::read_to_string(KALLSYMS).context(KALLSYMS)?;
    let mut few = String::new();
    // The symbol after a variable limits the variable's size.
    let mut is_next = false;
    for line in all.split_inclusive('\n') {
        let is_wanted = wanted(line);
        if is_wanted || is_next {
            few += line;
        }
        is_next = is_wanted;
    }
    fs::write(FEW, few).context(FEW)?;
    mount(FEW, KALLSYMS).with_context(|| format!("mount {FEW} on {KALLSYMS}"))?;
    MOUNTED.store(true, Ordering::Relaxed);

    let short = Symbols::of_running_kernel(&functions)?;
    ensure!(
        whole.functions == short.functions && whole.table_perturb == short.table_perturb,
        "of the kernel's symbols {whole:?}, the few have {short:?}"
    );
    Ok(())
}

/// Returns true if the kernel attaches programs by fentry.
pub fn has_fentry() -> Result<bool> {
    has(DIRECT_CALLS)
}

/// Returns true if the kernel's kprobes do not run while ftrace is turned off.
pub fn has_kprobes_by_ftrace() -> Result<bool> {
    has(KPROBES_BY_FTRACE)
}

/// Returns true if the kernel names this symbol.
pub fn has(symbol: &str) -> Result<bool> {
    let symbols = fs::read_to_string(KALLSYMS).context(KALLSYMS)?;
    let mut names = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    Ok(names.any(|name| name == symbol))
}

/// The full list, until this value is dropped.
pub struct Whole(bool);

/// Restores the full list for a test that needs the names of all functions.
pub fn whole() -> Result<Whole> {
    let was_short = MOUNTED.load(Ordering::Relaxed);
    restore()?;
    Ok(Whole(was_short))
}

impl Drop for Whole {
    fn drop(&mut self) {
        if self.0 {
            match mount(FEW, KALLSYMS) {
                Ok(()) => MOUNTED.store(true, Ordering::Relaxed),
                Err(error) => eprintln!("cannot mount {FEW} on {KALLSYMS} again: {error:#}"),
            }
        }
    }
}

/// Restores the full list, for tests of the symbols that the kernel shows to each user.
pub fn restore() -> Result<()> {
    if MOUNTED.swap(false, Ordering::Relaxed) {
        let path = CString::new(KALLSYMS)?;
        // SAFETY: the call takes a NUL-terminated string.
        let result = unsafe { libc::umount2(path.as_ptr(), 0) };
        ensure!(
            result == 0,
            "cannot unmount {KALLSYMS}: {}",
            io::Error::last_os_error()
        );
    }
    Ok(())
}

fn mount(from: &str, to: &str) -> Result<()> {
    let [from, to] = [CString::new(from)?, CString::new(to)?];
    // SAFETY: the call takes NUL-terminated strings; a bind mount takes neither a type nor data.
    let result = unsafe {
        libc::mount(
            from.as_ptr(),
            to.as_ptr(),
            std::ptr::null(),
            libc::MS_BIND,
            std::ptr::null(),
        )
    };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}
