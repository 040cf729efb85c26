//! The JSON line of a recording, before the lines of its reports and events.

use std::{
    io::{self, Write},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use serde::Serialize;

use crate::{
    clock::Time,
    recording::Start,
    report::json::{SCHEMA, line},
};

/// Writes the line that names the recording.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn write_recording(
    out: &mut (impl Write + ?Sized),
    file: &Path,
    start: &Start,
) -> io::Result<()> {
    line(out, &Recording::of(file, start))
}

#[derive(Serialize)]
struct Recording<'a> {
    schema: &'static str,
    r#type: &'static str,
    file: String,
    host: &'a str,
    kernel: &'a str,
    attached: &'a str,
    filters: &'a str,
    start: String,
    version: &'a str,
}

impl<'a> Recording<'a> {
    fn of(file: &Path, start: &'a Start) -> Self {
        Self {
            schema: SCHEMA,
            r#type: "recording",
            file: file.as_os_str().as_bytes().escape_ascii().to_string(),
            host: &start.host,
            kernel: &start.kernel,
            attached: &start.attached,
            filters: &start.filters,
            start: Time::from(start.wall_clock(start.monotonic_ns)).rfc3339(),
            version: &start.version,
        }
    }
}
