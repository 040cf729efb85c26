//! Offsets of the fields that the program which follows connections reads.

use anyhow::{Error, Result};

use super::{btf::Btf, layout::missing};

/// The offsets, in bytes from the beginning of the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndFields {
    /// `sock.sk_err`
    pub(crate) error: u32,
    /// `sock.sk_protocol`, two bytes.
    pub(crate) protocol: u32,
    /// `tcp_sock.total_retrans`
    pub(crate) total_retransmits: u32,
}

impl EndFields {
    /// Finds the fields.
    ///
    /// # Errors
    /// Names the field that this kernel lacks.
    pub(crate) fn of(btf: &Btf) -> Result<Self> {
        let offset = |structure, path| match btf.member(structure, path)? {
            Some(member) => Ok(member.offset),
            None => Err(Error::from(missing(structure, path))),
        };
        Ok(Self {
            error: offset("sock", "sk_err")?,
            protocol: offset("sock", "sk_protocol")?,
            total_retransmits: offset("tcp_sock", "total_retrans")?,
        })
    }
}
