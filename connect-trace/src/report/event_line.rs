//! One connect() as a line of text in columns.

use std::net::{IpAddr, SocketAddr};

use crate::term::{errno, numbers::microseconds_or_dash};
use crate::{
    clock::Clock,
    connect::{Connect, ConnectionEvent, Operation, Owner},
};

/// Minimum columns of a terminal for wide lines; a smaller one gets the compact lines.
const WIDE: usize = 120;

/// Columns of the compact lines; a terminal with fewer columns wraps them.
const COMPACT: usize = 80;

/// Number of columns.
const CELLS: usize = 8;

/// The lines of events on a terminal. Columns grow with their contents, so that lines stay aligned.
#[derive(Clone, Debug)]
pub(crate) struct EventLines {
    /// Columns of the terminal, but at least as many as the lines need.
    columns: usize,
    /// Width of each column.
    widths: [usize; CELLS],
    /// Length of the longest text of each column so far, including its title.
    longest: [usize; CELLS],
    /// True if the header was printed with these widths.
    headed: bool,
}

/// A part of a line.
struct Cell {
    text: String,
    /// Initial width of its column.
    width: usize,
    kind: Kind,
}

/// Alignment of a part, and its possible reduction if the line does not fit.
#[derive(Clone, Copy)]
enum Kind {
    /// Name, on the left: may be cut to `least` columns.
    Name { least: usize },
    /// Text, on the left; its column may shrink to the longest text so far.
    Left,
    /// Number, on the right; its column may shrink to the longest number so far.
    Number,
}

impl EventLines {
    /// Creates the lines for a terminal with this number of columns.
    #[must_use]
    pub(crate) fn new(columns: usize) -> Self {
        let mut lines = Self {
            columns: if columns < WIDE { COMPACT } else { columns },
            widths: [0; CELLS],
            longest: [0; CELLS],
            headed: false,
        };
        let titles = lines.titles();
        lines.widths = titles.each_ref().map(|cell| cell.width);
        lines.longest = titles.each_ref().map(Cell::length);
        lines
    }

    fn titles(&self) -> [Cell; CELLS] {
        if self.columns >= WIDE {
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
        }
    }

    /// Returns the lines to use after other output: they begin with a header again, and with initial widths
    /// if the terminal's number of columns has changed.
    #[must_use]
    pub(crate) fn again(self, columns: usize) -> Self {
        let new = Self::new(columns);
        if new.columns != self.columns {
            return new;
        }
        Self {
            headed: false,
            ..self
        }
    }

    /// Returns true if anything was printed since the start, or since [`again`](Self::again).
    #[must_use]
    pub(crate) fn is_headed(&self) -> bool {
        self.headed
    }

    /// Returns the header if it was not printed yet, or if the widths have changed since.
    pub(crate) fn header(&mut self) -> Option<String> {
        let due = !std::mem::replace(&mut self.headed, true);
        due.then(|| joined(self.titles(), self.widths))
    }

    /// Returns one connect() without a line feed. Must be called before [`header`](Self::header), which is
    /// printed above the line if there is one. The name of the thread cannot add control characters.
    #[must_use]
    pub(crate) fn event(&mut self, connect: &Connect, clock: &Clock) -> String {
        let search = microseconds_or_dash(connect.search_ns.map(|ns| ns as f64));
        let total = microseconds_or_dash(Some(connect.connect_ns as f64));
        let returned = match connect.errno {
            0 => "ok".to_owned(),
            errno => errno::name(errno),
        };
        let time = clock.at(connect.start_ns).of_day_with_ms();
        self.line(connect, [time, search, total, returned])
    }

    /// Returns an event of a connection, as [`event`](Self::event) does: with its own time, its fate in place of the
    /// answer, and the time since connect() began.
    #[must_use]
    pub(crate) fn ended(&mut self, event: &ConnectionEvent, clock: &Clock) -> String {
        let time = clock.at(event.at_ns()).of_day_with_ms();
        let total = microseconds_or_dash(Some(event.age_ns() as f64));
        let fate = event.fate.name().to_owned();
        self.line(&event.connect, [time, dash(), total, fate])
    }

    fn line(&mut self, connect: &Connect, [time, search, total, returned]: [String; 4]) -> String {
        let pid = connect.pid.to_string();
        let comm = match connect.owner {
            // The notation of ps for threads of the kernel.
            Some(Owner::Worker) => format!("[{}]", connect.comm),
            _ => connect.comm.to_string(),
        };
        let destination = destination(connect);
        let port = connect.port.number();
        let cells = if self.columns >= WIDE {
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
        };
        let widths = self.make_room(&cells);
        joined(cells, widths)
    }

    /// Widens the columns whose text does not fit, first at the cost of columns wider than any text so far,
    /// then of names. If that is not enough, the columns stay unchanged, and this line alone has less
    /// padding, to fit or to be as short as possible. Returns the widths for this line.
    fn make_room(&mut self, cells: &[Cell; CELLS]) -> [usize; CELLS] {
        let lengths = cells.each_ref().map(Cell::length);
        let (mut widths, mut longest) = (self.widths, self.longest);
        for (index, cell) in cells.iter().enumerate() {
            longest[index] = longest[index].max(lengths[index]);
            if !cell.kind.is_name() {
                widths[index] = widths[index].max(lengths[index]);
            }
        }
        // The last column needs no padding.
        let last = &cells[CELLS - 1];
        if last.kind.is_text() {
            widths[CELLS - 1] = last.width.max(last.length());
        }
        match self.shrunk(widths, cells, longest) {
            (widths, 0) => {
                let mut kept = widths;
                if last.kind.is_text() {
                    kept[CELLS - 1] = last.width;
                }
                self.headed &= self.widths == kept;
                (self.widths, self.longest) = (kept, longest);
                widths
            }
            _ => self.shrunk(widths, cells, lengths).0,
        }
    }

    /// Returns widths that fit the terminal, none of them below its minimum, and the number of columns that
    /// are still missing. Text columns shrink first, then names, which are cut, then numbers.
    fn shrunk(
        &self,
        mut widths: [usize; CELLS],
        cells: &[Cell; CELLS],
        least: [usize; CELLS],
    ) -> ([usize; CELLS], usize) {
        let needed = widths.iter().sum::<usize>() + CELLS - 1;
        let mut excess = needed.saturating_sub(self.columns);
        for step in [Kind::is_text, Kind::is_name, Kind::is_number] {
            for (index, cell) in cells.iter().enumerate() {
                if step(&cell.kind) {
                    let least = match cell.kind {
                        Kind::Name { least } => least,
                        Kind::Left | Kind::Number => least[index],
                    };
                    let taken = excess.min(widths[index].saturating_sub(least));
                    widths[index] -= taken;
                    excess -= taken;
                }
            }
        }
        (widths, excess)
    }
}

impl Kind {
    fn is_text(&self) -> bool {
        matches!(self, Self::Left)
    }

    fn is_name(&self) -> bool {
        matches!(self, Self::Name { .. })
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Number)
    }
}

/// Returns the parts in their widths, joined to a line.
fn joined(cells: [Cell; CELLS], widths: [usize; CELLS]) -> String {
    let mut widths = widths.into_iter();
    let line = cells.map(|cell| cell.padded(widths.next().unwrap_or(0)));
    line.join(" ").trim_end().to_owned()
}

impl Cell {
    fn length(&self) -> usize {
        self.text.chars().count()
    }

    fn padded(self, width: usize) -> String {
        let Self { text, kind, .. } = self;
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

fn wide(texts: [impl Into<String>; CELLS]) -> [Cell; CELLS] {
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

fn compact(texts: [impl Into<String>; CELLS]) -> [Cell; CELLS] {
    let columns = [
        (12, Kind::Left),
        (7, Kind::Number),
        (9, Kind::Name { least: 4 }),
        (5, Kind::Number),
        (21, Kind::Left),
        (8, Kind::Number),
        (8, Kind::Number),
        (3, Kind::Left),
    ];
    cells(columns, texts)
}

fn cells(columns: [(usize, Kind); CELLS], texts: [impl Into<String>; CELLS]) -> [Cell; CELLS] {
    let mut texts = texts.into_iter();
    columns.map(|(width, kind)| Cell {
        text: texts.next().map(Into::into).unwrap_or_default(),
        width,
        kind,
    })
}

/// Returns the destination, if known. Of other protocols than TCP the protocol comes first, and the operation stands for
/// the destination that it does not have.
fn destination(connect: &Connect) -> String {
    let kind = connect.kind;
    let to = match connect.destination {
        Some(to) => to.to_string(),
        None if kind.operation == Operation::Connect => dash(),
        None => kind.operation.name().to_owned(),
    };
    if kind.protocol.is_tcp() {
        to
    } else {
        format!("{} {to}", kind.protocol.name())
    }
}

/// Returns address and port, if known.
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
        connect::{Comm, Fate, SourcePort},
        fixtures::{any_connect, connect_from, connection_event},
    };

    #[test]
    fn a_call_of_udp_has_its_protocol_and_what_it_does() {
        use crate::connect::{CallKind, Protocol};
        let line = |protocol, operation| {
            let kind = CallKind {
                protocol,
                operation,
            };
            let connect = connect_from(20_001);
            let to = connect
                .destination
                .filter(|_| operation == Operation::Connect);
            destination(&Connect {
                kind,
                destination: to,
                ..connect
            })
        };
        assert_eq!(line(Protocol::Tcp, Operation::Connect), "127.0.0.1:443");
        assert_eq!(line(Protocol::Udp, Operation::Connect), "udp 127.0.0.1:443");
        assert_eq!(line(Protocol::Udp, Operation::Bind), "udp bind");
        assert_eq!(line(Protocol::UdpLite, Operation::Send), "udplite send");
    }

    /// Returns the lines of connections, with headers; the time of day lacks its hour, which depends on the zone.
    fn lines(columns: usize, connects: &[Connect]) -> Vec<String> {
        let clock = Clock::fixed(1_795_424_645_000_000_000);
        let mut lines = EventLines::new(columns);
        let of = |connect| {
            let event = lines.event(connect, &clock);
            lines.header().into_iter().chain([event])
        };
        let all: Vec<String> = connects
            .iter()
            .map(of)
            .flat_map(|of_it| of_it.collect::<Vec<_>>())
            .collect();
        all.into_iter().map(|line| line[2..].to_owned()).collect()
    }

    fn curl(port: u16) -> Connect {
        Connect {
            start_ns: 234_567_890,
            comm: Comm::of("curl"),
            pid: 1234,
            ..connect_from(port)
        }
    }

    /// Gives a connection the longest addresses.
    fn long(connect: Connect) -> Connect {
        let address: IpAddr = "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap();
        Connect {
            source: Some(address),
            destination: Some((address, 65_535).into()),
            comm: Comm::of("a-name-of-15-by"),
            ..connect
        }
    }

    fn failed(errno: i32) -> Connect {
        Connect {
            errno,
            port: SourcePort::None,
            ..curl(0)
        }
    }

    fn to(address: &str, connect: Connect) -> Connect {
        Connect {
            destination: Some((address.parse::<IpAddr>().unwrap(), 443).into()),
            ..connect
        }
    }

    #[test]
    fn wide_lines_have_columns() {
        let unreachable = Connect {
            source: None,
            destination: None,
            search_ns: None,
            ..failed(libc::ENETUNREACH)
        };
        let worker = Connect {
            comm: Comm::of("kworker/1:2"),
            owner: Some(Owner::Worker),
            ..curl(20_001)
        };
        let expected = [
            "ME             PID COMM            SOURCE                DESTINATION           RETURN           SEARCH us     TOTAL us",
            ":04:05.234    1234 curl            127.0.0.1:20001       127.0.0.1:443         ok                     5.0         20.0",
            ":04:05.234    1234 curl            -                     -                     ENETUNREACH              -         20.0",
            ":04:05.234    1234 [kworker/1:2]   127.0.0.1:20001       127.0.0.1:443         ok                     5.0         20.0",
        ];
        for columns in [120, 200] {
            assert_eq!(
                lines(columns, &[curl(20_001), unreachable, worker]),
                expected
            );
        }
    }

    #[test]
    fn a_line_of_an_end_has_the_outcome_and_its_own_time() {
        let clock = Clock::fixed(1_795_424_645_000_000_000);
        let ended = |fate, columns| {
            let event = ConnectionEvent {
                connect: curl(20_001),
                end_ns: Some(235_567_890),
                ..connection_event(fate)
            };
            let line = EventLines::new(columns).ended(&event, &clock);
            assert!(line.chars().count() <= columns, "{line}");
            line[2..].to_owned()
        };
        let expected = ":04:05.235    1234 curl            127.0.0.1:20001       127.0.0.1:443         closed-here              -       1000.0";
        assert_eq!(ended(Fate::ClosedHere, 120), expected);
        for fate in Fate::ALL {
            assert!(ended(fate, 80).ends_with(fate.name()));
        }
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
        let expected = [
            "ME             PID COMM      SPORT DESTINATION           SEARCHus TOTAL us RET",
            ":04:05.234    1234 curl      20001 127.0.0.1:443              5.0     20.0 ok",
            ":04:05.234 4194303 a-name-o+ 20001 255.255.255.255:65535 999999.9 999999.9 ok",
        ];
        assert_eq!(lines(80, &[curl(20_001), slow]), expected);
    }

    #[test]
    fn a_long_errno_makes_its_column_wider_and_all_stays_aligned() {
        let connects = [
            curl(20_001),
            failed(libc::EADDRNOTAVAIL),
            curl(20_003),
            to("192.168.100.1", failed(libc::EADDRNOTAVAIL)),
            to("10.0.0.1", curl(20_005)),
        ];
        let expected = [
            "ME             PID COMM      SPORT DESTINATION           SEARCHus TOTAL us RET",
            ":04:05.234    1234 curl      20001 127.0.0.1:443              5.0     20.0 ok",
            "ME             PID COMM    SPORT DESTINATION   SEARCHus TOTAL us RET",
            ":04:05.234    1234 curl        - 127.0.0.1:443      5.0     20.0 EADDRNOTAVAIL",
            ":04:05.234    1234 curl    20003 127.0.0.1:443      5.0     20.0 ok",
            "ME            PID COMM SPORT DESTINATION       SEARCHus TOTAL us RET",
            ":04:05.234   1234 curl     - 192.168.100.1:443      5.0     20.0 EADDRNOTAVAIL",
            ":04:05.234   1234 curl 20005 10.0.0.1:443           5.0     20.0 ok",
        ];
        assert_eq!(lines(80, &connects), expected);
    }

    #[test]
    fn an_ipv6_address_makes_its_column_wider_as_far_as_there_is_room() {
        let connects = [
            to("2001:db8:0:1::1234", curl(20_001)),
            curl(20_001),
            // The longest line does not fit: the lines after it are unchanged.
            long(curl(65_535)),
            curl(20_001),
        ];
        let expected = [
            "ME             PID COMM   SPORT DESTINATION              SEARCHus TOTAL us RET",
            ":04:05.234    1234 curl   20001 [2001:db8:0:1::1234]:443      5.0     20.0 ok",
            ":04:05.234    1234 curl   20001 127.0.0.1:443                 5.0     20.0 ok",
            ":04:05.234 1234 a-n+ 65535 [2001:db8:1111:2222:3333:4444:5555:6666]:65535 5.0 20.0 ok",
            ":04:05.234    1234 curl   20001 127.0.0.1:443                 5.0     20.0 ok",
        ];
        assert_eq!(lines(80, &connects), expected);
        let wide = lines(120, &[to("2001:db8::1:2:3:4", curl(1)), curl(1)]);
        assert_eq!(wide.len(), 3, "{wide:?}");
        let widths: Vec<usize> = wide.iter().map(|line| line.chars().count()).collect();
        assert_eq!(widths, [118; 3], "{wide:?}");
    }

    #[test]
    fn a_line_that_nothing_makes_room_for_in_its_columns_has_no_padding() {
        let found = lines(
            80,
            &[
                to("2001:db8:1:2::34", curl(20_001)),
                to("2001:db8:1:2::34", failed(libc::EADDRNOTAVAIL)),
                to("2001:db8:1:2::34", curl(20_001)),
            ],
        );
        let expected = [
            "ME             PID COMM     SPORT DESTINATION            SEARCHus TOTAL us RET",
            ":04:05.234    1234 curl     20001 [2001:db8:1:2::34]:443      5.0     20.0 ok",
            ":04:05.234 1234 curl  - [2001:db8:1:2::34]:443      5.0     20.0 EADDRNOTAVAIL",
            ":04:05.234    1234 curl     20001 [2001:db8:1:2::34]:443      5.0     20.0 ok",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn after_something_else_the_header_comes_again_and_the_columns_stay() {
        let clock = Clock::fixed(0);
        let mut lines = EventLines::new(80);
        let _ = lines.event(&failed(libc::EADDRNOTAVAIL), &clock);
        let header = lines.header();
        assert!(header.is_some() && lines.is_headed() && lines.header().is_none());
        let mut again = lines.clone().again(60);
        assert!(!again.is_headed());
        let _ = again.event(&curl(1), &clock);
        assert_eq!(again.header(), header);
        assert_ne!(lines.again(120).header(), header);
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
