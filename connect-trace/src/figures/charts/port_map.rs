//! The map of a range of ports: a lane of even ports and one of odd ports.

use super::{
    axis::{Span, count},
    svg::{Chart, Place},
};
use crate::{
    sockets::{Cell, PortUse},
    stats::route_ports::RoutePorts,
};

/// Height of a lane, and between two.
const LANE: f64 = 56.0;
const BETWEEN: f64 = 28.0;

/// Maximum number of columns in a lane.
const COLUMNS: usize = 160;

/// Uses from the bottom of a column upwards.
const STACK: [PortUse; 4] = [
    PortUse::Open,
    PortUse::TimeWait,
    PortUse::Listener,
    PortUse::Reserved,
];

/// Draws the map of a route: a column for a few ports, filled from below by the uses of those.
pub(crate) fn port_map(place: Place, ports: &RoutePorts) -> String {
    let all = ports.map.all_counts();
    let named = |made: PortUse| format!("{} {}", made.words(), count(all.of(made).into()));
    let entries: Vec<_> = STACK
        .into_iter()
        .filter(|&made| all.of(made) > 0)
        .map(|made| {
            let class = made.name();
            let key = format!(r#"<rect class="use {class}" x="3" y="-9" width="10" height="10"/>"#);
            (key, named(made))
        })
        .collect();
    let mut chart = Chart::new(400.0, 2.0 * LANE + BETWEEN, &entries);
    chart.left = 22.0;
    chart.right = 22.0;
    for (parity, name) in [(0, "even ports"), (1, "odd ports")] {
        let top = chart.top + f64::from(parity) * (LANE + BETWEEN);
        let counts = ports.map.counts(parity);
        let title = format!(
            "{name}: {} of {} taken",
            count(counts.taken().into()),
            count(counts.total().into())
        );
        chart.text(chart.left, top - 6.0, "ink", "start", &title);
        for cell in ports.map.cells(parity, COLUMNS) {
            column(&mut chart, ports, top, &cell);
        }
        let (x, width) = (chart.left, chart.plot_width());
        chart.add(format!(
            r#"<rect class="axis" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{LANE:.1}"/>"#
        ));
    }
    let span = Span {
        low: ports.range.low.into(),
        high: f64::from(ports.range.high) + 1.0,
    };
    let whole = |tick: &(f64, String)| !tick.1.contains('.');
    let ticks = Chart::linear(span, 5, "").into_iter().filter(whole);
    chart.x_axis("source port", &ticks.collect::<Vec<_>>());
    let uses: Vec<_> = STACK
        .into_iter()
        .chain([PortUse::Free])
        .map(named)
        .collect();
    let label = format!(
        "Source ports {} from {} to {}: {}",
        ports.range,
        ports.route.source,
        ports.route.destination,
        uses.join(", ")
    );
    chart.finish(place, &label)
}

/// Draws the ports of a cell, with their numbers as a title.
fn column(chart: &mut Chart, ports: &RoutePorts, top: f64, cell: &Cell) {
    if cell.counts.taken() == 0 {
        return;
    }
    let share =
        |port: u32| f64::from(port - u32::from(ports.range.low)) / f64::from(ports.range.ports());
    let x = chart.x(share(cell.first.into()));
    // The last port has no neighbour of the other parity above it.
    let right = chart.x(share(u32::from(cell.last) + 2).min(1.0));
    let width = (right - x).max(0.5);
    let mut y = top + LANE;
    chart.add("<g>");
    let mut told = Vec::new();
    for made in STACK {
        let of_use = cell.counts.of(made);
        if of_use == 0 {
            continue;
        }
        told.push(format!("{} {of_use}", made.words()));
        let height = LANE * f64::from(of_use) / f64::from(cell.counts.total());
        y -= height;
        let class = made.name();
        chart.add(format!(
            r#"<rect class="use {class}" x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}"/>"#
        ));
    }
    let (first, last) = (cell.first, cell.last);
    let span = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    chart.add(format!("<title>{span}: {}</title></g>", told.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::PortRange, figures::tests::well_formed, report::route_ports::tests::example,
        sockets::PortMap,
    };

    #[test]
    fn a_column_has_the_uses_of_its_ports_and_the_title_says_them() {
        let (mut ports, _) = example();
        for place in [Place::Page, Place::File] {
            let chart = port_map(place, &ports);
            well_formed(&chart);
            assert!(
                chart.contains(
                    "<title>Source ports 20000-20999 from 10.0.0.1 to 10.0.0.7:5432: open 25, TIME_WAIT 410, \
                     listener 1, reserved 20, free 544</title>"
                ),
                "{chart}"
            );
            assert!(chart.contains("even ports: 445 of 500 taken"), "{chart}");
            assert!(
                chart.contains("<title>20000-20006: TIME_WAIT 4</title>"),
                "{chart}"
            );
            assert!(chart.contains("listener 1"), "{chart}");
        }
        for (low, high) in [(1, 1), (2, 2), (7, 8), (1, 65_535)] {
            ports.range = PortRange { low, high };
            ports.map = PortMap::new(ports.range, &[]);
            ports.map.set(high, PortUse::Open);
            well_formed(&port_map(Place::File, &ports));
        }
    }
}
