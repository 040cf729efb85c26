//! Lines on stderr. One that cannot be written is left out: a trace outlives a full disk and a closed pipe.

use std::{
    fmt,
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::error::{ContextKind, ContextValue};

use super::printable::{printable, printable_lines};

/// Prints a line on stderr, in the format of `println!`.
macro_rules! say {
    ($($format:tt)*) => {
        $crate::term::message::line(format_args!($($format)*))
    };
}
pub(crate) use say;

/// Set while a status line stands on the terminal, which the next message replaces.
static STATUS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Prints a line; a message of several lines is several.
pub fn line(message: fmt::Arguments<'_>) {
    let message = message.to_string();
    write(&format!("{}\n", printable_lines(&message)), false);
}

/// Prints the reason for which a command failed.
pub fn failure(error: &anyhow::Error) {
    say!("connect-trace: {error:#}");
}

/// Prints the error of a command line, with what it quotes escaped.
pub fn usage(mut error: clap::Error) {
    let quoted: Vec<_> = error.context().filter_map(escaped).collect();
    if quoted.is_empty() {
        // As with every message, there is nowhere to tell that it cannot be written.
        let _ = error.print();
        return;
    }
    for (kind, value) in quoted {
        error.insert(kind, value);
    }
    // Without colours: what else is harmful in it could not be told from them.
    say!("{}", error.render().to_string().trim_end());
}

/// Escapes what an error of a command line quotes; `None` where nothing is to be escaped.
fn escaped((kind, value): (ContextKind, &ContextValue)) -> Option<(ContextKind, ContextValue)> {
    let escape = |text: &String| printable(text).to_string();
    let escaped = match value {
        ContextValue::String(text) => ContextValue::String(escape(text)),
        ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(escape).collect()),
        _ => return None,
    };
    (escaped != *value).then_some((kind, escaped))
}

/// Prints a question, and leaves the cursor behind it.
pub(crate) fn question(text: &str) {
    write(text, false);
}

/// Shows text in the line in which the cursor is, in place of the status that it showed.
pub(crate) fn status(text: &str) {
    write(&format!("{text}\x1b[K"), true);
}

/// Takes back the status line, if one is shown.
pub(crate) fn clear_status() {
    write("", false);
}

/// Stderr for reports, if stdout is taken. As with every message, what cannot be written is left out.
#[derive(Debug)]
pub(crate) struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(&String::from_utf8_lossy(bytes), false);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(text: &str, is_status: bool) {
    let mut stderr = io::stderr().lock();
    // In the lock, so that no other thread's message comes between.
    let start = match (STATUS_SHOWN.swap(is_status, Ordering::Relaxed), is_status) {
        (_, true) => "\r",
        (true, false) => "\r\x1b[K",
        (false, false) => "",
    };
    // One call, so that a line is not torn by what other processes write. There is nowhere to tell an error.
    let _ = stderr.write_all(format!("{start}{text}").as_bytes());
}
