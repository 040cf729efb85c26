//! Entry points for the functions of DCCP, which are those of TCP in other modules: by kprobe and kretprobe in every
//! attach mode, because the kernel's own types do not describe its modules. Their port search is that of TCP.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use connect_trace_common::Flags;

use super::kprobe::{entered_by, returned};
use crate::connect::Function;

#[kprobe]
fn kprobe_dccp_v4_connect(ctx: ProbeContext) -> u32 {
    entered_by(Flags::DCCP, Function::V4, &ctx)
}

#[kretprobe]
fn kretprobe_dccp_v4_connect(ctx: RetProbeContext) -> u32 {
    returned(Function::V4, &ctx)
}

#[kprobe]
fn kprobe_dccp_v6_connect(ctx: ProbeContext) -> u32 {
    entered_by(Flags::DCCP, Function::V6, &ctx)
}

#[kretprobe]
fn kretprobe_dccp_v6_connect(ctx: RetProbeContext) -> u32 {
    returned(Function::V6, &ctx)
}
