//! Following connections after their connect(): the maps of it, and the program at the changes of sockets' states.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, RingBuf},
};
use connect_trace_common::EndRecord;

use super::{attach::misses::Programs, attach_tracepoint, object, read::maps::Plain};
use crate::kernel::ends::EndFields;

/// Name of the program.
pub(crate) const PROGRAM: &str = "sock_state";

/// Number of connections that are followed at once, by default.
pub const MAX_CONNECTIONS: u32 = 65_536;

/// Settings of following connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Following {
    /// Maximum number of connections at once.
    pub(crate) max_connections: u32,
    /// The fields to read.
    pub(crate) fields: EndFields,
}

/// Returns the memory that the map of the connections takes, in bytes.
pub(crate) fn bytes(max_connections: u32) -> u64 {
    /// Bytes of an entry besides its value: the key, and the links of the kernel's hash table.
    const OVERHEAD: usize = 64;
    u64::from(max_connections) * (size_of::<EndRecord>() + OVERHEAD) as u64
}

/// The connections that are followed.
pub(crate) struct Ends {
    connections: HashMap<MapData, u64, Plain<EndRecord>>,
    records: Option<RingBuf<MapData>>,
    programs: Programs,
}

impl Ends {
    /// Attaches the program, and takes the maps.
    pub(crate) fn attach(ebpf: &mut Ebpf) -> Result<Self> {
        attach_tracepoint(ebpf, PROGRAM, "inet_sock_set_state")?;
        Ok(Self {
            connections: object::take(ebpf, "CONNECTIONS")?,
            records: Some(object::take(ebpf, "ENDS")?),
            programs: Programs::of_ends(ebpf)?,
        })
    }

    /// Returns the ring buffer of their records, on the first call only.
    pub(crate) fn take_records(&mut self) -> Option<RingBuf<MapData>> {
        self.records.take()
    }

    /// Counts the connections in the map. To be used when the programs are detached: on some kernels no kprobe program
    /// runs while a map is read.
    pub(crate) fn in_map(&self) -> Result<u64> {
        let mut count = 0;
        for key in self.connections.keys() {
            key.context("read map CONNECTIONS")?;
            count += 1;
        }
        Ok(count)
    }

    /// Returns the number of changes of state at which the kernel skipped the program; `None` if it does not count them.
    pub(crate) fn skipped(&self) -> Result<Option<u64>> {
        self.programs.recursion_misses()
    }
}
