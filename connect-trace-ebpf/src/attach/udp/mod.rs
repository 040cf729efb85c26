//! Entry points for the functions of UDP. Loaded only if UDP is traced.

mod fentry;
mod kprobe;
