//! Printing: messages on stderr, errors of stdout, and text that is safe to send to a terminal.

pub(crate) mod errno;
mod log;
pub mod message;
pub(crate) mod numbers;
pub mod paint;
pub mod printable;
pub mod status_line;
pub mod stdout;
pub mod terminal;

pub use self::log::start as start_log;
