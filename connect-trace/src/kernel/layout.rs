//! Offsets of the kernel fields that the programs read, from the running kernel's BTF, for the globals of
//! `connect-trace-ebpf/src/layout.rs`.

use anyhow::Result;
use connect_trace_common::Field;

use super::{
    btf::{Btf, Kind, VOID},
    cast::Cast,
    port_tables::PortTables,
    registers,
    requirement::MissingRequirement,
};

/// A field and its place in the kernel's structures.
struct Member {
    field: Field,
    structure: &'static str,
    path: &'static str,
    /// If the kernel lacks the member: an error if required, else the field is absent from the records.
    required: bool,
}

const fn required(field: Field, structure: &'static str, path: &'static str) -> Member {
    Member {
        field,
        structure,
        path,
        required: true,
    }
}

const fn optional(field: Field, structure: &'static str, path: &'static str) -> Member {
    Member {
        field,
        structure,
        path,
        required: false,
    }
}

/// Members that the programs read. `sock_common` has not changed from 5.10 to 7.3, the others move.
const MEMBERS: &[Member] = &[
    required(Field::SockAddresses, "sock", "__sk_common.skc_addrpair"),
    required(Field::SockPorts, "sock", "__sk_common.skc_portpair"),
    required(Field::SockSourcePort, "sock", "__sk_common.skc_num"),
    required(Field::SockFamily, "sock", "__sk_common.skc_family"),
    optional(Field::SockV6Destination, "sock", "__sk_common.skc_v6_daddr"),
    optional(Field::SockV6Source, "sock", "__sk_common.skc_v6_rcv_saddr"),
    optional(Field::SockNet, "sock", "__sk_common.skc_net.net"),
    optional(Field::SockUserLocks, "sock", "sk_userlocks"),
    optional(Field::SockKernel, "sock", "sk_kern_sock"),
    optional(Field::InetPortRange, "inet_sock", "local_port_range"),
    required(Field::TaskFlags, "task_struct", "flags"),
    required(Field::TaskTgid, "task_struct", "tgid"),
    required(Field::TaskSignal, "task_struct", "signal"),
    required(Field::SignalLive, "signal_struct", "live"),
];

/// Members of a socket's namespace that the programs read, if sockets have one.
const NET_MEMBERS: &[Member] = &[
    required(Field::NetInode, "net", "ns.inum"),
    optional(Field::NetPortRange, "net", "ipv4.ip_local_ports.range"),
    optional(
        Field::NetPortStepWidth,
        "net",
        "ipv4.sysctl_ip_local_port_step_width",
    ),
];

/// Members of the current thread that the programs read if the kernel has a helper for a typed pointer to the thread;
/// otherwise other helpers give the same values.
const TASK_MEMBERS: &[Member] = &[
    required(Field::TaskComm, "task_struct", "comm"),
    required(Field::TaskCred, "task_struct", "cred"),
    required(Field::CredUid, "cred", "uid.val"),
];

/// Members that only the programs of UDP read.
const UDP_MEMBERS: &[Member] = &[
    required(Field::SocketSock, "socket", "sk"),
    required(Field::SockType, "sock", "sk_type"),
    required(Field::SockProtocol, "sock", "sk_protocol"),
];

/// Pairs that the programs read at once and split: the whole, its halves in their order, and the bytes of a half.
const PAIRS: &[(&str, [&str; 2], u32)] = &[
    (
        "__sk_common.skc_addrpair",
        ["__sk_common.skc_daddr", "__sk_common.skc_rcv_saddr"],
        4,
    ),
    (
        "__sk_common.skc_portpair",
        ["__sk_common.skc_dport", "__sk_common.skc_num"],
        2,
    ),
];

/// The function of the helper that returns a typed pointer to the current thread (5.11).
const TASK_HELPER: &str = "bpf_get_current_task_btf";

/// The function that a port search asks for the port range of a socket.
const RANGE_OF_SOCKET: &str = "inet_sk_get_local_port_range";

/// Index of the argument `port_offset` of `__inet_hash_connect`.
const PORT_OFFSET: usize = 2;

/// The offsets, and the properties of the kernel that its types show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The offset of each field that this kernel has, in bytes from the beginning of its structure.
    pub offsets: Vec<(Field, u32)>,
    /// Structure and member of each field that this kernel does not have.
    pub absent: Vec<(&'static str, &'static str)>,
    /// True if the port range of a namespace is an array and not one word.
    pub port_range_is_pair: bool,
    /// True if the port range of a socket is a structure and not one word.
    pub socket_range_is_pair: bool,
    /// True if a socket with `IP_LOCAL_PORT_RANGE` searches by steps of one, without parity: since 6.8, by the
    /// change that made `RANGE_OF_SOCKET` say if the socket has a range of its own.
    pub socket_range_has_no_parity: bool,
    /// True if `port_offset` of `__inet_hash_connect` is a `u64`, whose upper half helps to decide where the search
    /// starts: since 5.10.119 and 5.18.
    pub port_offset_is_wide: bool,
    /// True if sockets have network namespaces.
    pub has_namespaces: bool,
    /// True if the port range of a namespace is found.
    pub shows_port_range: bool,
    /// The lowest bit of `sk_userlocks` in its byte, if it is found: until 6.1 it is a bit field.
    pub user_locks_bit: Option<u32>,
    /// The bit of `sk_kern_sock` in [`ConnectRecord::bits_of_sock`](connect_trace_common::ConnectRecord::bits_of_sock),
    /// if it is found: until 6.1 it is in the byte of `sk_userlocks`, which is not read twice.
    pub kernel_sock: Option<u32>,
    /// The function that gives an address a type, if the kernel has it.
    pub cast: Option<Cast>,
    /// The tables of ports and their locks, if the kernel shows waits for locks.
    pub port_tables: Option<PortTables>,
}

impl Layout {
    /// Finds every field.
    ///
    /// # Errors
    /// Names the required field that this kernel lacks.
    pub fn of(btf: &Btf) -> Result<Self> {
        let mut layout = Self::default();
        layout.find(btf, MEMBERS)?;
        Self::check_pairs(btf)?;
        layout.has_namespaces = layout.has(Field::SockNet);
        if layout.has_namespaces {
            layout.find(btf, NET_MEMBERS)?;
        }
        if btf.parameters(TASK_HELPER)?.is_some() {
            layout.find(btf, TASK_MEMBERS)?;
        }
        layout.find_udp(btf)?;
        layout.offsets.extend(registers::of(btf)?);
        let kind =
            |structure, path| anyhow::Ok(btf.member(structure, path)?.map(|found| found.kind));
        layout.port_range_is_pair = kind("net", "ipv4.ip_local_ports.range")? == Some(Kind::Array);
        layout.socket_range_is_pair =
            kind("inet_sock", "local_port_range")? == Some(Kind::Composite);
        layout.socket_range_has_no_parity = btf
            .returned(RANGE_OF_SOCKET)?
            .is_some_and(|result| result != VOID);
        layout.shows_port_range = layout.has(Field::NetPortRange);
        let locks = btf.member("sock", "sk_userlocks")?;
        if let Some(kernel) = btf.member("sock", "sk_kern_sock")? {
            let with_locks = locks
                .as_ref()
                .is_some_and(|locks| locks.offset == kernel.offset);
            if with_locks {
                let fields = &mut layout.offsets;
                fields.retain(|&(field, _)| field != Field::SockKernel);
            }
            let byte = if with_locks { 0 } else { u8::BITS };
            layout.kernel_sock = Some(1 << (byte + kernel.bit));
        }
        layout.user_locks_bit = locks.map(|locks| locks.bit);
        layout.cast = Cast::of_running_kernel(btf)?;
        layout.port_tables = PortTables::of(btf)?;
        let search = btf.parameters("__inet_hash_connect")?;
        let port_offset = search.and_then(|parameters| parameters.get(PORT_OFFSET).copied());
        layout.port_offset_is_wide = match port_offset {
            Some(port_offset) => btf.is_integer(port_offset, 8)?,
            None => false,
        };
        Ok(layout)
    }

    /// Returns whether this kernel has a field.
    #[must_use]
    pub fn has(&self, field: Field) -> bool {
        self.offsets.iter().any(|&(known, _)| known == field)
    }

    fn find(&mut self, btf: &Btf, members: &[Member]) -> Result<()> {
        for member in members {
            match btf.member(member.structure, member.path)? {
                Some(found) => self.offsets.push((member.field, found.offset)),
                None if member.required => {
                    return Err(missing(member.structure, member.path).into());
                }
                None => self.absent.push((member.structure, member.path)),
            }
        }
        Ok(())
    }

    /// Finds the fields that only programs of UDP read. Without them UDP cannot be traced.
    fn find_udp(&mut self, btf: &Btf) -> Result<()> {
        for &Member {
            field,
            structure,
            path,
            ..
        } in UDP_MEMBERS
        {
            let member = btf.member(structure, path)?;
            // A trace of TCP lacks nothing without it, so that it is not among the absent ones.
            self.offsets
                .extend(member.map(|member| (field, member.offset)));
        }
        Ok(())
    }

    /// Checks that the programs of UDP can read their fields.
    ///
    /// # Errors
    /// If this kernel's types do not show them.
    pub fn check_udp(&self) -> Result<(), MissingRequirement> {
        match UDP_MEMBERS.iter().find(|member| !self.has(member.field)) {
            Some(lacking) => Err(missing(lacking.structure, lacking.path)),
            None => Ok(()),
        }
    }

    /// Checks that the halves of each pair lie where the programs expect them.
    fn check_pairs(btf: &Btf) -> Result<()> {
        for &(pair, halves, bytes) in PAIRS {
            let offset = |path: &'static str| {
                let member = btf.member("sock", path)?;
                anyhow::Ok(member.ok_or_else(|| missing("sock", path))?.offset)
            };
            let begin = offset(pair)?;
            for (half, at) in halves.into_iter().zip([begin, begin + bytes]) {
                if offset(half)? != at {
                    return Err(misfit(&format!("{half} is not where {pair} has it")).into());
                }
            }
        }
        Ok(())
    }
}

pub(super) fn missing(structure: &str, path: &str) -> MissingRequirement {
    misfit(&format!("struct {structure} has no member {path}"))
}

pub(super) fn misfit(what: &str) -> MissingRequirement {
    MissingRequirement::new(
        format!("this kernel's types do not fit the probes: {what}"),
        "please report it with the kernel's release; Debian's kernels 5.10 to 7.3 have it",
    )
}
