//! Real connections as the bytes that the eBPF programs put into the ring buffer.
//!
//! `connects.csv.zst` was recorded on Linux 6.12 in a guest, from `truth all` and then `truth exhaust 20000-21999
//! --set-range`: `cargo xtask vm --kernel 6.12 -- connect-trace --record FILE -- sh -c '...'`. A recording keeps its
//! meaning when the layout of a record changes. Therefore the recording is stored, and encoded here; an assertion
//! checks that each record decodes into the recorded connection.

pub mod cpu_time;

use std::net::IpAddr;

use bytemuck::Zeroable as _;
use connect_trace::{
    connect::{Connect, Decoder, Family, Owner, PortChoice, SearchRange, SourcePort},
    kernel::layout::Layout,
    recording::{Ending, Recording, Row},
};
use connect_trace_common::{ConnectRecord, Flags};

/// The stored recording.
pub const RECORDING: &[u8] = include_bytes!("connects.csv.zst");

/// Returns each connection of the recording as a record.
pub fn all() -> Vec<ConnectRecord> {
    let mut recording = Recording::new(RECORDING).expect("a whole recording");
    let mut decoder = decoder();
    let mut records = Vec::new();
    while recording.ending().is_none() {
        for connect in recording.next_batch().into_iter().filter_map(Row::connect) {
            // These fields are not in a record.
            let connect = Connect {
                checks_watched: false,
                ..connect
            };
            let record = encode(&connect);
            let decoded = decoder.decode(bytemuck::bytes_of(&record));
            assert_eq!(decoded, Some(&connect), "{record:?}");
            records.push(record);
        }
    }
    assert!(matches!(recording.ending(), Some(Ending::Whole(_))));
    records
}

/// Returns a decoder for the kernel of the recording.
pub fn decoder() -> Decoder {
    Decoder::new(&Layout {
        offsets: Vec::new(),
        port_range_is_pair: false,
        absent: Vec::new(),
        socket_range_is_pair: false,
        socket_range_has_no_parity: true,
        port_offset_is_wide: true,
        has_namespaces: true,
        shows_port_range: true,
        user_locks_bit: Some(0),
        kernel_sock: Some(2 << 8),
        cast: None,
        port_tables: None,
    })
}

fn encode(connect: &Connect) -> ConnectRecord {
    let mut record = ConnectRecord {
        start_ns: connect.start_ns,
        connect_ns: connect.connect_ns,
        cgroup_id: connect.cgroup_id,
        comm: bytemuck::cast(connect.comm.0),
        pid_tgid: u64::from(connect.pid) << 32 | u64::from(connect.tid),
        ret: -connect.errno,
        uid: connect.uid,
        source_port: connect.port.number().unwrap_or(0),
        family: match connect.family {
            Family::V4 => 2,
            Family::V6 | Family::Mapped => 10,
        },
        ..ConnectRecord::zeroed()
    };
    let mut know = |flag, known| {
        if known {
            record.flags.set(flag);
        }
    };
    know(Flags::MAPPED, connect.family == Family::Mapped);
    let searched = connect.source.is_some();
    know(Flags::SEARCH_ENTERED, searched);
    let was_passed = connect.destination.is_some() && !searched;
    know(Flags::DESTINATION_PASSED, was_passed);
    know(Flags::SEARCH_TIMED, connect.search_ns.is_some());
    know(Flags::CHECKS_COUNTED, connect.checks.is_some());
    let bound = matches!(connect.port, SourcePort::Bound(_));
    know(Flags::PORT_BOUND, bound);
    know(Flags::SCAN_STARTED, connect.scanned.is_some());
    // SOCK_BINDADDR_LOCK and SOCK_BINDPORT_LOCK.
    record.user_locks = match connect.address_bound {
        Some(true) => 4,
        _ => 0,
    };
    if connect.port_choice == Some(PortChoice::ExplicitPort) {
        record.user_locks |= 8;
    }
    record.kernel_sock = match connect.owner {
        Some(Owner::Kernel | Owner::Worker) => 2,
        _ => 0,
    };
    record.search_ns = connect.search_ns.unwrap_or(0);
    record.netns = connect.netns.unwrap_or(0);
    record.checks = connect.checks.unwrap_or(0);
    if let Some(source) = connect.source {
        record.source = words(source);
    }
    if let Some(destination) = connect.destination {
        record.destination = words(destination.ip());
        record.destination_port = destination.port();
    }
    if let Some(range) = connect.range {
        record.netns_range = [range.ports.low, range.ports.high];
        if connect.port_choice == Some(PortChoice::Range) {
            record.socket_range = record.netns_range;
        }
        if let (Some(scanned), SourcePort::Searched(port)) = (connect.scanned, connect.port) {
            (record.scan_start, record.scan_advance) = start(range, scanned, port);
        }
    }
    record
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [u32::from_ne_bytes(address.octets()), 0, 0, 0],
        IpAddr::V6(address) => bytemuck::cast(address.octets()),
    }
}

/// Returns a start of a search that finds this port after `scanned` ports, and the distance by which it advances its
/// slot.
fn start(range: SearchRange, scanned: u32, port: u16) -> (u32, u16) {
    let width = range.ports.ports();
    let (ports, step) = match range.by_parity {
        true if width > 1 => (width & !1, 2),
        true => (width, 2),
        false => (width, 1),
    };
    let a_pass = ports / step;
    let second = step == 2 && scanned > a_pass;
    let nth = if second { scanned - a_pass } else { scanned };
    let ahead = (nth - 1) * step + u32::from(second);
    let offset = u32::from(port - range.ports.low);
    ((offset + ports - ahead) % ports, (nth * step) as u16)
}
