//! Writes to standard output of xtask itself, with errors of their own type.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};

use anyhow::Result;

/// Writes bytes to standard output unchanged and without delay.
///
/// # Errors
/// If standard output cannot be written: a [`Refused`].
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| Refused(error).into())
}

/// Error of xtask's own standard output. A broken pipe to another program, such as QEMU's monitor when QEMU dies, is
/// not a [`Refused`]: it is reported as a failure.
#[derive(Debug)]
pub struct Refused(io::Error);

impl Refused {
    /// Returns true if the error is from a reader of standard output that stopped reading, as `head` does.
    pub fn is_closed(error: &anyhow::Error) -> bool {
        let refused = error.downcast_ref::<Self>();
        refused.is_some_and(|refused| refused.0.kind() == ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write to standard output: {}", self.0)
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn only_our_own_reader_can_have_seen_enough() {
        let broken = || io::Error::from(ErrorKind::BrokenPipe);
        let ours: Result<()> = Err(Refused(broken()).into());
        let ours = ours.context("the demo did not finish").unwrap_err();
        assert!(Refused::is_closed(&ours));
        let full = Refused(ErrorKind::StorageFull.into());
        assert!(!Refused::is_closed(&full.into()));
        let of_another = anyhow::Error::from(broken()).context("cannot send to QEMU's monitor");
        assert!(!Refused::is_closed(&of_another));
    }
}
