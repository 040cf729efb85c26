//! `connect-trace check --config FILE`: the mistakes in a configuration file, found by the functions that the service starts
//! with.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    options::Format,
    serve::config::{Configuration, Mistaken},
    term::{
        numbers::counted,
        printable::printable,
        stdout::{stdout, unless_closed},
    },
};

/// Raised when a field is removed or changes its meaning; not when one is added.
const SCHEMA: u32 = 1;

/// The verdict about a file.
struct Verdict {
    /// Number of options that are set.
    options: usize,
    mistaken: Mistaken,
}

/// Checks a file and prints its mistakes. Succeeds only if there are none.
///
/// # Errors
/// If the file cannot be read, or stdout cannot be written to.
pub(super) fn run(file: &Path, format: Format) -> Result<ExitCode> {
    let configuration = Configuration::read(file)?;
    let checked = configuration.check().map(|_| ());
    let mistaken = checked.and_then(|()| configuration.check_names()).err();
    let verdict = Verdict {
        options: configuration.options(),
        mistaken: mistaken.unwrap_or_else(|| Mistaken {
            file: file.to_owned(),
            mistakes: Vec::new(),
        }),
    };
    unless_closed(verdict.print(&mut stdout(), format).map_err(Into::into))?;
    Ok(if verdict.mistaken.mistakes.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Verdict {
    fn print(&self, out: &mut impl Write, format: Format) -> io::Result<()> {
        match format {
            Format::Text => self.write_text(out)?,
            Format::Json => self.write_json(out)?,
        }
        out.flush()
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let file = printable(&self.mistaken.file);
        let count = self.mistaken.mistakes.len() as u64;
        if count == 0 {
            let options = counted(self.options as u64, "option", "options");
            return writeln!(out, "{file}: {options}, no mistakes.");
        }
        writeln!(out, "{}", self.mistaken)?;
        writeln!(out, "{} in {file}.", counted(count, "mistake", "mistakes"))
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Object<'a> {
            schema: u32,
            version: &'static str,
            file: String,
            works: bool,
            options: usize,
            mistakes: Vec<Place<'a>>,
        }
        #[derive(Serialize)]
        struct Place<'a> {
            line: Option<usize>,
            column: Option<usize>,
            key: Option<&'a str>,
            mistake: &'a str,
        }
        let mistakes = self.mistaken.mistakes.iter().map(|mistake| Place {
            line: mistake.line,
            column: mistake.column,
            key: mistake.key.as_deref(),
            mistake: &mistake.text,
        });
        let object = Object {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            file: self.mistaken.file.to_string_lossy().into_owned(),
            works: self.mistaken.mistakes.is_empty(),
            options: self.options,
            mistakes: mistakes.collect(),
        };
        serde_json::to_writer(&mut *out, &object)?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::config::Mistake;

    fn printed(mistakes: Vec<Mistake>, format: Format) -> String {
        let verdict = Verdict {
            options: 3,
            mistaken: Mistaken {
                file: "FILE".into(),
                mistakes,
            },
        };
        let mut out = Vec::new();
        verdict.print(&mut out, format).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn mistake() -> Mistake {
        Mistake {
            line: Some(3),
            column: Some(1),
            key: Some("uid".to_owned()),
            text: "no such user".to_owned(),
        }
    }

    #[test]
    fn a_mistake_is_printed_with_its_place() {
        assert_eq!(
            printed(vec![], Format::Text),
            "FILE: 3 options, no mistakes.\n"
        );
        assert_eq!(
            printed(vec![mistake(), mistake()], Format::Text),
            "FILE:3:1: uid: no such user\nFILE:3:1: uid: no such user\n2 mistakes in FILE.\n"
        );
    }

    #[test]
    fn the_object_has_every_mistake_in_one_line() {
        let text = printed(vec![mistake()], Format::Json);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&object["works"], &object["options"]),
            (&false.into(), &3.into())
        );
        let expected = serde_json::json!([
            { "line": 3, "column": 1, "key": "uid", "mistake": "no such user" }
        ]);
        assert_eq!(object["mistakes"], expected);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&printed(vec![], Format::Json)).unwrap()["works"],
            true
        );
    }
}
