//! The entry points. Both ways to attach call the same functions; a program is named after what it
//! attaches to, and the daemon finds it by that name.

mod fentry;
mod kprobe;
mod process;
