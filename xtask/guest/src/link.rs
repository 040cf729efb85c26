//! The frames in which a guest reports to its host over a serial port.
//!
//! A frame is a tag (one byte), the length of its payload (four bytes, little endian) and the payload. One stream
//! carries all frames, which keeps the order in which the guest's command wrote to its standard output and error.

use std::io::{self, Read, Write};

/// Serial port of the guest that carries the frames; another one is the kernel's console: `ttyS0` or `ttyAMA0`.
pub const PORT: &str = if cfg!(target_arch = "aarch64") {
    "/dev/ttyS0"
} else {
    "/dev/ttyS1"
};

/// Largest payload; a longer one means that the stream is not a stream of frames.
const MAX_PAYLOAD: u32 = 1 << 20;

/// One message from a guest.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The guest has booted; the payload is its kernel's release.
    Hello(String),
    /// Output of the command.
    Stdout(Vec<u8>),
    /// Output of the command on its standard error.
    Stderr(Vec<u8>),
    /// The next piece of the requested output file.
    Chunk(Vec<u8>),
    /// The output file is complete; the next one follows.
    FileEnd,
    /// The output file cannot be read, and the reason; the next one follows.
    FileFailed(String),
    /// The guest cannot do its job, and the reason; nothing follows.
    Failed(String),
    /// The command's exit status, 128 + N if it died from signal N; nothing follows.
    Exit(u8),
}

impl Frame {
    /// Writes the frame with one call to `write_all`.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        let (tag, payload): (u8, &[u8]) = match self {
            Self::Hello(release) => (b'h', release.as_bytes()),
            Self::Stdout(bytes) => (b'o', bytes),
            Self::Stderr(bytes) => (b'e', bytes),
            Self::Chunk(bytes) => (b'c', bytes),
            Self::FileEnd => (b'f', &[]),
            Self::FileFailed(reason) => (b'm', reason.as_bytes()),
            Self::Failed(reason) => (b'x', reason.as_bytes()),
            Self::Exit(status) => (b'q', std::slice::from_ref(status)),
        };
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|&length| length <= MAX_PAYLOAD)
            .ok_or_else(|| io::Error::other("a frame's payload is too long"))?;
        let mut bytes = Vec::with_capacity(5 + payload.len());
        bytes.push(tag);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        writer.write_all(&bytes)
    }

    /// Reads the next frame; `None` at the end of the stream.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut tag = [0; 1];
        match reader.read_exact(&mut tag) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_PAYLOAD {
            return Err(garbled(tag[0]));
        }
        let mut payload = vec![0; length as usize];
        reader.read_exact(&mut payload)?;
        let text = |payload: Vec<u8>| String::from_utf8_lossy(&payload).into_owned();
        Ok(Some(match (tag[0], payload.as_slice()) {
            (b'h', _) => Self::Hello(text(payload)),
            (b'o', _) => Self::Stdout(payload),
            (b'e', _) => Self::Stderr(payload),
            (b'c', _) => Self::Chunk(payload),
            (b'f', []) => Self::FileEnd,
            (b'm', _) => Self::FileFailed(text(payload)),
            (b'x', _) => Self::Failed(text(payload)),
            (b'q', &[status]) => Self::Exit(status),
            _ => return Err(garbled(tag[0])),
        }))
    }
}

fn garbled(tag: u8) -> io::Error {
    let reason = format!("a frame that begins with byte {tag:#04x} makes no sense");
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let frames = [
            Frame::Hello("6.12.0".into()),
            Frame::Stdout(b"a\r\n\0b".to_vec()),
            Frame::Stderr(Vec::new()),
            Frame::Chunk(vec![0xff; 5000]),
            Frame::FileEnd,
            Frame::FileFailed("no such file".into()),
            Frame::Failed("no job".into()),
            Frame::Exit(137),
        ];
        let mut wire = Vec::new();
        for frame in &frames {
            frame.write_to(&mut wire).unwrap();
        }
        let mut reader = wire.as_slice();
        for frame in frames {
            assert_eq!(Frame::read_from(&mut reader).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read_from(&mut reader).unwrap(), None);
    }

    #[test]
    fn text_that_is_not_a_frame_is_an_error() {
        let mut reader = b"Kernel panic - not syncing".as_slice();
        assert!(Frame::read_from(&mut reader).is_err());
    }

    #[test]
    fn a_frame_cut_short_is_an_error() {
        let mut reader = b"o\x05\0\0\0abc".as_slice();
        assert!(Frame::read_from(&mut reader).is_err());
    }
}
