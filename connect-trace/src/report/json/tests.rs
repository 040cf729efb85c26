//! Checks that JSON conforms to its schema and its documentation.

use std::collections::BTreeSet;

use clap::ValueEnum as _;
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    connect::{Comm, ConnectionEvent, Fate, SourcePort},
    fixtures::{any_connect, connect_from, connection_event, findings},
    report::{
        example::{of_groups, parity},
        filling::tests::example as filling_example,
        mitigation::tests::example as mitigation_example,
        overhead::tests::example as overhead_example,
        time_wait::tests::example as time_wait_example,
    },
    rules::Findings,
    stats::{Ends, EndsAccount, Groups, by::By},
};

const SCHEMA_TEXT: &str = include_str!("../../../../docs/output.schema.json");
const DOCS: &str = include_str!("../../../../docs/output.md");

fn schema() -> Value {
    serde_json::from_str(SCHEMA_TEXT).unwrap()
}

fn validator() -> Validator {
    let schema = schema();
    jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{error}"));
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
fn assert_valid(value: &Value) {
    let errors: Vec<String> = validator()
        .iter_errors(value)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
}

fn event(connect: &Connect) -> Value {
    let mut line = Vec::new();
    write_event(&mut line, connect, &Clock::fixed(0)).unwrap();
    parsed(&line)
}

fn connection(event: &ConnectionEvent) -> Value {
    let mut line = Vec::new();
    write_connection(&mut line, event, &Clock::fixed(0)).unwrap();
    parsed(&line)
}

fn rules(findings: &Findings) -> Value {
    let mut line = Vec::new();
    write_rules(&mut line, findings).unwrap();
    parsed(&line)
}

fn report(report: &Report) -> Value {
    let mut line = Vec::new();
    write_report(&mut line, report).unwrap();
    parsed(&line)
}

#[track_caller]
fn parsed(line: &[u8]) -> Value {
    let text = std::str::from_utf8(line).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.ends_with('\n'), "{text}");
    serde_json::from_str(text).unwrap()
}

/// A connection without a port, a destination, or a search.
fn unreachable() -> Connect {
    Connect {
        errno: libc::ENETUNREACH,
        port: SourcePort::None,
        source: None,
        destination: None,
        search_ns: None,
        range: None,
        netns: None,
        owner: None,
        port_choice: None,
        address_bound: None,
        scanned: None,
        ..connect_from(0)
    }
}

#[test]
fn an_event_is_this_line() {
    let connect = Connect {
        comm: Comm::of("a\"\x07"),
        checks: Some(7),
        ..connect_from(20_001)
    };
    let expected = json!({
        "schema": "connect-trace/1",
        "type": "event",
        "time": "1970-01-01T00:00:00.000001000Z",
        "protocol": "tcp",
        "operation": "connect",
        "start_ns": 1_000,
        "connect_ns": 20_000,
        "search_ns": 5_000,
        "family": "IPv4",
        "source_address": "127.0.0.1",
        "source_port": 20_001,
        "port_origin": "search",
        "port_range": { "low": 20_000, "high": 21_999, "by_parity": true },
        "pass": "second",
        "destination_address": "127.0.0.1",
        "destination_port": 443,
        "errno": 0,
        "errno_name": null,
        "pid": 1,
        "tid": 1,
        "comm": "a\\\"\\x07",
        "uid": 0,
        "netns": 4_026_531_840_u32,
        "cgroup_id": 1,
        "owner": "process",
        "strategy": "default",
        "address_bound": false,
        "scanned": 1,
        "checks": 7,
        "checks_watched": false,
        "phases": null,
    });
    assert_eq!(event(&connect), expected);
    assert_valid(&expected);
}

#[test]
fn the_parts_of_an_event_and_of_a_report_are_told() {
    let connect = Connect {
        phases: Some(crate::fixtures::phases()),
        ..connect_from(20_001)
    };
    let event = event(&connect);
    assert_valid(&event);
    let causes = &event["phases"]["causes"];
    assert_eq!(causes["ports"], 2_300);
    assert_eq!(causes["locks"], 1_200);
    assert_eq!(event["phases"]["lock_waits"]["other"]["elsewhere_ns"], 200);
    let mut parity = parity();
    let (others, fast) = (parity.summary.connects, parity.summary.fast);
    parity.summary.record(&connect);
    let report = report(&parity);
    assert_valid(&report);
    let phases = &report["phases"];
    assert_eq!(phases["all"]["total_ns"], *causes);
    assert_eq!(phases["all"]["mainly"]["stack"], 1);
    assert_eq!(phases["slow"]["connects"], 0);
    assert_eq!(phases["unknown"], others - fast);
}

#[test]
fn an_event_of_a_connection_has_the_fields_of_its_connect() {
    let ended = ConnectionEvent {
        errno: libc::ECONNRESET,
        ..connection_event(Fate::Reset)
    };
    let mut expected = event(&ended.connect);
    for (field, value) in [
        ("type", json!("connection")),
        ("time", json!("1970-01-01T00:00:00.002001000Z")),
        ("event", json!("ended")),
        ("outcome", json!("reset")),
        ("handshake_ns", json!(300_000)),
        ("syn_retransmits", json!(0)),
        ("end_ns", json!(2_001_000)),
        ("end_errno", json!(libc::ECONNRESET)),
        ("end_errno_name", json!("ECONNRESET")),
    ] {
        expected[field] = value;
    }
    assert_eq!(connection(&ended), expected);
    assert_valid(&expected);
    for fate in Fate::ALL {
        assert_valid(&connection(&connection_event(fate)));
    }
}

#[test]
fn what_a_connect_has_not_got_is_null() {
    let event = event(&unreachable());
    for field in [
        "search_ns",
        "source_address",
        "source_port",
        "port_range",
        "pass",
        "destination_address",
        "destination_port",
        "netns",
        "owner",
        "strategy",
        "address_bound",
        "scanned",
        "checks",
    ] {
        assert_eq!(event.get(field), Some(&Value::Null), "{field}");
    }
    assert_eq!(event["errno_name"], "ENETUNREACH");
    assert_valid(&event);
}

#[test]
fn a_report_adds_up() {
    let report = report(&parity());
    assert_valid(&report);
    let counts = |groups: &Value| -> Vec<(String, u64)> {
        let groups = groups.as_array().unwrap().iter();
        groups
            .map(|group| {
                let key = group["key"].as_str().unwrap().to_owned();
                (key, group["connect"]["count"].as_u64().unwrap())
            })
            .collect()
    };
    let expected = [("even", 2), ("odd", 1), ("bound", 1), ("failed", 1)];
    let expected = expected.map(|(key, count)| (key.to_owned(), count));
    assert_eq!(counts(&report["groups"]), expected);
    assert_eq!(report["connects"], 5);
    assert_eq!(counts(&report["passes"]).len(), 2);
    assert_eq!(report["failures"][0]["errno_name"], "EADDRNOTAVAIL");
    let even = &report["groups"][0]["connect"];
    assert_eq!(
        (&even["total_ns"], &even["max_ns"]),
        (&json!(120_000), &json!(100_000))
    );
    let buckets = json!([
        { "from_ns": 10_000, "to_ns": 100_000, "count": 1 },
        { "from_ns": 100_000, "to_ns": 1_000_000, "count": 1 },
    ]);
    assert_eq!(even["buckets"], buckets);
    let strategies = report["strategies"].as_array().unwrap();
    assert_eq!(strategies.len(), 2);
    let default = &strategies[0];
    assert_eq!(
        (&default["strategy"], &default["connects_failed"]),
        (&json!("default"), &json!(1))
    );
    assert_eq!(default["scanned"]["total_ports"], 1 + 1 + 1_001 + 2_000);
    assert_eq!(strategies[1]["scanned"]["mean_ports"], Value::Null);
    assert_eq!(report["start"], "1969-12-31T23:59:58.500000000Z");
    assert_eq!(report["accounting"]["lost"], 1);
    let kinds = report["warnings"].as_array().unwrap().iter();
    let kinds: Vec<&Value> = kinds.map(|warning| &warning["kind"]).collect();
    assert_eq!(kinds, ["lost", "watched", "few_samples"]);
}

#[test]
fn ports_in_time_wait_are_told() {
    let report = report(&time_wait_example());
    assert_valid(&report);
    let time_wait = &report["time_wait"];
    let counts = ["refused", "reused", "connects"].map(|name| &time_wait[name]);
    assert_eq!(counts, [&json!(40), &json!(2), &json!(3)]);
    assert_eq!(time_wait["tcp_tw_reuse"], 2);
    let kinds = report["warnings"].as_array().unwrap().iter();
    assert_eq!(kinds.last().unwrap()["kind"], "time_wait");
}

#[test]
fn the_cost_and_the_budget_are_told() {
    let report = report(&overhead_example());
    assert_valid(&report);
    let cost = &report["overhead"];
    assert_eq!(
        (&cost["run_ns"], &cost["ns_per_connect"]),
        (&json!(75_000), &json!(750.0))
    );
    assert_eq!(cost["daemon_core_percent"], 0.4);
    let entry = json!({
        "program": "fentry_tcp_v4_connect",
        "runs": 100,
        "run_ns": 30_000,
        "ns_per_run": 300.0,
        "ns_per_connect": 300.0,
        "core_percent": 0.002,
    });
    assert_eq!(cost["programs"][1], entry);
    assert_eq!(
        cost["programs"][0]["ns_per_run"],
        Value::Null,
        "it never ran"
    );
    let budget = &report["budget"];
    let levels = budget["steps"].as_array().unwrap().iter();
    let levels: Vec<_> = levels
        .map(|step| {
            (
                step["level"].as_str().unwrap(),
                step["sample_every"].as_u64(),
            )
        })
        .collect();
    let expected = [
        ("full", Some(1)),
        ("unwatched", Some(1)),
        ("sampled", Some(8)),
        ("sampled", Some(64)),
        ("detached", None),
    ];
    assert_eq!(levels, expected);
    let accounting = &report["accounting"];
    assert_eq!(
        (&accounting["unsampled"], &accounting["adds_up"]),
        (&json!(93), &json!(true))
    );
    assert_eq!(
        (&accounting["blind_ns"], &accounting["complete"]),
        (&json!(600_000_000), &json!(false))
    );
}

#[test]
fn the_routes_that_fill_up_are_told() {
    let report = report(&filling_example());
    assert_valid(&report);
    let route = &report["filling"]["routes"][0];
    assert_eq!(
        (&route["destination_port"], &route["time_wait"]),
        (&json!(5_432), &json!(410))
    );
    let holder = json!({
        "pid": 812,
        "comm": "api",
        "cgroup_id": 5,
        "cgroup": "/system.slice/api.service",
        "strategy": "default",
        "open": 0,
        "time_wait": 400,
    });
    assert_eq!(route["holders"][0], holder);
    assert_eq!(route["forecast"]["second_pass"]["seconds"], 20.4);
    let exhausted = &route["forecast"]["exhausted"];
    assert_eq!(exhausted["unpredicted"], "varies");
    assert_eq!(exhausted["seconds"], Value::Null);
}

#[test]
fn a_mitigation_is_told() {
    let report = report(&mitigation_example());
    assert_valid(&report);
    let mitigation = &report["mitigation"];
    assert_eq!(mitigation["last_errno"], "EADDRNOTAVAIL");
    let parts = [
        "applied",
        "exhausted",
        "refused",
        "other_share",
        "idle",
        "no_route",
        "bound",
        "own_range",
    ];
    let decided: u64 = parts
        .iter()
        .map(|part| mitigation[part].as_u64().unwrap())
        .sum();
    assert_eq!(mitigation["calls"], decided);
    let [mitigated, unmitigated] = [0, 1].map(|arm| &mitigation["arms"][arm]);
    assert_eq!(mitigated["arm"], "mitigated");
    assert_eq!(mitigated["connect"]["count"], 10);
    assert_eq!(unmitigated["connect"]["count"], 9);
    assert_eq!(unmitigated["failed_without_port"], 1);
    assert_eq!(mitigation["verdict"]["outcome"], "faster");
}

#[test]
fn percentiles_without_the_fast_connects_are_null() {
    let mut slow = parity();
    slow.summary.merge_fast(&crate::fixtures::below_minimum(3));
    slow.top = slow.summary.by_parity();
    let report = report(&slow);
    assert_valid(&report);
    let even = &report["groups"][0]["connect"];
    assert_eq!((&even["count"], &even["p50_ns"]), (&json!(5), &Value::Null));
    assert_eq!(report["connects_fast"], 6);
    assert_eq!(report["failures"][1]["errno"], Value::Null);
}

#[test]
fn every_way_to_split_is_valid() {
    for &by in By::value_variants() {
        let mut groups = Groups::new(by);
        for pid in 0..30 {
            groups.record(&Connect {
                pid,
                ..connect_from(1)
            });
        }
        groups.record(&Connect {
            connect_ns: u64::MAX,
            ..unreachable()
        });
        groups.merge_fast(&crate::fixtures::below_minimum(1));
        let mut split = of_groups(groups);
        split.filters = vec!["--comm a\\x1bb".to_owned()];
        split.clock_step_ns = Some(1);
        assert_valid(&report(&split));
    }
}

/// Collects every object within a value, by its path.
fn objects(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.push(path.to_owned());
            for (name, field) in fields {
                objects(field, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                objects(item, &format!("{path}/{number}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn a_field_more_or_less_or_of_another_type_is_not_valid() {
    let validator = validator();
    let mut groups = Groups::new(By::Pid);
    for pid in 0..30 {
        groups.record(&Connect {
            pid,
            ..connect_from(1)
        });
    }
    groups.merge_fast(&crate::fixtures::below_minimum(1));
    let mut tried = 0;
    let mut everything = of_groups(groups);
    let costs = overhead_example();
    (everything.overhead, everything.budget) = (costs.overhead, costs.budget);
    everything.mitigation = mitigation_example().mitigation;
    let mut ends = Ends::default();
    ends.record(&connection_event(Fate::Established));
    ends.record(&connection_event(Fate::Reset));
    everything.ends = Some(ends);
    let mut account = EndsAccount::default();
    account.kernel.map_full = 1;
    account.kernel.ended_lost = 1;
    account.kernel.replaced = 1;
    everything.ends_account = Some(account);
    for valid in [
        event(&connect_from(20_000)),
        connection(&connection_event(Fate::Reset)),
        report(&everything),
        rules(&findings()),
    ] {
        let mut paths = Vec::new();
        objects(&valid, "", &mut paths);
        for path in paths {
            let mut wrong = valid.clone();
            wrong.pointer_mut(&path).unwrap()["extra"] = json!(1);
            assert!(!validator.is_valid(&wrong), "one more at {path}");
            let names: Vec<String> = valid
                .pointer(&path)
                .unwrap()
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect();
            for name in names {
                let mut wrong = valid.clone();
                let object = wrong.pointer_mut(&path).unwrap().as_object_mut().unwrap();
                object.remove(&name);
                assert!(!validator.is_valid(&wrong), "{path} without {name}");
                let mut wrong = valid.clone();
                wrong.pointer_mut(&path).unwrap()[&name] = json!([[]]);
                assert!(!validator.is_valid(&wrong), "another {name} at {path}");
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

/// Collects the names of all properties in a schema.
fn properties(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Object(named)) = fields.get("properties") {
                found.extend(named.keys().cloned());
            }
            fields.values().for_each(|field| properties(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| properties(item, found)),
        _ => {}
    }
}

#[test]
fn the_documentation_defines_every_field_and_no_other() {
    let mut expected = BTreeSet::new();
    properties(&schema(), &mut expected);
    // A row of a table defines the field in its first column.
    let rows = DOCS.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split_once(" |").map(|(cell, _)| cell));
    let defined: BTreeSet<String> = cells
        .flat_map(|cell| cell.split(", "))
        .map(|name| name.trim_matches('`').to_owned())
        .collect();
    assert_eq!(defined, expected);
}

proptest! {
    #[test]
    fn every_event_is_valid_and_says_what_the_record_did(connect in any_connect()) {
        let event = event(&connect);
        assert_valid(&event);
        let comm = connect.comm.to_string();
        prop_assert_eq!(event["comm"].as_str(), Some(comm.as_str()));
        prop_assert_eq!(event["connect_ns"].as_u64(), Some(connect.connect_ns));
        prop_assert_eq!(event["search_ns"].as_u64(), connect.search_ns);
        prop_assert_eq!(event["cgroup_id"].as_u64(), Some(connect.cgroup_id));
    }
}
