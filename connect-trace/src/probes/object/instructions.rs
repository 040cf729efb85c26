//! The instructions in the eBPF object. Some of them are changed before it is loaded: [`super::fields`],
//! [`super::externs`].

use anyhow::{Context as _, Result};
use object::{File, Object as _, ObjectSection as _, Section, SectionFlags, elf::SHF_EXECINSTR};

/// Bytes of an instruction; a load of a 64-bit word takes two instructions.
pub(crate) const INSTRUCTION: usize = 8;

/// Code of the first half of an instruction that loads a word of 64 bits, linux/bpf.h.
pub(crate) const LOAD_WORD_64: u8 = 0x18;

/// Parses the object as an ELF file.
pub(crate) fn parse(object: &[u8]) -> Result<File<'_>> {
    File::parse(object).context("the eBPF object cannot be read")
}

/// Returns the sections that hold instructions.
pub(crate) fn executable<'data, 'file>(
    file: &'file File<'data>,
) -> impl Iterator<Item = Section<'data, 'file>> {
    file.sections().filter(|section| {
        matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(SHF_EXECINSTR) != 0)
    })
}
