//! The metrics of a mitigation.

use std::fmt;

use connect_trace_common::{MitigationCounters, Times};
use prometheus_client::registry::Unit;

use super::writer::Writer;
use crate::stats::{
    arms::{Arm, ArmTotals, Outcome, Verdict},
    mitigation::RouteNumbers,
};

/// A mitigation since the start.
#[derive(Clone, Debug)]
pub struct MitigationReading {
    /// Decisions.
    pub decisions: MitigationCounters,
    /// Number of the routes now.
    pub routes: RouteNumbers,
    /// Connections on routes on which it acts, in the order of [`Arm::ALL`].
    pub arms: [ArmTotals; 2],
    /// The comparison of the arms; `None` if everything is mitigated.
    pub verdict: Option<Verdict>,
}

impl MitigationReading {
    /// Writes the metrics.
    pub(super) fn encode(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let made = &self.decisions;
        let decisions = [
            ("applied", made.applied),
            ("exhausted", made.exhausted),
            ("refused", made.refused),
            ("other_share", made.other_share),
            ("idle", made.idle),
            ("no_route", made.no_route),
            ("bound", made.bound),
            ("own_range", made.own_range),
        ];
        writer.counters(
            "mitigation_decisions",
            "Calls of connect() in the cgroups of the mitigation, by what it decided",
            None,
            decisions.map(|(decision, count)| ([("decision", decision)], count)),
        )?;
        let ports = [
            ("tested", made.tested),
            ("taken", made.taken),
            ("busy", made.busy),
            ("reused", made.reused),
            ("reserved", made.reserved),
        ];
        writer.counters(
            "mitigation_ports",
            "Ports that the mitigation looked up, those of them that were taken, busy with other sockets or reused in TIME_WAIT, and reserved ports that it skipped",
            None,
            ports.map(|(result, count)| ([("result", result)], count)),
        )?;
        writer.counter(
            "mitigation_acting",
            "Time of the mitigation for the calls for which it acted, before connect() begins",
            Some(&Unit::Seconds),
            made.acting_ns as f64 / 1e9,
        )?;
        let routes = [
            ("known", self.routes.known),
            ("acting", self.routes.acting),
            ("ambiguous", self.routes.ambiguous),
        ];
        writer.gauges(
            "mitigation_routes",
            "Destinations whose source address is known, those on which the mitigation acts, and those on which it never does",
            None,
            routes.map(|(state, count)| ([("state", state)], count as f64)),
        )?;
        let arms = || Arm::ALL.into_iter().zip(&self.arms);
        writer.times(
            "mitigation_connect_duration",
            "Time in successful calls of connect() on routes on which the mitigation acts, by arm",
            arms().map(|(arm, totals)| ([("arm", arm.name())], &totals.connect as &Times)),
        )?;
        let failures = arms().flat_map(|(arm, totals)| {
            let other = totals.failed - totals.without_port;
            [("EADDRNOTAVAIL", totals.without_port), ("other", other)]
                .map(|(error, count)| ([("arm", arm.name()), ("error_type", error)], count))
        });
        writer.counters(
            "mitigation_failures",
            "Failed calls of connect() on routes on which the mitigation acts, by arm and errno",
            None,
            failures,
        )?;
        let Some(verdict) = &self.verdict else {
            return Ok(());
        };
        let outcome = verdict.outcome();
        writer.gauges(
            "mitigation_verdict",
            "1 for the outcome of the comparison of the arms since the start, 0 for all others",
            None,
            Outcome::ALL.map(|one| {
                let is_it = f64::from(u8::from(one == outcome));
                ([("outcome", one.name())], is_it)
            }),
        )?;
        let Some(ratio) = verdict.ratio else {
            return Ok(());
        };
        let bounds = [
            ("low", ratio.low),
            ("mean", ratio.mean),
            ("high", ratio.high),
        ];
        writer.gauges(
            "mitigation_time",
            "Time of mitigated calls divided by that of the others, with the bounds of 99 % confidence",
            Some(&Unit::Other("ratio".to_owned())),
            bounds.map(|(bound, value)| ([("bound", bound)], value)),
        )
    }
}
