//! The terminal: messages and log on stderr, errors of stdout, colours, numbers, and text that is safe to print.

pub(crate) mod characters;
pub(crate) mod errno;
pub(crate) mod escape;
mod log;
pub mod message;
pub(crate) mod numbers;
pub(crate) mod paint;
pub(crate) mod printable;
pub(crate) mod status_line;
pub mod stdout;
pub(crate) mod terminal;

pub use self::log::start as start_log;
