//! What text is printed on: how wide it is, and whether it takes colour.

use std::{
    env, io,
    os::fd::{AsFd, AsRawFd as _},
};

use anstream::{AutoStream, ColorChoice};

use super::paint::Paint;

/// Columns of lines that go to no terminal.
const COLUMNS: usize = 120;

/// Colour for stdout: by `NO_COLOR` and its like, and only for a terminal.
#[must_use]
pub fn paint() -> Paint {
    Paint(AutoStream::choice(&io::stdout()) != ColorChoice::Never)
}

/// Columns of stdout: by the variable `COLUMNS`, else those of the terminal, else 120.
#[must_use]
pub fn columns() -> usize {
    let variable = env::var("COLUMNS").ok();
    variable
        .as_deref()
        .and_then(number_of_columns)
        .or_else(|| columns_of(io::stdout()))
        .unwrap_or(COLUMNS)
}

/// A number above zero; anything else is as if it were not set.
fn number_of_columns(text: &str) -> Option<usize> {
    text.parse().ok().filter(|&columns| columns > 0)
}

/// Columns of the terminal that a stream is; `None` where it is none, or one that does not know its width.
#[must_use]
pub fn columns_of(stream: impl AsFd) -> Option<usize> {
    size_of(stream)
        .map(|size| size.ws_col.into())
        .filter(|&columns| columns > 0)
}

/// Rows of stdout; `None` if it is no terminal, or one that does not know its height.
#[must_use]
pub fn rows() -> Option<usize> {
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
