//! What text is printed on: how wide it is, and whether it takes colour.

use std::{env, io};

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
        .or_else(of_terminal)
        .unwrap_or(COLUMNS)
}

/// A number above zero; anything else is as if it were not set.
fn number_of_columns(text: &str) -> Option<usize> {
    text.parse().ok().filter(|&columns| columns > 0)
}

/// `None` where stdout is no terminal, or one that does not know its width.
fn of_terminal() -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request writes a winsize, which `size` is, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then(|| size.ws_col.into())
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
