//! The evaluation of rules on all connections of a trace, in bounded memory.
//!
//! No rule passes unseen: a call of which too little is known, or that has no record at all, may have any value, and a
//! rule holds only if it does so whatever these values are.

use std::{cmp::Reverse, collections::HashMap, net::SocketAddr};

use connect_trace_common::FastGroup;

use super::{
    condition::{Answer, Condition, Operator},
    distribution::Distribution,
    field::{Bounds, Field, Reading},
};
use crate::{
    connect::{Comm, Connect, Outcome},
    stats::{
        BelowMinimum,
        accounting::{Accounting, Unknown},
        report::KernelSide,
    },
    term::numbers::counted,
};

/// Largest number of offenders of a rule that are kept apart, about a hundred bytes each.
const MOST_OFFENDERS: usize = 1_024;

/// Largest errno, `MAX_ERRNO`.
const MAX_ERRNO: f64 = 4_095.0;

/// Rules, and the connections on which they were evaluated so far.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    calls: u64,
}

#[derive(Clone, Debug)]
struct Rule {
    condition: Condition,
    holds: u64,
    broken: u64,
    unknown: u64,
    /// Values, of a rule with an aggregate.
    values: Option<Box<Distribution>>,
    /// Callers that broke the rule, as many as there is room for.
    offenders: HashMap<Caller, Offence>,
}

/// A process, and a destination of its connections.
type Caller = (u32, Comm, Option<SocketAddr>);

#[derive(Clone, Copy, Debug)]
struct Offence {
    calls: u64,
    /// Value that is the furthest from the rule, or the first one.
    value: Reading,
}

/// Result of a rule, the worst one last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The rule holds, whatever is not known.
    Held,
    /// Too little is known.
    Unproven,
    /// The rule is broken, whatever is not known.
    Broken,
}

impl Verdict {
    /// Returns the name in text and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Unproven => "unproven",
            Self::Broken => "broken",
        }
    }
}

/// Results of all rules.
#[derive(Clone, Debug)]
pub struct Findings {
    /// The filters of the connections that were evaluated.
    pub filters: Vec<String>,
    /// Number of connect() calls that were evaluated.
    pub calls: u64,
    /// The rules, in the order in which they were given.
    pub rules: Vec<Finding>,
}

/// Result of a rule.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub condition: Condition,
    /// Its result.
    pub verdict: Verdict,
    /// Number of calls that break it; of a rule with an aggregate, of those whose own value would.
    pub broken: u64,
    /// Number of calls of which too little is known; `None` if their number is not known either.
    pub undecided: Option<u64>,
    /// The aggregate; `None` without one, or without values.
    pub value: Option<Bounds>,
    /// Reasons for which calls are undecided.
    pub reasons: Vec<String>,
    /// Processes with calls that break it, those with the most calls first.
    pub offenders: Vec<Offender>,
    /// Number of calls that break it and are of no process in `offenders`.
    pub other_calls: u64,
}

/// A process with connections to one destination that break a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Offender {
    /// Process id.
    pub pid: u32,
    /// Name of the thread.
    pub comm: Comm,
    /// Destination; `None` if it is not known.
    pub destination: Option<SocketAddr>,
    /// Number of calls that break the rule.
    pub calls: u64,
    /// The value that is the furthest from the rule, or the first one, in words.
    pub value: String,
}

impl Findings {
    /// Exit status if a rule does not hold.
    pub const EXIT_STATUS: u8 = 3;

    /// Returns the results for connections that cannot be read: nothing is proven.
    #[must_use]
    pub fn unproven(conditions: &[Condition], reason: &str) -> Self {
        let unproven = |condition: &Condition| Finding {
            condition: condition.clone(),
            verdict: Verdict::Unproven,
            broken: 0,
            undecided: None,
            value: None,
            reasons: vec![reason.to_owned()],
            offenders: Vec::new(),
            other_calls: 0,
        };
        Self {
            filters: Vec::new(),
            calls: 0,
            rules: conditions.iter().map(unproven).collect(),
        }
    }

    /// Returns the worst of the results.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.rules.iter().map(|rule| rule.verdict);
        verdicts.max().unwrap_or(Verdict::Held)
    }

    /// Returns the number of rules with this result.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let all = self.rules.iter();
        all.filter(|rule| rule.verdict == verdict).count()
    }
}

impl Rules {
    /// Creates the evaluation of these conditions; `None` without any.
    #[must_use]
    pub fn new(conditions: &[Condition]) -> Option<Self> {
        let rule = |condition: &Condition| Rule {
            condition: condition.clone(),
            holds: 0,
            broken: 0,
            unknown: 0,
            values: condition.aggregate.map(|_| Box::new(Distribution::new())),
            offenders: HashMap::new(),
        };
        (!conditions.is_empty()).then(|| Self {
            rules: conditions.iter().map(rule).collect(),
            calls: 0,
        })
    }

    /// Adds a connection.
    pub fn record(&mut self, connect: &Connect) {
        self.calls += 1;
        for rule in &mut self.rules {
            rule.record(connect);
        }
    }

    /// Returns the results. `unfiltered` is the number of calls of which only sums are known, so that it is not known if
    /// they are meant.
    #[must_use]
    pub fn finish(
        self,
        filters: Vec<String>,
        kernel_side: &KernelSide,
        unfiltered: u64,
    ) -> Findings {
        let missing = missing(kernel_side, unfiltered);
        Findings {
            filters,
            calls: self.calls + kernel_side.fast.count(),
            rules: self
                .rules
                .into_iter()
                .map(|rule| rule.finish(&missing))
                .collect(),
        }
    }
}

impl Rule {
    fn record(&mut self, connect: &Connect) {
        let field = self.condition.field;
        let reading = field.of(connect);
        self.add(reading, 1);
        if self.condition.answer(reading) == Answer::Broken {
            self.offend(connect, reading);
        }
    }

    /// Adds calls with this value.
    fn add(&mut self, reading: Reading, calls: u64) {
        match self.condition.answer(reading) {
            Answer::Holds => self.holds += calls,
            Answer::Broken => self.broken += calls,
            Answer::Unknown => self.unknown += calls,
            Answer::NotApplicable => {}
        }
        if let Some(values) = &mut self.values {
            match reading {
                Reading::Number(bounds) => values.add(bounds, calls),
                Reading::None => {}
                _ => values.add_unknown(calls),
            }
        }
    }

    fn offend(&mut self, connect: &Connect, reading: Reading) {
        let caller = (connect.pid, connect.comm, connect.destination);
        let is_full = self.offenders.len() >= MOST_OFFENDERS;
        match self.offenders.get_mut(&caller) {
            Some(offence) => {
                offence.calls += 1;
                if is_further(self.condition.operator, reading, offence.value) {
                    offence.value = reading;
                }
            }
            None if is_full => {}
            None => {
                let offence = Offence {
                    calls: 1,
                    value: reading,
                };
                self.offenders.insert(caller, offence);
            }
        }
    }

    fn finish(mut self, missing: &[Missing]) -> Finding {
        let field = self.condition.field;
        let mut reasons = Vec::new();
        let mut has_more = false;
        if self.unknown > 0 {
            let calls = counted(self.unknown, "call has", "calls have");
            reasons.push(format!("{calls} a value that is not known"));
        }
        for part in missing {
            let reading = (part.reading)(field);
            match part.calls {
                Some(calls) => self.add(reading, calls),
                None => {
                    has_more = true;
                    if let Some(values) = &mut self.values {
                        values.add_any_number();
                    }
                }
            }
            let decides = part.calls.is_some() && self.condition.answer(reading) != Answer::Unknown;
            if !decides && !reasons.contains(&part.why) {
                reasons.push(part.why.clone());
            }
        }
        let aggregate = self.condition.aggregate.zip(self.values.as_ref());
        let value = aggregate.and_then(|(aggregate, values)| values.aggregate(aggregate));
        let verdict = match (aggregate, value) {
            (Some(_), Some(value)) => match self.condition.answer_within(value) {
                Answer::Broken => Verdict::Broken,
                Answer::Unknown => Verdict::Unproven,
                Answer::Holds | Answer::NotApplicable => Verdict::Held,
            },
            (Some(_), None) => Verdict::Held,
            (None, _) if self.broken > 0 => Verdict::Broken,
            (None, _) if self.unknown > 0 || has_more => Verdict::Unproven,
            (None, _) => Verdict::Held,
        };
        let mut offenders: Vec<Offender> = self
            .offenders
            .into_iter()
            .map(|((pid, comm, destination), offence)| Offender {
                pid,
                comm,
                destination,
                calls: offence.calls,
                value: field.in_words(offence.value),
            })
            .collect();
        offenders.sort_by_key(|offender| {
            let Offender {
                calls,
                pid,
                destination,
                ..
            } = *offender;
            (Reverse(calls), pid, destination)
        });
        let of_offenders: u64 = offenders.iter().map(|offender| offender.calls).sum();
        Finding {
            verdict,
            broken: self.broken,
            undecided: (!has_more).then_some(self.unknown),
            value,
            reasons,
            offenders,
            other_calls: self.broken.saturating_sub(of_offenders),
            condition: self.condition,
        }
    }
}

/// Returns whether a value is further from what an operator demands than another one.
fn is_further(operator: Operator, one: Reading, other: Reading) -> bool {
    let (Reading::Number(one), Reading::Number(other)) = (one, other) else {
        return false;
    };
    match operator {
        Operator::Less | Operator::LessOrEqual => one.low > other.low,
        Operator::Greater | Operator::GreaterOrEqual => one.high < other.high,
        Operator::Equal | Operator::NotEqual => false,
    }
}

/// Calls without a record.
struct Missing {
    /// Number of calls; `None` if it is not known.
    calls: Option<u64>,
    /// Returns what is known of a field.
    reading: Box<dyn Fn(Field) -> Reading>,
    why: String,
}

/// Returns the calls without a record, and the reasons.
fn missing(kernel_side: &KernelSide, unfiltered: u64) -> Vec<Missing> {
    let Accounting {
        kernel,
        blind,
        unknown,
        ..
    } = kernel_side.accounting;
    let accounting = &kernel_side.accounting;
    let part = |calls, why| Missing {
        calls,
        reading: Box::new(|_| Reading::Unknown),
        why,
    };
    let mut parts = of_fast(&kernel_side.fast);
    for (calls, why) in [
        (accounting.lost(), "lost: the account says why"),
        (kernel.unsampled, "not sampled"),
        (
            unfiltered,
            "below the trace's --min-latency and only counted, so that the filters cannot be applied to them",
        ),
    ] {
        if calls > 0 {
            let calls_were = counted(calls, "call was", "calls were");
            parts.push(part(Some(calls), format!("{calls_were} {why}")));
        }
    }
    match unknown {
        Some(Unknown::Cut) => parts.push(part(
            None,
            "the recording was cut: it is not known how many calls are missing".to_owned(),
        )),
        Some(Unknown::Interval) => parts.push(part(None, "there is no account".to_owned())),
        None if !blind.is_zero() => parts.push(part(
            None,
            format!(
                "no call was seen for {:.2} s: the probes were detached",
                blind.as_secs_f64()
            ),
        )),
        None if !accounting.complete() => parts.push(part(
            None,
            "the account is incomplete: it is not known how many calls are missing".to_owned(),
        )),
        None => {}
    }
    parts
}

/// Returns the calls below `--min-latency`, of which only sums are known.
fn of_fast(fast: &BelowMinimum) -> Vec<Missing> {
    let BelowMinimum {
        even,
        odd,
        bound,
        failed,
    } = *fast;
    let groups = [
        (Outcome::Even, even),
        (Outcome::Odd, odd),
        (Outcome::Bound, bound),
        (Outcome::Failed, failed),
    ];
    let were = counted(fast.count(), "call was", "calls were");
    let part = |(outcome, group): (Outcome, FastGroup)| {
        let calls = group.connect.count;
        (calls > 0).then(|| Missing {
            calls: Some(calls),
            reading: Box::new(move |field| reading_of_fast(field, outcome, &group)),
            why: format!("{were} below --min-latency, without a record"),
        })
    };
    groups.into_iter().filter_map(part).collect()
}

fn reading_of_fast(field: Field, outcome: Outcome, group: &FastGroup) -> Reading {
    let within = |low, high| Reading::Number(Bounds { low, high });
    match (field, outcome) {
        (Field::Latency, _) => within(0.0, group.connect.max_ns as f64),
        (Field::Search, _) if group.search.count == 0 => Reading::None,
        (Field::Search, _) if group.search.count == group.connect.count => {
            within(0.0, group.search.max_ns as f64)
        }
        (Field::Errno, Outcome::Failed) => within(1.0, MAX_ERRNO),
        (Field::Errno, _) => within(0.0, 0.0),
        (Field::Parity, Outcome::Even) => Reading::Word("even"),
        (Field::Parity, Outcome::Odd) => Reading::Word("odd"),
        (Field::Parity, _) => Reading::None,
        (Field::Scanned | Field::Taken | Field::Pass, Outcome::Bound) => Reading::None,
        _ => Reading::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use connect_trace_common::Counters;

    use super::*;
    use crate::{
        connect::PortChoice,
        fixtures::{any_connect, below_minimum, connect_from},
    };

    fn judged(rule: &str, connects: &[Connect], kernel_side: &KernelSide) -> Finding {
        let mut rules = Rules::new(&[Condition::parse(rule).unwrap()]).unwrap();
        for connect in connects {
            rules.record(connect);
        }
        rules.finish(Vec::new(), kernel_side, 0).rules.remove(0)
    }

    fn verdict(rule: &str, connects: &[Connect], kernel_side: &KernelSide) -> Verdict {
        judged(rule, connects, kernel_side).verdict
    }

    /// Returns the kernel's side of a trace with this account.
    fn side(change: impl FnOnce(&mut Accounting)) -> KernelSide {
        let mut side = KernelSide::default();
        change(&mut side.accounting);
        side
    }

    /// Returns the kernel's side of a trace that lost this number of calls.
    fn lost(calls: u64) -> KernelSide {
        side(|accounting| {
            accounting.kernel = Counters {
                entered: calls,
                ring_full: calls,
                ..Counters::default()
            };
        })
    }

    fn bind(pid: u32) -> Connect {
        Connect {
            pid,
            port_choice: Some(PortChoice::Bind),
            ..connect_from(20_000)
        }
    }

    #[test]
    fn a_rule_is_broken_by_one_call_and_names_who_broke_it() {
        let connects = [connect_from(20_000), bind(8), bind(7), bind(8)];
        let found = judged("strategy != bind", &connects, &KernelSide::default());
        assert_eq!((found.verdict, found.broken), (Verdict::Broken, 3));
        let callers: Vec<_> = found
            .offenders
            .iter()
            .map(|offender| (offender.pid, offender.calls, offender.value.as_str()))
            .collect();
        assert_eq!(callers, [(8, 2, "bind"), (7, 1, "bind")]);
        let found = judged("strategy == bind", &connects, &KernelSide::default());
        assert_eq!(found.offenders[0].value, "default");
    }

    #[test]
    fn a_rule_without_calls_holds_but_one_on_their_number_does_not() {
        let nothing = KernelSide::default();
        assert_eq!(verdict("strategy != bind", &[], &nothing), Verdict::Held);
        assert_eq!(verdict("p99 < 1ns", &[], &nothing), Verdict::Held);
        assert_eq!(verdict("count > 0", &[], &nothing), Verdict::Broken);
    }

    #[test]
    fn no_rule_passes_over_calls_that_are_missing() {
        let connects = [connect_from(20_000)];
        let incomplete = [
            lost(1),
            side(|accounting| {
                accounting.kernel.entered = 9;
                accounting.kernel.unsampled = 9;
            }),
            side(|accounting| accounting.blind = Duration::from_secs(1)),
            side(|accounting| accounting.unknown = Some(Unknown::Cut)),
            side(|accounting| accounting.recursion_misses = Some(1)),
            side(|accounting| accounting.kernel.not_followed = 1),
            side(|accounting| accounting.kernel.entered = 5),
        ];
        for side in incomplete {
            for rule in [
                "strategy != bind",
                "errno == 0",
                "latency < 1h",
                "comm != curl",
                "max < 1h",
                "p99 < 1h",
                "count < 2",
            ] {
                let found = judged(rule, &connects, &side);
                assert_eq!(found.verdict, Verdict::Unproven, "{rule} {side:?}");
                assert!(!found.reasons.is_empty(), "{rule} {side:?}");
                assert!(found.undecided != Some(0) || rule.starts_with("count"));
            }
            // These calls alone decide.
            for rule in ["strategy == bind", "latency < 1us", "max < 1us"] {
                assert_eq!(verdict(rule, &connects, &side), Verdict::Broken, "{rule}");
            }
            assert_eq!(verdict("count >= 1", &connects, &side), Verdict::Held);
        }
    }

    #[test]
    fn a_percentile_is_proven_over_a_few_lost_calls() {
        let connects = [connect_from(20_000); 1_000];
        assert_eq!(verdict("p90 < 30us", &connects, &lost(10)), Verdict::Held);
        assert_eq!(
            verdict("p99.9 < 30us", &connects, &lost(10)),
            Verdict::Unproven
        );
        assert_eq!(verdict("p50 < 10us", &connects, &lost(10)), Verdict::Broken);
    }

    #[test]
    fn what_is_known_of_calls_below_the_minimum_is_used() {
        let side = KernelSide {
            fast: below_minimum(5),
            ..KernelSide::default()
        };
        for (rule, expected) in [
            ("latency < 21us", Verdict::Held),
            ("max < 21us", Verdict::Held),
            ("p99 < 10us", Verdict::Unproven),
            ("latency > 30us", Verdict::Broken),
            ("errno == 0", Verdict::Broken),
            ("errno != EADDRNOTAVAIL", Verdict::Unproven),
            ("parity != odd", Verdict::Held),
            ("parity != even", Verdict::Broken),
            ("strategy != bind", Verdict::Unproven),
            ("count == 10", Verdict::Held),
        ] {
            let found = judged(rule, &[], &side);
            assert_eq!(found.verdict, expected, "{rule}: {found:?}");
            let of_nobody = (found.offenders.len(), found.other_calls);
            assert_eq!(of_nobody, (0, found.broken), "{rule}");
        }
    }

    #[test]
    fn a_value_that_is_not_known_proves_nothing() {
        let unknown = Connect {
            scanned: None,
            ..connect_from(20_000)
        };
        let connects = [connect_from(20_000), unknown];
        let side = KernelSide::default();
        for rule in ["scanned < 100", "scanned.max < 100"] {
            let found = judged(rule, &connects, &side);
            assert_eq!(
                (found.verdict, found.undecided),
                (Verdict::Unproven, Some(1))
            );
        }
        // The first pass of 2,000 ports tries 1,000 at most.
        assert_eq!(verdict("scanned <= 1000", &connects, &side), Verdict::Held);
        assert_eq!(
            verdict("scanned.count == 2", &connects, &side),
            Verdict::Held
        );
    }

    #[test]
    fn the_worst_value_of_an_offender_is_shown() {
        let slow = |ns| Connect {
            connect_ns: ns,
            ..connect_from(20_000)
        };
        let connects = [slow(2_000_000), slow(5_000_000), slow(3_000_000), slow(1)];
        let found = judged("p50 < 1ms", &connects, &KernelSide::default());
        assert_eq!((found.verdict, found.broken), (Verdict::Broken, 3));
        assert_eq!(
            (found.offenders[0].calls, &*found.offenders[0].value),
            (3, "5 ms")
        );
        let found = judged("latency > 4ms", &connects, &KernelSide::default());
        assert_eq!(found.offenders[0].value, "1 ns");
    }

    #[test]
    fn offenders_are_bounded_and_the_others_are_counted() {
        let connects: Vec<Connect> = (0..3_000).map(bind).collect();
        let found = judged("strategy != bind", &connects, &KernelSide::default());
        assert_eq!(found.offenders.len(), MOST_OFFENDERS);
        assert_eq!(found.broken, 3_000);
        assert_eq!(found.other_calls, 3_000 - MOST_OFFENDERS as u64);
    }

    proptest::proptest! {
        #[test]
        fn a_rule_that_holds_for_each_call_holds_for_their_maximum(
            connects in proptest::collection::vec(any_connect(), 1..20), limit in 1..100_000_u32, missing in 0..2_u64,
        ) {
            let side = lost(missing);
            for (field, unit) in [("latency", "us"), ("scanned", ""), ("search", "us"), ("taken", "%")] {
                let one = verdict(&format!("{field} < {limit}{unit}"), &connects, &side);
                let all = verdict(&format!("{field}.max < {limit}{unit}"), &connects, &side);
                proptest::prop_assert_eq!(one, all, "{}", field);
            }
        }
    }
}
