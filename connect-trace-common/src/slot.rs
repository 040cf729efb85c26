//! The slots of the kernel's `table_perturb`: a port search takes its start from a slot, and advances the slot when it
//! has found a port.

use bytemuck::{Pod, Zeroable};

/// The state of a slot when a search was entered, or when it returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Look {
    /// The slot's value, a `u32`, in a word of 64 bits, so that no instructions are needed to truncate it.
    pub value: u64,
    /// Number of searches that were seen to return with this slot moved.
    pub moves: u64,
}

impl Look {
    /// Returns the distance by which the search that ends with the look `after` moved the slot. 0 means that the
    /// advance is not known: the slot was not moved, it was moved by more than a search can move it, or another search
    /// that had moved it returned meanwhile. That other search may have moved the slot after this look and before the
    /// kernel took the start of this search from it. The advance alone does not show this: it is too long by the same
    /// amount as the distance from the assumed start to the port.
    #[inline(always)]
    #[must_use]
    pub const fn advance(self, after: Self) -> u16 {
        let advance = after.value.wrapping_sub(self.value);
        if advance >> 16 == 0 && after.moves == self.moves {
            advance as u16
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advance_is_known_if_it_is_one_of_this_search_alone() {
        let before = Look {
            value: 100,
            moves: 7,
        };
        let after = |value, moves| before.advance(Look { value, moves });
        assert_eq!(after(142, 7), 42);
        assert_eq!(after(100, 7), 0);
        assert_eq!(after(142, 8), 0);
        assert_eq!(after(100 + 65_536, 7), 0);
        assert_eq!(after(99, 7), 0);
    }
}
