//! The fields of the kernel's structures that the programs read, and the stand-ins for their offsets. A program is
//! built with a stand-in in the instruction that reads a field; before it loads the program, the daemon replaces the
//! stand-in with the running kernel's offset, from the kernel's BTF.

/// A field of a kernel structure. The daemon looks up the structure and the name of the member by this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Field {
    /// `sock.__sk_common.skc_addrpair`: destination and source address as IPv4.
    SockAddresses,
    /// `sock.__sk_common.skc_portpair`: destination port in network order, and source port in host order.
    SockPorts,
    /// `sock.__sk_common.skc_num`: the source port in host order.
    SockSourcePort,
    /// `sock.__sk_common.skc_family`
    SockFamily,
    /// `sock.__sk_common.skc_v6_daddr`; absent without IPv6.
    SockV6Destination,
    /// `sock.__sk_common.skc_v6_rcv_saddr`; absent without IPv6.
    SockV6Source,
    /// `sock.__sk_common.skc_net.net`; absent without network namespaces, as are the fields of `net`.
    SockNet,
    /// The byte of `sock.sk_userlocks`.
    SockUserLocks,
    /// The byte of `sock.sk_kern_sock`, if it is not the byte of `sk_userlocks`.
    SockKernel,
    /// `net.ns.inum`
    NetInode,
    /// `net.ipv4.ip_local_ports.range`
    NetPortRange,
    /// `net.ipv4.sysctl_ip_local_port_step_width`; absent before 7.1.
    NetPortStepWidth,
    /// `inet_sock.local_port_range`; absent before `IP_LOCAL_PORT_RANGE` (6.3).
    InetPortRange,
    /// `task_struct.comm`; like the next two, absent if the kernel lacks the helper `bpf_get_current_task_btf`.
    TaskComm,
    /// `task_struct.cred`
    TaskCred,
    /// `cred.uid`
    CredUid,
    /// `task_struct.flags`
    TaskFlags,
    /// `task_struct.tgid`
    TaskTgid,
    /// `task_struct.signal`
    TaskSignal,
    /// `signal_struct.live`
    SignalLive,
    /// `socket.sk`
    SocketSock,
    /// `sock.sk_type`
    SockType,
    /// `sock.sk_protocol`
    SockProtocol,
    /// The register in `pt_regs` that holds a probed function's first argument when it is called. It and the next three
    /// are registers of other names on each architecture.
    ProbeArgument0,
    /// The register of the second argument.
    ProbeArgument1,
    /// The register of the third argument.
    ProbeArgument2,
    /// The register of the return value when the function returns.
    ProbeReturn,
}

impl Field {
    /// All fields, in the order of their numbers.
    pub const ALL: [Self; 27] = [
        Self::SockAddresses,
        Self::SockPorts,
        Self::SockSourcePort,
        Self::SockFamily,
        Self::SockV6Destination,
        Self::SockV6Source,
        Self::SockNet,
        Self::SockUserLocks,
        Self::SockKernel,
        Self::NetInode,
        Self::NetPortRange,
        Self::NetPortStepWidth,
        Self::InetPortRange,
        Self::TaskComm,
        Self::TaskCred,
        Self::CredUid,
        Self::TaskFlags,
        Self::TaskTgid,
        Self::TaskSignal,
        Self::SignalLive,
        Self::SocketSock,
        Self::SockType,
        Self::SockProtocol,
        Self::ProbeArgument0,
        Self::ProbeArgument1,
        Self::ProbeArgument2,
        Self::ProbeReturn,
    ];

    /// Stand-in of the first field. All stand-ins are below 32,768, so that they fit the offset of an instruction, and
    /// the programs use none of these numbers for anything else.
    const FIRST: u16 = 1_650;
    /// Distance from the stand-in of one field to the next. The difference of any two stand-ins of different fields is
    /// near a multiple of the distance and is no stand-in itself, so that it shows if the compiler has computed one
    /// stand-in from another.
    const DISTANCE: u16 = 1_100;

    /// Maximum number of bytes read of one field; each byte has a stand-in.
    pub const ROOM: u16 = 16;

    /// Returns the stand-in for the offset of this field's byte `at`.
    #[inline(always)]
    #[must_use]
    pub const fn stand_in(self, at: usize) -> usize {
        Self::FIRST as usize + self as usize * Self::DISTANCE as usize + at
    }

    /// Returns the field and the index of its byte that a number in an instruction stands for.
    #[must_use]
    pub fn of_stand_in(value: i32) -> Option<(Self, u16)> {
        let number = u16::try_from(value).ok()?.checked_sub(Self::FIRST)?;
        let field = Self::ALL.get(usize::from(number / Self::DISTANCE))?;
        let at = number % Self::DISTANCE;
        (at < Self::ROOM).then_some((*field, at))
    }

    /// Returns true if a number is the difference of the stand-ins of two fields: an instruction with this number reads
    /// a field whose offset the daemon does not put in.
    #[must_use]
    pub fn is_between_stand_ins(value: i32) -> bool {
        let (distance, room) = (u32::from(Self::DISTANCE), u32::from(Self::ROOM));
        let from_multiple = value.unsigned_abs() + room - 1;
        let multiple = from_multiple / distance;
        (1..Self::ALL.len() as u32).contains(&multiple) && from_multiple % distance < 2 * room - 1
    }

    /// Returns the bit of this field in the set of fields that the kernel has.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_each_field_has_a_stand_in_that_fits_an_instruction() {
        for (number, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!(field as usize, number);
            for at in 0..Field::ROOM {
                let stand_in = i16::try_from(field.stand_in(at.into())).unwrap();
                assert_eq!(Field::of_stand_in(stand_in.into()), Some((field, at)));
            }
        }
    }

    #[test]
    fn a_number_that_leads_from_one_field_to_another_is_known_and_stands_for_nothing() {
        let stand_ins = || {
            let fields = Field::ALL.into_iter();
            fields.flat_map(|field| {
                [0, 1, Field::ROOM - 1].map(|at| (field, field.stand_in(at.into()) as i32))
            })
        };
        for (from, start) in stand_ins() {
            for (to, end) in stand_ins() {
                let between = Field::is_between_stand_ins(end - start);
                assert_eq!(between, from != to, "{from:?} {start} {to:?} {end}");
                assert_eq!(Field::of_stand_in(end - start), None);
            }
            assert!(!Field::is_between_stand_ins(start), "{from:?}");
        }
        for value in [0, 8, -8, 1_084, 1_116, i32::MIN, i32::MAX] {
            assert!(!Field::is_between_stand_ins(value), "{value}");
        }
    }

    #[test]
    fn other_numbers_stand_for_nothing() {
        let last = Field::ALL[Field::ALL.len() - 1];
        let after = last.stand_in(Field::ROOM.into());
        let next = last.stand_in(Field::DISTANCE.into());
        for value in [after, next].map(|value| i32::try_from(value).unwrap()) {
            assert_eq!(Field::of_stand_in(value), None, "{value}");
        }
        for value in [-1, 0, 8, 1_649, 1_666, i32::MAX] {
            assert_eq!(Field::of_stand_in(value), None, "{value}");
        }
    }
}
