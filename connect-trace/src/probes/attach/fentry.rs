//! Attaching by fentry and fexit.

use anyhow::{Context as _, Error, Result};
use aya::{
    Btf, Ebpf, Endianness,
    programs::{FEntry, FExit, ProgramError, fentry::FEntryLinkId, fexit::FExitLinkId},
};

use super::AttachMode;
use crate::kernel::{
    btf::{self, VMLINUX},
    prototypes::Function,
    requirement::MissingRequirement,
    sysctls,
};
use crate::probes::object;

/// Loads the entry program and the return program of each function.
pub(crate) fn load(ebpf: &mut Ebpf, functions: &[&'static Function]) -> Result<()> {
    offered()?;
    let btf = kernel_types(functions)?;
    for &function in functions {
        load_exit(ebpf, function, &btf)?;
        let entry = AttachMode::Fentry.entry_program(function);
        load_entry(ebpf, &entry, function, &btf)?;
    }
    Ok(())
}

/// Checks that the kernel lets programs enter functions by ftrace.
pub(crate) fn offered() -> Result<()> {
    sysctls::ftrace()
}

/// A function of the kernel that runs only if a program is tested with it (`BPF_PROG_TEST_RUN`).
const UNUSED_FUNCTION: &str = "bpf_fentry_test1";

/// Attaches a program to a function that nobody calls, and detaches it: a kernel can accept programs that it then does not
/// attach. A kernel without the function is taken to attach them.
///
/// # Errors
/// If the kernel does not attach the program.
pub(crate) fn try_out(ebpf: &mut Ebpf) -> Result<()> {
    let types = btf::Btf::of_running_kernel()?;
    if types.function(UNUSED_FUNCTION).is_none() {
        return Ok(());
    }
    let types = Btf::parse(&types.with_only([UNUSED_FUNCTION]), Endianness::default())?;
    // This one reads no arguments, so that it fits every function.
    let entry: &mut FEntry = object::program(ebpf, "fentry_check_established_count")?;
    entry
        .load(UNUSED_FUNCTION, &types)
        .map_err(object::refusal)?;
    entry
        .attach()
        .map_err(|error| refused(error, "fentry", UNUSED_FUNCTION))?;
    Ok(entry.unload()?)
}

/// Returns the kernel's numbers of the functions, in the form that aya takes. On its own, aya would read all of the
/// kernel's types, and compare names with each of them for each program.
pub(crate) fn kernel_types(functions: &[&Function]) -> Result<Btf> {
    let names = functions.iter().map(|function| function.name);
    let blob = btf::Btf::of_running_kernel()?.with_only(names);
    Btf::parse(&blob, Endianness::default()).with_context(|| format!("{VMLINUX} cannot be used"))
}

/// Loads the program of this name for the entry of a function.
pub(crate) fn load_entry<'a>(
    ebpf: &'a mut Ebpf,
    program: &str,
    function: &Function,
    btf: &Btf,
) -> Result<&'a mut FEntry> {
    let entry: &mut FEntry = object::program(ebpf, program)?;
    entry
        .load(function.name, btf)
        .map_err(object::refusal)
        .with_context(|| format!("load program {program} for {}", function.name))?;
    Ok(entry)
}

/// Loads the program for the return of a function.
pub(crate) fn load_exit<'a>(
    ebpf: &'a mut Ebpf,
    function: &Function,
    btf: &Btf,
) -> Result<&'a mut FExit> {
    let program = exit_program(function);
    let exit: &mut FExit = object::program(ebpf, &program)?;
    exit.load(function.name, btf)
        .map_err(object::refusal)
        .with_context(|| format!("load program {program} for {}", function.name))?;
    Ok(exit)
}

/// Attaches the loaded program of this name to the entry of a function, for the first time or again.
pub(crate) fn attach_entry(
    ebpf: &mut Ebpf,
    program: &str,
    function: &Function,
) -> Result<FEntryLinkId> {
    let entry: &mut FEntry = object::program(ebpf, program)?;
    let attached = match entry.attach() {
        Err(error) if is_spent(&error) => {
            entry.unload()?;
            load_entry(ebpf, program, function, &kernel_types(&[function])?)?.attach()
        }
        attached => attached,
    };
    attached.map_err(|error| refused(error, "fentry", function.name))
}

/// Attaches the loaded program to the return of a function, for the first time or again.
pub(crate) fn attach_exit(ebpf: &mut Ebpf, function: &Function) -> Result<FExitLinkId> {
    let exit: &mut FExit = object::program(ebpf, &exit_program(function))?;
    let attached = match exit.attach() {
        Err(error) if is_spent(&error) => {
            exit.unload()?;
            load_exit(ebpf, function, &kernel_types(&[function])?)?.attach()
        }
        attached => attached,
    };
    attached.map_err(|error| refused(error, "fexit", function.name))
}

/// Returns whether an error says that the program cannot be attached again until it is reloaded: so it is before Linux
/// 5.13.
fn is_spent(error: &ProgramError) -> bool {
    errno(error) == Some(libc::ENOENT)
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// Returns the name of the program for the return of a function.
pub(crate) fn exit_program(function: &Function) -> String {
    format!("fexit_{}", function.program)
}

/// Returns the error of an attachment that failed.
fn refused(error: ProgramError, kind: &str, function: &str) -> Error {
    /// An error of the kernel's own, from include/linux/errno.h.
    const ENOTSUPP: i32 = 524;
    if errno(&error) == Some(ENOTSUPP) {
        return MissingRequirement::new(
            "this kernel accepts programs for fentry/fexit and does not attach them (ENOTSUPP), because its ftrace makes no \
             direct calls (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)",
            "none needed: kprobe/kretprobe works without them; kernels for arm64 have them from Linux 6.4",
        )
        .into();
    }
    Error::from(error).context(format!("attach {kind} to {function}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn an_architecture_without_direct_calls_is_named_and_any_other_refusal_is_told_as_it_is() {
        let error = |errno| {
            let error = ProgramError::SyscallError(SyscallError {
                call: "bpf_raw_tracepoint_open",
                io_error: io::Error::from_raw_os_error(errno),
            });
            refused(error, "fexit", "tcp_v4_connect")
        };
        let lack = error(524).downcast::<MissingRequirement>().unwrap();
        assert!(lack.what.contains("direct calls"), "{lack}");
        assert!(lack.remedy.contains("6.4"), "{lack}");
        let busy = format!("{:#}", error(libc::EBUSY));
        for part in ["attach fexit to tcp_v4_connect", "busy"] {
            assert!(busy.contains(part), "{busy}");
        }
    }
}
