//! One connect() as a line of text, its parts in columns.

use std::net::{IpAddr, SocketAddr};

use super::{errno, numbers::microseconds_or_dash};
use crate::{clock::Clock, event::Connect};

/// A terminal of fewer columns gets the compact lines.
const WIDE: usize = 120;

/// Compact lines are made for these; a terminal of fewer wraps them.
const COMPACT: usize = 80;

/// The columns of a terminal, and what is in them.
#[derive(Clone, Copy, Debug)]
pub struct EventLines {
    columns: usize,
}

/// A part of a line.
struct Cell {
    text: String,
    /// Its own width in an aligned line.
    width: usize,
    kind: Kind,
}

/// What may be done to a part so that a line fits.
#[derive(Clone, Copy)]
enum Kind {
    /// A name, on the left: may be cut, but not below so many columns.
    Name { least: usize },
    /// On the left; may lose its padding.
    Left,
    /// A number, on the right; may lose its padding.
    Number,
}

impl EventLines {
    /// For a terminal of so many columns.
    #[must_use]
    pub fn new(columns: usize) -> Self {
        Self { columns }
    }

    /// What is in the columns.
    #[must_use]
    pub fn header(&self) -> String {
        self.line(if self.columns >= WIDE {
            wide([
                "TIME",
                "PID",
                "COMM",
                "SOURCE",
                "DESTINATION",
                "RETURN",
                "SEARCH us",
                "TOTAL us",
            ])
        } else {
            compact([
                "TIME",
                "PID",
                "COMM",
                "SPORT",
                "DESTINATION",
                "SEARCHus",
                "TOTAL us",
                "RET",
            ])
        })
    }

    /// One connect(), without a line feed. No control characters, whatever the thread is called.
    #[must_use]
    pub fn event(&self, connect: &Connect, clock: &Clock) -> String {
        let time = clock.at(connect.start_ns).of_day_with_ms();
        let (pid, comm) = (connect.pid.to_string(), connect.comm.to_string());
        let destination = connect.destination.map_or_else(dash, |to| to.to_string());
        let search = microseconds_or_dash(connect.search_ns.map(|ns| ns as f64));
        let total = microseconds_or_dash(Some(connect.connect_ns as f64));
        let returned = match connect.errno {
            0 => "ok".to_owned(),
            errno => errno::name(errno),
        };
        let port = connect.port.number();
        self.line(if self.columns >= WIDE {
            let source = source(connect.source, port);
            wide([
                time,
                pid,
                comm,
                source,
                destination,
                returned,
                search,
                total,
            ])
        } else {
            let port = port.map_or_else(dash, |port| port.to_string());
            compact([time, pid, comm, port, destination, search, total, returned])
        })
    }

    /// The parts side by side. What does not fit its column takes free room from other texts, then cuts
    /// names, then takes the free room of numbers; a line whose numbers and addresses do not fit is longer
    /// than the terminal.
    fn line(&self, mut cells: [Cell; 8]) -> String {
        let needed: usize = cells.iter().map(Cell::needed).sum::<usize>() + cells.len() - 1;
        let mut excess = needed.saturating_sub(self.columns.max(COMPACT));
        for step in [
            Kind::least_of_text,
            Kind::least_of_name,
            Kind::least_of_number,
        ] {
            for cell in &mut cells {
                if let Some(least) = step(cell.kind, cell.length()) {
                    let taken = excess.min(cell.width.saturating_sub(least));
                    cell.width -= taken;
                    excess -= taken;
                }
            }
        }
        let line = cells.map(|cell| cell.padded()).join(" ");
        line.trim_end().to_owned()
    }
}

impl Kind {
    /// To how many columns a text of this length can go without a loss; `None` where it is a number.
    fn least_of_text(self, length: usize) -> Option<usize> {
        (!matches!(self, Self::Number)).then_some(length)
    }

    fn least_of_name(self, length: usize) -> Option<usize> {
        match self {
            Self::Name { least } => Some(least.min(length)),
            Self::Left | Self::Number => None,
        }
    }

    fn least_of_number(self, length: usize) -> Option<usize> {
        matches!(self, Self::Number).then_some(length)
    }
}

impl Cell {
    fn length(&self) -> usize {
        self.text.chars().count()
    }

    /// Columns that it takes if nothing is cut but names.
    fn needed(&self) -> usize {
        match self.kind {
            Kind::Name { .. } => self.width,
            Kind::Left | Kind::Number => self.width.max(self.length()),
        }
    }

    fn padded(self) -> String {
        let Self { text, width, kind } = self;
        match kind {
            Kind::Name { .. } if text.chars().count() > width => {
                let kept: String = text.chars().take(width.saturating_sub(1)).collect();
                format!("{kept}+")
            }
            Kind::Name { .. } | Kind::Left => format!("{text:<width$}"),
            Kind::Number => format!("{text:>width$}"),
        }
    }
}

fn wide(texts: [impl Into<String>; 8]) -> [Cell; 8] {
    let columns = [
        (12, Kind::Left),
        (7, Kind::Number),
        (15, Kind::Name { least: 4 }),
        (21, Kind::Left),
        (21, Kind::Left),
        (13, Kind::Left),
        (12, Kind::Number),
        (12, Kind::Number),
    ];
    cells(columns, texts)
}

fn compact(texts: [impl Into<String>; 8]) -> [Cell; 8] {
    let columns = [
        (12, Kind::Left),
        (7, Kind::Number),
        (9, Kind::Name { least: 4 }),
        (5, Kind::Number),
        (21, Kind::Left),
        (8, Kind::Number),
        (8, Kind::Number),
        (2, Kind::Left),
    ];
    cells(columns, texts)
}

fn cells(columns: [(usize, Kind); 8], texts: [impl Into<String>; 8]) -> [Cell; 8] {
    let mut texts = texts.into_iter();
    columns.map(|(width, kind)| Cell {
        text: texts.next().map(Into::into).unwrap_or_default(),
        width,
        kind,
    })
}

/// Address and port, as far as there are any.
fn source(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, Some(port)) => format!("*:{port}"),
        (None, None) => dash(),
    }
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        aggregate::summary::tests::example,
        event::{Comm, SourcePort, tests::any_connect},
    };

    /// The time of day without its hour, which depends on the zone.
    fn line(columns: usize, connect: &Connect) -> String {
        let clock = Clock::fixed(1_795_424_645_000_000_000);
        EventLines::new(columns).event(connect, &clock)[2..].to_owned()
    }

    fn curl(port: u16) -> Connect {
        Connect {
            start_ns: 234_567_890,
            comm: Comm::of("curl"),
            pid: 1234,
            ..example(port)
        }
    }

    /// The longest of addresses.
    fn long(connect: Connect) -> Connect {
        let address: IpAddr = "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap();
        Connect {
            source: Some(address),
            destination: Some((address, 65_535).into()),
            comm: Comm::of("a-name-of-15-by"),
            ..connect
        }
    }

    #[test]
    fn wide_lines_have_columns() {
        let failed = Connect {
            errno: libc::ENETUNREACH,
            port: SourcePort::None,
            source: None,
            destination: None,
            search_ns: None,
            ..curl(0)
        };
        let lines = [
            EventLines::new(120).header()[2..].to_owned(),
            line(120, &curl(20_001)),
            line(200, &failed),
        ];
        let expected = [
            "ME             PID COMM            SOURCE                DESTINATION           RETURN           SEARCH us     TOTAL us",
            ":04:05.234    1234 curl            127.0.0.1:20001       127.0.0.1:443         ok                     5.0         20.0",
            ":04:05.234    1234 curl            -                     -                     ENETUNREACH              -         20.0",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn compact_lines_fit_80_columns() {
        let slow = Connect {
            comm: Comm::of("a-name-of-15-by"),
            destination: Some(([255, 255, 255, 255], 65_535).into()),
            pid: 4_194_303,
            search_ns: Some(999_999_900),
            connect_ns: 999_999_900,
            ..curl(20_001)
        };
        let failed = Connect {
            errno: libc::EADDRNOTAVAIL,
            port: SourcePort::None,
            ..curl(0)
        };
        let lines = [
            EventLines::new(80).header()[2..].to_owned(),
            line(80, &curl(20_001)),
            line(80, &slow),
            line(80, &failed),
        ];
        let expected = [
            "ME             PID COMM      SPORT DESTINATION           SEARCHus TOTAL us RET",
            ":04:05.234    1234 curl      20001 127.0.0.1:443              5.0     20.0 ok",
            ":04:05.234 4194303 a-name-o+ 20001 255.255.255.255:65535 999999.9 999999.9 ok",
            ":04:05.234    1234 curl     - 127.0.0.1:443         5.0     20.0 EADDRNOTAVAIL",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn long_addresses_cut_the_name_and_lengthen_the_line_but_are_whole() {
        let connect = long(curl(65_535));
        for columns in [0, 1, 20, 80, 120] {
            let line = line(columns, &connect);
            let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
            let times = if columns < WIDE { 1 } else { 2 };
            assert_eq!(line.matches(address).count(), times, "{line}");
            assert!(line.contains(" 65535 ") || columns >= WIDE, "{line}");
            assert!(line.contains(" a-n+ "), "{line}");
            assert!(line.contains(" 5.0 ") && line.contains(" 20.0"), "{line}");
        }
    }

    #[test]
    fn what_is_too_long_by_a_little_takes_padding_and_the_ends_stay_aligned() {
        let mut connect = curl(20_001);
        connect.source = Some("2001:db8::1:2:3".parse().unwrap());
        let widths = [&connect, &curl(1)].map(|connect| line(120, connect).chars().count());
        assert_eq!(widths, [118, 118]);
    }

    proptest! {
        #[test]
        fn a_line_has_no_control_character_and_every_number(
            connect in any_connect(),
            columns in 0..200_usize,
        ) {
            let clock = Clock::fixed(0);
            let line = EventLines::new(columns).event(&connect, &clock);
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            prop_assert!(line.is_ascii(), "{line:?}");
            let words: Vec<&str> = line.split_whitespace().collect();
            prop_assert!(words.contains(&connect.pid.to_string().as_str()), "{line}");
            if let Some(destination) = connect.destination {
                prop_assert!(words.contains(&destination.to_string().as_str()), "{line}");
            }
            let total = microseconds_or_dash(Some(connect.connect_ns as f64));
            prop_assert!(words.contains(&total.as_str()), "{line}");
        }
    }
}
