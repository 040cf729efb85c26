//! The results of rules as text.

use std::fmt::{self, Write as _};

use crate::{
    rules::{Aggregate, Field, Finding, Findings, Verdict},
    term::{
        numbers::{count, counted, wrapped},
        paint::Paint,
    },
};

/// Number of offenders that are shown of a rule.
const SHOWN: usize = 5;

/// Returns a line for each rule, with the offenders of those that are broken.
pub(crate) fn text(findings: &Findings, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = sections(&mut text, findings, paint);
    text
}

fn sections(text: &mut String, findings: &Findings, paint: Paint) -> fmt::Result {
    writeln!(text)?;
    let calls = counted(findings.calls, "connect() call", "connect() calls");
    let counts = [Verdict::Held, Verdict::Broken, Verdict::Unproven].map(|verdict| {
        let rules = findings.count(verdict);
        (rules > 0).then(|| format!("{rules} {}", verdict.name()))
    });
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    let filters = match findings.filters.as_slice() {
        [] => String::new(),
        filters => format!(", with {}", filters.join(" ")),
    };
    let words = format!("of {calls}{filters}: {}", counts.join(", "));
    wrapped(text, "rules", "  ", &words)?;
    for finding in &findings.rules {
        rule(text, finding, findings.calls, paint)?;
    }
    Ok(())
}

fn rule(text: &mut String, finding: &Finding, calls: u64, paint: Paint) -> fmt::Result {
    let name = format!("{:<8}", finding.verdict.name());
    let name = match finding.verdict {
        Verdict::Held => name,
        Verdict::Broken | Verdict::Unproven => paint.warning(&name),
    };
    writeln!(
        text,
        "  {name}  {}: {}",
        finding.condition,
        summary(finding, calls)
    )?;
    if finding.verdict == Verdict::Unproven {
        for reason in &finding.reasons {
            wrapped(text, "           ", "            ", reason)?;
        }
    }
    if finding.verdict != Verdict::Broken {
        return Ok(());
    }
    for line in offenders(finding) {
        writeln!(text, "            {line}")?;
    }
    Ok(())
}

/// Returns the figures of a rule in words.
pub(super) fn summary(finding: &Finding, calls: u64) -> String {
    let field = finding.condition.field();
    let of_calls = counted(calls, "connect() call", "connect() calls");
    match (finding.condition.aggregate(), finding.value) {
        (Some(Aggregate::Count), Some(value)) => Field::count_in_words(value),
        (Some(_), Some(value)) => format!("{} of {of_calls}", field.bounds_in_words(value)),
        (Some(_), None) if finding.verdict == Verdict::Held => format!("no value in {of_calls}"),
        (_, _) => match (finding.verdict, finding.undecided) {
            (Verdict::Held, _) => format!("of {of_calls}"),
            (Verdict::Broken, _) => format!("by {} of {of_calls}", count(finding.broken)),
            (Verdict::Unproven, Some(undecided)) => {
                format!("{} not decided", counted(undecided, "call is", "calls are"))
            }
            (Verdict::Unproven, None) => "calls are missing".to_owned(),
        },
    }
}

/// Returns a line for each of the worst offenders, and one for the others.
pub(super) fn offenders(finding: &Finding) -> impl Iterator<Item = String> {
    let shown = finding.offenders.iter().take(SHOWN).map(|offender| {
        let to = match offender.destination {
            Some(destination) => destination.to_string(),
            None => "an unknown destination".to_owned(),
        };
        format!(
            "{} (pid {}) to {to}: {}, {}",
            offender.comm,
            offender.pid,
            counted(offender.calls, "call", "calls"),
            offender.value
        )
    });
    let beyond = finding.offenders.iter().skip(SHOWN);
    let others = finding.other_calls + beyond.map(|offender| offender.calls).sum::<u64>();
    let others = (others > 0).then(|| format!("others: {}", counted(others, "call", "calls")));
    shown.chain(others)
}
