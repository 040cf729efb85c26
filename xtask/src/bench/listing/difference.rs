//! What a run executes more than another, by function and by what it is for.

use std::collections::BTreeMap;
use std::fmt;

use super::alignment::Step;
use super::stack::Stack;
use super::symbols::Symbols;
use super::within_columns;

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
            let share = share(row.instructions, self.total);
            let line = format!(
                "{:>7} {share}  {:>7}  {}",
                row.instructions, row.entries, row.function
            );
            writeln!(formatter, "{}", within_columns(&line))?;
        }
        writeln!(formatter, "{:>7} 100.0 %           all", self.total)
    }
}

/// What of the added instructions are the programs' own, what the functions that programs call, with all that
/// these call in turn, and what leads to the programs and back. Apart from that, a function that is executed
/// in both runs may go another way in each.
pub(super) fn parts(steps: &[Step], symbols: &Symbols) -> String {
    let (mut way, mut own, mut another) = (0, 0, 0);
    // The function that both execute, and whether what has come is its own.
    let mut both = "";
    let mut aside = None;
    let mut called: BTreeMap<&str, i64> = BTreeMap::new();
    let mut stack = Stack::default();
    for step in steps {
        match *step {
            Step::Both(pc) => {
                both = symbols.function(pc);
                aside = None;
                stack.clear();
            }
            Step::Gone(_) => another -= 1,
            Step::Added(pc) if *aside.get_or_insert(symbols.function(pc) == both) => another += 1,
            Step::Added(pc) => {
                stack.go_to(pc, symbols);
                match stack.called_by_program() {
                    None => way += 1,
                    Some(None) => own += 1,
                    Some(Some(function)) => *called.entry(function).or_default() += 1,
                }
            }
        }
    }
    let mut called: Vec<(&str, i64)> = called.into_iter().collect();
    called.sort_by(|one, other| (other.1, one.0).cmp(&(one.1, other.0)));
    let mut text = String::from("  added   share  part\n");
    let total = way + own + another + called.iter().map(|(_, count)| count).sum::<i64>();
    let mut row = |count: i64, name: &str| {
        if count != 0 {
            let line = format!("{count:>7} {}  {name}", share(count, total));
            text.push_str(&within_columns(&line));
            text.push('\n');
        }
    };
    row(way, "to the programs and back");
    row(own, "the programs themselves");
    for (function, count) in called {
        row(count, &format!("{function}, called by them"));
    }
    row(another, "functions that go another way");
    text
}

/// A percentage; of a total of nothing there is none.
fn share(count: i64, total: i64) -> String {
    if total == 0 {
        return format!("{:>7}", "-");
    }
    format!("{:>5.1} %", count as f64 / total as f64 * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_calls_is_a_part_with_all_that_it_calls() {
        let symbols = symbols();
        let steps = [
            Step::Both(D),
            Step::Added(A),
            Step::Added(C),
            Step::Added(C + 1),
            Step::Added(B),
            Step::Added(A),
            Step::Both(D + 1),
            Step::Gone(D + 2),
            Step::Added(D + 3),
            Step::Added(B),
            Step::Added(B + 1),
            Step::Both(D + 4),
            Step::Added(A),
        ];
        assert_eq!(
            parts(&steps, &symbols),
            "  added   share  part
      3  37.5 %  to the programs and back
      2  25.0 %  the programs themselves
      1  12.5 %  b, called by them
      2  25.0 %  functions that go another way
"
        );
    }

    const A: u64 = 0xffff_ffff_8100_0000;
    const B: u64 = A + 0x100;
    const C: u64 = A + 0x200;
    const D: u64 = A + 0x300;

    fn symbols() -> Symbols {
        Symbols::parse(
            "ffffffff81000000 t a\nffffffff81000100 t b\nffffffff81000200 t \
             bpf_prog_9a2e60ca6d5bfb6e_c\nffffffff81000300 t d\n",
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
