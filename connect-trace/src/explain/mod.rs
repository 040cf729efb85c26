//! `connect-trace explain`: the port search of connect() to one destination on this host, step by step.
//!
//! `host` reads the facts (the settings, the kernel's order, the sockets), and `search` goes through the range from
//! every start that a search can have: the start of a real one is a secret of the kernel. `text`, `json` and `svg`
//! write the result.

pub(crate) mod args;
mod host;
mod json;
mod search;
mod svg;
mod text;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Result, bail};

use self::{
    args::ExplainArgs,
    host::Explained,
    search::{End, Figures, Run, State},
};
use crate::{
    files::{is_standard, whole::WholeFile},
    kernel,
    options::Format,
    term::{message::say, printable::printable, stdout::stdout, terminal},
};

/// The searches from all starts, and one of them step by step.
pub(super) struct Searches {
    ends: Vec<End>,
    figures: Figures,
    walk: Walk,
}

/// A search from one start.
#[derive(Clone, Debug)]
struct Walk {
    /// The first port that is tried.
    start: u16,
    /// True if the start was not asked for, but is the first with the median length.
    is_typical: bool,
    end: End,
    runs: Vec<Run>,
}

/// Explains the search that the options ask for.
///
/// # Errors
/// If a fact of this host cannot be read, an option contradicts it, or an output cannot be written.
pub fn run(args: &ExplainArgs) -> Result<ExitCode> {
    // Report a file that cannot be written before anything is read.
    let svg = match &args.svg {
        Some(path) => Some((path, WholeFile::replacing("--svg", path)?)),
        None => None,
    };
    let explained = Explained::on_this_host(args)?;
    let searches = searches(&explained, args.start)?;
    if let Some((path, file)) = svg {
        let drawn = svg::draw(&explained, searches.as_ref());
        file.write(|mut file| file.write_all(drawn.as_bytes()))?;
        if is_standard(path) {
            return Ok(ExitCode::SUCCESS);
        }
        say!("wrote {}", printable(path));
    }
    print(args.format, &explained, searches.as_ref())?;
    Ok(ExitCode::SUCCESS)
}

fn print(format: Format, explained: &Explained, searches: Option<&Searches>) -> io::Result<()> {
    let mut out = stdout();
    match format {
        Format::Text => {
            let text = text::of(terminal::paint(), &kernel::release(), explained, searches);
            out.write_all(text.as_bytes())?;
        }
        Format::Json => json::write(&mut out, explained, searches)?,
    }
    out.flush()
}

/// Returns the searches; `None` if they take random steps.
fn searches(explained: &Explained, start: Option<u16>) -> Result<Option<Searches>> {
    let (search, order) = (&explained.search, explained.search.order());
    if let Some(width) = explained.random_step {
        if start.is_some() {
            bail!(
                "--start: the order of the search is not known: net.ipv4.ip_local_port_step_width is {width}, so that \
                 it takes random steps"
            );
        }
        return Ok(None);
    }
    let ends = search.ends();
    let figures = Figures::of(&ends);
    let at = match start {
        Some(port) => {
            let Some(at) = order.start_at(port) else {
                bail!("--start {port}: is not in the range {}", search.range());
            };
            at
        }
        None => figures.typical(&ends),
    };
    let walk = Walk {
        start: order.port(at, 0, 0),
        is_typical: start.is_none(),
        end: ends[at as usize],
        runs: search.walk(at),
    };
    Ok(Some(Searches {
        ends,
        figures,
        walk,
    }))
}

/// Returns the name of a pass.
fn pass_name(explained: &Explained, pass: u32) -> &'static str {
    match (explained.search.order().passes(), pass) {
        (1, _) => "only pass",
        (_, 0) => "first pass",
        _ => "second pass",
    }
}

/// Returns the number of ports of a pass in each state, without the states that no port has.
fn counts(explained: &Explained, pass: u32) -> Vec<(State, u32)> {
    let runs = explained.search.runs(pass);
    let count = |state| {
        runs.iter()
            .filter(|run| run.state == state)
            .map(|run| run.ports)
            .sum()
    };
    let counts = State::ALL.map(|state| (state, count(state)));
    counts.into_iter().filter(|&(_, count)| count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::settings::TimeWaitSettings;

    /// Returns a search through ports with these states.
    pub(super) fn example(by_parity: bool, states: &[State]) -> Explained {
        Explained {
            route: host::Route {
                source: [10, 0, 0, 1].into(),
                destination: ([10, 0, 0, 7], 5432).into(),
            },
            search: search::tests::search(20_000, by_parity, states),
            random_step: None,
            time_wait: TimeWaitSettings {
                reuse: 2,
                timestamps: 1,
                reuse_delay_ms: 1_000,
            },
        }
    }

    /// Returns the states of a range whose first pass is nearly used up.
    pub(super) fn nearly_used_up() -> Vec<State> {
        let mut states = [State::Taken, State::Free].repeat(40);
        states[2] = State::Bound;
        states[8] = State::TimeWait;
        states[10] = State::TimeWait;
        states[31] = State::Reserved;
        states[60] = State::TimeWaitReused;
        states
    }

    #[test]
    fn random_steps_have_no_walk_and_take_no_start() {
        let mut explained = example(true, &nearly_used_up());
        let walk = searches(&explained, None).unwrap().unwrap().walk;
        assert!(walk.is_typical);
        explained.random_step = Some(8);
        assert!(searches(&explained, None).unwrap().is_none());
        let error = searches(&explained, Some(20_000)).err().unwrap();
        assert!(error.to_string().contains("step_width"), "{error}");
    }

    #[test]
    fn a_start_is_a_port_of_the_first_pass() {
        let explained = example(true, &nearly_used_up());
        let start =
            |port| searches(&explained, Some(port)).map(|searches| searches.unwrap().walk.start);
        assert_eq!(start(20_004).unwrap(), 20_004);
        assert_eq!(start(20_005).unwrap(), 20_004);
        assert!(start(19_999).is_err() && start(20_080).is_err());
    }
}
