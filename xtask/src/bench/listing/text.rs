//! The instructions that have come to a run, in the order in which they are executed, as text.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::alignment::Step;
use super::stack::Stack;
use super::symbols::Symbols;
use super::within_columns;

/// How far the functions that are called by others are indented, and how deep that goes on.
const INDENTATION: usize = 2;
const DEEPEST: usize = 10;

/// Texts of instructions, by their addresses.
pub(super) type Texts = HashMap<u64, String>;

/// A line for each added instruction. A function has a line of its own before its first instruction and where
/// another returns to it; what it calls is further in.
pub(super) fn listing(steps: &[Step], symbols: &Symbols, texts: &Texts) -> String {
    let mut text = String::new();
    let mut stack = Stack::default();
    let mut position = 0;
    while let Some(&step) = steps.get(position) {
        // An instruction that repeats itself, as one that copies does.
        let count = steps[position..]
            .iter()
            .take_while(|other| **other == step)
            .count();
        position += count;
        match step {
            Step::Both(pc) => {
                if matches!(steps.get(position), Some(Step::Added(_) | Step::Gone(_))) {
                    let _ = writeln!(text, "{}:", name_of(pc, symbols));
                }
                stack.clear();
            }
            Step::Gone(pc) => {
                let name = name_of(pc, symbols);
                let line = format!("{:INDENTATION$}not executed: {name}", "");
                text.push_str(&within_columns(&line));
                text.push('\n');
            }
            Step::Added(pc) => {
                if stack.go_to(pc, symbols) {
                    let indentation = indentation(&stack);
                    let function = symbols.function(pc);
                    let line = format!("{:indentation$}{function}", "");
                    text.push_str(&within_columns(&line));
                    text.push('\n');
                }
                let indentation = indentation(&stack);
                let offset = symbols.place(pc).map_or(pc, |place| place.offset);
                let mut line = format!("{:indentation$}{:>6}  ", "", format!("+{offset:x}"));
                match texts.get(&pc) {
                    Some(text) => line.push_str(&with_names(text, symbols)),
                    None => line.push('?'),
                }
                if count > 1 {
                    let _ = write!(line, " ({count} times)");
                }
                text.push_str(&within_columns(&line));
                text.push('\n');
            }
        }
    }
    text
}

fn indentation(stack: &Stack<'_>) -> usize {
    stack.depth().min(DEEPEST) * INDENTATION
}

fn name_of(pc: u64, symbols: &Symbols) -> String {
    match symbols.place(pc) {
        Some(place) => format!("{}+{:x}", place.function, place.offset),
        None => format!("{pc:#x}"),
    }
}

/// An instruction whose target has a name instead of an address.
fn with_names(text: &str, symbols: &Symbols) -> String {
    let target = text
        .split_once("0x")
        .filter(|(before, digits)| before.ends_with(char::is_whitespace) && digits.len() == 16)
        .and_then(|(before, digits)| Some((before, u64::from_str_radix(digits, 16).ok()?)));
    match target {
        Some((before, pc)) if symbols.place(pc).is_some() => {
            let name = name_of(pc, symbols);
            format!("{before}{}", name.strip_suffix("+0").unwrap_or(&name))
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: u64 = 0xffff_ffff_8100_0000;
    const HELPER: u64 = CONNECT + 0x100;
    const PROGRAM: u64 = CONNECT + 0x200;

    #[test]
    fn what_a_function_calls_is_further_in_and_its_calls_have_names() {
        let symbols = Symbols::parse(
            "ffffffff81000000 t tcp_v4_connect\nffffffff81000100 t helper\nffffffff81000200 t \
             bpf_prog_9a2e60ca6d5bfb6e_program\n",
        );
        let texts = Texts::from([
            (PROGRAM, "callq    0xffffffff81000100".to_owned()),
            (PROGRAM + 5, "retq".to_owned()),
            (HELPER, "rep movsb (%rsi), (%rdi)".to_owned()),
        ]);
        let steps = [
            Step::Both(CONNECT),
            Step::Added(PROGRAM),
            Step::Added(HELPER),
            Step::Added(HELPER),
            Step::Added(HELPER + 2),
            Step::Added(PROGRAM + 5),
            Step::Gone(CONNECT + 4),
            Step::Both(CONNECT + 8),
            Step::Both(CONNECT + 12),
        ];
        assert_eq!(
            listing(&steps, &symbols, &texts),
            "\
tcp_v4_connect+0:
  program
      +0  callq    helper
    helper
        +0  rep movsb (%rsi), (%rdi) (2 times)
        +2  ?
  program
      +5  retq
  not executed: tcp_v4_connect+4
"
        );
    }

    #[test]
    fn no_line_is_too_long() {
        let symbols = Symbols::parse(&format!("ffffffff81000000 t {}\n", "x".repeat(200)));
        let steps = [Step::Added(CONNECT), Step::Gone(CONNECT)];
        let text = listing(&steps, &symbols, &Texts::new());
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
    }
}
