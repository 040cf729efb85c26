//! The constants that the daemon links the programs with: see [`connect_trace_common::Params`].

use connect_trace_common::Field;

/// A constant, by its name in [`connect_trace_common::Params`].
macro_rules! param {
    ($name:ident) => {{
        const _: usize = core::mem::offset_of!(connect_trace_common::Params, $name);
        let value: u64;
        // The instruction has the number itself once the daemon has put it there. In assembly, because to the compiler an
        // address is never 0, and not `pure`, so that it is not kept on the stack. SAFETY: the instruction does nothing else.
        unsafe {
            core::arch::asm!(
                concat!("{} = ", stringify!($name), " ll"),
                out(reg) value,
                options(nomem, nostack, preserves_flags)
            );
        }
        value
    }};
}
pub(crate) use param;

/// Whether the running kernel has a field.
#[inline(always)]
pub fn has(field: Field) -> bool {
    param!(fields) & u64::from(field.bit()) != 0
}
