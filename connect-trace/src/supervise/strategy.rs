//! The strategies that a supervisor can carry out for a program.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::load::strategy::Strategy as OfLoad;

/// Default number of ports of the first window, as in `connect-trace load`.
const WINDOW: u16 = 32;

/// A strategy, with the name that `load` and `compare` use.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Strategy {
    /// Nothing is changed.
    Default,
    /// `IP_LOCAL_PORT_RANGE` with all ports.
    FullRange,
    /// `IP_LOCAL_PORT_RANGE` with a window of this number of ports, one twice as wide if all of them are taken, and so on up
    /// to the whole range.
    WindowRetry(u16),
    /// Source addresses in turn.
    Addresses,
}

impl Strategy {
    /// Returns the strategy of `load` that needs the same of the kernel.
    pub(super) fn of_load(self) -> OfLoad {
        match self {
            Self::Default => OfLoad::Default,
            Self::FullRange => OfLoad::FullRange,
            Self::WindowRetry(ports) => OfLoad::WindowRetry(ports),
            Self::Addresses => OfLoad::Addresses,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of_load().fmt(f)
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            "full-range" => Ok(Self::FullRange),
            "addresses" => Ok(Self::Addresses),
            "window-retry" => Ok(Self::WindowRetry(WINDOW)),
            _ => text
                .strip_prefix("window-retry-")
                .and_then(|ports| ports.parse().ok())
                .filter(|&ports| ports >= 2)
                .map(Self::WindowRetry)
                .ok_or_else(|| {
                    "must be full-range, window-retry-PORTS with 2 ports or more, addresses, or default"
                        .to_owned()
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_are_printed() {
        for name in ["default", "full-range", "window-retry-32", "addresses"] {
            assert_eq!(name.parse::<Strategy>().unwrap().to_string(), name);
        }
        assert_eq!("window-retry".parse(), Ok(Strategy::WindowRetry(32)));
        for wrong in [
            "",
            "window-500",
            "window-retry-1",
            "window-retry-",
            "window-retry-65536",
            "select-test-repeat",
        ] {
            assert!(wrong.parse::<Strategy>().is_err(), "{wrong}");
        }
    }
}
