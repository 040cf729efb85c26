//! Functions of a guest's kernel and its eBPF programs, by address, from /proc/kallsyms.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context as _, Result};

/// Functions of the kernel in one boot.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    functions: BTreeMap<u64, String>,
}

impl Symbols {
    /// Reads lines of /proc/kallsyms; skips lines that are not for code.
    pub(crate) fn parse(lines: &str) -> Self {
        let mut symbols = Self::default();
        for line in lines.lines() {
            let mut words = line.split_whitespace();
            if let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) =
                (words.next(), words.next(), words.next())
                && let Ok(address) = u64::from_str_radix(address, 16)
            {
                // If the same code has several names, use the first.
                let function = symbols.functions.entry(address);
                function.or_insert_with(|| name.to_owned());
            }
        }
        symbols
    }

    /// Returns the addresses of a function.
    ///
    /// # Errors
    /// If the kernel does not have the function.
    pub(crate) fn range(&self, name: &str) -> Result<Range<u64>> {
        let mut functions = self.functions.iter();
        let (&start, _) = functions
            .find(|(_, known)| *known == name)
            .with_context(|| format!("the kernel has no function {name}"))?;
        let end = functions.next().map_or(u64::MAX, |(&end, _)| end);
        Ok(start..end)
    }

    /// Returns the function that an instruction is in, and its offset there.
    pub(crate) fn place(&self, address: u64) -> Option<(&str, u64)> {
        let (start, name) = self.functions.range(..=address).next_back()?;
        Some((name, address - start))
    }
}

/// Returns true if a line is like those of /proc/kallsyms: address, type and name.
pub(crate) fn is_symbol(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    matches!(words[..], [address, kind, _] if kind.len() == 1 && u64::from_str_radix(address, 16).is_ok())
}

/// Returns true for the name of an eBPF program, which begins with a tag: the kernel itself has `bpf_prog_free`.
pub(crate) fn is_program(name: &str) -> bool {
    let tag = name
        .strip_prefix("bpf_prog_")
        .and_then(|name| name.split('_').next());
    tag.is_some_and(|tag| tag.len() == 16 && tag.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_belongs_to_the_function_before_it() {
        let symbols = Symbols::parse(
            "ffffffff81000000 T tcp_v4_connect\nffffffff81000000 t alias\n\
             ffffffff81000100 t __inet_stream_connect\nffffffff81000180 D data\nwhat is this\n",
        );
        let place = |address| symbols.place(address);
        assert_eq!(place(0xffff_ffff_8100_00ff), Some(("tcp_v4_connect", 0xff)));
        assert_eq!(
            place(0xffff_ffff_8100_0190),
            Some(("__inet_stream_connect", 0x90))
        );
        assert_eq!(place(0x1000), None, "before all of them");
        let range = symbols.range("tcp_v4_connect").unwrap();
        assert_eq!(range, 0xffff_ffff_8100_0000..0xffff_ffff_8100_0100);
        let error = symbols.range("data").unwrap_err().to_string();
        assert_eq!(error, "the kernel has no function data");
    }

    #[test]
    fn a_program_is_told_by_its_tag() {
        assert!(is_program(
            "bpf_prog_9a2e60ca6d5bfb6e_fentry_tcp_v4_connect"
        ));
        assert!(is_program("bpf_prog_6d057d872c7301bf"));
        assert!(!is_program("bpf_prog_free") && !is_program("bpf_trampoline_6442545311"));
    }
}
