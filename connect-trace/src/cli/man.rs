//! The manual pages of `connect-trace man`: one for connect-trace itself, and one for each subcommand.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, Command, CommandFactory as _, builder::PossibleValuesParser};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{Cli, NAME};
use crate::term::{printable::printable, stdout::stdout};

/// Section of the manual for all pages.
const SECTION: &str = "1";

/// Subcommands that have a page.
const PAGES: &[&str] = &[
    "report",
    "serve",
    #[cfg(feature = "top")]
    "top",
    "mitigate",
    "flame",
    "check",
    "explain",
    "ports",
    "load",
    "compare",
    "try",
    "completions",
    "man",
];

/// `connect-trace man`
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Print the page of this subcommand [default: the page of connect-trace itself]
    #[arg(value_parser = PossibleValuesParser::new(PAGES))]
    subcommand: Option<String>,

    /// Write all pages into this folder instead, such as /usr/local/share/man/man1
    #[arg(long, value_name = "FOLDER", conflicts_with = "subcommand", value_hint = clap::ValueHint::DirPath)]
    output_dir: Option<PathBuf>,
}

/// Prints a page, or writes all pages into a folder.
///
/// # Errors
/// If stdout or the folder cannot be written to.
pub fn run(args: &ManArgs) -> Result<()> {
    let pages = pages();
    if let Some(folder) = &args.output_dir {
        return write_all(&pages, folder)
            .with_context(|| format!("--output-dir {}: cannot be written to", printable(folder)));
    }
    let wanted = page_name(args.subcommand.as_deref());
    let page = pages.iter().find(|page| page.name == wanted);
    Ok(stdout().write_all(&page.map(Page::roff).unwrap_or_default())?)
}

fn write_all(pages: &[Page], folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for page in pages {
        fs::write(folder.join(format!("{}.{SECTION}", page.name)), page.roff())?;
    }
    Ok(())
}

/// Returns the name of the page of a subcommand, or of connect-trace itself.
fn page_name(subcommand: Option<&str>) -> String {
    subcommand.map_or_else(
        || NAME.to_owned(),
        |subcommand| format!("{NAME}-{subcommand}"),
    )
}

/// Returns the pages of connect-trace and of its subcommands, except the hidden ones.
fn pages() -> Vec<Page> {
    let mut root = Cli::command().disable_help_subcommand(true);
    // Gives subcommands their full names.
    root.build();
    let subcommands = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let commands: Vec<Command> = [&root].into_iter().chain(subcommands).cloned().collect();
    let names: Vec<String> = commands
        .iter()
        .map(|command| command.get_display_name().unwrap_or(NAME).to_owned())
        .collect();
    let page = |(command, name): (Command, &String)| Page {
        command,
        name: name.clone(),
        others: names
            .iter()
            .filter(|other| *other != name)
            .cloned()
            .collect(),
    };
    commands.into_iter().zip(&names).map(page).collect()
}

/// A manual page.
struct Page {
    command: Command,
    name: String,
    /// Names of all other pages.
    others: Vec<String>,
}

impl Page {
    /// Returns the source of the page.
    fn roff(&self) -> Vec<u8> {
        let mut roff = Vec::new();
        // Writing to memory cannot fail.
        let _ = self.write(&mut roff);
        roff
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let usage = self.command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").trim_start().to_owned();
        let man = Man::new(self.command.clone().override_usage(usage))
            .section(SECTION)
            // Without the quotes, an empty date would be omitted, and the source would take its place.
            .date("\"\"")
            .source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")))
            .manual("User Commands");
        man.render_title(out)?;
        man.render_name_section(out)?;
        man.render_synopsis_section(out)?;
        man.render_description_section(out)?;
        man.render_options_section(out)?;
        if self.command.has_subcommands() {
            man.render_subcommands_section(out)?;
        }
        let mut rest = Roff::new();
        if let Some(help) = self.command.get_after_long_help() {
            sections(&mut rest, &help.to_string());
        }
        self.see_also(&mut rest);
        rest.to_writer(out)
    }

    fn see_also(&self, roff: &mut Roff) {
        roff.control("SH", ["SEE ALSO"]);
        for (number, other) in self.others.iter().enumerate() {
            let last = number + 1 == self.others.len();
            let end = if last { "" } else { "," };
            roff.text([bold(other), roman(format!("({SECTION}){end}"))]);
        }
    }
}

/// Writes the sections of a help text: a line that ends in a colon is the title of the indented lines below
/// it. The lines of examples are kept; other lines are filled.
fn sections(roff: &mut Roff, help: &str) {
    for section in help.split("\n\n") {
        let (title, lines) = section.split_once(":\n").unwrap_or(("NOTES", section));
        roff.control("SH", [title.to_uppercase().as_str()]);
        let verbatim = title == "Examples";
        if verbatim {
            roff.control("nf", []);
        }
        for line in lines.lines() {
            let line = line.strip_prefix("  ").unwrap_or(line);
            roff.text([roman(line)]);
        }
        if verbatim {
            roff.control("fi", []);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_that_is_not_hidden_has_a_page() {
        let pages = pages();
        let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        let subcommands = PAGES.iter();
        let expected: Vec<_> = subcommands
            .map(|subcommand| page_name(Some(subcommand)))
            .collect();
        assert_eq!(names[0], page_name(None));
        assert_eq!(names[1..], expected);
    }
}
