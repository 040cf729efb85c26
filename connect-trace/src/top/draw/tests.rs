use std::{collections::HashMap, env, fs, path::PathBuf};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Cell,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::{Color, Modifier},
};

use super::*;
use crate::{
    connect::{Comm, Connect, PortChoice, PortRange, SourcePort},
    fixtures::connect_from,
    live::{history::tests::on_full, stage::Stage},
    overhead::process_usage::ProcessUsage,
    sockets::{PortMap, Socket, State as TcpState},
    stats::{
        filling::{Filling, FillingRoute},
        forecast::{Forecast, Outlook, Prediction},
        route::Route,
        route_ports::{Holder, RoutePorts},
    },
    term::{message, paint::Paint},
    top::state::Next,
};

/// Returns the ports of the route of [`on_full`]: two holders, ports whose holder is not known, and a forecast.
fn filling() -> Filling {
    let route = Route::of(&on_full(NETNS)).unwrap();
    let range = PortRange {
        low: 20_000,
        high: 21_999,
    };
    let holder = |pid, name: &str, port_choice| Holder {
        pid: Some(pid),
        comm: Some(Comm::of(name)),
        cgroup_id: None,
        port_choice: Some(port_choice),
    };
    let wrk = holder(1_234, "wrk", PortChoice::Default);
    let curl = holder(77, "curl", PortChoice::Address);
    let connections = (0..1_700_u16).map(|number| {
        let state = match number % 3 {
            0 => TcpState::TimeWait,
            _ => TcpState::Established,
        };
        // The even ones first.
        let port = 20_000 + 2 * (number % 1_000) + number / 1_000;
        let socket = Socket {
            local: (route.source, port).into(),
            remote: route.destination,
            state,
            uid: 0,
            inode: 0,
            cgroup_id: None,
            expires: None,
        };
        let holder = match number {
            0..1_500 => wrk,
            1_500..1_650 => curl,
            _ => Holder::default(),
        };
        (socket, holder)
    });
    let ports = RoutePorts::of(route, PortMap::new(range, &[]), connections);
    let forecast = Forecast {
        seen_s: 30,
        opens_per_s: 45.2,
        closes_per_s: 12.0,
        second_pass: Some(Outlook::Reached),
        exhausted: Outlook::In(Prediction {
            seconds: 9.0,
            at_least: 8.0,
            at_most: 10.4,
        }),
    };
    Filling {
        routes: vec![FillingRoute {
            ports,
            forecast,
            records_alone: None,
        }],
        cgroups: HashMap::new(),
        more: 0,
        dropped: 0,
    }
}

const NETNS: u32 = 4_026_531_840;

/// Returns a history in which a range runs out, until calls fail.
fn running_out() -> Stage {
    let mut made = Stage::new(Duration::from_secs(10));
    made.own = Some(ProcessUsage {
        resident_bytes: 12 << 20,
        ..ProcessUsage::default()
    });
    made.side.filling = Some(filling());
    for step in 0..30_u16 {
        let mut calls: Vec<_> = (0..400)
            .map(|number| Connect {
                connect_ns: 12_000 + 40 * u64::from(number),
                ..connect_from(20_000 + 2 * number)
            })
            .collect();
        if step > 10 {
            calls.extend((0..step * 4).map(|number| Connect {
                connect_ns: 1_500_000 + 10_000 * u64::from(number),
                scanned: Some(1_000 + 30 * u32::from(step)),
                ..on_full(NETNS)
            }));
        }
        if step > 27 {
            calls.extend(
                [Connect {
                    errno: libc::EADDRNOTAVAIL,
                    port: SourcePort::None,
                    ..on_full(NETNS)
                }; 7],
            );
        }
        made.add(&calls);
    }
    made
}

fn state() -> State {
    State::new("web1".to_owned(), Duration::from_secs(2), Paint(false))
}

fn drawn(state: &State, history: &History, (columns, rows): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(frame, state, history)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in 0..rows {
        let line: String = (0..columns)
            .map(|column| buffer[(column, row)].symbol())
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    // The only text that depends on the clock and the time zone.
    for column in history.columns() {
        text = text.replace(&Time::from(column.at).of_day(), "12:34:56");
    }
    text
}

fn press(state: &mut State, history: &History, code: KeyCode) -> Next {
    state.key(KeyEvent::new(code, KeyModifiers::NONE), history)
}

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/top/draw/snapshots"
    ));
    folder.join(format!("{name}.txt"))
}

/// Compares with a snapshot, and with the same screen in docs/top.md; `UPDATE_SNAPSHOTS=1` writes both again.
fn is_as_it_was(name: &str, text: &str) {
    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/top.md");
    let file = file(name);
    let document = fs::read_to_string(DOCUMENT).unwrap();
    let marker = format!("<!-- screen: {name} -->\n```text\n");
    // Not every screen is in the document.
    let shown = document.split_once(&marker).map(|(before, rest)| {
        let (shown, after) = rest.split_once("```\n").unwrap();
        (before, shown, after)
    });
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&file, text).unwrap();
        if let Some((before, _, after)) = shown {
            fs::write(DOCUMENT, format!("{before}{marker}{text}```\n{after}")).unwrap();
        }
        return;
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, expected, "{name}:\n{text}");
    if let Some((_, shown, _)) = shown {
        assert_eq!(shown, text, "docs/top.md");
    }
}

#[test]
fn the_screen_is_as_it_was_last_looked_at() {
    let made = running_out();
    let of = |size| drawn(&state(), &made.history, size);
    is_as_it_was("80x24", &of((80, 24)));
    is_as_it_was("120x40", &of((120, 40)));
    is_as_it_was("40x10", &of((40, 10)));
    let mut zoomed = state();
    press(&mut zoomed, &made.history, KeyCode::Enter);
    is_as_it_was("route-80x24", &drawn(&zoomed, &made.history, (80, 24)));
}

/// A part of the screen, in the order of the panes.
const TITLES: [&str; 7] = [
    " Latency by parity ",
    " Routes that fill up ",
    " Route ",
    " Strategies ",
    " Failures and losses ",
    " Cost of the tracer ",
    " Messages ",
];

#[test]
fn every_size_can_be_drawn_and_one_that_is_too_small_says_so() {
    let made = running_out();
    let mut state = state();
    state.messages = vec!["a message".to_owned()];
    for columns in (1..200).step_by(7) {
        for rows in (1..60).step_by(3) {
            let text = drawn(&state, &made.history, (columns, rows));
            let is_small = columns < 40 || rows < 10;
            assert_eq!(!text.contains("Routes that fill up"), is_small, "{text}");
        }
    }
    let small = drawn(&state, &made.history, (39, 9));
    assert!(small.contains("39 x 9: too small"), "{small}");
    assert!(small.contains("takes 40 x 10"), "{small}");
}

#[test]
fn tab_goes_through_all_panes_and_back() {
    let made = running_out();
    let mut state = state();
    press(&mut state, &made.history, KeyCode::BackTab);
    for title in TITLES {
        let text = drawn(&state, &made.history, (60, 12));
        assert!(text.contains(title), "{title}: {text}");
        press(&mut state, &made.history, KeyCode::Tab);
    }
    let text = drawn(&state, &made.history, (60, 12));
    assert!(text.contains(TITLES[0]), "{text}");
}

#[test]
fn before_the_first_interval_tracing_has_begun() {
    let made = Stage::new(Duration::from_secs(2));
    let text = drawn(&state(), &made.history, (80, 24));
    assert!(
        text.contains("Tracing has begun. The first interval"),
        "{text}"
    );
}

#[test]
fn what_is_lost_is_seen_on_every_pane_and_at_every_size() {
    let mut made = running_out();
    made.side.accounting.kernel.entered += 5;
    made.side.accounting.kernel.ring_full = 5;
    made.add(&[on_full(1)]);
    let mut state = state();
    for _ in Pane::ALL {
        for size in [(40, 10), (80, 24), (120, 40)] {
            let text = drawn(&state, &made.history, size);
            let head = text.lines().next().unwrap();
            assert!(head.contains(" INCOMPLETE"), "{text}");
        }
        press(&mut state, &made.history, KeyCode::Tab);
    }
    let text = drawn(&state, &made.history, (120, 40));
    assert!(text.contains("Lost: 5"), "{text}");
}

#[test]
fn the_selected_route_stays_selected_when_the_order_changes() {
    let mut made = Stage::new(Duration::from_secs(10));
    let on = |netns, scanned| Connect {
        scanned: Some(scanned),
        ..on_full(netns)
    };
    made.add(&[on(1, 1_900), on(2, 1_700), on(3, 1_500)]);
    let mut state = state();
    press(&mut state, &made.history, KeyCode::Down);
    press(&mut state, &made.history, KeyCode::Enter);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains("Network namespace 2"), "{text}");
    assert!(!text.contains("Latency by parity"), "zoomed: {text}");
    made.add(&[on(3, 1_999), on(2, 1_100)]);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains("Network namespace 2"), "{text}");
    press(&mut state, &made.history, KeyCode::Home);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains("Network namespace 3"), "{text}");
    press(&mut state, &made.history, KeyCode::PageDown);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains("Network namespace 1"), "{text}");
    press(&mut state, &made.history, KeyCode::Esc);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains("Latency by parity"), "{text}");
}

#[test]
fn routes_are_sorted_and_filtered() {
    let mut made = Stage::new(Duration::from_secs(10));
    let to = |address: &str, scanned| Connect {
        destination: Some(address.parse().unwrap()),
        scanned: Some(scanned),
        ..on_full(1)
    };
    let rare = to("10.0.0.1:80", 1_900);
    let failed = Connect {
        errno: libc::EADDRNOTAVAIL,
        port: SourcePort::None,
        ..to("[2001:db8::A]:443", 1_500)
    };
    made.add(&[rare, failed, failed]);
    made.add(&[rare, to("[2001:db8::A]:443", 1_500)]);
    let mut state = state();
    let first = |state: &State| {
        let view = View::of(&made.history).unwrap();
        state.routes(&view)[0].searched.route.destination.port()
    };
    // All of its ports are taken.
    assert_eq!(first(&state), 443);
    let sorted_by = |state: &mut State, column: &str| {
        press(state, &made.history, KeyCode::Char('s'));
        let text = drawn(state, &made.history, (80, 24));
        let title = format!(" Routes that fill up by {column} ");
        assert!(text.contains(&title), "{text}");
        first(state)
    };
    // No route has a forecast, and so they stay as they are.
    assert_eq!(sorted_by(&mut state, "ends in"), 443);
    assert_eq!(sorted_by(&mut state, "failed"), 443);
    assert_eq!(sorted_by(&mut state, "route"), 80);
    assert_eq!(sorted_by(&mut state, "in use"), 443);

    press(&mut state, &made.history, KeyCode::Char('/'));
    // Keys that mean something else otherwise are text.
    for character in "DB8::aq".chars() {
        assert_eq!(
            press(&mut state, &made.history, KeyCode::Char(character)),
            Next::Draw
        );
    }
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains("Routes with: DB8::aq"), "{text}");
    assert!(text.contains("No route contains \"DB8::aq\""), "{text}");
    press(&mut state, &made.history, KeyCode::Backspace);
    press(&mut state, &made.history, KeyCode::Enter);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains("[2001:db8::a]:443"), "{text}");
    assert!(!text.contains("\u{2192} 10.0.0.1:80"), "{text}");
    press(&mut state, &made.history, KeyCode::Esc);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains("\u{2192} 10.0.0.1:80"), "{text}");
}

#[test]
fn a_pause_holds_the_figures_and_the_trace_goes_on() {
    let mut made = running_out();
    let mut state = state();
    press(&mut state, &made.history, KeyCode::Char('p'));
    let before = drawn(&state, &made.history, (120, 40));
    assert!(before.contains(" PAUSED "), "{before}");
    made.add(&[connect_from(20_000)]);
    assert_eq!(drawn(&state, &made.history, (120, 40)), before);
    press(&mut state, &made.history, KeyCode::Char(' '));
    let after = drawn(&state, &made.history, (120, 40));
    assert!(after.contains("Calls since the start: 13,535"), "{after}");
}

#[test]
fn figures_are_of_ten_seconds_or_of_all() {
    let mut made = running_out();
    made.add(&[connect_from(20_000)]);
    let mut state = state();
    press(&mut state, &made.history, KeyCode::Tab);
    press(&mut state, &made.history, KeyCode::Tab);
    let text = drawn(&state, &made.history, (120, 40));
    assert!(
        text.contains("last 10 s,") && text.contains("Failed: none"),
        "{text}"
    );
    press(&mut state, &made.history, KeyCode::Char('w'));
    let text = drawn(&state, &made.history, (120, 40));
    assert!(text.contains("last 5 min,"), "{text}");
    assert!(text.contains("Failed, EADDRNOTAVAIL: 14"), "{text}");
}

#[test]
fn the_interval_is_bounded() {
    let made = running_out();
    let mut state = state();
    let mut after = |key, times| {
        for _ in 0..times {
            press(&mut state, &made.history, KeyCode::Char(key));
        }
        state.interval
    };
    assert_eq!(after('+', 1).as_secs(), 4);
    assert_eq!(after('+', 20).as_secs(), 64);
    assert_eq!(after('-', 40).as_millis(), 250);
}

#[test]
fn keys_that_end_it_end_it() {
    let made = running_out();
    let control = |character| KeyEvent::new(KeyCode::Char(character), KeyModifiers::CONTROL);
    let plain = |code| KeyEvent::new(code, KeyModifiers::NONE);
    for (key, next) in [
        (plain(KeyCode::Char('q')), Next::End),
        (plain(KeyCode::F(10)), Next::End),
        (control('c'), Next::End),
        (control('z'), Next::Suspend),
        (control('l'), Next::Draw),
        (plain(KeyCode::Char('Q')), Next::Draw),
    ] {
        assert_eq!(state().key(key, &made.history), next, "{key:?}");
        let mut typing = state();
        typing.edits_filter = true;
        let is_control = key.modifiers == KeyModifiers::CONTROL;
        let expected = if is_control { next } else { Next::Draw };
        assert_eq!(typing.key(key, &made.history), expected, "{key:?}");
    }
}

#[test]
fn the_keys_are_shown_and_hidden() {
    let made = running_out();
    let mut state = state();
    for (shows, hides) in [
        (KeyCode::F(1), KeyCode::Esc),
        (KeyCode::Char('h'), KeyCode::Char('?')),
    ] {
        press(&mut state, &made.history, shows);
        let text = drawn(&state, &made.history, (80, 24));
        assert!(text.contains("hold the figures"), "{text}");
        press(&mut state, &made.history, hides);
        let text = drawn(&state, &made.history, (80, 24));
        assert!(!text.contains("hold the figures"), "{text}");
    }
}

#[test]
fn without_colours_there_are_none_and_alarms_are_seen() {
    let made = running_out();
    let mut state = state();
    let colours = |state: &State| {
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        let drawn = terminal.draw(|frame| draw(frame, state, &made.history));
        let buffer = drawn.unwrap().buffer;
        let coloured = |cell: &&Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
        let coloured = buffer.content.iter().filter(coloured).count();
        (coloured, buffer[(0, 1)].modifier)
    };
    let (coloured, verdict) = colours(&state);
    assert_eq!(coloured, 0);
    assert!(verdict.contains(Modifier::REVERSED | Modifier::BOLD));
    state.paint = Paint(true);
    assert!(colours(&state).0 > 100);
}

#[test]
fn messages_are_the_latest_first() {
    let made = running_out();
    let mut state = state();
    state.messages = (1..=30)
        .map(|number| format!("message {number}."))
        .collect();
    while state.pane != Pane::Messages {
        press(&mut state, &made.history, KeyCode::Tab);
    }
    let text = drawn(&state, &made.history, (80, 24));
    assert!(text.contains(" 30 messages"), "{text}");
    assert!(
        text.contains("message 30.") && !text.contains("message 1."),
        "{text}"
    );
    press(&mut state, &made.history, KeyCode::End);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(
        text.contains("message 1.") && !text.contains("message 30."),
        "{text}"
    );
}

#[test]
fn a_route_is_found_by_its_holder() {
    let made = running_out();
    let mut state = state();
    for (filter, is_found) in [("WRK", true), ("77 curl", true), ("nginx", false)] {
        state.filter = filter.to_owned();
        let view = View::of(&made.history).unwrap();
        assert_eq!(state.routes(&view).len() == 1, is_found, "{filter}");
    }
}

#[test]
fn ports_that_are_not_all_known_are_told() {
    let mut made = running_out();
    let filling = made.side.filling.as_mut().unwrap();
    filling.dropped = 3;
    filling.routes[0].records_alone = Some("no permission".to_owned());
    made.add(&[on_full(NETNS)]);
    let mut state = state();
    press(&mut state, &made.history, KeyCode::Enter);
    let text = drawn(&state, &made.history, (80, 24));
    assert!(
        text.contains("Only connections since the start: no permission"),
        "{text}"
    );
    assert!(text.contains("3 ports were dropped"), "{text}");
}

#[test]
fn messages_are_held_and_then_printed() {
    let held = message::hold();
    message::line(format_args!("this is held\u{1b}[2J"));
    let is_held =
        |message: &String| message.starts_with("this is held") && !message.contains('\u{1b}');
    assert!(held.held().iter().any(is_held), "{:?}", held.held());
    drop(held);
    let held = message::hold();
    assert!(!held.held().iter().any(is_held), "{:?}", held.held());
}
