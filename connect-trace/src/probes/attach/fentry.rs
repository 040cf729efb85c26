//! Attaching by fentry and fexit.

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf, Endianness,
    programs::{FEntry, FExit, ProgramError, fentry::FEntryLinkId, fexit::FExitLinkId},
};

use super::AttachMode;
use crate::kernel::{
    btf::{self, VMLINUX},
    prototypes::Function,
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
    attached.with_context(|| refused("fentry", function))
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
    attached.with_context(|| refused("fexit", function))
}

/// Returns whether an error says that the program cannot be attached again until it is reloaded: so it is before Linux
/// 5.13.
fn is_spent(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error)
        if error.io_error.raw_os_error() == Some(libc::ENOENT))
}

/// Returns the name of the program for the return of a function.
pub(crate) fn exit_program(function: &Function) -> String {
    format!("fexit_{}", function.program)
}

/// Returns the error context for an attachment that failed.
pub(crate) fn refused(kind: &str, function: &Function) -> String {
    format!("attach {kind} to {}", function.name)
}
