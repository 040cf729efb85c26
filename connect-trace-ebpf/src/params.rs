//! The constants that the daemon links the programs with: see [`connect_trace_common::Params`].

use connect_trace_common::Field;

/// Returns a constant, by its name in [`connect_trace_common::Params`].
macro_rules! param {
    ($name:ident) => {{
        const _: usize = core::mem::offset_of!(connect_trace_common::Params, $name);
        let value: u64;
        // The daemon writes the value into the instruction itself. The instruction is in assembly, because the compiler
        // assumes that an address is never 0; it is not `pure`, so that the compiler does not keep the value on the
        // stack. SAFETY: the instruction has no other effect.
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

/// Returns a constant that a service may change while it runs: see [`connect_trace_common::Params::IN_CONTROL`].
macro_rules! setting {
    ($name:ident) => {{
        let constant = $crate::params::param!($name);
        if constant == connect_trace_common::Params::IN_CONTROL {
            $crate::shared::control!($name)
        } else {
            constant
        }
    }};
}
pub(crate) use setting;

/// Returns true if the running kernel has a field.
#[inline(always)]
pub fn has(field: Field) -> bool {
    param!(fields) & u64::from(field.bit()) != 0
}
