//! The ports as text for people.

use std::fmt::{self, Write as _};

use super::Shown;
use crate::{
    report::route_ports,
    stats::route_ports::RoutePorts,
    term::{
        characters::Characters,
        numbers::{counted, wrapped},
        paint::Paint,
        terminal::paint,
    },
};

/// Returns the text for the terminal.
pub(super) fn of(shown: &Shown) -> String {
    let mut text = String::new();
    // Writing into memory cannot fail.
    let _ = write(&mut text, paint(), Characters::of_locale(), shown);
    text
}

fn write(text: &mut String, paint: Paint, characters: Characters, shown: &Shown) -> fmt::Result {
    if shown.routes.is_empty() {
        let words = format!(
            "No {} holds a port of the range {} of network namespace {}.",
            if shown.is_selected {
                "such connection"
            } else {
                "connection"
            },
            shown.range,
            shown.netns
        );
        return writeln!(text, "{words}");
    }
    let (brief, whole): (Vec<_>, Vec<_>) =
        (shown.routes.iter()).partition(|ports| !shown.is_selected && is_nearly_empty(ports));
    for (number, ports) in whole.iter().enumerate() {
        if number > 0 {
            writeln!(text)?;
        }
        route_ports::write(text, paint, characters, ports, &shown.cgroups)?;
    }
    if !brief.is_empty() && !whole.is_empty() {
        writeln!(text)?;
    }
    for ports in brief {
        route_ports::write_line(text, paint, ports)?;
    }
    write_notes(text, shown)
}

/// Returns true for a route whose ports are no concern: less than a hundredth of them is in use.
fn is_nearly_empty(ports: &RoutePorts) -> bool {
    let all = ports.map.all_counts();
    all.held() * 100 < all.total()
}

fn write_notes(text: &mut String, shown: &Shown) -> fmt::Result {
    let forgotten = shown.routes.iter().any(|ports| ports.unknown.time_wait > 0);
    let mut notes = Vec::new();
    if shown.more > 0 {
        let more = counted(shown.more as u64, "route has", "routes have");
        notes.push(format!("{more} fewer ports in use: --top shows more"));
    }
    match shown.service_is_complete {
        None if forgotten => notes.push(
            "the kernel forgets who held a port in TIME_WAIT; a service that runs meanwhile knows it: \
             connect-trace serve --ports"
                .to_owned(),
        ),
        Some(false) => notes.push(
            "the service does not know all holders: it started later than some connections, or lost records of them"
                .to_owned(),
        ),
        _ => {}
    }
    if shown.processes_refused {
        notes.push(
            "this user may not see which processes hold the sockets of other users: run it as root"
                .to_owned(),
        );
    }
    if !notes.is_empty() {
        writeln!(text)?;
    }
    for note in notes {
        wrapped(text, "note:", "  ", &note)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::route_ports::tests::example,
        sockets::{PortMap, PortUse},
    };

    fn shown(routes: Vec<RoutePorts>) -> Shown {
        let (example, cgroups) = example();
        Shown {
            routes,
            is_selected: false,
            netns: 7,
            range: example.range,
            more: 0,
            cgroups,
            service_is_complete: None,
            processes_refused: false,
        }
    }

    fn text_of(shown: &Shown) -> String {
        let mut text = String::new();
        write(&mut text, Paint(false), Characters::Unicode, shown).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
        text
    }

    #[test]
    fn a_route_with_few_ports_is_one_line_unless_it_was_asked_for() {
        let (full, _) = example();
        let mut nearly_empty = RoutePorts::of(full.route, PortMap::new(full.range, &[]), []);
        nearly_empty.map.set(20_000, PortUse::Open);
        let mut both = shown(vec![full, nearly_empty]);
        let text = text_of(&both);
        assert_eq!(text.matches("map of").count(), 1, "{text}");
        assert!(
            text.contains("\n\n10.0.0.1 -> 10.0.0.7:5432: 1 of the 1,000 ports"),
            "{text}"
        );
        both.is_selected = true;
        assert_eq!(text_of(&both).matches("map of").count(), 2);
    }

    #[test]
    fn notes_say_what_is_not_known_and_what_to_do() {
        let (full, _) = example();
        let mut one = shown(vec![full]);
        assert!(text_of(&one).contains("connect-trace serve --ports"));
        one.service_is_complete = Some(true);
        assert!(!text_of(&one).contains("note:"));
        one.service_is_complete = Some(false);
        one.more = 1;
        one.processes_refused = true;
        let text = text_of(&one);
        assert_eq!(text.matches("note:").count(), 3, "{text}");
        assert!(text.contains("1 route has fewer ports in use"), "{text}");
    }

    #[test]
    fn nothing_is_a_sentence() {
        let mut none = shown(Vec::new());
        assert_eq!(
            text_of(&none),
            "No connection holds a port of the range 20000-20999 of network namespace 7.\n"
        );
        none.is_selected = true;
        assert!(text_of(&none).starts_with("No such connection holds"));
    }
}
