//! Characters that the terminal of this locale can show.

use std::env;

/// A choice of characters for drawings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Characters {
    /// ASCII alone.
    Ascii,
    /// Blocks of Unicode too.
    Unicode,
}

impl Characters {
    /// Returns those of the locale, by the variables that the C library reads.
    pub(crate) fn of_locale() -> Self {
        Self::of(["LC_ALL", "LC_CTYPE", "LANG"].map(|name| env::var(name).unwrap_or_default()))
    }

    /// Returns those of the first variable that is set.
    fn of(variables: [String; 3]) -> Self {
        let mut set = variables.into_iter().filter(|value| !value.is_empty());
        let charset = set.next().unwrap_or_default().to_ascii_lowercase();
        if charset.contains("utf-8") || charset.contains("utf8") {
            Self::Unicode
        } else {
            Self::Ascii
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_decides() {
        let of = |variables: [&str; 3]| Characters::of(variables.map(str::to_owned));
        assert_eq!(of(["", "", "en_GB.UTF-8"]), Characters::Unicode);
        assert_eq!(of(["C.utf8", "", ""]), Characters::Unicode);
        assert_eq!(of(["C", "", "en_GB.UTF-8"]), Characters::Ascii);
        assert_eq!(of(["", "POSIX", "en_GB.UTF-8"]), Characters::Ascii);
        assert_eq!(of(["", "", ""]), Characters::Ascii);
    }
}
