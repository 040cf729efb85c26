//! The programs that measure the parts of each connect(): at context switches, and at waits for locks if the kernel
//! shows them.

use anyhow::Result;
use aya::Ebpf;

use super::attach_tracepoint;
use crate::kernel::layout::Layout;

/// Programs at the beginning and at the end of a wait for a lock, with their tracepoints.
const LOCK_WAITS: [(&str, &str); 2] = [
    ("lock_wait_end", "contention_end"),
    ("lock_wait_begin", "contention_begin"),
];

/// The program at context switches.
const CONTEXT_SWITCH: &str = "context_switch";

/// Attaches the programs. A note says if waits for locks are not seen.
pub(super) fn attach(ebpf: &mut Ebpf, layout: &Layout, notes: &mut Vec<String>) -> Result<()> {
    attach_tracepoint(ebpf, CONTEXT_SWITCH, "sched_switch")?;
    if layout.port_tables.is_none() {
        notes.push(
            "waits for locks are not seen: this kernel lacks the tracepoint lock:contention_begin (since 5.19)"
                .to_owned(),
        );
        return Ok(());
    }
    for (program, tracepoint) in LOCK_WAITS {
        attach_tracepoint(ebpf, program, tracepoint)?;
    }
    Ok(())
}

/// Returns true if a program of this name measures parts: a run that the kernel skips makes a wait shorter, and loses no
/// connect().
pub(crate) fn is_one(program: &str) -> bool {
    program == CONTEXT_SWITCH || LOCK_WAITS.iter().any(|&(name, _)| name == program)
}
