//! Stdout: errors name it, and a reader that has gone can be recognized.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
};

use anyhow::Result;

/// Returns stdout, which must be flushed at the end.
#[must_use]
pub fn stdout() -> Stdout {
    Stdout(io::stdout())
}

/// Stdout whose errors name stdout.
#[derive(Debug)]
pub struct Stdout(io::Stdout);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(Refused::wrap)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(Refused::wrap)
    }
}

/// An error of writing to stdout.
#[derive(Debug)]
pub struct Refused(io::Error);

impl Refused {
    /// Marks an error as an error of stdout.
    #[must_use]
    pub fn wrap(error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Self(error))
    }

    /// Returns the error of stdout that caused an error, if any.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Option<&Self> {
        let errors = error
            .chain()
            .filter_map(<dyn std::error::Error>::downcast_ref);
        errors
            .filter_map(io::Error::get_ref)
            .find_map(<dyn std::error::Error + Send + Sync>::downcast_ref)
    }

    /// Returns true if the reader of stdout has gone: it has read everything that it wanted.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("cannot print on stdout")
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Returns success if the reader of stdout has gone.
///
/// # Errors
/// Every other error of `result`.
pub fn unless_closed(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if Refused::of(&error).is_some_and(Refused::is_closed) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn refused(kind: ErrorKind) -> Result<()> {
        Err(Refused::wrap(kind.into())).context("a report")
    }

    #[test]
    fn only_a_reader_of_stdout_that_went_away_is_no_error() {
        unless_closed(refused(ErrorKind::BrokenPipe)).unwrap();
        let error = unless_closed(refused(ErrorKind::StorageFull)).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "a report: cannot print on stdout: no storage space"
        );
        let other = Err(io::Error::from(ErrorKind::BrokenPipe).into());
        unless_closed(other).unwrap_err();
    }
}
