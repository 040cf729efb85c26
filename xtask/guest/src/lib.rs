//! The protocol between a host and its guest, and the programs of the guest.
//!
//! The host packs a [`Job`](job::Job) into the guest's initramfs; the guest's first program, `init`, does the job and
//! answers with [`Frame`](link::Frame)s over a serial port.
//!
//! The module [`truth`] makes connections whose truth is known, for tests to match records with.

pub mod job;
pub mod link;
pub mod truth;
