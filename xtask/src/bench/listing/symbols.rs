//! The functions of a guest's kernel, its trampolines and the programs in it, by their addresses; it is
//! /proc/kallsyms that knows them.

use std::collections::BTreeMap;
use std::ops::Range;

/// How far from a function's start code may lie and still be its own: behind the last one there may be code
/// that has no symbol.
const LARGEST: u64 = 1 << 20;

/// How far into a function the call is that leads to a trampoline.
const PROLOGUE: u64 = 16;

/// What one boot's /proc/kallsyms says.
#[derive(Clone, Debug, Default)]
pub(super) struct Symbols {
    functions: BTreeMap<u64, Function>,
}

#[derive(Clone, Debug)]
struct Function {
    name: String,
    is_program: bool,
}

/// A place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) function: &'a str,
    is_program: bool,
    pub(super) offset: u64,
}

impl Symbols {
    /// Reads lines of /proc/kallsyms; what is not the address of code is passed over.
    pub(super) fn parse(lines: &str) -> Self {
        let mut symbols = Self::default();
        for line in lines.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let &[address, "t" | "T" | "w" | "W", name, ..] = words.as_slice() else {
                continue;
            };
            let Ok(address) = u64::from_str_radix(address, 16) else {
                continue;
            };
            // Of several names for the same code, the first.
            symbols.functions.entry(address).or_insert_with(|| {
                let program = program(name);
                Function {
                    is_program: program.is_some(),
                    name: program.unwrap_or_else(|| name.to_owned()),
                }
            });
        }
        symbols
    }

    /// Where a function begins; the first one of this name.
    pub(super) fn address(&self, name: &str) -> Option<u64> {
        self.functions
            .iter()
            .find(|(_, known)| known.name == name)
            .map(|(address, _)| *address)
    }

    pub(super) fn place(&self, pc: u64) -> Option<Place<'_>> {
        let (start, function) = self.functions.range(..=pc).next_back()?;
        let offset = pc - start;
        (offset < LARGEST).then_some(Place {
            function: &function.name,
            is_program: function.is_program,
            offset,
        })
    }

    /// The name of the function that an instruction is in.
    pub(super) fn function(&self, pc: u64) -> &str {
        self.place(pc)
            .map_or("code without a name", |place| place.function)
    }

    /// Whether an instruction is one of an eBPF program.
    pub(super) fn is_program(&self, pc: u64) -> bool {
        self.place(pc).is_some_and(|place| place.is_program)
    }

    /// The addresses of the function that an instruction is in.
    pub(super) fn range(&self, pc: u64) -> Option<Range<u64>> {
        let place = self.place(pc)?;
        let start = pc - place.offset;
        let next = self.functions.range(pc + 1..).next();
        Some(start..next.map_or(start + LARGEST, |(address, _)| *address))
    }

    /// Names trampolines by the functions that lead to them, as far as these instructions tell. The kernel
    /// has numbers for them.
    pub(super) fn name_trampolines(&mut self, instructions: &[u64]) {
        for pair in instructions.windows(2) {
            let (Some(from), Some(to)) = (self.place(pair[0]), self.place(pair[1])) else {
                continue;
            };
            let entered = to.offset == 0 && to.function.starts_with("bpf_trampoline_");
            if entered && from.offset < PROLOGUE {
                let name = format!("trampoline of {}", from.function);
                let is_program = false;
                self.functions
                    .insert(pair[1], Function { name, is_program });
            }
        }
    }
}

/// Whether a line is as those of /proc/kallsyms are: address, type and name.
pub(super) fn is_symbol(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    matches!(words[..], [address, kind, _] if kind.len() == 1 && u64::from_str_radix(address, 16).is_ok())
}

/// A program's name without its tag, and with what the kernel has put for signs: `_3A_` is a colon. None if
/// it is not that of a program.
fn program(name: &str) -> Option<String> {
    let (tag, program) = name.strip_prefix("bpf_prog_")?.split_once('_')?;
    if tag.len() != 16 || !tag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut text = String::new();
    let mut rest = program;
    while let Some(first) = rest.chars().next() {
        if let Some(sign) = sign(rest) {
            text.push(sign);
            rest = &rest[4..];
        } else {
            text.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(text)
}

/// The sign that is spelled at the begin of a text, as in `_3A_`.
fn sign(text: &str) -> Option<char> {
    let digits = text.strip_prefix('_')?.get(..3)?.strip_suffix('_')?;
    let upper = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    if !digits.bytes().all(upper) {
        return None;
    }
    let sign = char::from(u8::from_str_radix(digits, 16).ok()?);
    (sign == ' ' || sign.is_ascii_punctuation()).then_some(sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "\
ffffffff81000000 T tcp_v4_connect
ffffffff81000000 t alias
ffffffff81000100 t __inet_stream_connect
ffffffff82000000 D data
ffffffffc0000000 t bpf_prog_9a2e60ca6d5bfb6e_fentry_tcp_v4_connect\t[bpf]
ffffffffc0000100 t bpf_prog_6d057d872c7301bf__7B_closure_23_0_7D_\t[bpf]
ffffffffc0001000 t bpf_trampoline_6442545311\t[bpf]
what is this
";

    #[test]
    fn code_belongs_to_the_function_before_it() {
        let symbols = Symbols::parse(LINES);
        assert_eq!(
            symbols.place(0xffff_ffff_8100_00ff),
            Some(Place {
                function: "tcp_v4_connect",
                is_program: false,
                offset: 0xff
            })
        );
        assert_eq!(
            symbols.range(0xffff_ffff_8100_0010),
            Some(0xffff_ffff_8100_0000..0xffff_ffff_8100_0100)
        );
        assert_eq!(
            symbols.address("tcp_v4_connect"),
            Some(0xffff_ffff_8100_0000)
        );
        assert_eq!(symbols.address("data"), None);
        assert_eq!(symbols.place(0x1000), None, "before all of them");
        assert_eq!(symbols.place(0xffff_ffff_8200_0000), None, "far behind");
    }

    #[test]
    fn a_programs_name_is_as_it_was_written() {
        let symbols = Symbols::parse(LINES);
        assert_eq!(
            symbols.function(0xffff_ffff_c000_0004),
            "fentry_tcp_v4_connect"
        );
        assert_eq!(symbols.function(0xffff_ffff_c000_0100), "{closure#0}");
        assert!(symbols.is_program(0xffff_ffff_c000_0100));
        assert!(!symbols.is_program(0xffff_ffff_c000_1000), "a trampoline");
        assert_eq!(program("bpf_prog_free"), None);
        assert_eq!(program("bpf_prog_6d057d872c7301bf_"), Some(String::new()));
    }

    #[test]
    fn a_trampoline_is_named_by_the_function_that_leads_to_it() {
        let mut symbols = Symbols::parse(LINES);
        let trampoline = 0xffff_ffff_c000_1000;
        symbols.name_trampolines(&[0xffff_ffff_8100_0100, trampoline + 1, 0xffff_ffff_8100_0050]);
        assert_eq!(symbols.function(trampoline), "bpf_trampoline_6442545311");
        symbols.name_trampolines(&[0xffff_ffff_8100_0050, trampoline]);
        assert_eq!(
            symbols.function(trampoline),
            "bpf_trampoline_6442545311",
            "not from its first instructions"
        );
        symbols.name_trampolines(&[0xffff_ffff_8100_0004, trampoline]);
        assert_eq!(symbols.function(trampoline), "trampoline of tcp_v4_connect");
    }
}
