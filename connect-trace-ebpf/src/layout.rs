//! What the daemon found out about the running kernel and about the options of this run, set before the programs
//! are loaded: constants to the verifier, so that what cannot happen is not in the program it makes of this.
//! Offsets are no variables: see [`connect_trace_common::Field`].

use aya_ebpf::Global;
use connect_trace_common::Field;

/// The fields that the running kernel has: their [`Field::bit`].
#[unsafe(no_mangle)]
pub static FIELDS: Global<u32> = Global::new(0);

/// Whether the running kernel has a field.
#[inline(always)]
pub fn has(field: Field) -> bool {
    FIELDS.load() & field.bit() != 0
}

/// Whether this run has any of the options below, or a kernel without the helper `bpf_get_current_task_btf`; where
/// not, that is all that is asked of them.
#[unsafe(no_mangle)]
pub static HAS_OPTIONS: Global<u32> = Global::new(1);

/// Whether `net.ipv4.ip_local_ports.range` is `int[2]` (1, before 6.8) or `high << 16 | low` (0).
#[unsafe(no_mangle)]
pub static NET_PORT_RANGE_IS_PAIR: Global<u32> = Global::new(0);

/// Whether `inet_sock.local_port_range` is `struct { u16 lo, hi }` (1, before 6.8) or `high << 16 | low` (0): the
/// same bytes.
#[unsafe(no_mangle)]
pub static INET_PORT_RANGE_IS_PAIR: Global<u32> = Global::new(0);

/// Whether the kernel has the function `bpf_rdonly_cast`, which gives an address one of the types below.
#[unsafe(no_mangle)]
pub static CASTS: Global<u32> = Global::new(0);

/// `struct sock`, by its number in the kernel's BTF.
#[unsafe(no_mangle)]
pub static SOCK: Global<u32> = Global::new(0);

/// `struct inet_sock`
#[unsafe(no_mangle)]
pub static INET_SOCK: Global<u32> = Global::new(0);

/// A structure that begins with a word of 32 bits.
#[unsafe(no_mangle)]
pub static WORD: Global<u32> = Global::new(0);

/// Address of the variable `table_perturb`, a `u32 *`; 0 where it is not known.
#[unsafe(no_mangle)]
pub static TABLE_PERTURB: Global<u64> = Global::new(0);

/// The bit of `sk_kern_sock` in [`connect_trace_common::ConnectRecord::bits_of_sock`]; 0 where it is not known.
#[unsafe(no_mangle)]
pub static KERNEL_SOCK: Global<u32> = Global::new(0);

/// The filters: [`connect_trace_common::FilterBits`].
#[unsafe(no_mangle)]
pub static FILTERS: Global<u32> = Global::new(0);

/// Whether one process is traced alone, without its children.
#[unsafe(no_mangle)]
pub static HAS_ONLY_PROCESS: Global<u32> = Global::new(0);

/// Number of cgroups in the map `CGROUPS`.
#[unsafe(no_mangle)]
pub static CGROUP_COUNT: Global<u32> = Global::new(0);

/// The number of places for calls in flight, a power of two, less one; times eight, the bytes of a word for each.
#[unsafe(no_mangle)]
pub static PLACE_MASK: Global<u64> = Global::new(16_383 << 3);

/// Calls that took less get no record, and are counted in [`connect_trace_common::FastGroup`].
#[unsafe(no_mangle)]
pub static MIN_LATENCY_NS: Global<u64> = Global::new(0);

/// Whether the calls of `__inet{,6}_check_established` are counted for each connect().
#[unsafe(no_mangle)]
pub static COUNT_CHECKS: Global<u32> = Global::new(0);

/// Whether a connect() adds up those that it has counted when it returns; else each call is added.
#[unsafe(no_mangle)]
pub static CHECKS_ADD_UP: Global<u32> = Global::new(0);

/// Whether records may be made of some calls alone: [`connect_trace_common::Control::sample_every`].
#[unsafe(no_mangle)]
pub static MAY_SAMPLE: Global<u32> = Global::new(0);
