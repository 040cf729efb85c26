//! The grammar of conditions: FIELD[.AGGREGATE] OPERATOR VALUE.

use std::fmt;

use super::{
    condition::{Condition, Operator, Value},
    field::{Aggregate, Field, Kind, PER_PERCENT},
};
use crate::{connect::Comm, term::errno};

/// Longest text of a condition, in bytes.
const LONGEST: usize = 200;

/// An error in the text of a condition, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The text that was parsed; empty if it cannot be shown.
    text: String,
    /// Bytes of `text` that are wrong.
    start: usize,
    end: usize,
    message: String,
}

impl std::error::Error for ParseError {}

impl fmt::Display for ParseError {
    /// Writes the message, and the text with a mark under the place.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            text,
            start,
            end,
            message,
        } = self;
        formatter.write_str(message)?;
        if text.is_empty() {
            return Ok(());
        }
        let columns = |text: &str| text.chars().count();
        let before = columns(&text[..*start]);
        let marks = columns(&text[*start..*end]).max(1);
        write!(formatter, "\n\n  {text}\n  {:before$}{:^<marks$}", "", "")
    }
}

/// Parses a condition.
pub(super) fn condition(text: &str) -> Result<Condition, ParseError> {
    Parser::new(text)?.condition(true)
}

/// Parses a condition without an aggregate.
pub(super) fn condition_for_call(text: &str) -> Result<Condition, ParseError> {
    Parser::new(text)?.condition(false)
}

/// Returns an error of the whole text, which is not shown.
fn without_place(message: String) -> ParseError {
    ParseError {
        text: String::new(),
        start: 0,
        end: 0,
        message,
    }
}

fn check_length(text: &str) -> Result<(), ParseError> {
    if text.len() > LONGEST {
        return Err(without_place(format!("longer than {LONGEST} bytes")));
    }
    Ok(())
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// A word of the text, and its place.
#[derive(Clone, Copy)]
struct Word<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, ParseError> {
        check_length(text)?;
        if let Some(found) = text
            .chars()
            .find(|&c| crate::term::printable::is_harmful(c))
        {
            return Err(without_place(format!(
                "has the character {}, which does not print",
                found.escape_unicode()
            )));
        }
        Ok(Self { text, at: 0 })
    }

    fn condition(mut self, has_aggregates: bool) -> Result<Condition, ParseError> {
        let path = self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if path.text.is_empty() {
            return Err(self.wrong(path, format!("a condition begins with {}", fields())));
        }
        let (field, aggregate) = self.path(path)?;
        if aggregate.is_some() && !has_aggregates {
            let message = "this is of many connections, and the condition of one";
            return Err(self.wrong(path, message.to_owned()));
        }
        let operator = self.operator(field, aggregate)?;
        self.skip_spaces();
        let value = Word {
            text: self.text[self.at..].trim_end(),
            start: self.at,
        };
        let kind = match aggregate {
            Some(Aggregate::Count) => Kind::Number(u32::MAX),
            _ => field.kind(),
        };
        let parsed = self.value(kind, value)?;
        // With the spaces that it lacked.
        let text = format!("{} {} {}", path.text, operator.symbol(), value.text);
        check_length(&text)?;
        Ok(Condition {
            text,
            field,
            aggregate,
            operator,
            value: parsed,
        })
    }

    /// Parses a field and its aggregate. An aggregate without a field is of the latency.
    fn path(&self, path: Word<'a>) -> Result<(Field, Option<Aggregate>), ParseError> {
        if let Some(aggregate) = aggregate(path.text) {
            return Ok((Field::Latency, Some(aggregate)));
        }
        let (name, rest) = match path.text.split_once('.') {
            Some((name, rest)) => (name, Some(rest)),
            None => (path.text, None),
        };
        let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) else {
            let name = Word { text: name, ..path };
            return Err(self.wrong(name, format!("no such field: use {}", fields())));
        };
        let Some(rest) = rest else {
            return Ok((field, None));
        };
        let rest = Word {
            text: rest,
            start: path.start + name.len() + 1,
        };
        if !field.is_measure() {
            let message =
                format!("{name} has no aggregates: only latency, search, scanned and taken have");
            return Err(self.wrong(rest, message));
        }
        match aggregate(rest.text) {
            Some(aggregate) => Ok((field, Some(aggregate))),
            None => Err(self.wrong(
                rest,
                "no such aggregate: use count, min, max, mean, or a percentile such as p50 or p99.9"
                    .to_owned(),
            )),
        }
    }

    fn operator(
        &mut self,
        field: Field,
        aggregate: Option<Aggregate>,
    ) -> Result<Operator, ParseError> {
        let symbol = self.word(|c| matches!(c, '=' | '!' | '<' | '>'));
        let found = Operator::ALL
            .into_iter()
            .find(|operator| operator.symbol() == symbol.text);
        let Some(operator) = found else {
            // The text that stands there instead.
            let symbol = match symbol.text {
                "" => Word {
                    text: self.text[self.at..].split(' ').next().unwrap_or_default(),
                    start: self.at,
                },
                _ => symbol,
            };
            let message = "no operator: use ==, !=, <, <=, > or >=";
            return Err(self.wrong(symbol, message.to_owned()));
        };
        let is_ordered = match field.kind() {
            Kind::Time | Kind::Percent | Kind::Number(_) => true,
            Kind::Errno | Kind::Word(_) | Kind::Network | Kind::Name => aggregate.is_some(),
        };
        if operator.compares() && !is_ordered {
            let message = format!("{} has no order: use == or !=", field.name());
            return Err(self.wrong(symbol, message));
        }
        Ok(operator)
    }

    fn value(&self, kind: Kind, value: Word<'a>) -> Result<Value, ParseError> {
        let wrong = |message: String| Err(self.wrong(value, message));
        match kind {
            Kind::Time => match time_ns(value.text) {
                Some(ns) => Ok(Value::Number(ns)),
                None => wrong(
                    "not a time: a number and a unit, such as 250us, 1.5ms or 2s".to_owned(),
                ),
            },
            Kind::Percent => match value.text.strip_suffix('%').and_then(decimal) {
                Some(percent) => Ok(Value::Number(percent * PER_PERCENT)),
                None => wrong("not a percentage such as 80%".to_owned()),
            },
            Kind::Number(most) => match value.text.parse::<u32>() {
                Ok(number) if number <= most => Ok(Value::Number(number.into())),
                _ => wrong(format!("not a whole number up to {most}")),
            },
            Kind::Errno => match errno::number(value.text) {
                Some(errno) => Ok(Value::Number(errno.into())),
                None => wrong(
                    "not an errno: 0 for success, a name such as EADDRNOTAVAIL, or a number up to 4095"
                        .to_owned(),
                ),
            },
            Kind::Word(words) => match words.iter().find(|word| **word == value.text) {
                Some(word) => Ok(Value::Word(word)),
                None => wrong(format!("not one of {}", words.join(", "))),
            },
            Kind::Network => match value.text.parse() {
                Ok(network) => Ok(Value::Network(network)),
                Err(_) => wrong(
                    "not an address or network such as 10.0.0.0/8 or fd00::1".to_owned(),
                ),
            },
            Kind::Name => match value.text {
                "" => wrong("the name of a thread is missing".to_owned()),
                name => Ok(Value::Name(Comm::of(name))),
            },
        }
    }

    fn skip_spaces(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Takes the characters of a word, after spaces.
    fn word(&mut self, is_part: impl Fn(char) -> bool) -> Word<'a> {
        self.skip_spaces();
        let rest = &self.text[self.at..];
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let start = self.at;
        self.at += length;
        Word {
            text: &rest[..length],
            start,
        }
    }

    fn wrong(&self, word: Word<'_>, message: String) -> ParseError {
        ParseError {
            text: self.text.to_owned(),
            start: word.start,
            end: word.start + word.text.len(),
            message,
        }
    }
}

fn fields() -> String {
    let names = Field::ALL.map(Field::name);
    format!(
        "{}, or an aggregate of the latency such as p99",
        names.join(", ")
    )
}

fn aggregate(text: &str) -> Option<Aggregate> {
    Some(match text {
        "count" => Aggregate::Count,
        "min" => Aggregate::Min,
        "max" => Aggregate::Max,
        "mean" => Aggregate::Mean,
        _ => {
            let percent = decimal(text.strip_prefix('p')?)?;
            if !(percent > 0.0 && percent < 100.0) {
                return None;
            }
            Aggregate::Quantile(percent / 100.0)
        }
    })
}

/// Parses a time with its unit.
fn time_ns(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(char::is_alphabetic)?);
    let ns = match unit {
        "ns" => 1.0,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3_600e9,
        _ => return None,
    };
    Some(decimal(number)? * ns)
}

/// Parses a number of digits with at most one decimal point.
fn decimal(text: &str) -> Option<f64> {
    let is_digits = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|_| is_digits && text.len() <= 20)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_points_at_the_place() {
        let shown = |text| Condition::parse(text).unwrap_err().to_string();
        for (text, marks) in [
            ("strat != bind", "^^^^^"),
            ("strategy != binds", "            ^^^^^"),
            ("strategy < bind", "         ^"),
            ("strategy is bind", "         ^^"),
            ("strategy", "        ^"),
            ("scanned.avg < 1", "        ^^^"),
            ("p100 < 1ms", "^^^^"),
            ("errno.max < 1", "      ^^^"),
            ("p99 < 1", "      ^"),
            ("p99 <", "     ^"),
            ("taken < 80", "        ^^"),
            ("port == 65536", "        ^^^^^"),
            ("errno == ENOSUCH", "         ^^^^^^^"),
            ("destination == 10.0.0/8", "               ^^^^^^^^"),
            ("comm ==", "       ^"),
            ("latency => 1ms", "        ^^"),
            ("", "^"),
            ("  µ < 1", "  ^"),
        ] {
            let error = shown(text);
            let (message, place) = error.split_once("\n\n").unwrap_or((&error, ""));
            assert!(!message.is_empty(), "{text}");
            let expected = match text {
                // There is nothing to show.
                "" => String::new(),
                _ => format!("  {text}\n  {marks}"),
            };
            assert_eq!(place, expected, "{message}");
        }
        assert_eq!(
            shown("strategy != binds"),
            "not one of explicit-port, bind, address, range, default\n\n  strategy != binds\n              ^^^^^"
        );
    }

    #[test]
    fn a_condition_of_one_call_has_no_aggregate() {
        assert!(Condition::parse_for_call("latency > 1ms").is_ok());
        let error = Condition::parse_for_call("p99 > 1ms").unwrap_err();
        assert!(error.to_string().ends_with("\n  ^^^"), "{error}");
    }

    #[test]
    fn spaces_do_not_matter() {
        for text in ["p99<1ms", " p99 <  1ms ", "p99\t< 1ms"] {
            match Condition::parse(text) {
                Ok(condition) => assert_eq!(condition.to_string(), "p99 < 1ms"),
                Err(error) => assert!(text.contains('\t'), "{error}"),
            }
        }
    }

    #[test]
    fn units_are_of_their_fields() {
        let value = |text| Condition::parse(text).unwrap().value;
        assert_eq!(value("latency < 1.5us"), Value::Number(1_500.0));
        assert_eq!(value("search < 2\u{b5}s"), Value::Number(2_000.0));
        assert_eq!(value("max < 2min"), Value::Number(120e9));
        assert_eq!(value("taken < 80.5%"), Value::Number(80_500.0));
        assert_eq!(value("count > 0"), Value::Number(0.0));
        assert_eq!(value("errno == ECONNREFUSED"), Value::Number(111.0));
        assert_eq!(value("errno == 110"), Value::Number(110.0));
        let aggregate = |text| Condition::parse(text).unwrap().aggregate;
        assert_eq!(
            aggregate("scanned.p99.9 < 5"),
            Some(Aggregate::Quantile(99.9 / 100.0))
        );
        assert_eq!(aggregate("scanned < 5"), None);
        for wrong in [
            "latency < 1e3ms",
            "latency < -1ms",
            "latency < nanms",
            "latency < infs",
            "latency < .ms",
            "taken < %",
            "port < 1.5",
            "pid == +1x",
        ] {
            assert!(Condition::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// Generates conditions, sensible or not.
    fn text() -> impl Strategy<Value = String> {
        let field = "(latency|search|scanned|taken|strategy|errno|port|parity|pass|source|destination|dport|protocol|\
            pid|comm|uid)?(\\.)?(count|min|max|mean|p[0-9]{1,2}(\\.[0-9])?)?";
        let value = "([0-9]{1,6}(ns|us|ms|s|%)?|bind|even|second|tcp|E[A-Z]{4,12}|[0-9]{1,3}(\\.[0-9]{1,3}){3}(/[0-9]{1,2})?)";
        (field, " ?(==|!=|<|<=|>|>=) ?", value)
            .prop_map(|(field, operator, value)| field + &operator + &value)
    }

    proptest! {
        #[test]
        fn a_condition_that_is_printed_is_the_same_again(text in text()) {
            if let Ok(condition) = Condition::parse(&text) {
                prop_assert_eq!(Condition::parse(&condition.to_string()), Ok(condition));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            if let Err(error) = Condition::parse(&text) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::{
        fixtures::{connect_from, fuzz::fuzz},
        term::printable::is_harmful,
    };

    #[test]
    fn any_text_is_a_condition_or_an_error_with_its_place() {
        fuzz("rule", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            match Condition::parse(&text) {
                Ok(condition) => {
                    let again = condition.to_string();
                    assert!(!again.contains(is_harmful), "{again:?}");
                    assert_eq!(Condition::parse(&again), Ok(condition.clone()));
                    let _ = condition.holds_for(&connect_from(20_000));
                }
                Err(error) => {
                    let shown = error.to_string();
                    assert!(!shown.replace('\n', "").contains(is_harmful), "{shown:?}");
                    if !error.text.is_empty() {
                        assert!(shown.trim_end().ends_with('^'), "{shown:?}");
                    }
                }
            }
        });
    }
}
