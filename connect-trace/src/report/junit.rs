//! The results of rules as JUnit XML, which most build servers read: a suite for each trace or recording, a case for each
//! rule. A rule that is broken is a failure, and one that is unproven an error.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
};

use anyhow::Result;

use super::rules;
use crate::{
    files::whole::WholeFile,
    rules::{Findings, RuleArgs, Verdict},
    term::escape::markup,
};

/// The file of `--junit`, and its suites so far.
pub(crate) struct JunitFile {
    file: WholeFile,
    suites: Vec<Suite>,
}

struct Suite {
    name: String,
    findings: Findings,
}

impl JunitFile {
    /// Prepares the file, if there is one.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub(crate) fn of(args: &RuleArgs) -> Result<Option<Self>> {
        let prepare = |path| {
            Ok(Self {
                file: WholeFile::replacing("--junit", path)?,
                suites: Vec::new(),
            })
        };
        args.junit.as_deref().map(prepare).transpose()
    }

    /// Adds a suite.
    pub(crate) fn add(&mut self, name: &str, findings: &Findings) {
        self.suites.push(Suite {
            name: name.to_owned(),
            findings: findings.clone(),
        });
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(self) -> Result<()> {
        let text = xml(&self.suites);
        self.file.write(|mut file| file.write_all(text.as_bytes()))
    }
}

fn xml(suites: &[Suite]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = document(&mut text, suites);
    text
}

fn document(text: &mut String, suites: &[Suite]) -> fmt::Result {
    writeln!(text, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    let all = || suites.iter().map(|suite| &suite.findings);
    writeln!(
        text,
        r#"<testsuites name="connect-trace" {}>"#,
        counts(all())
    )?;
    for Suite { name, findings } in suites {
        let name = markup(name);
        let counts = counts([findings].into_iter());
        writeln!(text, r#"  <testsuite name="{name}" {counts}>"#)?;
        for finding in &findings.rules {
            let rule = markup(&finding.condition.to_string());
            write!(text, r#"    <testcase classname="{name}" name="{rule}""#)?;
            let (element, detail) = match finding.verdict {
                Verdict::Held => {
                    writeln!(text, "/>")?;
                    continue;
                }
                Verdict::Broken => ("failure", rules::offenders(finding).collect::<Vec<_>>()),
                Verdict::Unproven => ("error", finding.reasons.clone()),
            };
            let verdict = finding.verdict.name();
            let summary = rules::summary(finding, findings.calls);
            let message = markup(&format!("{verdict}: {summary}"));
            // A line feed is no harm, unlike other characters that do not print.
            let detail = detail.iter().map(|line| markup(line));
            let detail = detail.collect::<Vec<_>>().join("\n");
            writeln!(text, ">")?;
            writeln!(
                text,
                r#"      <{element} type="{verdict}" message="{message}">{detail}</{element}>"#
            )?;
            writeln!(text, "    </testcase>")?;
        }
        writeln!(text, "  </testsuite>")?;
    }
    writeln!(text, "</testsuites>")
}

/// Returns the attributes that count the cases.
fn counts<'a>(findings: impl Iterator<Item = &'a Findings> + Clone) -> String {
    let of = |verdict| {
        findings
            .clone()
            .map(|all| all.count(verdict))
            .sum::<usize>()
    };
    let tests: usize = findings.clone().map(|all| all.rules.len()).sum();
    format!(
        r#"tests="{tests}" failures="{}" errors="{}" skipped="0""#,
        of(Verdict::Broken),
        of(Verdict::Unproven)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures::findings, report::rules::text, term::paint::Paint};

    #[test]
    fn a_rule_is_a_case_of_its_suite() {
        let suite = |name: &str| Suite {
            name: name.to_owned(),
            findings: findings(),
        };
        let xml = xml(&[suite("a<b>"), suite("second")]);
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="connect-trace" tests="8" failures="4" errors="2" skipped="0">
  <testsuite name="a&lt;b&gt;" tests="4" failures="2" errors="1" skipped="0">
    <testcase classname="a&lt;b&gt;" name="errno != EADDRNOTAVAIL"/>
    <testcase classname="a&lt;b&gt;" name="comm != a&lt;b">
      <failure type="broken" message="broken: by 3 of 5 connect() calls">a&lt;b (pid 7) to 127.0.0.1:443: 2 calls, a&lt;b
a&lt;b (pid 8) to 127.0.0.1:443: 1 call, a&lt;b</failure>
    </testcase>
    <testcase classname="a&lt;b&gt;" name="p50 &lt; 1us">
      <failure type="broken" message="broken: 20 µs of 5 connect() calls">test (pid 1) to 127.0.0.1:443: 2 calls, 20 µs
a&lt;b (pid 7) to 127.0.0.1:443: 2 calls, 20 µs
a&lt;b (pid 8) to 127.0.0.1:443: 1 call, 20 µs</failure>
    </testcase>
    <testcase classname="a&lt;b&gt;" name="scanned &lt; 500">
      <error type="unproven" message="unproven: 1 call is not decided">1 call has a value that is not known</error>
    </testcase>
  </testsuite>
"#;
        assert_eq!(&xml[..expected.len().min(xml.len())], expected, "{xml}");
        assert_eq!(xml.matches("<testcase ").count(), 8);
    }

    #[test]
    fn a_rule_is_a_line_of_text() {
        let text = text(&findings(), Paint(false));
        let expected = "
rules of 5 connect() calls, with --dport 443: 1 held, 2 broken, 1 unproven
  held      errno != EADDRNOTAVAIL: of 5 connect() calls
  broken    comm != a<b: by 3 of 5 connect() calls
            a<b (pid 7) to 127.0.0.1:443: 2 calls, a<b
            a<b (pid 8) to 127.0.0.1:443: 1 call, a<b
  broken    p50 < 1us: 20 \u{b5}s of 5 connect() calls
            test (pid 1) to 127.0.0.1:443: 2 calls, 20 \u{b5}s
            a<b (pid 7) to 127.0.0.1:443: 2 calls, 20 \u{b5}s
            a<b (pid 8) to 127.0.0.1:443: 1 call, 20 \u{b5}s
  unproven  scanned < 500: 1 call is not decided
            1 call has a value that is not known
";
        assert_eq!(text, expected);
    }
}
