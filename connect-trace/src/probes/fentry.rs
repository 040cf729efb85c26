//! Attaching by fentry and fexit.

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit},
};

use super::object;
use crate::kernel::{btf::VMLINUX, prototypes::Function};

/// Loads and attaches entry and return of each function, the returns first and then the entries from
/// the innermost out: no call that is seen to enter may search or return unseen.
pub(super) fn attach(ebpf: &mut Ebpf, functions: &[&'static Function]) -> Result<()> {
    let btf = kernel_types()?;
    for &function in functions {
        load_exit(ebpf, function, &btf)?
            .attach()
            .with_context(|| refused("fexit", function))?;
    }
    for &function in functions.iter().rev() {
        load_entry(
            ebpf,
            &format!("fentry_{}", function.program),
            function,
            &btf,
        )?
        .attach()
        .with_context(|| refused("fentry", function))?;
    }
    Ok(())
}

/// The kernel's types in the form that aya asks for.
pub(super) fn kernel_types() -> Result<Btf> {
    Btf::from_sys_fs().with_context(|| format!("{VMLINUX} cannot be used"))
}

/// Loads the program of this name for the entry of a function.
pub(super) fn load_entry<'a>(
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
pub(super) fn load_exit<'a>(
    ebpf: &'a mut Ebpf,
    function: &Function,
    btf: &Btf,
) -> Result<&'a mut FExit> {
    let program = format!("fexit_{}", function.program);
    let exit: &mut FExit = object::program(ebpf, &program)?;
    exit.load(function.name, btf)
        .map_err(object::refusal)
        .with_context(|| format!("load program {program} for {}", function.name))?;
    Ok(exit)
}

/// What a refused attachment is told with.
pub(super) fn refused(kind: &str, function: &Function) -> String {
    format!("attach {kind} to {}", function.name)
}
