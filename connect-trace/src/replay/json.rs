//! The JSON line of a recording, before the lines of its reports and events.

use std::{
    collections::HashMap,
    io::{self, Write},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use serde::Serialize;

use crate::{
    clock::Time,
    recording::{Kept, Start},
    report::json::{SCHEMA, line, route_ports::RoutePortsObject},
};

/// Writes the line that names the recording.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn write_recording(
    out: &mut (impl Write + ?Sized),
    file: &Path,
    start: &Start,
    kept: Option<&Kept>,
) -> io::Result<()> {
    line(out, &Recording::of(file, start, kept))
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
    kept: Option<Reason<'a>>,
}

/// The reason why a recording was kept, if it was in memory until a condition held.
#[derive(Serialize)]
struct Reason<'a> {
    condition: &'a str,
    calls: u64,
    time: String,
    pid: u32,
    comm: &'a str,
    destination: Option<String>,
    ports: Option<RoutePortsObject>,
}

impl<'a> Recording<'a> {
    fn of(file: &Path, start: &'a Start, kept: Option<&'a Kept>) -> Self {
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
            kept: kept.map(|kept| Reason {
                condition: &kept.condition,
                calls: kept.held,
                time: Time::from(start.wall_clock(kept.at_ns)).rfc3339(),
                pid: kept.pid,
                comm: &kept.comm,
                destination: kept.destination.map(|destination| destination.to_string()),
                ports: kept
                    .ports
                    .as_ref()
                    .map(|ports| RoutePortsObject::of(ports, &HashMap::new())),
            }),
        }
    }
}
