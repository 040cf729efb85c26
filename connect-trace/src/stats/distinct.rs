//! Number of different keys that were seen, in bounded memory.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasher as _, Hash, RandomState},
};

/// Largest number of keys that are distinguished: half a MiB of hashes.
const MOST_KEYS: usize = 1 << 15;

/// Counts different keys, exactly up to `MOST_KEYS` of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distinct {
    hasher: RandomState,
    hashes: HashSet<u64>,
    is_full: bool,
}

/// A number of different keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number {
    /// Number of keys that were distinguished.
    pub count: u64,
    /// True if there may be more.
    pub or_more: bool,
}

impl Distinct {
    /// Adds a key, unless it is present.
    pub(crate) fn insert(&mut self, key: &impl Hash) {
        let hash = self.hasher.hash_one(key);
        if self.hashes.len() < MOST_KEYS {
            self.hashes.insert(hash);
        } else if !self.hashes.contains(&hash) {
            self.is_full = true;
        }
    }

    /// Removes a key, if it is present.
    pub(crate) fn remove(&mut self, key: &impl Hash) {
        let hash = self.hasher.hash_one(key);
        self.hashes.remove(&hash);
    }

    /// Returns whether the key is present.
    #[must_use]
    pub(crate) fn contains(&self, key: &impl Hash) -> bool {
        self.hashes.contains(&self.hasher.hash_one(key))
    }

    /// Returns the number of keys.
    #[must_use]
    pub(crate) fn number(&self) -> Number {
        Number {
            count: self.hashes.len() as u64,
            or_more: self.is_full,
        }
    }
}

impl Number {
    /// Returns whether the number is exactly zero.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.count == 0 && !self.or_more
    }
}

impl From<usize> for Number {
    fn from(count: usize) -> Self {
        Self {
            count: count as u64,
            or_more: false,
        }
    }
}

impl std::ops::Add for Number {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            or_more: self.or_more || other.or_more,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_least = if self.or_more { "at least " } else { "" };
        write!(formatter, "{at_least}{}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_once_however_often_it_comes() {
        let mut distinct = Distinct::default();
        for key in [1, 2, 1, 3, 1, 2] {
            distinct.insert(&key);
        }
        distinct.remove(&3);
        distinct.remove(&4);
        assert!(distinct.contains(&1) && !distinct.contains(&3));
        assert_eq!(distinct.number(), Number::from(2));
        assert_eq!(distinct.number().to_string(), "2");
    }

    #[test]
    fn more_than_can_be_told_apart_are_at_least_as_many() {
        let mut distinct = Distinct::default();
        for _ in 0..2 {
            for key in 0..MOST_KEYS {
                distinct.insert(&key);
            }
            assert_eq!(distinct.number(), Number::from(MOST_KEYS));
        }
        distinct.insert(&MOST_KEYS);
        assert_eq!(distinct.number().to_string(), "at least 32768");
    }
}
