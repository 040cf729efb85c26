//! Symbols of the running kernel, from `/proc/kallsyms`: the functions that it has, and the address of its variable
//! `table_perturb`.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
};

use anyhow::{Context as _, Result};

use super::btf::Btf;

/// File in which the kernel shows its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// Variable with the slots from which the port search takes its start: `static u32 *table_perturb`.
pub const TABLE_PERTURB: &str = "table_perturb";

/// Address of a pointer variable of the kernel, if known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// The variable is at this address.
    At(u64),
    /// Addresses are not shown (`kernel.kptr_restrict`, or CAP_SYSLOG is missing).
    Hidden,
    /// The variable exists, but is no pointer: kernels before 5.10.125 and 5.15.48 have an array of 256 slots.
    Array,
    /// The kernel does not show its variables (CONFIG_KALLSYMS_ALL), or has no such variable.
    None,
}

impl Pointer {
    /// Returns the address, if it is known.
    #[must_use]
    pub fn address(self) -> Option<u64> {
        match self {
            Self::At(address) => Some(address),
            Self::Hidden | Self::Array | Self::None => None,
        }
    }
}

/// Symbols that were found.
#[derive(Clone, Debug)]
pub struct Symbols {
    /// Symbols of the functions that the kernel or one of its modules has, by the functions' names in the source.
    pub functions: HashMap<&'static str, String>,
    /// The variable [`TABLE_PERTURB`].
    pub table_perturb: Pointer,
    /// The reason why the functions are those of the kernel's types and not its symbols, if they are.
    pub note: Option<String>,
}

/// Opens the list of symbols. An empty one, by which a container hides it, is an error.
fn open() -> io::Result<impl BufRead> {
    let mut symbols = BufReader::with_capacity(1 << 16, File::open(KALLSYMS)?);
    if symbols.fill_buf()?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty"));
    }
    Ok(symbols)
}

impl Symbols {
    /// Looks for the functions with these names, and for `table_perturb`. A service that systemd keeps from
    /// `/proc/kallsyms` (`ProtectKernelTunables`) finds the functions in the kernel's types.
    ///
    /// # Errors
    /// If neither `/proc/kallsyms` nor the types can be read. Hidden addresses (`kernel.kptr_restrict`) are no error: the
    /// names are enough for functions.
    pub fn of_running_kernel(functions: &[&'static str]) -> Result<Self> {
        match open() {
            Ok(symbols) => {
                Self::read(symbols, functions).with_context(|| format!("read {KALLSYMS}"))
            }
            Err(error) => {
                let note = format!(
                    "{KALLSYMS} cannot be read ({error}): functions are looked up in the kernel's types, which do not \
                     have those of modules"
                );
                Ok(Self::of_types(&Btf::of_running_kernel()?, functions, note))
            }
        }
    }

    fn of_types(types: &Btf, wanted: &[&'static str], note: String) -> Self {
        let in_types = wanted.iter().filter(|name| types.function(name).is_some());
        Self {
            functions: in_types.map(|&name| (name, name.to_owned())).collect(),
            table_perturb: Pointer::Hidden,
            note: Some(note),
        }
    }

    fn read(mut reader: impl BufRead, wanted: &[&'static str]) -> Result<Self> {
        let mut functions = HashMap::<&'static str, String>::new();
        let mut variable = Variable::NotYet;
        let mut line = Vec::new();
        while (functions.len() < wanted.len() || !variable.is_known()) && {
            line.clear();
            reader.read_until(b'\n', &mut line)? > 0
        } {
            let Some(symbol) = Line::of(&line) else {
                continue;
            };
            let Line {
                address,
                kind,
                name,
            } = symbol;
            variable.next(address, kind, name);
            if symbol.is_function()
                && let Some(&wanted) = wanted.iter().find(|wanted| is_symbol_of(name, wanted))
            {
                let symbol = String::from_utf8_lossy(name).into_owned();
                functions.entry(wanted).or_insert(symbol);
            }
        }
        Ok(Self {
            functions,
            table_perturb: variable.pointer(),
            note: None,
        })
    }
}

/// A line of `/proc/kallsyms`: address, type, name, and the module if there is one.
pub(super) struct Line<'a> {
    /// Address, in hexadecimal digits.
    pub(super) address: &'a [u8],
    /// Type, one letter.
    pub(super) kind: &'a [u8],
    /// Name.
    pub(super) name: &'a [u8],
}

impl<'a> Line<'a> {
    /// Splits a line; `None` if a word is missing.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        let mut words = line.split(|byte| byte.is_ascii_whitespace());
        Some(Self {
            address: words.next()?,
            kind: words.next()?,
            name: words.next()?,
        })
    }

    /// Returns true if the symbol is a function.
    pub(super) fn is_function(&self) -> bool {
        matches!(self.kind, b"t" | b"T" | b"w" | b"W")
    }
}

/// State of the search for the variable. The kernel's own symbols are in the order of their addresses, so the next
/// symbol limits the length of the variable.
enum Variable {
    NotYet,
    At(u64),
    Followed { at: u64, room: u64 },
}

impl Variable {
    fn next(&mut self, address: &[u8], kind: &[u8], name: &[u8]) {
        match *self {
            Self::NotYet => {
                let of_data = matches!(kind, b"b" | b"B" | b"d" | b"D" | b"r" | b"R");
                if of_data && is_symbol_of(name, TABLE_PERTURB) {
                    *self = Self::At(hexadecimal(address));
                }
            }
            Self::At(at) => {
                let room = hexadecimal(address).saturating_sub(at);
                *self = Self::Followed { at, room };
            }
            Self::Followed { .. } => {}
        }
    }

    fn is_known(&self) -> bool {
        matches!(self, Self::Followed { .. })
    }

    fn pointer(&self) -> Pointer {
        /// Length in bytes of the shortest array that `table_perturb` ever was, 256 slots.
        const ARRAY: u64 = 1024;
        match *self {
            Self::NotYet => Pointer::None,
            Self::At(0) | Self::Followed { at: 0, .. } => Pointer::Hidden,
            Self::Followed { room: ARRAY.., .. } => Pointer::Array,
            Self::At(at) | Self::Followed { at, .. } => Pointer::At(at),
        }
    }
}

/// Returns whether a symbol is that of this name in the source. Clang with ThinLTO adds a suffix to a static symbol if
/// one unit of the source uses the symbol of another.
fn is_symbol_of(symbol: &[u8], name: &str) -> bool {
    symbol
        .strip_prefix(name.as_bytes())
        .is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(b".llvm."))
}

/// Parses a hexadecimal number; returns 0 if the text is none.
pub(super) fn hexadecimal(text: &[u8]) -> u64 {
    let text = std::str::from_utf8(text).unwrap_or("");
    u64::from_str_radix(text, 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Symbols {
        Symbols::read(text.as_bytes(), &["tcp_v4_connect", "tcp_v6_connect"]).unwrap()
    }

    #[test]
    fn functions_are_found_in_the_kernel_and_in_modules() {
        let text = "ffffffff81000000 T tcp_v4_connect\nffffffff82000000 d tcp_v6_connect\n\
                    ffffffffc0000000 t tcp_v6_connect\t[ipv6]\n";
        let found = read(text);
        assert_eq!(found.functions.len(), 2);
        assert_eq!(found.table_perturb, Pointer::None);
        assert_eq!(read("").functions.len(), 0);
        assert_eq!(read("\n\n x\n").functions.len(), 0);
    }

    #[test]
    fn a_symbol_with_the_suffix_of_clang_is_the_function() {
        let found = read(
            "ffffffff81000000 t tcp_v6_connect.isra.0\nffffffff81000010 t tcp_v4_connect_init\n\
             ffffffff81000020 t tcp_v6_connect.llvm.1234567890\n\
             ffffffff83000010 b table_perturb.llvm.42\nffffffff83000018 b next\n",
        );
        assert_eq!(found.functions.len(), 1);
        assert_eq!(
            found.functions["tcp_v6_connect"],
            "tcp_v6_connect.llvm.1234567890"
        );
        assert_eq!(found.table_perturb, Pointer::At(0xffff_ffff_8300_0010));
    }

    #[test]
    fn the_table_is_a_pointer_where_the_next_symbol_leaves_no_room_for_an_array() {
        let table = |text| read(text).table_perturb;
        let pointer = "ffffffff83000010 b table_perturb\nffffffff83000018 b next\n";
        assert_eq!(table(pointer), Pointer::At(0xffff_ffff_8300_0010));
        let last = "ffffffff83000010 b table_perturb\n";
        assert_eq!(table(last), Pointer::At(0xffff_ffff_8300_0010));
        let array = "ffffffff83000000 b table_perturb\nffffffff83000400 b next\n";
        assert_eq!(table(array), Pointer::Array);
        let hidden = "0000000000000000 b table_perturb\n0000000000000000 b next\n";
        assert_eq!(table(hidden), Pointer::Hidden);
        assert_eq!(table(hidden).address(), None);
        let function = "ffffffff83000010 t table_perturb\nffffffff83000018 b next\n";
        assert_eq!(table(function), Pointer::None);
    }
}
