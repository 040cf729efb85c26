//! The names of the kernel's code, from `/proc/kallsyms`: the function of an address. Code of modules, and code that the
//! kernel has generated for BPF programs, has names too.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
};

use anyhow::{Context as _, Result};

use super::{
    requirement::MissingRequirement,
    symbols::{KALLSYMS, Line, hexadecimal},
};

/// Maximum distance of an address from the beginning of its function. Beyond it, the code has no name: the list has no
/// ends of functions.
const LONGEST: u64 = 256 << 10;

/// A function of the kernel.
struct Function {
    start: u64,
    /// Position of the name in [`KernelText::names`].
    name: u32,
    length: u16,
    /// True for a global symbol, which is preferred among several names of one address.
    is_global: bool,
}

/// The functions of the running kernel, by their addresses.
pub struct KernelText {
    functions: Vec<Function>,
    names: String,
}

impl KernelText {
    /// Reads the functions of the running kernel.
    ///
    /// # Errors
    /// If `/proc/kallsyms` cannot be read, or hides the addresses.
    pub fn of_running_kernel() -> Result<Self> {
        let file = File::open(KALLSYMS).with_context(|| format!("{KALLSYMS} cannot be read"))?;
        let text = Self::read(BufReader::with_capacity(1 << 16, file))
            .with_context(|| format!("read {KALLSYMS}"))?;
        if text.functions.is_empty() {
            return Err(MissingRequirement::new(
                format!("a flame graph needs the addresses of the kernel's functions, which {KALLSYMS} does not show"),
                "run as root with CAP_SYSLOG, or allow it with sysctl kernel.kptr_restrict=0; the kernel must have \
                 CONFIG_KALLSYMS=y",
            )
            .into());
        }
        Ok(text)
    }

    /// Reads lines of the form of `/proc/kallsyms`.
    pub(crate) fn read(mut reader: impl BufRead) -> io::Result<Self> {
        let mut functions = Vec::new();
        let mut names = String::new();
        let mut line = Vec::new();
        while {
            line.clear();
            reader.read_until(b'\n', &mut line)? > 0
        } {
            let Some(symbol) = Line::of(&line) else {
                continue;
            };
            let name = symbol.name;
            // Bytes before a function that only hold a hash or padding have a symbol too, and so have instructions and data
            // within functions of modules for arm64.
            let is_none = [&b"__pfx_"[..], b"__cfi_", b"$"];
            if !symbol.is_function() || is_none.iter().any(|start| name.starts_with(start)) {
                continue;
            }
            let start = hexadecimal(symbol.address);
            let name = String::from_utf8_lossy(name);
            let name = without_number(&name);
            let (Ok(length), Ok(position)) = (name.len().try_into(), names.len().try_into()) else {
                continue;
            };
            if start == 0 {
                continue;
            }
            names.push_str(name);
            functions.push(Function {
                start,
                name: position,
                length,
                is_global: matches!(symbol.kind, b"T"),
            });
        }
        // If an address has several names, the first one stays, or a global one.
        functions.sort_by_key(|function: &Function| (function.start, !function.is_global));
        functions.dedup_by_key(|function| function.start);
        functions.shrink_to_fit();
        names.shrink_to_fit();
        Ok(Self { functions, names })
    }

    /// Returns the name of the function that has the instruction at this address.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<&str> {
        let after = self
            .functions
            .partition_point(|function| function.start <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        let from = function.name as usize;
        (address - function.start < LONGEST)
            .then(|| self.names.get(from..from + usize::from(function.length)))
            .flatten()
    }
}

/// Returns the name of code that the kernel generates for BPF without the number in it: one name for all trampolines.
fn without_number(name: &str) -> &str {
    const TRAMPOLINE: &str = "bpf_trampoline";
    match name.strip_prefix(TRAMPOLINE) {
        Some(rest) if rest.starts_with('_') => TRAMPOLINE,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &str) -> KernelText {
        KernelText::read(lines.as_bytes()).unwrap()
    }

    #[test]
    fn an_address_has_the_name_of_the_function_that_begins_before_it() {
        let text = text(
            "ffffffff81000100 t second\nffffffff81000000 T first\nffffffff81000080 d a_variable\n\
             ffffffff810000f0 t __pfx_second\nffffffffc0000100 t $x\t[ipv6]\nffffffffc0000000 t of_module\t[ipv6]\n",
        );
        assert_eq!(text.name(0xffff_ffff_8100_0000), Some("first"));
        assert_eq!(text.name(0xffff_ffff_8100_00ff), Some("first"));
        assert_eq!(text.name(0xffff_ffff_8100_0100), Some("second"));
        assert_eq!(text.name(0xffff_ffff_c000_0123), Some("of_module"));
        assert_eq!(text.name(0xffff_ffff_80ff_ffff), None);
        assert_eq!(text.name(0xffff_ffff_8100_0100 + LONGEST), None);
        assert_eq!(text.name(0), None);
    }

    #[test]
    fn of_several_names_the_global_one_counts_and_else_the_first() {
        let text = text(
            "ffffffff81000000 t one\nffffffff81000000 T two\nffffffff81000000 T three\n\
             ffffffff81000100 t four\nffffffff81000100 t five\n",
        );
        assert_eq!(text.name(0xffff_ffff_8100_0001), Some("two"));
        assert_eq!(text.name(0xffff_ffff_8100_0101), Some("four"));
    }

    #[test]
    fn trampolines_have_one_name_and_programs_their_own() {
        let text = text(
            "ffffffffc0001000 t bpf_trampoline_6442477187\t[bpf]\n\
             ffffffffc0002000 t bpf_prog_0123456789abcdef_fexit_tcp_v4_co\t[bpf]\n",
        );
        assert_eq!(text.name(0xffff_ffff_c000_1010), Some("bpf_trampoline"));
        assert_eq!(
            text.name(0xffff_ffff_c000_2010),
            Some("bpf_prog_0123456789abcdef_fexit_tcp_v4_co")
        );
    }

    #[test]
    fn hidden_addresses_are_no_functions() {
        assert!(text("0000000000000000 T first\n").functions.is_empty());
    }
}
