//! The ports of a route as text: their uses by parity, their holders, and the map.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

use super::port_map;
use crate::{
    connect::{Comm, PortChoice},
    sockets::{PortUse, UseCounts},
    stats::route_ports::{HeldCounts, Holder, RoutePorts},
    term::{
        characters::Characters,
        numbers::{WIDTH, count, counted, wrapped},
        paint::Paint,
    },
};

/// Maximum number of holders that are shown.
const MOST_HOLDERS: usize = 10;

/// Maximum number of listeners that are named.
const MOST_LISTENERS: usize = 20;

/// Writes the ports of a route. `cgroups` has the paths of cgroups by their ids.
pub(crate) fn write(
    text: &mut String,
    paint: Paint,
    characters: Characters,
    ports: &RoutePorts,
    cgroups: &HashMap<u64, String>,
) -> fmt::Result {
    write_line(text, paint, ports)?;
    write_uses(text, paint, ports)?;
    write_listeners(text, ports)?;
    write_states(text, ports)?;
    write_holders(text, paint, ports, cgroups)?;
    port_map::write(text, paint, characters, &ports.map)
}

/// Writes the line that says how many ports of a route are in use.
pub(crate) fn write_line(text: &mut String, paint: Paint, ports: &RoutePorts) -> fmt::Result {
    let route = ports.route;
    let all = ports.map.all_counts();
    let title = paint.title(&format!("{} -> {}:", route.source, route.destination));
    let words = format!(
        "{} of the {} ports {} in use ({:.1} %)",
        count(all.held().into()),
        count(all.total().into()),
        ports.range,
        percent(all.held(), all)
    );
    wrapped(text, &title, "  ", &words)
}

/// Returns a part of the ports in percent.
pub(super) fn percent(part: u32, of: UseCounts) -> f64 {
    f64::from(part) * 100.0 / f64::from(of.total().max(1))
}

fn write_uses(text: &mut String, paint: Paint, ports: &RoutePorts) -> fmt::Result {
    let columns = [
        ports.map.counts(0),
        ports.map.counts(1),
        ports.map.all_counts(),
    ];
    let title = paint.title(&format!("  {:<10}", "ports"));
    writeln!(text, "{title}{:>16}{:>16}{:>16}", "even", "odd", "all")?;
    let uses = [
        PortUse::Open,
        PortUse::TimeWait,
        PortUse::Listener,
        PortUse::Reserved,
        PortUse::Free,
    ];
    for made in uses {
        if made != PortUse::Free && columns[2].of(made) == 0 {
            continue;
        }
        write!(text, "  {:<10}", made.words())?;
        for counts in columns {
            let of_use = counts.of(made);
            write!(text, "{of_use:>8}{:>6.1} %", percent(of_use, counts))?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// Writes the ports of listeners: each is a port that no connection to any destination gets.
fn write_listeners(text: &mut String, ports: &RoutePorts) -> fmt::Result {
    let all = ports.map.ports();
    let mut listeners = all
        .filter(|&(_, made)| made == PortUse::Listener)
        .peekable();
    if listeners.peek().is_none() {
        return Ok(());
    }
    let mut named: Vec<String> = listeners
        .by_ref()
        .take(MOST_LISTENERS)
        .map(|(port, _)| port.to_string())
        .collect();
    let more = listeners.count();
    if more > 0 {
        named.push(format!("{more} more"));
    }
    wrapped(text, "  listeners in the range:", "    ", &named.join(", "))
}

fn write_states(text: &mut String, ports: &RoutePorts) -> fmt::Result {
    let states: Vec<String> = ports
        .states
        .present()
        .map(|(state, sockets)| format!("{sockets} {}", state.name()))
        .collect();
    let outside = match ports.out_of_range {
        0 => String::new(),
        more => format!(
            "; {} not in the range",
            counted(more.into(), "port is", "ports are")
        ),
    };
    wrapped(
        text,
        "  connections:",
        "    ",
        &format!("{}{outside}", states.join(", ")),
    )
}

fn write_holders(
    text: &mut String,
    paint: Paint,
    ports: &RoutePorts,
    cgroups: &HashMap<u64, String>,
) -> fmt::Result {
    let title = paint.title(&format!("  {:<23}", "holders"));
    writeln!(
        text,
        "{title}{:>8}{:>11}  {:<13} cgroup",
        "open", "TIME_WAIT", "strategy"
    )?;
    for held in ports.holders.iter().take(MOST_HOLDERS) {
        write_holder(text, &held.holder, held.ports, cgroups)?;
    }
    if let Some(more) = ports
        .holders
        .get(MOST_HOLDERS..)
        .filter(|more| !more.is_empty())
    {
        let rest = more
            .iter()
            .fold(HeldCounts::default(), |sum, held| HeldCounts {
                open: sum.open + held.ports.open,
                time_wait: sum.time_wait + held.ports.time_wait,
            });
        let name = format!("{} more", more.len());
        writeln!(text, "  {name:>23}{:>8}{:>11}", rest.open, rest.time_wait)?;
    }
    let unknown = ports.unknown;
    if unknown.total() > 0 {
        writeln!(
            text,
            "  {:>23}{:>8}{:>11}",
            "unknown", unknown.open, unknown.time_wait
        )?;
    }
    Ok(())
}

fn write_holder(
    text: &mut String,
    holder: &Holder,
    ports: HeldCounts,
    cgroups: &HashMap<u64, String>,
) -> fmt::Result {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let pid = or_dash(holder.pid.map(|pid| pid.to_string()));
    let comm = or_dash(holder.comm.as_ref().map(Comm::to_string));
    let strategy = holder.port_choice.map_or("-", PortChoice::name);
    let line = format!(
        "  {pid:>7} {comm:<15}{:>8}{:>11}  {strategy:<13}",
        ports.open, ports.time_wait
    );
    let cgroup = or_dash(holder.cgroup_id.map(|id| {
        let path = cgroups.get(&id).cloned();
        path.unwrap_or_else(|| format!("{id} (removed)"))
    }));
    if line.chars().count() + 1 + cgroup.chars().count() <= WIDTH {
        writeln!(text, "{line} {cgroup}")
    } else {
        writeln!(text, "{}\n{:10}{cgroup}", line.trim_end(), "")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        connect::PortRange,
        fixtures::connection,
        sockets::{PortMap, State},
        stats::Route,
    };

    /// Returns a route with holders of each kind, and the paths of their cgroups.
    pub(crate) fn example() -> (RoutePorts, HashMap<u64, String>) {
        let range = PortRange {
            low: 20_000,
            high: 20_999,
        };
        let reserved = PortRange {
            low: 20_900,
            high: 20_919,
        };
        let mut map = PortMap::new(range, &[reserved]);
        map.set(20_801, PortUse::Listener);
        let route = Route {
            netns: Some(4_026_531_840),
            source: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 7], 5_432).into(),
        };
        let of_service = Holder {
            pid: Some(812),
            comm: Some(Comm::of("api")),
            cgroup_id: Some(5),
            port_choice: Some(PortChoice::Default),
        };
        let of_process = Holder {
            pid: Some(4_711),
            comm: Some(Comm::of("wrk")),
            cgroup_id: Some(7),
            port_choice: None,
        };
        let of_cgroup = Holder {
            cgroup_id: Some(9),
            ..Holder::default()
        };
        let groups = [
            (20_000..20_800, State::TimeWait, of_service),
            (20_800..20_840, State::Established, of_process),
            (20_840..20_850, State::CloseWait, of_cgroup),
            (20_850..20_870, State::TimeWait, Holder::default()),
            (19_998..20_000, State::Established, of_process),
        ];
        let connections = groups.into_iter().flat_map(|(ports, state, holder)| {
            ports.step_by(2).map(move |port| {
                let source = ([10, 0, 0, 1], port);
                (connection(source, ([10, 0, 0, 7], 5_432), state), holder)
            })
        });
        let cgroups = HashMap::from([
            (5, "/system.slice/api.service".to_owned()),
            (7, "/user.slice".to_owned()),
        ]);
        (RoutePorts::of(route, map, connections), cgroups)
    }

    /// The text of an example, compared with a snapshot; `UPDATE_SNAPSHOTS=1` writes it again.
    #[test]
    fn the_text_is_as_it_was_last_looked_at() {
        let (ports, cgroups) = example();
        let mut text = String::new();
        write(&mut text, Paint(false), Characters::Ascii, &ports, &cgroups).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line:?}");
        }
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/report/route_ports_example.txt"
        );
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(file, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(file).unwrap_or_default());
        assert!(include_str!("../../../docs/ports.md").contains(&text));
    }

    #[test]
    fn listeners_that_are_too_many_are_counted() {
        let (mut ports, cgroups) = example();
        for port in 20_921..20_999 {
            ports.map.set(port, PortUse::Listener);
        }
        let mut text = String::new();
        write(&mut text, Paint(false), Characters::Ascii, &ports, &cgroups).unwrap();
        assert!(
            text.contains("  listeners in the range: 20801, 20921, 20922, "),
            "{text}"
        );
        assert!(text.contains(" 20939, 59 more\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn holders_that_are_too_many_are_summed_up() {
        let (mut ports, cgroups) = example();
        let one = ports.holders[0];
        ports.holders = vec![one; MOST_HOLDERS + 3];
        let mut text = String::new();
        write(&mut text, Paint(false), Characters::Ascii, &ports, &cgroups).unwrap();
        assert!(text.contains("3 more       0       1200"), "{text}");
        assert_eq!(text.matches("api.service").count(), MOST_HOLDERS);
    }
}
