//! A condition on a field, on one connection or on all of a trace.

use std::{cmp::Ordering, fmt};

use super::{
    field::{Aggregate, Bounds, Field, Reading},
    parse::{self, ParseError},
};
use crate::{
    connect::{Comm, Connect},
    filter::Cidr,
};

/// A condition such as `strategy != bind` or `p99 < 1ms`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The condition as it was written, with single spaces.
    pub(super) text: String,
    pub(super) field: Field,
    pub(super) aggregate: Option<Aggregate>,
    pub(super) operator: Operator,
    pub(super) value: Value,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The value to which a field is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// A number in the unit of the field.
    Number(f64),
    Word(&'static str),
    Network(Cidr),
    Name(Comm),
}

/// The answer to a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Holds,
    Broken,
    /// The connection has no such value.
    NotApplicable,
    /// Not enough is known.
    Unknown,
}

impl Condition {
    /// Parses a condition.
    ///
    /// # Errors
    /// If the text is no condition; the error points at the place.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::condition(text)
    }

    /// Parses a condition on one connection: one without an aggregate.
    ///
    /// # Errors
    /// If the text is no such condition; the error points at the place.
    pub fn parse_for_call(text: &str) -> Result<Self, ParseError> {
        parse::condition_for_call(text)
    }

    /// Returns the field.
    #[must_use]
    pub fn field(&self) -> Field {
        self.field
    }

    /// Returns the aggregate; `None` for a condition on each connection.
    #[must_use]
    pub fn aggregate(&self) -> Option<Aggregate> {
        self.aggregate
    }

    /// Returns whether the condition is known to hold for a connection. It does not hold if the connection has no such
    /// value, or an unknown one; nor does one with an aggregate.
    #[must_use]
    pub fn holds_for(&self, connect: &Connect) -> bool {
        self.aggregate.is_none() && self.answer(self.field.of(connect)) == Answer::Holds
    }

    /// Returns the answer for one value of the field, without regard to an aggregate; of a count, each value holds.
    pub(super) fn answer(&self, reading: Reading) -> Answer {
        if self.aggregate == Some(Aggregate::Count) {
            return match reading {
                Reading::None => Answer::NotApplicable,
                Reading::Unknown => Answer::Unknown,
                _ => Answer::Holds,
            };
        }
        let is_equal = match (reading, self.value) {
            (Reading::None, _) => return Answer::NotApplicable,
            (Reading::Number(bounds), _) => return self.answer_within(bounds),
            (Reading::Word(word), Value::Word(wanted)) => word == wanted,
            (Reading::Address(address), Value::Network(network)) => network.contains(address),
            (Reading::Name(name), Value::Name(wanted)) => name == wanted,
            _ => return Answer::Unknown,
        };
        if is_equal == (self.operator == Operator::Equal) {
            Answer::Holds
        } else {
            Answer::Broken
        }
    }

    /// Returns the answer for a number within bounds.
    pub(super) fn answer_within(&self, bounds: Bounds) -> Answer {
        let Value::Number(value) = self.value else {
            return Answer::Unknown;
        };
        match self.operator.answers(bounds, value) {
            (true, true) => Answer::Holds,
            (false, false) => Answer::Broken,
            _ => Answer::Unknown,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Operator {
    /// All operators; of two that begin alike the longer one comes first.
    pub(super) const ALL: [Self; 6] = [
        Self::Equal,
        Self::NotEqual,
        Self::LessOrEqual,
        Self::Less,
        Self::GreaterOrEqual,
        Self::Greater,
    ];

    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// Returns true for operators that need an order.
    pub(super) fn compares(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    /// Returns whether the comparison holds for all numbers within the bounds, and whether it holds for any of them.
    fn answers(self, bounds: Bounds, value: f64) -> (bool, bool) {
        let (low, high) = (bounds.low.total_cmp(&value), bounds.high.total_cmp(&value));
        let (all_equal, any_equal) = (
            low == Ordering::Equal && high == Ordering::Equal,
            low != Ordering::Greater && high != Ordering::Less,
        );
        match self {
            Self::Equal => (all_equal, any_equal),
            Self::NotEqual => (!any_equal, !all_equal),
            Self::Less => (high.is_lt(), low.is_lt()),
            Self::LessOrEqual => (high.is_le(), low.is_le()),
            Self::Greater => (low.is_gt(), high.is_gt()),
            Self::GreaterOrEqual => (low.is_ge(), high.is_ge()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        connect::{PortChoice, SourcePort},
        fixtures::{any_connect, connect_from},
    };

    fn holds(text: &str, connect: &Connect) -> bool {
        Condition::parse(text).unwrap().holds_for(connect)
    }

    #[test]
    fn a_condition_holds_for_its_connections() {
        let connect = Connect {
            comm: Comm::of("curl"),
            ..connect_from(20_000)
        };
        for right in [
            "latency < 21us",
            "latency >= 20us",
            "search == 5us",
            "scanned <= 1",
            "taken < 1%",
            "strategy == default",
            "strategy != bind",
            "errno == 0",
            "errno != EADDRNOTAVAIL",
            "port == 20000",
            "parity == even",
            "pass == first",
            "source == 127.0.0.0/8",
            "destination == 127.0.0.1",
            "destination != 10.0.0.0/8",
            "dport != 80",
            "protocol == tcp",
            "pid > 0",
            "comm == curl",
            "uid == 0",
        ] {
            assert!(holds(right, &connect), "{right}");
        }
        for wrong in [
            "latency < 20us",
            "strategy == bind",
            "parity == odd",
            "comm != curl",
            "destination == 10.0.0.0/8",
            "errno == EADDRNOTAVAIL",
            // An aggregate is of no single connection.
            "p99 < 1h",
        ] {
            assert!(!holds(wrong, &connect), "{wrong}");
        }
    }

    #[test]
    fn nothing_holds_of_a_value_that_is_not_there() {
        let early = Connect {
            source: None,
            port: SourcePort::None,
            port_choice: None,
            ..connect_from(0)
        };
        assert!(!holds("strategy == bind", &early) && !holds("strategy != bind", &early));
        let bound = Connect {
            port_choice: Some(PortChoice::Bind),
            ..early
        };
        assert!(holds("strategy == bind", &bound));
    }

    fn bounds() -> impl Strategy<Value = Bounds> {
        (0..20_u32, 0..20_u32).prop_map(|(low, more)| Bounds {
            low: low.into(),
            high: (low + more).into(),
        })
    }

    proptest! {
        #[test]
        fn an_operator_answers_for_all_and_for_any_number_within_bounds(bounds in bounds(), value in 0..40_u32) {
            for operator in Operator::ALL {
                let numbers = bounds.low as u32..=bounds.high as u32;
                let holds = |number: u32| match operator {
                    Operator::Equal => number == value,
                    Operator::NotEqual => number != value,
                    Operator::Less => number < value,
                    Operator::LessOrEqual => number <= value,
                    Operator::Greater => number > value,
                    Operator::GreaterOrEqual => number >= value,
                };
                let expected = (numbers.clone().all(holds), numbers.clone().any(holds));
                prop_assert_eq!(operator.answers(bounds, value.into()), expected, "{:?}", operator);
            }
        }

        #[test]
        fn a_condition_and_its_opposite_never_both_hold(connect in any_connect(), limit in 0..100_000_u32) {
            for (one, other) in [("<", ">="), ("<=", ">"), ("==", "!=")] {
                for (field, unit) in [("latency", "us"), ("scanned", ""), ("port", ""), ("taken", "%")] {
                    let limit = limit % 60_000;
                    let holds = |operator| holds(&format!("{field} {operator} {limit}{unit}"), &connect);
                    prop_assert!(!(holds(one) && holds(other)), "{} {}", field, limit);
                }
            }
        }
    }
}
