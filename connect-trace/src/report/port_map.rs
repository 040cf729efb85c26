//! The map of a range of ports as text: a lane of even ports and one of odd ports, of the same length.

use std::fmt::{self, Write as _};

use anstyle::AnsiColor;

use crate::{
    sockets::{Cell, PortMap, PortUse},
    term::{characters::Characters, paint::Paint},
};

/// Largest number of cells in a line and of lines for a lane.
const COLUMNS: usize = 64;
const LINES: usize = 4;

/// Writes the map and its legend, in lines of up to 80 columns.
pub(crate) fn write(
    text: &mut String,
    paint: Paint,
    characters: Characters,
    map: &PortMap,
) -> fmt::Result {
    let lanes = [0, 1].map(|parity| map.cells(parity, COLUMNS * LINES));
    let ports_each = lanes
        .iter()
        .filter_map(|cells| cells.first())
        .map(|cell| cell.counts.total())
        .max();
    let ports_each = ports_each.unwrap_or(1);
    let drawing = Drawing {
        paint,
        characters,
        ports_each,
    };
    let title = paint.title(&format!("  map of {}", map.range()));
    match ports_each {
        1 => writeln!(text, "{title}")?,
        ports => writeln!(text, "{title}, {ports} ports of a parity each")?,
    }
    let mut lines = lanes.each_ref().map(|cells| cells.chunks(COLUMNS));
    loop {
        let next = lines.each_mut().map(Iterator::next);
        if next.iter().all(Option::is_none) {
            break;
        }
        for (cells, name) in next.into_iter().zip(["even", "odd"]) {
            let Some(cells) = cells else { continue };
            write!(text, "  {name:<4} {:>5} ", cells[0].first)?;
            drawing.write(text, cells)?;
        }
    }
    drawing.write_legend(text)
}

/// Manner of drawing.
#[derive(Clone, Copy)]
pub(crate) struct Drawing {
    pub(crate) paint: Paint,
    pub(crate) characters: Characters,
    /// Number of ports of a full cell.
    pub(crate) ports_each: u32,
}

impl Drawing {
    /// Writes the cells of a line; cells of the same use share one change of colour.
    fn write(self, text: &mut String, cells: &[Cell]) -> fmt::Result {
        for run in cells.chunk_by(|one, other| one.counts.main() == other.counts.main()) {
            let drawn: String = run.iter().map(|cell| self.character(cell)).collect();
            text.push_str(&self.painted(run[0].counts.main(), &drawn));
        }
        writeln!(text)
    }

    /// Returns a text in the colour of a use.
    fn painted(self, made: PortUse, text: &str) -> String {
        let colour = match made {
            PortUse::Free => return text.to_owned(),
            PortUse::Reserved => AnsiColor::BrightBlack,
            PortUse::Listener => AnsiColor::Cyan,
            PortUse::Open => AnsiColor::Red,
            PortUse::TimeWait => AnsiColor::Yellow,
        };
        self.paint.colour(colour, text)
    }

    /// Returns the use of a port, or the share of some ports that a search cannot find.
    pub(crate) fn character(self, cell: &Cell) -> char {
        const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let (taken, all) = (cell.counts.taken(), cell.counts.total());
        match self.characters {
            _ if self.ports_each == 1 => letter(cell.counts.main()),
            Characters::Unicode if taken == 0 => '·',
            // All of them alone fill the cell.
            Characters::Unicode => EIGHTHS[(taken * 8 / all).saturating_sub(1).min(7) as usize],
            Characters::Ascii => match taken {
                0 => '.',
                _ if taken == all => '#',
                _ if taken * 2 < all => '-',
                _ => '+',
            },
        }
    }

    fn write_legend(self, text: &mut String) -> fmt::Result {
        let uses = PortUse::ALL.map(|made| {
            let named = match self.ports_each {
                1 => format!("{} {}", letter(made), made.words()),
                _ => made.words().to_owned(),
            };
            self.painted(made, &named)
        });
        match (self.ports_each, self.characters) {
            (1, _) => writeln!(text, "  {}", uses.join("  ")),
            (_, Characters::Unicode) => {
                writeln!(
                    text,
                    "  height: share of the ports that no search finds; · none"
                )
            }
            (_, Characters::Ascii) => writeln!(
                text,
                "  ports that no search finds: . none, - less than half, + half or more, # all"
            ),
        }?;
        // Without colours, it says nothing.
        if self.ports_each > 1 && self.paint.0 {
            writeln!(text, "  colour: most are {}", uses[1..].join(", "))?;
        }
        Ok(())
    }
}

fn letter(made: PortUse) -> char {
    match made {
        PortUse::Free => '.',
        PortUse::Reserved => 'r',
        PortUse::Listener => 'l',
        PortUse::Open => '#',
        PortUse::TimeWait => 't',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::PortRange;

    fn drawn(low: u16, high: u16, characters: Characters, uses: &[(u16, PortUse)]) -> String {
        let mut map = PortMap::new(PortRange { low, high }, &[]);
        for &(port, made) in uses {
            map.set(port, made);
        }
        let mut text = String::new();
        write(&mut text, Paint(false), characters, &map).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
        text
    }

    #[test]
    fn each_port_of_a_small_range_has_a_letter() {
        let uses = [
            (20_000, PortUse::Open),
            (20_001, PortUse::Listener),
            (20_002, PortUse::TimeWait),
            (20_006, PortUse::Reserved),
        ];
        for characters in [Characters::Ascii, Characters::Unicode] {
            let text = drawn(20_000, 20_007, characters, &uses);
            assert!(
                text.contains("\n  even 20000 #t.r\n  odd  20001 l...\n"),
                "{text}"
            );
            assert!(text.contains("t TIME_WAIT"), "{text}");
        }
    }

    #[test]
    fn a_cell_of_many_ports_shows_the_share_that_is_taken() {
        let all = |parity, of: u16| (0..of).map(move |port| 20_000 + 2 * port + parity);
        // 10 ports of a parity in each of 256 cells.
        let mut uses: Vec<_> = all(0, 20).map(|port| (port, PortUse::Open)).collect();
        uses.push((20_001, PortUse::TimeWait));
        uses.extend(all(1, 19).skip(10).map(|port| (port, PortUse::TimeWait)));
        let line = |text: &str, lane: &str| -> String {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(lane)).unwrap()[..9].to_owned()
        };
        let ascii = drawn(20_000, 25_119, Characters::Ascii, &uses);
        assert_eq!(line(&ascii, "  even 20000 "), "##.......");
        assert_eq!(line(&ascii, "  odd  20001 "), "-+.......");
        let unicode = drawn(20_000, 25_119, Characters::Unicode, &uses);
        assert!(unicode.contains("  even 20000 ██···"), "{unicode}");
        assert!(unicode.contains("  odd  20001 ▁▇···"), "{unicode}");
        assert!(unicode.contains(", 10 ports of a parity each"), "{unicode}");
        assert_eq!(unicode.matches("  odd ").count(), LINES);
    }

    #[test]
    fn ranges_of_any_width_fit() {
        for (low, high) in [
            (1, 1),
            (2, 2),
            (1, 2),
            (32_768, 60_999),
            (1, 65_535),
            (60_000, 60_512),
        ] {
            for characters in [Characters::Ascii, Characters::Unicode] {
                let text = drawn(low, high, characters, &[(high, PortUse::Open)]);
                assert!(text.lines().count() >= 3, "{text}");
            }
        }
    }

    #[test]
    fn colours_are_used_only_if_they_are_wanted() {
        let range = PortRange {
            low: 20_000,
            high: 29_999,
        };
        let mut map = PortMap::new(range, &[]);
        map.set(20_000, PortUse::TimeWait);
        let of = |paint| {
            let mut text = String::new();
            write(&mut text, Paint(paint), Characters::Ascii, &map).unwrap();
            text
        };
        assert!(!of(false).contains('\x1b'));
        assert!(of(true).contains('\x1b'));
        assert_eq!(
            anstream::adapter::strip_str(&of(true))
                .to_string()
                .lines()
                .next(),
            of(false).lines().next()
        );
    }
}
