//! Printing: messages on stderr, errors of stdout, and text that is safe to send to a terminal.

mod log;
pub mod message;
pub mod printable;
pub mod stdout;

pub use self::log::start as start_log;
