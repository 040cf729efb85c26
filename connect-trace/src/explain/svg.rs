//! The explanation as a drawing: a band of ports for each pass, and the way of one search through them.

use super::{Explained, Searches, State, Walk, counts, pass_name};
use crate::figures::charts::{Place, axis::Span, svg::Chart};
use crate::term::numbers::count;

/// Size of the drawing and its bands.
const WIDTH: f64 = 400.0;
const BAND: f64 = 56.0;
const BETWEEN: f64 = 40.0;

/// Height of the way below a band.
const WAY: f64 = 9.0;

/// Maximum number of columns in a band: one for each two units of the drawing.
const COLUMNS: usize = 180;

/// Colours of the states. A file has no style sheet of a page around it, so that it has the dark colours itself.
const STYLE: &str = "\
.chart .state { stroke: none; }
.chart .taken { fill: #d1242f; }
.chart .time_wait { fill: #bf6a02; fill-opacity: 0.75; }
.chart .time_wait_reused { fill: #0969da; fill-opacity: 0.35; }
.chart .bound { fill: #59636e; }
.chart .reserved { fill: #59636e; fill-opacity: 0.4; }
.chart .frame { fill: none; stroke: #59636e; stroke-width: 1; }
.chart .way { fill: none; stroke: #0969da; stroke-width: 2; }
.chart .end { fill: #0969da; stroke: none; }
@media (prefers-color-scheme: dark) {
.chart .paper { fill: #0d1117; }
.chart .ink { fill: #e6edf3; }
.chart .faint { fill: #9198a1; }
.chart .axis, .chart .frame { stroke: #9198a1; }
.chart .taken { fill: #ff7b72; }
.chart .time_wait { fill: #d29922; }
.chart .time_wait_reused { fill: #58a6ff; }
.chart .bound, .chart .reserved { fill: #9198a1; }
.chart .way { stroke: #58a6ff; }
.chart .end { fill: #58a6ff; }
}
";

/// Returns the drawing as a file.
pub(super) fn draw(explained: &Explained, searches: Option<&Searches>) -> String {
    let passes = explained.search.order().passes();
    let entries = entries(explained, searches);
    let plot = BAND * f64::from(passes) + BETWEEN * f64::from(passes - 1) + WAY;
    let mut chart = Chart::new(WIDTH, plot, &entries);
    chart.left = 22.0;
    chart.right = 22.0;
    chart.style = STYLE;
    for pass in 0..passes {
        draw_band(&mut chart, explained, pass);
    }
    if let Some(searches) = searches {
        draw_walk(&mut chart, explained, &searches.walk);
    }
    let ports = explained.search.range().ports;
    let span = Span {
        low: ports.low.into(),
        high: f64::from(ports.high) + 1.0,
    };
    let whole = |tick: &(f64, String)| !tick.1.contains('.');
    let ticks = Chart::linear(span, 5, "").into_iter().filter(whole);
    chart.x_axis(&name(explained, searches), &ticks.collect::<Vec<_>>());
    let route = explained.route;
    let label = format!(
        "Search for a source port from {} to {}",
        route.source, route.destination
    );
    chart.finish(Place::File, &label)
}

/// Returns the name of the x axis, which says what the search from one start finds.
fn name(explained: &Explained, searches: Option<&Searches>) -> String {
    let Some(Searches { walk, .. }) = searches else {
        return "source port; the steps are random".to_owned();
    };
    let scanned = count(walk.end.scanned.into());
    match walk.end.found {
        Some((port, pass)) => format!(
            "from {}: {port} in the {}, {scanned} scanned",
            walk.start,
            pass_name(explained, pass)
        ),
        None => format!("from {}: none, {scanned} scanned", walk.start),
    }
}

/// Returns the legend: the states that there are, and the way.
fn entries(explained: &Explained, searches: Option<&Searches>) -> Vec<(String, String)> {
    let passes = 0..explained.search.order().passes();
    let counts: Vec<(State, u32)> = passes.flat_map(|pass| counts(explained, pass)).collect();
    let states = State::ALL.into_iter().filter_map(|state| {
        let of_state = counts.iter().filter(|(other, _)| *other == state);
        let ports: u32 = of_state.map(|(_, count)| count).sum();
        let class = class(state);
        let key = format!(r#"<rect class="{class}" x="3" y="-9" width="10" height="10"/>"#);
        let name = format!("{} {}", state.words(), count(ports.into()));
        (ports > 0).then_some((key, name))
    });
    let way = searches.map(|_| {
        let key = r#"<path class="way" d="M0 -4h16"/>"#.to_owned();
        (key, "one search".to_owned())
    });
    states.chain(way).collect()
}

/// Returns the class of a state; free ports are paper in a frame.
fn class(state: State) -> &'static str {
    match state {
        State::Free => "frame",
        State::TimeWaitReused => "state time_wait_reused",
        State::TimeWait => "state time_wait",
        State::Taken => "state taken",
        State::Bound => "state bound",
        State::Reserved => "state reserved",
    }
}

/// Returns the y coordinate of the upper edge of a band.
fn top(chart: &Chart, pass: u32) -> f64 {
    chart.top + f64::from(pass) * (BAND + BETWEEN)
}

/// Returns the share of the x axis at a port.
fn share(explained: &Explained, port: u16) -> f64 {
    let ports = explained.search.range().ports;
    f64::from(port - ports.low) / f64::from(ports.ports())
}

/// Draws a pass: a column for a few ports, filled from below by the states of those.
fn draw_band(chart: &mut Chart, explained: &Explained, pass: u32) {
    let search = &explained.search;
    let top = top(chart, pass);
    chart.text(
        chart.left,
        top - 6.0,
        "ink",
        "start",
        pass_name(explained, pass),
    );
    let ports: Vec<u16> = search.ports(pass).collect();
    let width = chart.plot_width();
    for ports in ports.chunks(ports.len().div_ceil(COLUMNS).max(1)) {
        let x = chart.x(share(explained, ports[0]));
        let stride = if search.range().by_parity { 2.0 } else { 1.0 };
        let of_all = stride * ports.len() as f64 / f64::from(search.range().ports.ports());
        // The last port of a pass can have less room than the others.
        let right = (x + of_all * width).min(chart.left + width);
        let mut y = top + BAND;
        for state in State::ALL.into_iter().rev() {
            let count = ports
                .iter()
                .filter(|&&port| search.state(port) == state)
                .count();
            if count == 0 || state == State::Free {
                continue;
            }
            let height = BAND * count as f64 / ports.len() as f64;
            y -= height;
            chart.add(format!(
                r#"<rect class="{}" x="{x:.2}" y="{y:.2}" width="{:.2}" height="{height:.2}"/>"#,
                class(state),
                right - x,
            ));
        }
    }
    chart.add(format!(
        r#"<rect class="frame" x="{:.1}" y="{top:.1}" width="{width:.1}" height="{BAND:.1}"/>"#,
        chart.left
    ));
}

/// Draws the way of a search below the bands: from its start to the right, on from the left edge, to the port.
fn draw_walk(chart: &mut Chart, explained: &Explained, walk: &Walk) {
    let (left, right) = (chart.x(0.0), chart.x(1.0));
    let middle = 0.5 / f64::from(explained.search.range().ports.ports());
    for pass in 0..explained.search.order().passes() {
        let y = top(chart, pass) + BAND + WAY / 2.0;
        let runs = walk.runs.iter().filter(|run| run.pass == pass);
        let ends: Vec<(u16, u16)> = runs.map(|run| (run.first, run.last)).collect();
        let (Some(&(first, _)), Some(&(_, last))) = (ends.first(), ends.last()) else {
            continue;
        };
        let [from, to] = [first, last].map(|port| chart.x(share(explained, port) + middle));
        let goes_round = ends.windows(2).any(|two| two[1].0 < two[0].1);
        let line = if goes_round {
            format!("M{from:.1} {y:.1}H{right:.1}M{left:.1} {y:.1}H{to:.1}")
        } else {
            format!("M{from:.1} {y:.1}H{to:.1}")
        };
        chart.add(format!(r#"<path class="way" d="{line}"/>"#));
        chart.add(format!(
            r#"<path class="way" d="M{from:.1} {:.1}v{WAY:.1}"/>"#,
            y - WAY / 2.0
        ));
        if walk.end.found.is_some_and(|(_, found)| found == pass) {
            let tip = y - WAY / 2.0;
            chart.add(format!(
                r#"<path class="end" d="M{to:.1} {tip:.1}l4.5 {WAY:.1}h-9z"/>"#
            ));
        }
    }
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
    use crate::figures::tests::well_formed;

    fn drawn(explained: &Explained, start: Option<u16>) -> String {
        let searches = searches(explained, start).unwrap();
        let drawn = draw(explained, searches.as_ref());
        well_formed(&drawn);
        drawn
    }

    #[test]
    fn every_drawing_is_well_formed_and_has_the_way_of_the_search() {
        let mut explained = example(true, &nearly_used_up());
        let svg = drawn(&explained, Some(20_002));
        // The start, and the port that is found, in the first pass only.
        assert_eq!(svg.matches(r#"class="end""#).count(), 1);
        assert!(
            svg.contains("from 20002: 20060 in the first pass, 30 scanned"),
            "{svg}"
        );
        for (ports, by_parity) in [(1, true), (2, true), (3, false), (60_000 - 20_000, true)] {
            drawn(&example(by_parity, &vec![State::Taken; ports]), None);
            drawn(&example(by_parity, &vec![State::Free; ports]), None);
        }
        explained.random_step = Some(8);
        assert!(drawn(&explained, None).contains("the steps are random"));
    }
}
