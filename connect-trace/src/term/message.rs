//! Messages on stderr. A message that cannot be written is dropped: a trace survives a full disk and a closed pipe.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Write as _},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::error::{ContextKind, ContextValue};

use super::printable::{printable, printable_lines};

/// Messages that are held; the later ones replace the earlier.
const MOST_HELD: usize = 200;

/// The messages that are held, and the number of those that were dropped; `None` if messages are printed at once.
static HELD: Mutex<Option<(VecDeque<String>, u64)>> = Mutex::new(None);

/// Prints a line on stderr, in the format of `println!`.
macro_rules! say {
    ($($format:tt)*) => {
        $crate::term::message::line(format_args!($($format)*))
    };
}
pub(crate) use say;

/// Set while the terminal shows a status line, which the next message replaces.
static STATUS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Holds messages while something else has the terminal. Prints them when it is dropped.
#[cfg(feature = "top")]
pub(crate) struct Held(());

/// Begins to hold messages.
#[cfg(feature = "top")]
pub(crate) fn hold() -> Held {
    held().get_or_insert_default();
    Held(())
}

#[cfg(feature = "top")]
impl Held {
    /// Returns the messages that are held, the oldest first.
    pub(crate) fn held(&self) -> Vec<String> {
        let held = held();
        let kept = held.iter().flat_map(|(messages, _)| messages);
        kept.cloned().collect()
    }
}

#[cfg(feature = "top")]
impl Drop for Held {
    fn drop(&mut self) {
        print_held();
    }
}

/// Prints the messages that are held, and holds no more.
#[cfg(feature = "top")]
pub(crate) fn print_held() {
    let taken = held().take();
    if let Some((messages, dropped)) = taken {
        if dropped > 0 {
            say!("connect-trace: {dropped} earlier messages were dropped");
        }
        for message in messages {
            say!("{message}");
        }
    }
}

fn held() -> MutexGuard<'static, Option<(VecDeque<String>, u64)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a message; line feeds in it are kept.
pub fn line(message: fmt::Arguments<'_>) {
    let message = message.to_string();
    if let Some((messages, dropped)) = held().as_mut() {
        if messages.len() == MOST_HELD {
            messages.pop_front();
            *dropped += 1;
        }
        messages.push_back(printable_lines(&message).to_string());
        return;
    }
    write(&format!("{}\n", printable_lines(&message)), false);
}

/// Prints the reason for which a command failed.
pub fn failure(error: &anyhow::Error) {
    say!("connect-trace: {error:#}");
}

/// Prints the error of a command line, with the words that it quotes escaped.
pub fn usage(mut error: clap::Error) {
    let quoted: Vec<_> = error.context().filter_map(escaped).collect();
    if quoted.is_empty() {
        // As for every message, an error is ignored: it could not be reported.
        let _ = error.print();
        return;
    }
    for (kind, value) in quoted {
        error.insert(kind, value);
    }
    // Without colours: their escape sequences could not be distinguished from harmful ones.
    say!("{}", error.render().to_string().trim_end());
}

/// Escapes the words that an error of a command line quotes; `None` if nothing has to be escaped.
fn escaped((kind, value): (ContextKind, &ContextValue)) -> Option<(ContextKind, ContextValue)> {
    let escape = |text: &String| printable(text).to_string();
    let escaped = match value {
        ContextValue::String(text) => ContextValue::String(escape(text)),
        ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(escape).collect()),
        _ => return None,
    };
    (escaped != *value).then_some((kind, escaped))
}

/// Prints a question, and leaves the cursor after it.
pub(crate) fn question(text: &str) {
    write(text, false);
}

/// Shows text in the current line, in place of the previous status.
pub(crate) fn status(text: &str) {
    write(&format!("{text}\x1b[K"), true);
}

/// Removes the status line, if one is shown.
pub(crate) fn clear_status() {
    write("", false);
}

/// Stderr as the output of reports, if stdout is in use. Output that cannot be written is dropped, as for
/// every message.
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
    // Within the lock, so that no message of another thread comes in between.
    let start = match (STATUS_SHOWN.swap(is_status, Ordering::Relaxed), is_status) {
        (_, true) => "\r",
        (true, false) => "\r\x1b[K",
        (false, false) => "",
    };
    // A single call, so that other processes cannot split a line. An error is ignored: it could not be reported.
    let _ = stderr.write_all(format!("{start}{text}").as_bytes());
}
