//! The terminal: messages and log on stderr, errors of stdout, colours, numbers, and text that is safe to print.

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
