//! Where the running kernel keeps the fields that the programs read: the offsets, from its BTF, for
//! the globals of `connect-trace-ebpf/src/layout.rs`.

use anyhow::Result;

use super::{
    btf::{Btf, Kind},
    lack::Lack,
};

/// One field of the kernel and the global of the eBPF programs that takes its offset.
struct Field {
    global: &'static str,
    structure: &'static str,
    path: &'static str,
    /// Where there is none, the field is absent from the records; a required one is an error.
    required: bool,
}

const fn required(global: &'static str, structure: &'static str, path: &'static str) -> Field {
    Field {
        global,
        structure,
        path,
        required: true,
    }
}

const fn optional(global: &'static str, structure: &'static str, path: &'static str) -> Field {
    Field {
        global,
        structure,
        path,
        required: false,
    }
}

/// What the programs read. `sock_common` has not changed from 5.10 to 7.3, the rest moves.
const FIELDS: &[Field] = &[
    required("SOCK_NUM", "sock", "__sk_common.skc_num"),
    required("SOCK_DPORT", "sock", "__sk_common.skc_dport"),
    required("SOCK_FAMILY", "sock", "__sk_common.skc_family"),
    required("SOCK_DADDR", "sock", "__sk_common.skc_daddr"),
    required("SOCK_RCV_SADDR", "sock", "__sk_common.skc_rcv_saddr"),
    optional("SOCK_V6_DADDR", "sock", "__sk_common.skc_v6_daddr"),
    optional("SOCK_V6_RCV_SADDR", "sock", "__sk_common.skc_v6_rcv_saddr"),
    optional("SOCK_NET", "sock", "__sk_common.skc_net.net"),
    required("NET_INUM", "net", "ns.inum"),
    optional("NET_PORT_RANGE", "net", "ipv4.ip_local_ports.range"),
    required("TASK_TGID", "task_struct", "tgid"),
    required("TASK_SIGNAL", "task_struct", "signal"),
    required("SIGNAL_LIVE", "signal_struct", "live"),
    optional("SOCK_USERLOCKS", "sock", "sk_userlocks"),
    optional(
        "NET_PORT_STEP_WIDTH",
        "net",
        "ipv4.sysctl_ip_local_port_step_width",
    ),
    optional("INET_LOCAL_PORT_RANGE", "inet_sock", "local_port_range"),
];

/// What they read of the current thread where the kernel has a helper for a typed pointer to it; else other
/// helpers give the same.
const TASK_FIELDS: &[Field] = &[
    required("TASK_COMM", "task_struct", "comm"),
    required("TASK_CRED", "task_struct", "cred"),
    required("CRED_UID", "cred", "uid.val"),
];

/// That helper (5.11), by the name of its function.
const TASK_HELPER: &str = "bpf_get_current_task_btf";

/// Which argument of `__inet_hash_connect` is `port_offset`.
const PORT_OFFSET: usize = 2;

/// Value of a global whose field the kernel does not have.
const ABSENT: u32 = u32::MAX;

/// The offsets, and what their types say about the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Globals of the eBPF programs with their values.
    pub globals: Vec<(&'static str, u32)>,
    /// Structure and member of each field that this kernel does not have.
    pub absent: Vec<(&'static str, &'static str)>,
    /// Whether a socket with `IP_LOCAL_PORT_RANGE` searches by steps of one, without parity: since 6.8,
    /// which also made `inet_sock.local_port_range` one word where it was a structure before.
    pub socket_range_has_no_parity: bool,
    /// Whether `port_offset` of `__inet_hash_connect` is a `u64`, its upper half a part of where the search
    /// starts: since 5.10.119 and 5.18.
    pub port_offset_is_wide: bool,
    /// Whether sockets have network namespaces.
    pub has_namespaces: bool,
    /// Whether the range of ports of a namespace is found.
    pub shows_port_range: bool,
    /// The lowest bit of `sk_userlocks` in its byte, where it is found: until 6.1 it is a bit field.
    pub user_locks_bit: Option<u32>,
}

impl Layout {
    /// Finds every field.
    ///
    /// # Errors
    /// Names the field that this kernel lacks and that nothing can be recorded without.
    pub fn of(btf: &Btf) -> Result<Self> {
        let mut globals = Vec::with_capacity(FIELDS.len() + 2);
        let mut absent = Vec::new();
        let task_fields = match btf.parameters(TASK_HELPER)? {
            Some(_) => TASK_FIELDS,
            None => &[],
        };
        for field in FIELDS.iter().chain(task_fields) {
            let member = btf.member(field.structure, field.path)?;
            let offset = match member {
                Some(member) => member.offset,
                None if field.required => return Err(missing(field).into()),
                None => {
                    absent.push((field.structure, field.path));
                    ABSENT
                }
            };
            globals.push((field.global, offset));
        }
        let kind =
            |structure, path| anyhow::Ok(btf.member(structure, path)?.map(|found| found.kind));
        let pair = kind("net", "ipv4.ip_local_ports.range")? == Some(Kind::Array);
        globals.push(("NET_PORT_RANGE_IS_PAIR", u32::from(pair)));
        let locks = btf.member("sock", "sk_userlocks")?;
        let search = btf.parameters("__inet_hash_connect")?;
        let port_offset = search.and_then(|parameters| parameters.get(PORT_OFFSET).copied());
        Ok(Self {
            absent,
            has_namespaces: has(&globals, "SOCK_NET"),
            shows_port_range: has(&globals, "NET_PORT_RANGE"),
            user_locks_bit: locks.map(|locks| locks.bit),
            globals,
            port_offset_is_wide: match port_offset {
                Some(port_offset) => btf.is_integer(port_offset, 8)?,
                None => false,
            },
            socket_range_has_no_parity: kind("inet_sock", "local_port_range")? == Some(Kind::Int),
        })
    }
}

fn has(globals: &[(&str, u32)], name: &str) -> bool {
    globals
        .iter()
        .any(|&(global, offset)| global == name && offset != ABSENT)
}

fn missing(field: &Field) -> Lack {
    Lack::new(
        format!(
            "this kernel's types do not fit the probes: struct {} has no member {}",
            field.structure, field.path
        ),
        "please report it with the kernel's release; Debian's kernels 5.10 to 7.3 have it",
    )
}
