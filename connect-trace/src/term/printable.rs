//! Makes names and texts from elsewhere safe to print on a terminal: characters that do not print, or that
//! change the direction of the text around them, are escaped.

use std::{
    ffi::OsStr,
    fmt::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
};

/// Displays a name, such as the name of a file, on one line: `\x1b` for a control character, `\xff` for a
/// byte that is not UTF-8.
pub(crate) fn printable<T: AsRef<OsStr> + ?Sized>(name: &T) -> Printable<'_> {
    Printable {
        bytes: name.as_ref().as_bytes(),
        lines: false,
    }
}

/// Displays a text as [`printable`] does, but keeps line feeds and tabs.
pub(super) fn printable_lines(text: &str) -> Printable<'_> {
    Printable {
        bytes: text.as_bytes(),
        lines: true,
    }
}

/// Text that is escaped when it is displayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printable<'a> {
    bytes: &'a [u8],
    /// True if line feeds and tabs are kept.
    lines: bool,
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\n' | '\t' if self.lines => formatter.write_char(character)?,
                    '\t' | '\n' | '\r' => write!(formatter, "{}", character.escape_default())?,
                    _ if character.is_ascii_control() => {
                        write!(formatter, "\\x{:02x}", u32::from(character))?;
                    }
                    _ if is_harmful(character) => {
                        write!(formatter, "{}", character.escape_unicode())?;
                    }
                    _ => formatter.write_char(character)?,
                }
            }
            for byte in chunk.invalid() {
                write!(formatter, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Returns true if a character must not be printed: control characters, characters that override the
/// direction of text, line separators, and characters that XML does not allow.
pub(crate) fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(character, '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_that_moves_no_cursor_and_reads_as_it_is_written() {
        let name = OsStr::from_bytes(b"\xc3\xa4 b\x1b[2J\n\x07\x7f\xff\xc2\x9b0m\xe2\x80\xae\\");
        assert_eq!(
            printable(name).to_string(),
            r"ä b\x1b[2J\n\x07\x7f\xff\u{9b}0m\u{202e}\"
        );
    }

    #[test]
    fn a_message_of_several_lines_stays_one() {
        let text = "1: a\n2: \tb\r\x1b]0;";
        assert_eq!(printable_lines(text).to_string(), "1: a\n2: \tb\\r\\x1b]0;");
    }
}
