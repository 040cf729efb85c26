//! The report of a run as a JSON object on one line. docs/load.md lists the fields.

use std::io::{self, Write};

use serde::Serialize;

use super::{Done, figures::Times, log::Run, plan::Network};
use crate::{
    kernel,
    report::json::{Times as Latency, line},
    term::errno,
};

/// Changes if a field is removed or changes its meaning; not if a field is added.
const SCHEMA: &str = "connect-trace-load/1";

/// Writes a run.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn write(out: &mut (impl Write + ?Sized), done: &Done) -> io::Result<()> {
    line(out, &RunLine::of(done))
}

/// The fields of a run.
#[derive(Serialize)]
pub(crate) struct RunLine {
    schema: &'static str,
    r#type: &'static str,
    kernel: String,
    #[serde(flatten)]
    run: Run,
    target: Option<String>,
    family: &'static str,
    close_above: Option<u32>,
    rate: Option<u32>,
    connections_per_second: f64,
    errors: u64,
    first_pass_connections: Option<u32>,
    most_held: u32,
    tries: u64,
    most_tries: u32,
    even: Group,
    odd: Group,
    failures: Vec<Failure>,
    listener_drops: Option<u64>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Group {
    connect: Latency,
    prepare: Latency,
    whole: Latency,
}

#[derive(Serialize)]
struct Failure {
    errno: i32,
    errno_name: String,
    #[serde(flatten)]
    times: Group,
}

impl RunLine {
    pub(crate) fn of(done: &Done) -> Self {
        let (plan, figures) = (&done.plan, &done.figures);
        Self {
            schema: SCHEMA,
            r#type: "run",
            kernel: kernel::release(),
            run: plan.run(done.outcome.total_ns, figures.attempts),
            target: match plan.network {
                Network::Private { .. } => None,
                Network::Present { target } => Some(target.to_string()),
            },
            family: if plan.v6 { "IPv6" } else { "IPv4" },
            close_above: plan.close_above,
            rate: plan.rate,
            connections_per_second: done.per_second(),
            errors: figures.errors(),
            first_pass_connections: done.first_pass(),
            most_held: figures.most_held,
            tries: figures.tries,
            most_tries: figures.most_tries,
            even: Group::of(&figures.even),
            odd: Group::of(&figures.odd),
            failures: figures
                .failed
                .iter()
                .map(|(&errno, times)| Failure {
                    errno,
                    errno_name: errno::name(errno),
                    times: Group::of(times),
                })
                .collect(),
            listener_drops: done.outcome.listener_drops,
            warnings: done.warnings(),
        }
    }
}

impl Group {
    fn of(times: &Times) -> Self {
        Self {
            connect: Latency::of(&times.connect),
            prepare: Latency::of(&times.prepare),
            whole: Latency::of(&times.whole),
        }
    }
}
