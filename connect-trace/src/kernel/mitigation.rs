//! Offsets of the fields that the programs of a mitigation read by themselves.

use anyhow::Result;

use super::{btf::Btf, layout::missing};

/// The offsets, in bytes from the beginning of the structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MitigationFields {
    /// `net.ipv4.sysctl_local_reserved_ports`, a pointer; 0 if the kernel lacks it, as one without sysctls does.
    pub(crate) reserved_ports: u32,
    /// `tcp_timewait_sock.tw_ts_recent_stamp`
    pub(crate) time_wait_stamp: u32,
    /// `task_struct.pid`
    pub(crate) task_pid: u32,
}

impl MitigationFields {
    /// Finds the fields.
    ///
    /// # Errors
    /// Names the field that this kernel lacks.
    pub(crate) fn of(btf: &Btf) -> Result<Self> {
        let offset = |structure, path| anyhow::Ok(btf.member(structure, path)?.map(|it| it.offset));
        let reserved_ports = offset("net", "ipv4.sysctl_local_reserved_ports")?;
        let required = |structure, path| {
            offset(structure, path)?.ok_or_else(|| anyhow::Error::from(missing(structure, path)))
        };
        Ok(Self {
            reserved_ports: reserved_ports.unwrap_or(0),
            time_wait_stamp: required("tcp_timewait_sock", "tw_ts_recent_stamp")?,
            task_pid: required("task_struct", "pid")?,
        })
    }
}
