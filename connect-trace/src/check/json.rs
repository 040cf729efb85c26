//! The findings for programs: one object in one line; docs/check.md defines the fields.

use std::io::{self, Write};

use serde::Serialize;

use super::{Check, Finding};

/// Raised when a field is removed or changes its meaning; not when one is added.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Object<'a> {
    schema: u32,
    version: &'static str,
    kernel: &'a str,
    architecture: &'static str,
    works: bool,
    attach_mode: Option<String>,
    verdict: String,
    findings: &'a [Finding],
}

/// Writes the object.
pub(super) fn write(out: &mut impl Write, check: &Check) -> io::Result<()> {
    let object = Object {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        kernel: &check.kernel,
        architecture: std::env::consts::ARCH,
        works: check.works(),
        attach_mode: check.mode.map(|mode| mode.to_string()),
        verdict: check.verdict(),
        findings: &check.findings,
    };
    serde_json::to_writer(&mut *out, &object)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::{Group, tests::check},
        probes::attach::AttachMode,
    };

    #[test]
    fn the_object_has_every_field_in_one_line() {
        let finding = Finding::ok(Group::Ports, "reserved", "3 ports")
            .data(3.into())
            .required();
        let mut out = Vec::new();
        write(&mut out, &check(vec![finding], Some(AttachMode::Kprobe))).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["schema"], 1);
        assert_eq!(object["works"], true);
        assert_eq!(object["attach_mode"], "kprobe/kretprobe");
        assert_eq!(
            object["findings"][0],
            serde_json::json!({
                "group": "ports", "name": "reserved", "state": "ok", "required": true,
                "value": "3 ports", "data": 3, "note": null, "remedy": null, "since": null,
            })
        );
    }
}
