//! The entry points. Both ways to attach call the same functions. A program has the name of the function or event that
//! it attaches to, and the daemon finds the program by this name.

mod dccp;
mod ends;
mod fentry;
mod kprobe;
mod mitigate;
mod phases;
mod process;
mod registers;
mod stacks;
mod udp;
