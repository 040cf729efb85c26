//! The findings for people: grouped and aligned, the verdict at the end.

use std::io::{self, Write};

use super::{Check, Finding, Group, State};

/// Columns of a terminal.
pub(super) const WIDTH: usize = 80;
/// Number of columns before the values.
const INDENT: usize = 31;

/// Writes the findings.
pub(super) fn write(out: &mut impl Write, check: &Check) -> io::Result<()> {
    writeln!(out, "connect-trace on Linux {}", check.kernel)?;
    let mut group: Option<Group> = None;
    for finding in &check.findings {
        if group != Some(finding.group) {
            group = Some(finding.group);
            writeln!(out, "\n{}", finding.group.heading())?;
        }
        write_finding(out, finding)?;
    }
    writeln!(out, "\n{}", check.verdict())
}

fn write_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let mut head = format!("  {:7}  {:18}  ", finding.state.word(), finding.title());
    for part in parts(finding) {
        for line in wrapped(&part, WIDTH - INDENT) {
            writeln!(out, "{head}{line}")?;
            head = " ".repeat(INDENT);
        }
    }
    Ok(())
}

/// Returns the value, the note and, if there is something to do, the remedy and the first kernel that has the feature.
fn parts(finding: &Finding) -> Vec<String> {
    let mut parts = Vec::new();
    parts.push(finding.value.clone());
    parts.extend(finding.note.clone());
    if let Some(remedy) = &finding.remedy {
        parts.push(format!("-> {remedy}"));
    }
    if let (Some(since), State::Missing) = (finding.since, finding.state) {
        parts.push(format!("Linux has it since {since}."));
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Wraps a text at spaces; splits a word only if it is longer than a line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().expect("there is always one");
            let used = line.chars().count();
            let space = usize::from(used > 0);
            if used + space + word.len() <= width {
                line.extend([' '].iter().take(space).chain(&word));
                break;
            }
            if used == 0 {
                line.extend(word.drain(..width));
            }
            lines.push(String::new());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check::tests::check, probes::attach::AttachMode};

    fn text(findings: Vec<Finding>, mode: Option<AttachMode>) -> String {
        let mut out = Vec::new();
        write(&mut out, &check(findings, mode)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn whatever_is_found_fits_a_terminal() {
        let long = "what the verifier says ".repeat(20) + &"R1_w=map_value".repeat(30);
        let finding = Finding::unknown(Group::Attach, "return_slots", long, "its remedy");
        let text = text(vec![finding.required()], None);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line:?}");
        }
        assert!(text.ends_with("not known: return slots.\n"), "{text}");
    }

    #[test]
    fn values_stand_in_one_column_under_their_groups() {
        let missing = Finding {
            state: State::Missing,
            ..Finding::ok(Group::Ports, "socket_range", "")
        };
        let findings = vec![
            Finding::ok(Group::Types, "btf", "there").note("a note"),
            missing.note("no option").remedy("do this").since("6.3"),
        ];
        let text = text(findings, Some(AttachMode::Kprobe));
        assert_eq!(
            text.lines().skip(2).collect::<Vec<_>>().join("\n"),
            "Types and symbols\n\
            \x20 ok       btf                 there\n\
            \x20                              a note\n\
             \n\
             Source ports (of this network namespace)\n\
            \x20 missing  socket range        no option\n\
            \x20                              -> do this\n\
            \x20                              Linux has it since 6.3.\n\
             \n\
             Tracing works here, by kprobe/kretprobe."
        );
    }

    #[test]
    fn nothing_is_lost_when_a_text_is_wrapped() {
        let text = "a bb ccc dddddddddddddddddddd ä öö";
        for width in 1..40 {
            let lines = wrapped(text, width);
            assert!(lines.iter().all(|line| line.chars().count() <= width));
            let kept = |text: &str| text.replace(' ', "");
            assert_eq!(kept(&lines.concat()), kept(text), "{width}");
        }
    }
}
