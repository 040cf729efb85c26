//! The places of the kernel's fields, compared with what another reader of the kernel's types finds: bpftool.

use std::{collections::HashMap, process::Command};

use anyhow::{Context as _, Result, ensure};
use connect_trace::kernel::{
    btf::{Btf, VMLINUX},
    layout::Layout,
};
use connect_trace_common::Field;

use crate::Test;

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        every_field_lies_where_another_reader_finds_it,
    ],
];

/// Structure and member of each field that is not a register.
const FIELDS: [(Field, &str); 23] = [
    (Field::SockAddresses, "sock.__sk_common.skc_addrpair"),
    (Field::SockPorts, "sock.__sk_common.skc_portpair"),
    (Field::SockSourcePort, "sock.__sk_common.skc_num"),
    (Field::SockFamily, "sock.__sk_common.skc_family"),
    (Field::SockV6Destination, "sock.__sk_common.skc_v6_daddr"),
    (Field::SockV6Source, "sock.__sk_common.skc_v6_rcv_saddr"),
    (Field::SockNet, "sock.__sk_common.skc_net.net"),
    (Field::SockUserLocks, "sock.sk_userlocks"),
    (Field::SockKernel, "sock.sk_kern_sock"),
    (Field::NetInode, "net.ns.inum"),
    (Field::NetPortRange, "net.ipv4.ip_local_ports.range"),
    (
        Field::NetPortStepWidth,
        "net.ipv4.sysctl_ip_local_port_step_width",
    ),
    (Field::InetPortRange, "inet_sock.local_port_range"),
    (Field::TaskComm, "task_struct.comm"),
    (Field::TaskCred, "task_struct.cred"),
    (Field::CredUid, "cred.uid.val"),
    (Field::TaskFlags, "task_struct.flags"),
    (Field::TaskTgid, "task_struct.tgid"),
    (Field::TaskSignal, "task_struct.signal"),
    (Field::SignalLive, "signal_struct.live"),
    (Field::SocketSock, "socket.sk"),
    (Field::SockType, "sock.sk_type"),
    (Field::SockProtocol, "sock.sk_protocol"),
];

/// Each register, as a member and an offset from it.
const REGISTERS: [(Field, &str, u32); 4] = if cfg!(target_arch = "aarch64") {
    [
        (Field::ProbeArgument0, "pt_regs.regs", 0),
        (Field::ProbeArgument1, "pt_regs.regs", 8),
        (Field::ProbeArgument2, "pt_regs.regs", 16),
        (Field::ProbeReturn, "pt_regs.regs", 0),
    ]
} else {
    [
        (Field::ProbeArgument0, "pt_regs.di", 0),
        (Field::ProbeArgument1, "pt_regs.si", 0),
        (Field::ProbeArgument2, "pt_regs.dx", 0),
        (Field::ProbeReturn, "pt_regs.ax", 0),
    ]
};

/// A type in bpftool's list: a structure or a union with members, or another name of a type.
#[derive(Default)]
struct Type<'a> {
    /// The type that a typedef or a qualifier stands for.
    other: Option<u32>,
    members: Vec<Member<'a>>,
}

struct Member<'a> {
    name: &'a str,
    of: u32,
    bits: u32,
}

/// The kernel's types, as bpftool lists them.
struct Types<'a> {
    by_id: HashMap<u32, Type<'a>>,
    structures: HashMap<&'a str, u32>,
}

impl<'a> Types<'a> {
    fn of(list: &'a str) -> Result<Self> {
        let mut types = Self {
            by_id: HashMap::new(),
            structures: HashMap::new(),
        };
        let mut last = 0;
        for line in list.lines() {
            let name = line.split('\'').nth(1).unwrap_or_default();
            let number = |key: &str| {
                let mut words = line.split_whitespace();
                words.find_map(|word| word.strip_prefix(key)?.parse().ok())
            };
            if let Some((id, rest)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
                last = id.parse().with_context(|| line.to_owned())?;
                let kind = rest.split_whitespace().next().unwrap_or_default();
                let is_alias = ["TYPEDEF", "CONST", "VOLATILE", "TYPE_TAG"].contains(&kind);
                let entry = Type {
                    other: number("type_id=").filter(|_| is_alias),
                    members: Vec::new(),
                };
                types.by_id.insert(last, entry);
                if kind == "STRUCT" {
                    types.structures.entry(name).or_insert(last);
                }
            } else if let (Some(of), Some(bits)) = (number("type_id="), number("bits_offset=")) {
                let structure = types.by_id.get_mut(&last);
                let structure = structure.with_context(|| line.to_owned())?;
                structure.members.push(Member { name, of, bits });
            }
        }
        Ok(types)
    }

    /// Returns the offset in bytes of a member, as `structure.member.member`.
    fn offset(&self, path: &str) -> Option<u32> {
        let mut path = path.split('.');
        let mut at = *self.structures.get(path.next()?)?;
        let mut bits = 0;
        for name in path {
            let (of, from) = self.member(at, name)?;
            at = of;
            bits += from;
        }
        Some(bits / 8)
    }

    /// Returns the type of a member and its offset in bits.
    fn member(&self, of: u32, wanted: &str) -> Option<(u32, u32)> {
        let found = self.by_id.get(&of)?;
        if let Some(other) = found.other {
            return self.member(other, wanted);
        }
        found.members.iter().find_map(|member| match member.name {
            name if name == wanted => Some((member.of, member.bits)),
            "(anon)" => {
                let (of, bits) = self.member(member.of, wanted)?;
                Some((of, member.bits + bits))
            }
            _ => None,
        })
    }
}

fn every_field_lies_where_another_reader_finds_it((): ()) -> Result<()> {
    let layout = Layout::of(&Btf::of_running_kernel()?)?;
    let listed = Command::new("bpftool")
        .args(["btf", "dump", "file", VMLINUX])
        .output()
        .context("bpftool")?;
    ensure!(listed.status.success(), "bpftool: {listed:?}");
    let list = String::from_utf8(listed.stdout)?;
    let types = Types::of(&list)?;
    let fields = FIELDS.map(|(field, path)| (field, path, 0));
    let expected: Vec<_> = fields.into_iter().chain(REGISTERS).collect();
    assert_eq!(expected.len(), Field::ALL.len());
    for &(field, offset) in &layout.offsets {
        let known = expected.iter().find(|&&(known, ..)| known == field);
        let (_, path, from) = known.with_context(|| format!("no member is known of {field:?}"))?;
        let found = types.offset(path).map(|start| start + from);
        assert_eq!(found, Some(offset), "{field:?}: {path}");
    }
    for (structure, member) in &layout.absent {
        let path = format!("{structure}.{member}");
        assert_eq!(types.offset(&path), None, "{path}");
    }
    Ok(())
}
