//! Number of ports that a search of `__inet_hash_connect` went through, from its start and its result. No port is
//! counted: the start of a search determines the order in which the kernel goes through the range.

use crate::connect::SearchRange;

/// State of the kernel's table of starts before and after a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The slot of `table_perturb` plus the upper half of `port_offset`: the search started at the remainder of this
    /// sum by the number of ports.
    pub sum: u32,
    /// Distance by which the search advanced the slot; 0 if unknown.
    pub advance: u16,
}

/// The order in which a search goes through a range.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    low: u32,
    high: u32,
    /// Number of ports in the order: one less than in the range if the search goes by parity and that number is odd.
    ports: u32,
    /// True for steps of two, false for steps of one.
    by_parity: bool,
}

impl Order {
    /// Returns the order of a range; `None` if the range is upside down, as no kernel has it.
    #[must_use]
    pub fn of(range: SearchRange) -> Option<Self> {
        let all = u32::from(range.ports.high).checked_sub(u32::from(range.ports.low))? + 1;
        Some(Self {
            low: range.ports.low.into(),
            high: range.ports.high.into(),
            ports: if range.by_parity && all > 1 {
                all & !1
            } else {
                all
            },
            by_parity: range.by_parity,
        })
    }

    /// Returns the number of starts that a search can have, which are equally likely: the ports of its first pass.
    #[must_use]
    pub fn starts(self) -> u32 {
        (self.ports / self.step()).max(1)
    }

    /// Returns the number of passes; each tries as many ports as there are starts.
    #[must_use]
    pub fn passes(self) -> u32 {
        self.ports / self.starts()
    }

    /// Returns the `nth` port that a pass tries in a search with this start; all three count from 0.
    #[must_use]
    pub fn port(self, start: u32, pass: u32, nth: u32) -> u16 {
        let at = (start + nth) * self.step() + pass;
        // If the number of ports is odd, the last port takes the place of the lowest.
        let within = if at > self.high - self.low {
            at - self.ports
        } else {
            at
        };
        (self.low + within) as u16
    }

    /// Returns the start at a port, or just below it if no search starts there; `None` for a port out of the range.
    #[must_use]
    pub fn start_at(self, port: u16) -> Option<u32> {
        let within = u32::from(port).checked_sub(self.low)?;
        (within <= self.high - self.low).then(|| within % self.ports / self.step())
    }

    fn step(self) -> u32 {
        if self.by_parity && self.ports > 1 {
            2
        } else {
            1
        }
    }

    /// Returns the number of ports that a search went through, including the one that it found.
    ///
    /// `None` if another search may have advanced the slot before this one read its start from it. The programs give no
    /// advance if another search that moved the slot returned meanwhile ([`connect_trace_common::Look::advance`]). Most
    /// searches that they do not see show in the advance: a search that finds its port as the `n`th of its pass advances
    /// its slot by `n` steps, or, for randomness, by up to eight.
    #[inline]
    #[must_use]
    pub fn until(self, start: Start, port: u16) -> Option<u32> {
        const RANDOM_STEPS: u32 = 8;
        let Self {
            low,
            high,
            ports,
            by_parity,
        } = self;
        // A step is 1 << shift. One division is enough: it is most of the cost of decoding a record.
        let shift = u32::from(by_parity);
        let within_a_step = (1 << shift) - 1;
        let first = (start.sum % ports) & !within_a_step;
        let port = u32::from(port).checked_sub(low)?;
        if port > high - low {
            return None;
        }
        // If the number of ports is odd, the last port takes the place of the lowest.
        let port = if port < ports { port } else { port - ports };
        let mut ahead = if port < first { ports } else { 0 } + port - first;
        let mut before = 0;
        if ahead & within_a_step != 0 {
            before = ports / 2;
            ahead -= 1;
        }
        let nth = (ahead >> shift) + 1;
        let advance = u32::from(start.advance);
        let own = advance == nth << shift
            || nth < RANDOM_STEPS
                && advance & within_a_step == 0
                && (nth..=RANDOM_STEPS).contains(&(advance >> shift));
        own.then_some(before + nth)
    }
}

/// Returns the number of ports that a search goes through if it finds none.
#[must_use]
pub fn all(range: SearchRange) -> Option<u32> {
    Order::of(range).map(|order| order.ports)
}

#[cfg(test)]
mod tests {
    use connect_trace_common::Look;
    use proptest::prelude::*;

    use super::*;
    use crate::connect::PortRange;

    fn until(range: SearchRange, start: Start, port: u16) -> Option<u32> {
        Order::of(range)?.until(start, port)
    }

    /// Runs the loop of `__inet_hash_connect`; `taken` holds every reason to skip a port. Returns the port, the number
    /// of ports that were tried, and the slot's advance.
    fn kernel(
        range: SearchRange,
        sum: u32,
        random: u32,
        mut taken: impl FnMut(i32) -> bool,
    ) -> (Option<(u16, u16)>, u32) {
        let step = if range.by_parity { 2 } else { 1 };
        let (low, high) = (i32::from(range.ports.low), i32::from(range.ports.high) + 1);
        let mut remaining = high - low;
        if range.by_parity && remaining > 1 {
            remaining &= !1;
        }
        let mut offset = (sum % remaining as u32) as i32;
        if range.by_parity {
            offset &= !1;
        }
        let mut looked_at = 0;
        loop {
            let mut port = low + offset;
            let mut i = 0;
            while i < remaining {
                if port >= high {
                    port -= remaining;
                }
                looked_at += 1;
                if !taken(port) {
                    let advance = i.max(random as i32 * step) + step;
                    return (Some((port as u16, advance as u16)), looked_at);
                }
                i += step;
                port += step;
            }
            if !range.by_parity {
                return (None, looked_at);
            }
            offset += 1;
            if offset & 1 == 0 || remaining <= 1 {
                return (None, looked_at);
            }
        }
    }

    fn range() -> impl Strategy<Value = SearchRange> {
        (1..=u16::MAX, 0..200_u16, any::<bool>()).prop_map(|(low, more, by_parity)| SearchRange {
            ports: PortRange {
                low,
                high: low.saturating_add(more),
            },
            by_parity,
        })
    }

    /// The intervals between a search's two readings of its slot, the kernel's reading of it and its write.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Span {
        BeforeEntry,
        BeforeRead,
        BeforeWrite,
        BeforeReturn,
        After,
    }

    /// Another search that takes its start from the same slot.
    #[derive(Clone, Copy, Debug)]
    struct Other {
        advance: u16,
        moved: Span,
        returned: Span,
    }

    /// Generates other searches, except one that moves the slot before it is read and takes longer to return than the
    /// whole search.
    fn other() -> impl Strategy<Value = Other> {
        use Span::*;
        let span = || {
            proptest::sample::select(&[BeforeEntry, BeforeRead, BeforeWrite, BeforeReturn, After])
        };
        let other = (1..100_u16, span(), span()).prop_map(|(advance, moved, returned)| Other {
            advance,
            moved,
            returned: returned.max(moved),
        });
        other.prop_filter("it is held up", |other| {
            (other.moved, other.returned) != (BeforeRead, After)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn a_slot_moved_before_read_gives_no_wrong_figure(
            range in range(), slot: u32, random in 0..8_u32,
            free: proptest::sample::Index,
            others in proptest::collection::vec(other(), 1..3),
        ) {
            let look = |until: Span| {
                let moved = others.iter().filter(|other| other.moved <= until);
                let value = moved.fold(slot, |slot, other| slot.wrapping_add(other.advance.into()));
                let moves = others.iter().filter(|other| other.returned <= until).count() as u64;
                Look { value: value.into(), moves }
            };
            let width = usize::from(range.ports.high - range.ports.low) + 1;
            let free = i32::from(range.ports.low) + free.index(width) as i32;
            let read = look(Span::BeforeRead).value as u32;
            let (Some((port, advance)), looked_at) =
                kernel(range, read, random, |port| port != free)
            else {
                return Ok(());
            };
            let before = look(Span::BeforeEntry);
            let mut after = look(Span::BeforeReturn);
            after.value = (after.value as u32).wrapping_add(advance.into()).into();
            let start = Start { sum: before.value as u32, advance: before.advance(after) };
            let told = until(range, start, port);
            prop_assert!(told.is_none_or(|told| told == looked_at), "{:?} is {}", told, looked_at);
        }
    }

    proptest! {
        #[test]
        fn it_is_what_the_kernels_loop_looks_at(
            range in range(), sum: u32, random in 0..8_u32,
            free in proptest::collection::vec(any::<proptest::sample::Index>(), 0..3),
        ) {
            let width = usize::from(range.ports.high - range.ports.low) + 1;
            let free: Vec<i32> =
                free.iter().map(|at| i32::from(range.ports.low) + at.index(width) as i32).collect();
            match kernel(range, sum, random, |port| !free.contains(&port)) {
                (Some((port, advance)), looked_at) =>
                    prop_assert_eq!(until(range, Start { sum, advance }, port), Some(looked_at)),
                (None, looked_at) => prop_assert_eq!(all(range), Some(looked_at)),
            }
        }

        #[test]
        fn the_ports_are_those_of_the_kernels_loop_in_its_order(range in range(), sum: u32) {
            let order = Order::of(range).unwrap();
            let mut expected = Vec::new();
            let (found, _) = kernel(range, sum, 0, |port| {
                expected.push(port as u16);
                true
            });
            prop_assert_eq!(found, None);
            let start = sum % order.ports / order.step();
            prop_assert!(start < order.starts());
            let pass = |pass| (0..order.starts()).map(move |nth| order.port(start, pass, nth));
            let ports: Vec<u16> = (0..order.passes()).flat_map(pass).collect();
            prop_assert_eq!(order.start_at(ports[0]), Some(start));
            prop_assert_eq!(ports, expected);
        }

        #[test]
        fn nothing_makes_it_panic_or_say_more_than_there_are(
            low: u16, high: u16, by_parity: bool, sum: u32, advance: u16, port: u16,
        ) {
            let range = SearchRange { ports: PortRange { low, high }, by_parity };
            let all = all(range);
            if let Some(scanned) = until(range, Start { sum, advance }, port) {
                prop_assert!((1..=all.unwrap()).contains(&scanned));
            }
        }
    }

    #[test]
    fn a_slot_that_another_search_moved_on_is_noticed() {
        let range = SearchRange {
            ports: PortRange {
                low: 20_000,
                high: 21_999,
            },
            by_parity: true,
        };
        let scanned = |advance| until(range, Start { sum: 100, advance }, 20_140);
        assert_eq!(scanned(42), Some(21));
        for advance in [0, 2, 16, 40, 43, 44, 58] {
            assert_eq!(scanned(advance), None, "{advance}");
        }
        let near = |advance| until(range, Start { sum: 100, advance }, 20_104);
        for (advance, expected) in [(4, None), (6, Some(3)), (16, Some(3)), (18, None)] {
            assert_eq!(near(advance), expected, "{advance}");
        }
    }

    #[test]
    fn a_range_upside_down_has_no_ports() {
        let range = SearchRange {
            ports: PortRange { low: 2, high: 1 },
            by_parity: true,
        };
        assert_eq!(all(range), None);
    }
}
