//! The lines of a program, or the setting of a server, that use a strategy. docs/how-to.md has all of them.

use clap::ValueEnum;

use super::{Comparison, StrategyResult, advice};
use crate::{connect::PortRange, load::strategy::Strategy};

/// A programming language, or a program with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// C
    C,
    /// Rust, with the crates socket2 and libc
    Rust,
    /// Go
    Go,
    /// Python
    Python,
    /// Java, which can bind ports but not set IP_LOCAL_PORT_RANGE
    Java,
    /// nginx as a proxy
    Nginx,
    /// HAProxy
    Haproxy,
    /// Envoy
    Envoy,
    /// curl
    Curl,
}

impl Language {
    /// Returns the name as it is typed.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The strategy of a snippet; its name is that of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    FullRange,
    WindowRetry,
    Addresses,
    Cursor,
}

macro_rules! snippets {
    ($($kind:ident $language:ident $file:literal,)*) => {
        &[$((Kind::$kind, Language::$language, include_str!(concat!("snippets/", $file)))),*]
    };
}

/// All snippets, for the ports of [`RANGE`].
const SNIPPETS: &[(Kind, Language, &str)] = snippets![
    FullRange C "full-range.c",
    FullRange Rust "full-range.rs",
    FullRange Go "full-range.go",
    FullRange Python "full-range.py",
    FullRange Envoy "full-range.envoy",
    WindowRetry C "window-retry.c",
    WindowRetry Rust "window-retry.rs",
    WindowRetry Go "window-retry.go",
    WindowRetry Python "window-retry.py",
    Cursor C "cursor.c",
    Cursor Rust "cursor.rs",
    Cursor Go "cursor.go",
    Cursor Python "cursor.py",
    Cursor Java "cursor.java",
    Cursor Haproxy "cursor.haproxy",
    Addresses C "addresses.c",
    Addresses Rust "addresses.rs",
    Addresses Go "addresses.go",
    Addresses Python "addresses.py",
    Addresses Nginx "addresses.nginx",
    Addresses Curl "addresses.curl",
];

/// Ports in the snippets as they are written.
const RANGE: PortRange = PortRange {
    low: 9024,
    high: 65_535,
};

/// Returns the kind of snippet for a strategy: that of the better strategy if two are similar.
fn kind(strategy: Strategy) -> Option<Kind> {
    match strategy {
        // A setting of the host, which no program makes.
        Strategy::Default | Strategy::StepWidth(_) => None,
        Strategy::FullRange => Some(Kind::FullRange),
        Strategy::Window(_) | Strategy::WindowRetry(_) | Strategy::WindowCursor(_) => {
            Some(Kind::WindowRetry)
        }
        Strategy::Addresses => Some(Kind::Addresses),
        Strategy::SelectTestRepeat | Strategy::Cursor => Some(Kind::Cursor),
    }
}

/// Returns the system calls that a strategy makes, in a few words; `None` if it makes none.
pub(super) fn calls(strategy: Strategy, range: PortRange) -> Option<String> {
    kind(strategy).map(|kind| match kind {
        Kind::FullRange => "setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &ports, 4) before connect(), with \
             IP_LOCAL_PORT_RANGE 51 and unsigned ports = 65535u << 16 | 1, which the kernel cuts to \
             net.ipv4.ip_local_port_range"
            .to_owned(),
        Kind::WindowRetry => format!(
            "setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &ports, 4) before connect(), with \
             IP_LOCAL_PORT_RANGE 51 and unsigned ports = highest << 16 | lowest, of windows side by side in \
             {range}; if connect() fails with EADDRNOTAVAIL, a window twice as wide with the same socket"
        ),
        Kind::Addresses => "setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, 4), and bind() to one of \
             the addresses with port 0, before connect()"
            .to_owned(),
        Kind::Cursor => format!(
            "setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, 4), and bind() to the source address with the next \
             port of a shuffled list of {range}, before connect(); if one of them fails with EADDRINUSE or \
             EADDRNOTAVAIL, the next port with a new socket"
        ),
    })
}

/// Returns the strategy that is simplest to use among those that this language can use and that fail as rarely as the
/// recommended one, and its lines.
pub(super) fn lines(comparison: &Comparison, language: Language) -> Option<(Strategy, String)> {
    let mut rows: Vec<&StrategyResult> = advice::fit(comparison).collect();
    rows.sort_by_key(|row| advice::effort(row.strategy));
    rows.into_iter().find_map(|row| {
        let kind = kind(row.strategy)?;
        let snippet = SNIPPETS
            .iter()
            .find(|snippet| (snippet.0, snippet.1) == (kind, language))?;
        Some((row.strategy, with_range(snippet.2, comparison.range)))
    })
}

/// Replaces the ports of a snippet.
fn with_range(snippet: &str, range: PortRange) -> String {
    snippet
        .replace(&RANGE.low.to_string(), &range.low.to_string())
        .replace(&RANGE.high.to_string(), &range.high.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::compare::example::comparison;

    #[test]
    fn the_documentation_has_every_snippet_as_it_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/how-to.md");
        let text = fs::read_to_string(path).unwrap();
        for (kind, language, snippet) in SNIPPETS {
            assert!(text.contains(snippet), "{kind:?} {language:?}");
        }
    }

    #[test]
    fn every_file_is_a_snippet_and_every_language_has_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/compare/snippets");
        assert_eq!(fs::read_dir(folder).unwrap().count(), SNIPPETS.len());
        for language in Language::value_variants() {
            assert!(
                SNIPPETS.iter().any(|snippet| snippet.1 == *language),
                "{language:?}"
            );
        }
    }

    #[test]
    fn a_language_has_the_simplest_strategy_that_it_can_use() {
        let mut all = comparison();
        let (strategy, text) = lines(&all, Language::Go).unwrap();
        assert_eq!(strategy, Strategy::FullRange);
        assert!(
            text.contains("20199<<16 | 1") && !text.contains("65535"),
            "{text}"
        );
        assert_eq!(
            lines(&all, Language::Java),
            None,
            "no strategy without the option was run"
        );
        all.rows[1].strategy = Strategy::Cursor;
        all.rows[1]
            .samples
            .iter_mut()
            .for_each(|run| run.errors = 0);
        let (strategy, text) = lines(&all, Language::Java).unwrap();
        assert_eq!(strategy, Strategy::Cursor);
        assert!(text.contains("LOW = 20000, HIGH = 20199"), "{text}");
    }
}
