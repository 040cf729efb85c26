//! The ports as JSON Lines: an object for each route. docs/ports.md and docs/ports.schema.json define the fields.

use std::io::{self, Write};

use serde::Serialize;

use super::Shown;
use crate::{
    kernel,
    report::json::{line, route_ports::RoutePortsObject},
};

/// Changes if a field is removed or changes its meaning; not if a field is added.
const SCHEMA: &str = "connect-trace-ports/1";

#[derive(Serialize)]
struct Object {
    schema: &'static str,
    version: &'static str,
    kernel: String,
    service: Option<ServiceObject>,
    processes_complete: bool,
    #[serde(flatten)]
    route: RoutePortsObject,
}

#[derive(Serialize)]
struct ServiceObject {
    complete: bool,
}

/// Writes the objects.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn write(out: &mut impl Write, shown: &Shown) -> io::Result<()> {
    for ports in &shown.routes {
        let object = Object {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            kernel: kernel::release(),
            service: shown
                .service_is_complete
                .map(|complete| ServiceObject { complete }),
            processes_complete: !shown.processes_refused,
            route: RoutePortsObject::of(ports, &shown.cgroups),
        };
        line(out, &object)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{fixtures::field_names, report::route_ports::tests::example};

    const SCHEMA_TEXT: &str = include_str!("../../../docs/ports.schema.json");
    const DOCS: &str = include_str!("../../../docs/ports.md");

    #[test]
    fn each_line_has_the_form_of_its_schema_and_every_field_is_documented() {
        let (ports, cgroups) = example();
        let mut shown = Shown {
            range: ports.range,
            routes: vec![ports.clone(), ports],
            is_selected: true,
            netns: 7,
            more: 0,
            cgroups,
            service_is_complete: Some(true),
            processes_refused: false,
        };
        let schema: Value = serde_json::from_str(SCHEMA_TEXT).unwrap();
        jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{error}"));
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let objects = |shown: &Shown| -> Vec<Value> {
            let mut out = Vec::new();
            write(&mut out, shown).unwrap();
            let lines = str::from_utf8(&out).unwrap().lines();
            let objects = lines.map(|line| serde_json::from_str(line).unwrap());
            objects
                .inspect(|object| {
                    let errors: Vec<_> = validator
                        .iter_errors(object)
                        .map(|e| e.to_string())
                        .collect();
                    assert!(errors.is_empty(), "{errors:#?}\n{object:#}");
                })
                .collect()
        };
        let object = objects(&shown).remove(1);
        shown.service_is_complete = None;
        assert_eq!(objects(&shown)[0]["service"], Value::Null);

        let lane = &object["even"];
        assert_eq!(lane["uses"]["time_wait"], 410);
        assert_eq!(
            lane["runs"][0],
            serde_json::json!({
                "use": "time_wait", "first": 20_000, "last": 20_798, "ports": 400
            })
        );
        assert_eq!(object["holders"][0]["strategy"], "default");
        assert_eq!(object["holders"][2]["cgroup"], Value::Null);

        let fields = field_names(&object);
        assert!(fields.len() > 60, "{fields:?}");
        for field in fields {
            assert!(
                DOCS.contains(&format!("`{field}`")),
                "{field} is not in docs/ports.md"
            );
        }
    }
}
