//! The explanation as a JSON object on one line. docs/explain.md and docs/explain.schema.json define the fields.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use serde::Serialize;

use super::{
    Explained, Searches, State, counts,
    search::{End, Figures, Run},
};
use crate::{kernel, report::json::line};

/// Changes if a field is removed or changes its meaning; not if a field is added.
const SCHEMA: &str = "connect-trace-explain/1";

#[derive(Serialize)]
struct Object {
    schema: &'static str,
    version: &'static str,
    kernel: String,
    source: String,
    destination: String,
    range: [u16; 2],
    by_parity: bool,
    step_width: u32,
    tcp_tw_reuse: u32,
    tcp_timestamps: u32,
    tcp_tw_reuse_delay_ms: u32,
    passes: Vec<Pass>,
    searches: Option<Figures>,
    walk: Option<WalkObject>,
}

#[derive(Serialize)]
struct Pass {
    ports: u32,
    states: BTreeMap<State, u32>,
    runs: Vec<PassRun>,
}

#[derive(Serialize)]
struct PassRun {
    state: State,
    first: u16,
    last: u16,
    ports: u32,
    /// Least and most ports that a search goes through if it finds a port of the run; absent if none does.
    scanned: Option<[u32; 2]>,
}

#[derive(Serialize)]
struct WalkObject {
    start: u16,
    typical: bool,
    steps: Vec<Step>,
    scanned: u32,
    found: Option<u16>,
}

#[derive(Serialize)]
struct Step {
    pass: u32,
    state: State,
    first: u16,
    last: u16,
    ports: u32,
}

/// Writes the object.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn write(
    out: &mut impl Write,
    explained: &Explained,
    searches: Option<&Searches>,
) -> io::Result<()> {
    line(out, &object(explained, searches))
}

fn object(explained: &Explained, searches: Option<&Searches>) -> Object {
    let search = &explained.search;
    let scanned = scanned(searches.map_or(&[], |searches| &searches.ends));
    let pass = |pass| {
        let of_run = |run: Run| {
            let scanned = search.ports_of(run).filter_map(|port| scanned.get(&port));
            PassRun {
                state: run.state,
                first: run.first,
                last: run.last,
                ports: run.ports,
                scanned: scanned.copied().reduce(both),
            }
        };
        Pass {
            ports: search.ports(pass).count() as u32,
            states: (State::ALL.map(|state| (state, 0)).into_iter())
                .chain(counts(explained, pass))
                .collect(),
            runs: search.runs(pass).into_iter().map(of_run).collect(),
        }
    };
    let walk = searches.map(|searches| {
        let walk = &searches.walk;
        let step = |run: &Run| Step {
            pass: run.pass + 1,
            state: run.state,
            first: run.first,
            last: run.last,
            ports: run.ports,
        };
        WalkObject {
            start: walk.start,
            typical: walk.is_typical,
            steps: walk.runs.iter().map(step).collect(),
            scanned: walk.end.scanned,
            found: walk.end.found.map(|(port, _)| port),
        }
    });
    Object {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        kernel: kernel::release(),
        source: explained.route.source.to_string(),
        destination: explained.route.destination.to_string(),
        range: search.range().ports.into(),
        by_parity: search.range().by_parity,
        step_width: explained.random_step.unwrap_or(0),
        tcp_tw_reuse: explained.time_wait.reuse,
        tcp_timestamps: explained.time_wait.timestamps,
        tcp_tw_reuse_delay_ms: explained.time_wait.reuse_delay_ms,
        passes: (0..search.order().passes()).map(pass).collect(),
        searches: searches.map(|searches| searches.figures),
        walk,
    }
}

/// Returns the least and the most ports that a search goes through, for each port that one finds.
fn scanned(ends: &[End]) -> HashMap<u16, [u32; 2]> {
    let mut scanned = HashMap::new();
    for end in ends {
        if let Some((port, _)) = end.found {
            let own = [end.scanned; 2];
            let known = scanned.entry(port).or_insert(own);
            *known = both(*known, own);
        }
    }
    scanned
}

/// Returns the least and the most of two such pairs.
fn both([least, most]: [u32; 2], other: [u32; 2]) -> [u32; 2] {
    [least.min(other[0]), most.max(other[1])]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{
        super::{
            searches,
            tests::{example, nearly_used_up},
        },
        *,
    };
    use crate::fixtures::field_names;

    const SCHEMA_TEXT: &str = include_str!("../../../docs/explain.schema.json");
    const DOCS: &str = include_str!("../../../docs/explain.md");

    /// Returns the object, which has the form of the schema.
    fn valid(explained: &Explained, start: Option<u16>) -> Value {
        let searches = searches(explained, start).unwrap();
        let mut out = Vec::new();
        write(&mut out, explained, searches.as_ref()).unwrap();
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let object = serde_json::from_slice(&out).unwrap();
        let schema: Value = serde_json::from_str(SCHEMA_TEXT).unwrap();
        jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{error}"));
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(&object)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:#?}\n{object:#}");
        object
    }

    #[test]
    fn the_object_has_the_form_of_its_schema_and_every_field_is_documented() {
        let mut explained = example(true, &nearly_used_up());
        let object = valid(&explained, None);
        valid(&explained, Some(20_010));
        valid(&example(false, &[State::Taken; 9]), None);
        explained.random_step = Some(4);
        let random = valid(&explained, None);
        assert_eq!(random["step_width"], 4);
        assert_eq!(random["walk"], Value::Null);

        let fields = field_names(&object);
        assert!(fields.len() > 40, "{fields:?}");
        for field in fields {
            assert!(
                DOCS.contains(&format!("`{field}`")),
                "{field} is not in docs/explain.md"
            );
        }
    }

    #[test]
    fn a_run_tells_how_many_ports_a_search_goes_through_to_it() {
        use State::{Free, Taken};
        // Four even ports, then the odd ones: 20004 is found from 20000 and 20002 too.
        let states = [Taken, Taken, Taken, Free, Free, Taken, Free, Free];
        let object = valid(&example(true, &states), Some(20_000));
        let runs = &object["passes"][0]["runs"];
        assert_eq!(runs[0]["scanned"], Value::Null);
        assert_eq!(runs[1]["first"], 20_004);
        assert_eq!(runs[1]["scanned"], serde_json::json!([1, 3]));
        // No search gets to the second pass.
        assert_eq!(object["passes"][1]["runs"][1]["state"], "free");
        assert_eq!(object["passes"][1]["runs"][1]["scanned"], Value::Null);
        assert_eq!(object["walk"]["found"], 20_004);
        assert_eq!(object["walk"]["scanned"], 3);
    }
}
