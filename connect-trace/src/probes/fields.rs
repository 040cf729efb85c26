//! The offsets of the kernel's fields, put into the programs where a [`Field`]'s stand-in is: what the compiler of C
//! and libbpf do by relocations (CO-RE), for which rustc has none.

use anyhow::{Context as _, Result, bail, ensure};
use connect_trace_common::Field;
use object::{Object as _, ObjectSection as _, SectionFlags, elf::SHF_EXECINSTR};

/// Bytes of an instruction; that of a word of 64 bits has two.
const INSTRUCTION: usize = 8;

/// Classes and codes of instructions, linux/bpf_common.h and linux/bpf.h.
const CLASS: u8 = 0x07;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const LOAD_WORD_64: u8 = 0x18;
const ADD_64_CONSTANT: u8 = 0x07;
const MOVE_32_CONSTANT: u8 = 0xb4;

/// Puts the offsets into an object. A load of a field that is not among them becomes a zero.
pub(super) fn place(object: &mut [u8], offsets: &[(Field, u32)]) -> Result<()> {
    for range in executable(object)? {
        let section = object
            .get_mut(range)
            .context("the eBPF object is cut short")?;
        let (instructions, _) = section.as_chunks_mut::<INSTRUCTION>();
        let mut second_half = false;
        for instruction in instructions {
            if second_half {
                second_half = false;
                continue;
            }
            second_half = instruction[0] == LOAD_WORD_64;
            place_in(instruction, offsets)?;
        }
    }
    Ok(())
}

/// Where the instructions lie in an object.
fn executable(object: &[u8]) -> Result<Vec<std::ops::Range<usize>>> {
    let file = object::File::parse(object).context("the eBPF object cannot be read")?;
    let mut ranges = Vec::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            bail!("the eBPF object is no ELF file");
        };
        if sh_flags & u64::from(SHF_EXECINSTR) != 0
            && let Some((start, size)) = section.file_range()
        {
            let start = usize::try_from(start)?;
            ranges.push(start..start + usize::try_from(size)?);
        }
    }
    Ok(ranges)
}

fn place_in(instruction: &mut [u8; INSTRUCTION], offsets: &[(Field, u32)]) -> Result<()> {
    let [code, registers, low, high, ..] = *instruction;
    let offset = i16::from_le_bytes([low, high]);
    let constant = i32::from_le_bytes([
        instruction[4],
        instruction[5],
        instruction[6],
        instruction[7],
    ]);
    let of = |field| {
        let found = offsets.iter().find(|&&(known, _)| known == field);
        found.map(|&(_, offset)| offset)
    };
    let is_jump = matches!(code & CLASS, JMP | JMP32);
    if let Some((field, at)) = Field::of_stand_in(offset.into()).filter(|_| !is_jump) {
        ensure!(
            code & CLASS == LDX,
            "the eBPF object has the stand-in of {field:?} in an instruction {code:#x}"
        );
        match of(field) {
            Some(offset) => {
                let offset = i16::try_from(offset + u32::from(at)).with_context(|| {
                    format!("{field:?} lies too far in its structure, at {offset}")
                })?;
                instruction[2..4].copy_from_slice(&offset.to_le_bytes());
            }
            None => {
                let target = registers & 0x0f;
                *instruction = [MOVE_32_CONSTANT, target, 0, 0, 0, 0, 0, 0];
            }
        }
    }
    if matches!(code & CLASS, LDX | ST | STX) || code == LOAD_WORD_64 {
        return Ok(());
    }
    if let Some((field, at)) = Field::of_stand_in(constant) {
        ensure!(
            code == ADD_64_CONSTANT,
            "the eBPF object has the stand-in of {field:?} in an instruction {code:#x}"
        );
        // Of a field that is absent nothing is read: the programs look first.
        let offset = of(field).map_or(0, |offset| offset + u32::from(at));
        instruction[4..].copy_from_slice(&offset.to_le_bytes());
    }
    Ok(())
}
