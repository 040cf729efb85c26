//! What a run executes more than another, by function.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::symbols::Symbols;

/// Of each function, how many more instructions are executed and how often more it is entered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) total: i64,
    rows: Vec<Row>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    function: String,
    instructions: i64,
    entries: i64,
}

impl Difference {
    /// Between the instructions of two runs on one kernel.
    pub(super) fn of(before: (&[u64], &Symbols), after: (&[u64], &Symbols)) -> Self {
        let mut rows: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for ((instructions, symbols), sign) in [(before, -1), (after, 1)] {
            for pc in instructions {
                let row = rows.entry(symbols.function(*pc)).or_default();
                row.0 += sign;
                if symbols.place(*pc).is_some_and(|place| place.offset == 0) {
                    row.1 += sign;
                }
            }
        }
        let mut rows: Vec<Row> = rows
            .into_iter()
            .map(|(function, (instructions, entries))| Row {
                function: function.to_owned(),
                instructions,
                entries,
            })
            .filter(|row| row.instructions != 0)
            .collect();
        rows.sort_by(|one, other| {
            (other.instructions, &one.function).cmp(&(one.instructions, &other.function))
        });
        Self {
            total: rows.iter().map(|row| row.instructions).sum(),
            rows,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        writeln!(formatter, "  added   share  entered  function")?;
        for row in &self.rows {
            let share = row.instructions as f64 / self.total as f64 * 100.0;
            let mut line = format!("{:>7}", row.instructions);
            // Of a total of nothing there are no shares.
            if self.total == 0 {
                line.push_str("       -");
            } else {
                write!(line, " {share:>5.1} %")?;
            }
            write!(line, "  {:>7}  {}", row.entries, row.function)?;
            writeln!(formatter, "{}", super::within_columns(&line))?;
        }
        writeln!(formatter, "{:>7} 100.0 %           all", self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 0xffff_ffff_8100_0000;
    const B: u64 = A + 0x100;
    const C: u64 = A + 0x200;

    fn symbols() -> Symbols {
        Symbols::parse(
            "ffffffff81000000 t a\nffffffff81000100 t b\nffffffff81000200 t \
             bpf_prog_9a2e60ca6d5bfb6e_c\n",
        )
    }

    #[test]
    fn the_rows_make_the_total_with_what_is_executed_less_often() {
        let symbols = symbols();
        let before = [A, A + 4, B, B + 4, B + 8];
        let after = [A, C, C + 4, C, C + 4, A + 4, B, B + 8];
        let difference = Difference::of((&before, &symbols), (&after, &symbols));
        assert_eq!(difference.total, 3);
        let rows: Vec<(&str, i64, i64)> = difference
            .rows
            .iter()
            .map(|row| (row.function.as_str(), row.instructions, row.entries))
            .collect();
        assert_eq!(rows, [("c", 4, 2), ("b", -1, 0)]);
        let text = difference.to_string();
        assert!(text.contains("      4 133.3 %        2  c\n"), "{text}");
        assert!(text.contains("     -1 -33.3 %        0  b\n"), "{text}");
    }

    #[test]
    fn two_runs_that_are_the_same_have_no_rows() {
        let symbols = symbols();
        let difference = Difference::of((&[A, B], &symbols), (&[B, A], &symbols));
        assert_eq!(difference.total, 0);
        assert_eq!(difference.to_string(), "");
    }
}
