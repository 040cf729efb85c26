//! The work order that the host packs into a guest's initramfs at [`PATH`].
//!
//! The encoding is a list of NUL-terminated `key=value` fields: neither a path nor an argument can contain a NUL, so
//! that nothing needs quotes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Path of the job in the guest.
pub const PATH: &str = "/job";

/// The work of a guest between its boot and its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Program that becomes PID 1, and later starts the guest's own `init` again as a service; none if that stays PID 1.
    pub system: Option<OsString>,
    /// Kernel modules to load, as paths in the guest, in this order.
    pub modules: Vec<OsString>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Files to hand out after the command has ended.
    pub outputs: Vec<OsString>,
}

impl Job {
    /// Returns the bytes of the file at [`PATH`].
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, values) in [
            ("system", self.system.as_slice()),
            ("module", &self.modules),
            ("arg", &self.command),
            ("output", &self.outputs),
        ] {
            for value in values {
                bytes.extend_from_slice(key.as_bytes());
                bytes.push(b'=');
                bytes.extend_from_slice(value.as_bytes());
                bytes.push(0);
            }
        }
        bytes
    }

    /// Reads the output of [`Job::encode`]; an error names the field that is not understood.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut job = Self::default();
        for field in bytes
            .split(|&byte| byte == 0)
            .filter(|field| !field.is_empty())
        {
            let mut halves = field.splitn(2, |&byte| byte == b'=');
            let key = halves.next().unwrap_or_default();
            let value = OsString::from_vec(halves.next().unwrap_or_default().to_vec());
            match key {
                b"system" => job.system = Some(value),
                b"module" => job.modules.push(value),
                b"arg" => job.command.push(value),
                b"output" => job.outputs.push(value),
                _ => return Err(format!("unknown field {:?}", OsStr::from_bytes(field))),
            }
        }
        Ok(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_encoding() {
        let job = Job {
            system: Some("/lib/systemd/systemd".into()),
            modules: vec!["/lib/modules/veth.ko".into()],
            command: vec!["sh".into(), "-c".into(), "echo a=b\n".into(), "".into()],
            outputs: vec!["/tmp/report.json".into()],
        };
        assert_eq!(Job::decode(&job.encode()), Ok(job));
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        assert!(Job::decode(b"colour=red\0").is_err());
    }
}
