//! `connect-trace check`: the features of this kernel, those that a trace would use, and those that are missing.
//!
//! Each group of findings has its file, which reads what it needs (its `Reading`) and interprets it. The decisions are
//! made by the same functions as for a trace.

pub(crate) mod args;
mod attach;
mod configuration;
mod finding;
mod json;
mod limits;
mod namespaces;
mod ports;
mod privileges;
mod services;
mod text;
mod types;
mod window;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args as _, FromArgMatches as _};

pub use self::finding::{Finding, Group, State};
use crate::{
    check::args::CheckArgs,
    connect::PortRange,
    kernel,
    options::Format,
    probes::{ProbeConfig, attach::AttachMode},
    term::stdout::{stdout, unless_closed},
    trace::{args::TraceArgs, config::Config},
};

/// The findings of this host.
#[derive(Clone, Debug)]
pub struct Check {
    /// The kernel's release, for people.
    pub kernel: String,
    /// The findings, in the order of the output.
    pub findings: Vec<Finding>,
    /// The mode in which a trace would attach, if it would work.
    pub mode: Option<AttachMode>,
}

/// Checks this host and prints the findings. Succeeds only if a trace would work; with `--config`, only if the file is
/// right.
///
/// # Errors
/// If stdout cannot be written to.
pub fn run(args: &CheckArgs) -> Result<ExitCode> {
    if let Some(file) = &args.config {
        return configuration::run(file, args.format);
    }
    let check = Check::of_this_host(args.window)?;
    // The exit status is the verdict, even if the reader of the output has gone.
    unless_closed(print(&check, args.format).map_err(Into::into))?;
    Ok(if check.works() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(check: &Check, format: Format) -> io::Result<()> {
    let mut out = stdout();
    match format {
        Format::Text => text::write(&mut out, check)?,
        Format::Json => json::write(&mut out, check)?,
    }
    out.flush()
}

impl Check {
    /// Checks this host, and a range of sockets if there is one. If the privileges allow it, the programs are loaded; none
    /// is attached.
    ///
    /// # Errors
    /// No property of this host causes an error: something that cannot be checked is a finding.
    pub fn of_this_host(window: Option<PortRange>) -> Result<Self> {
        let privileges = privileges::Reading::of_this_process();
        let types = types::Reading::of_running_kernel();
        let attach = attach::Reading::of_running_kernel(&defaults()?, &privileges, &types);
        let ports = ports::Reading::of_this_namespace(types.layout(), window);
        Ok(Self::of(&privileges, &types, &attach, &ports))
    }

    fn of(
        privileges: &privileges::Reading,
        types: &types::Reading,
        attach: &attach::Reading,
        ports: &ports::Reading,
    ) -> Self {
        let (attaching, mode) = attach::findings(attach);
        let mut check = Self {
            kernel: kernel::release(),
            findings: [
                privileges::findings(privileges),
                types::findings(types),
                attaching,
                ports::findings(ports),
            ]
            .concat(),
            mode,
        };
        if !check.works() {
            check.mode = None;
        }
        check
    }

    /// Returns whether a trace would work.
    #[must_use]
    pub fn works(&self) -> bool {
        self.blocking().next().is_none()
    }

    /// Returns the findings that keep a trace from working.
    fn blocking(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.blocks())
    }

    /// Returns the verdict in one line.
    #[must_use]
    pub fn verdict(&self) -> String {
        /// Number of names that fit in a line of a terminal.
        const NAMES: usize = 2;
        if let Some(mode) = self.mode {
            return format!("Tracing works here, by {mode}.");
        }
        let named = |state| -> Vec<String> {
            self.blocking()
                .filter(|finding| finding.state == state)
                .map(Finding::title)
                .collect()
        };
        // Most findings are unknown only because of one that is missing.
        let (verb, names) = match named(State::Missing) {
            missing if !missing.is_empty() => ("missing", missing),
            _ => ("not known", named(State::Unknown)),
        };
        let shown = names[..names.len().min(NAMES)].join(", ");
        let more = match names.len().saturating_sub(NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("Tracing does not work here: {verb}: {shown}{more}.")
    }
}

/// Returns the probe settings of a trace without any options.
fn defaults() -> Result<ProbeConfig> {
    let command = TraceArgs::augment_args(clap::Command::new("connect-trace"));
    let matches = command.try_get_matches_from(["connect-trace"])?;
    let args = TraceArgs::from_arg_matches(&matches)?;
    Ok(Config::resolve(args)?.probes)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn check(findings: Vec<Finding>, mode: Option<AttachMode>) -> Check {
        Check {
            kernel: "6.1.0".to_owned(),
            findings,
            mode,
        }
    }

    fn finding(name: &'static str, state: State) -> Finding {
        Finding {
            state,
            ..Finding::ok(Group::Types, name, "value")
        }
    }

    #[test]
    fn what_is_required_decides_and_nothing_else() {
        let optional = [State::Ok, State::Limited, State::Missing, State::Unknown]
            .map(|state| finding("optional", state));
        let required = |state| finding("needed", state).required();
        for (state, works) in [
            (State::Ok, true),
            (State::Limited, true),
            (State::Missing, false),
            (State::Unknown, false),
        ] {
            let findings = [&optional[..], &[required(state)]].concat();
            assert_eq!(check(findings, None).works(), works, "{state:?}");
        }
    }

    #[test]
    fn the_verdict_names_the_mode_or_what_is_missing() {
        let works = check(vec![], Some(AttachMode::Kprobe));
        assert_eq!(works.verdict(), "Tracing works here, by kprobe/kretprobe.");
        let missing = |name| finding(name, State::Missing).required();
        let unknown = finding("attach_mode", State::Unknown).required();
        let verdict = |findings| check(findings, None).verdict();
        assert_eq!(
            verdict(vec![missing("btf"), unknown.clone()]),
            "Tracing does not work here: missing: btf."
        );
        assert_eq!(
            verdict(vec![unknown]),
            "Tracing does not work here: not known: attach mode."
        );
        let verdict = verdict(vec![missing("capabilities"); 12]);
        assert!(verdict.ends_with("and 10 more."), "{verdict}");
        assert!(verdict.len() <= text::WIDTH, "{verdict}");
    }

    #[test]
    fn a_complete_kernel_works_and_each_missing_group_blocks() {
        let of = |privileges: &_, types: &_, attach: &_| {
            Check::of(privileges, types, attach, &ports::tests::defaults())
        };
        let root = privileges::tests::root();
        let types = types::tests::complete(true);
        let attach = attach::tests::complete();
        let whole = of(&root, &types, &attach);
        assert!(whole.works(), "{whole:?}");
        assert_eq!(whole.mode, Some(AttachMode::Fentry));

        let locked = privileges::Reading {
            lockdown: Ok("confidentiality".to_owned()),
            ..privileges::tests::root()
        };
        let locked = of(&locked, &types, &attach);
        assert_eq!(locked.mode, None, "it is not said how it would work");
        assert_eq!(
            locked.verdict(),
            "Tracing does not work here: missing: lockdown."
        );
    }
}
