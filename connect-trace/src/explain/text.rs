//! The explanation as text.

use std::fmt::{self, Write as _};

use super::{Explained, Searches, State, Walk, counts, pass_name, search::Run};
use crate::term::{
    numbers::{counted, wrapped},
    paint::Paint,
};

/// Number of blocks in a row of the drawing, and of rows for a pass.
const BLOCKS: usize = 64;
const ROWS: usize = 8;

/// Maximum number of steps at the beginning and at the end of a walk.
const FIRST_STEPS: usize = 10;
const LAST_STEPS: usize = 4;

/// Returns the text. `kernel` is the kernel's release.
pub(super) fn of(
    paint: Paint,
    kernel: &str,
    explained: &Explained,
    searches: Option<&Searches>,
) -> String {
    let mut text = String::new();
    // Writing to memory cannot fail.
    let _ = write(&mut text, paint, kernel, explained, searches);
    text
}

fn write(
    text: &mut String,
    paint: Paint,
    kernel: &str,
    explained: &Explained,
    searches: Option<&Searches>,
) -> fmt::Result {
    let Explained { route, search, .. } = explained;
    let first = format!("connect() from {}", route.source);
    wrapped(
        text,
        &first,
        "  ",
        &format!("to {}, on Linux {kernel}", route.destination),
    )?;
    writeln!(text, "ports {}: {}", search.range(), order(explained))?;
    for pass in 0..search.order().passes() {
        writeln!(text)?;
        let title = paint.title(&format!("{}:", pass_name(explained, pass)));
        wrapped(text, &title, "  ", &legend(explained, pass))?;
        draw(text, explained, pass)?;
    }
    let per_block = per_block(explained, 0);
    if per_block > 1 {
        writeln!(
            text,
            "{per_block:>7}  ports a block: . all can be found  - most  + half or less  # none"
        )?;
    }
    match searches {
        Some(searches) => {
            write_figures(text, paint, explained, searches)?;
            write_walk(text, paint, explained, &searches.walk)
        }
        None => {
            writeln!(text)?;
            let width = explained.random_step.unwrap_or(0);
            let words = format!(
                "net.ipv4.ip_local_port_step_width is {width}: each search goes through a pass by steps of a random \
                 width, so that its order is not known."
            );
            wrapped(text, "random steps:", "  ", &words)
        }
    }
}

/// Describes the order of the passes.
fn order(explained: &Explained) -> String {
    let search = &explained.search;
    if search.order().passes() == 1 {
        return format!("one pass through {}", ports(search.range().ports.ports()));
    }
    let [first, second] = match search.range().ports.low % 2 {
        0 => ["even", "odd"],
        _ => ["odd", "even"],
    };
    let [of_first, of_second] = [0, 1].map(|pass| search.ports(pass).count());
    format!("first the {of_first} {first} ones, then the {of_second} {second} ones")
}

fn ports(count: u32) -> String {
    counted(count.into(), "port", "ports")
}

/// Number of ports in a block: as few as fill the rows.
fn per_block(explained: &Explained, pass: u32) -> usize {
    let ports = explained.search.ports(pass).count();
    ports.div_ceil(BLOCKS * ROWS).max(1)
}

/// Draws the ports of a pass.
fn draw(text: &mut String, explained: &Explained, pass: u32) -> fmt::Result {
    let ports: Vec<u16> = explained.search.ports(pass).collect();
    let per_block = per_block(explained, pass);
    for row in ports.chunks(per_block * BLOCKS) {
        let blocks = row.chunks(per_block).map(|ports| {
            let states = ports.iter().map(|&port| explained.search.state(port));
            block(&states.collect::<Vec<_>>())
        });
        writeln!(text, "{:>7}  {}", row[0], blocks.collect::<String>())?;
    }
    Ok(())
}

/// Returns the character of a block: its state if it is one port, or the share of ports that a search passes over.
fn block(states: &[State]) -> char {
    if let [state] = states {
        return character(*state);
    }
    let passed = states.iter().filter(|state| !state.is_found()).count();
    match passed {
        0 => '.',
        _ if passed == states.len() => '#',
        _ if passed * 2 < states.len() => '-',
        _ => '+',
    }
}

fn character(state: State) -> char {
    match state {
        State::Free => '.',
        State::TimeWaitReused => 'o',
        State::TimeWait => 't',
        State::Taken => '#',
        State::Bound => 'b',
        State::Reserved => 'r',
    }
}

/// Returns the number of ports of a pass in each state, with the characters of the drawing.
fn legend(explained: &Explained, pass: u32) -> String {
    let per_block = per_block(explained, pass);
    let counts = counts(explained, pass).into_iter();
    let named = counts.map(|(state, count)| match per_block {
        1 => format!("{} {count} {}", character(state), state.words()),
        _ => format!("{count} {}", state.words()),
    });
    named.collect::<Vec<_>>().join("; ")
}

fn write_figures(
    text: &mut String,
    paint: Paint,
    explained: &Explained,
    searches: &Searches,
) -> fmt::Result {
    let figures = &searches.figures;
    writeln!(text)?;
    let title = paint.title("all starts:");
    let words = format!(
        "{} equally likely; the kernel keeps the start of a search secret",
        counted(figures.starts.into(), "is", "are")
    );
    wrapped(text, &title, "  ", &words)?;
    let ends = [
        (
            format!("a port in the {}", pass_name(explained, 0)),
            figures.first_pass,
        ),
        ("a port in the second pass".to_owned(), figures.second_pass),
        ("none: EADDRNOTAVAIL".to_owned(), figures.none),
    ];
    for (name, share) in ends.into_iter().filter(|&(_, share)| share > 0.0) {
        writeln!(text, "  {name:<26} {:>6.1} %", share * 100.0)?;
    }
    writeln!(
        text,
        "  {:<26} {:>6.1} mean, {} median, {} at most",
        "ports scanned", figures.scanned_mean, figures.scanned_median, figures.scanned_most
    )
}

fn write_walk(text: &mut String, paint: Paint, explained: &Explained, walk: &Walk) -> fmt::Result {
    writeln!(text)?;
    let title = paint.title("one start:");
    let chosen = if walk.is_typical {
        ", which has the median length; --start shows another"
    } else {
        ""
    };
    wrapped(
        text,
        &title,
        "  ",
        &format!("step by step from port {}{chosen}", walk.start),
    )?;
    let (before, left_out, after) = match walk.runs.len().checked_sub(FIRST_STEPS + LAST_STEPS) {
        // A line saves nothing that says that one step is left out.
        Some(left_out @ 2..) => (
            &walk.runs[..FIRST_STEPS],
            &walk.runs[FIRST_STEPS..FIRST_STEPS + left_out],
            &walk.runs[FIRST_STEPS + left_out..],
        ),
        _ => (&walk.runs[..], &walk.runs[..0], &walk.runs[..0]),
    };
    write_steps(text, explained, before)?;
    if !left_out.is_empty() {
        let all = left_out.iter().map(|run| run.ports).sum();
        writeln!(text, "  ... {} steps with {}", left_out.len(), ports(all))?;
    }
    write_steps(text, explained, after)?;
    let scanned = ports(walk.end.scanned);
    match walk.end.found {
        Some((port, pass)) => writeln!(
            text,
            "  found {port} in the {}: {scanned} scanned",
            pass_name(explained, pass)
        ),
        None => writeln!(text, "  found none: {scanned} scanned, EADDRNOTAVAIL"),
    }
}

fn write_steps(text: &mut String, explained: &Explained, runs: &[Run]) -> fmt::Result {
    for run in runs {
        let span = match run.ports {
            1 => run.first.to_string(),
            _ => format!("{}-{}", run.first, run.last),
        };
        let what = match run.state {
            State::Free | State::TimeWaitReused => run.state.words().to_owned(),
            state => format!("{} {}", run.ports, state.words()),
        };
        writeln!(
            text,
            "  {:<12} {span:<13} {what}",
            pass_name(explained, run.pass)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            searches,
            tests::{example, nearly_used_up},
        },
        *,
    };

    fn text_of(explained: &Explained, start: Option<u16>) -> String {
        let searches = searches(explained, start).unwrap();
        let text = of(Paint(false), "6.12.0", explained, searches.as_ref());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
        text
    }

    /// The text of an example, compared with a snapshot; `UPDATE_SNAPSHOTS=1` writes it again.
    #[test]
    fn the_text_is_as_it_was_last_looked_at() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/explain/text_example.txt");
        let text = text_of(&example(true, &nearly_used_up()), None);
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(file, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(file).unwrap_or_default());
        assert!(include_str!("../../../docs/explain.md").contains(&text));
    }

    #[test]
    fn a_range_of_any_width_and_a_walk_of_any_length_fit_a_terminal() {
        use State::{Bound, Free, Reserved, Taken, TimeWait, TimeWaitReused};
        let mixed = [
            Taken, Taken, Bound, Reserved, TimeWait, Taken, TimeWait, Bound,
        ];
        for ports in [1, 2, 3, 1_024, 1_025, 45_000] {
            let mut states: Vec<State> = mixed.iter().copied().cycle().take(ports).collect();
            text_of(&example(true, &states), None);
            text_of(&example(false, &states), Some(20_000));
            states[ports / 2] = Free;
            states[ports / 3] = TimeWaitReused;
            text_of(&example(true, &states), None);
        }
    }

    #[test]
    fn random_steps_are_said_and_no_order_is_told() {
        let mut explained = example(true, &nearly_used_up());
        explained.random_step = Some(8);
        let text = text_of(&explained, None);
        assert!(
            text.contains("random steps: net.ipv4.ip_local_port_step_width is 8"),
            "{text}"
        );
        assert!(!text.contains("one start"), "{text}");
    }

    #[test]
    fn a_block_of_many_ports_shows_how_many_can_be_found() {
        use State::{Free, Taken, TimeWait, TimeWaitReused};
        assert_eq!(block(&[Free, TimeWaitReused]), '.');
        assert_eq!(block(&[Free, Free, Taken]), '-');
        assert_eq!(block(&[Free, Taken]), '+');
        assert_eq!(block(&[TimeWait, Taken]), '#');
        assert_eq!(block(&[TimeWait]), 't');
    }
}
