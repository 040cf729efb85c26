//! Width, height and colour of the terminal.

use std::{
    env, io,
    os::fd::{AsFd, AsRawFd as _},
};

use anstream::{AutoStream, ColorChoice};

use super::paint::Paint;

/// Width of lines if the output is not a terminal.
const COLUMNS: usize = 120;

/// Returns the colours for stdout: only on a terminal, subject to `NO_COLOR` and similar variables.
#[must_use]
pub(crate) fn paint() -> Paint {
    Paint(AutoStream::choice(&io::stdout()) != ColorChoice::Never)
}

/// Returns the columns of stdout: the variable `COLUMNS`, or else the terminal's width, or else 120.
#[must_use]
pub(crate) fn columns() -> usize {
    let variable = env::var("COLUMNS").ok();
    variable
        .as_deref()
        .and_then(number_of_columns)
        .or_else(|| columns_of(io::stdout()))
        .unwrap_or(COLUMNS)
}

/// Returns a number above zero; anything else is ignored.
fn number_of_columns(text: &str) -> Option<usize> {
    text.parse().ok().filter(|&columns| columns > 0)
}

/// Returns the columns of a stream's terminal; `None` if it is not a terminal, or its width is not known.
#[must_use]
pub(crate) fn columns_of(stream: impl AsFd) -> Option<usize> {
    size_of(stream)
        .map(|size| size.ws_col.into())
        .filter(|&columns| columns > 0)
}

/// Returns the rows of stdout; `None` if it is not a terminal, or its height is not known.
#[must_use]
pub(crate) fn rows() -> Option<usize> {
    size_of(io::stdout())
        .map(|size| size.ws_row.into())
        .filter(|&rows| rows > 0)
}

fn size_of(stream: impl AsFd) -> Option<libc::winsize> {
    // SAFETY: all zeros is a valid winsize.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    let stream = stream.as_fd().as_raw_fd();
    // SAFETY: the request writes a winsize, which `size` is, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(stream, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_no_width_is_as_if_it_were_not_set() {
        assert_eq!(number_of_columns("80"), Some(80));
        for wrong in ["", "0", "-1", "wide", "80 "] {
            assert_eq!(number_of_columns(wrong), None, "{wrong:?}");
        }
    }
}
