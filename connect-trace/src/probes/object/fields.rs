//! The offsets of the kernel's fields, written into the programs in place of each [`Field`]'s stand-in. The C compiler
//! and libbpf do this by relocations (CO-RE), which rustc lacks.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use connect_trace_common::Field;
use object::ObjectSection as _;

use super::instructions::{self, INSTRUCTION, LOAD_WORD_64};

/// Classes and codes of instructions, linux/bpf_common.h and linux/bpf.h.
const CLASS: u8 = 0x07;
const LD: u8 = 0x00;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const ADD_64_CONSTANT: u8 = 0x07;
const MOVE_32_CONSTANT: u8 = 0xb4;

/// Writes the offsets into an object. A load of a field without an offset becomes a zero.
pub(crate) fn place(object: &mut [u8], offsets: &[(Field, u32)]) -> Result<()> {
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

/// Returns the ranges of the instructions in an object.
fn executable(object: &[u8]) -> Result<Vec<Range<usize>>> {
    let file = instructions::parse(object)?;
    let ranges = instructions::executable(&file).filter_map(|section| section.file_range());
    ranges
        .map(|(start, size)| Ok(usize::try_from(start)?..usize::try_from(start + size)?))
        .collect()
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
    // The number of an address is the offset in a load or a store, else the constant.
    let number = match code & CLASS {
        LDX | ST | STX => offset.into(),
        _ => constant,
    };
    ensure!(
        is_jump || code & CLASS == LD || !Field::is_between_stand_ins(number),
        "in the eBPF object an instruction {code:#x} has the number {number}, which leads from the stand-in of one field \
         to that of another: the compiler has made one place of another, which is read wrong; or it is a number of the \
         programs' own, and Field::DISTANCE must be another one"
    );
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
        // An absent field is never read: the programs test for it first.
        let offset = of(field).map_or(0, |offset| offset + u32::from(at));
        instruction[4..].copy_from_slice(&offset.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use object::Object as _;

    use super::*;

    const OBJECT: &[u8] = include_bytes!(env!("CONNECT_TRACE_BPF_OBJECT_PATH"));
    /// r1 = *(u16 *)(r2 + offset)
    const LOAD_U16: u8 = 0x69;

    fn instruction(code: u8, offset: usize, constant: usize) -> [u8; INSTRUCTION] {
        let [low, high] = u16::try_from(offset).unwrap().to_le_bytes();
        let [a, b, c, d] = u32::try_from(constant).unwrap().to_le_bytes();
        [code, 0x21, low, high, a, b, c, d]
    }

    #[test]
    fn a_load_gets_the_offset_of_its_field() {
        let mut load = instruction(LOAD_U16, Field::SockFamily.stand_in(0), 0);
        place_in(&mut load, &[(Field::SockFamily, 16)]).unwrap();
        assert_eq!(load, instruction(LOAD_U16, 16, 0));
        let mut load = instruction(LOAD_U16, Field::TaskComm.stand_in(8), 0);
        place_in(
            &mut load,
            &[(Field::SockFamily, 16), (Field::TaskComm, 2_960)],
        )
        .unwrap();
        assert_eq!(load, instruction(LOAD_U16, 2_968, 0));
    }

    #[test]
    fn an_address_gets_the_offset_of_its_field() {
        let mut add = instruction(ADD_64_CONSTANT, 0, Field::NetPortRange.stand_in(4));
        place_in(&mut add, &[(Field::NetPortRange, 100_000)]).unwrap();
        assert_eq!(add, instruction(ADD_64_CONSTANT, 0, 100_004));
    }

    #[test]
    fn a_load_of_an_absent_field_is_a_zero() {
        let mut load = instruction(LOAD_U16, Field::SockFamily.stand_in(0), 0);
        place_in(&mut load, &[]).unwrap();
        assert_eq!(load, [MOVE_32_CONSTANT, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_field_stays_as_it_is() {
        for untouched in [
            instruction(LOAD_U16, 16, 0),
            instruction(ADD_64_CONSTANT, 0, 16),
            // A jump far ahead, and a constant in memory.
            instruction(JMP, Field::SockFamily.stand_in(0), 0),
            instruction(0x62, 8, Field::SockFamily.stand_in(0)),
        ] {
            let mut now = untouched;
            place_in(&mut now, &[(Field::SockFamily, 16)]).unwrap();
            assert_eq!(now, untouched);
        }
    }

    #[test]
    fn a_field_where_no_instruction_can_read_it_is_an_error() {
        let mut load = instruction(LOAD_U16, Field::SockFamily.stand_in(0), 0);
        let error = place_in(&mut load, &[(Field::SockFamily, 32_768)]).unwrap_err();
        assert!(error.to_string().contains("SockFamily"), "{error}");
        let mut store = instruction(0x6b, Field::SockFamily.stand_in(0), 0);
        place_in(&mut store, &[(Field::SockFamily, 16)]).unwrap_err();
        let mut and = instruction(0x57, 0, Field::SockFamily.stand_in(0));
        place_in(&mut and, &[(Field::SockFamily, 16)]).unwrap_err();
    }

    #[test]
    fn a_place_that_is_made_of_another_fields_is_an_error() {
        let between = Field::NetInode.stand_in(0) - Field::SockNet.stand_in(0);
        let add = instruction(ADD_64_CONSTANT, 0, between);
        let back = instruction(ADD_64_CONSTANT, 0, between.wrapping_neg() as u32 as usize);
        let moved = instruction(MOVE_32_CONSTANT, 0, between + 4);
        let load = instruction(LOAD_U16, between - 4, 0);
        for derived in [add, back, moved, load] {
            let error = place_in(&mut derived.clone(), &[]).unwrap_err();
            assert!(error.to_string().contains("another"), "{error}");
        }
        // A jump of the same distance, and a number in memory.
        for untouched in [instruction(JMP, between, 0), instruction(0x62, 8, between)] {
            let mut now = untouched;
            place_in(&mut now, &[]).unwrap();
            assert_eq!(now, untouched);
        }
    }

    /// Returns the name of each section of the object, and the stand-ins in it, with the codes of their instructions.
    fn stand_ins() -> Vec<(String, u8, Field)> {
        let file = instructions::parse(OBJECT).unwrap();
        let ranges = executable(OBJECT).unwrap();
        let mut found = Vec::new();
        for section in file.sections() {
            let Some((start, size)) = section.file_range() else {
                continue;
            };
            let range = start as usize..(start + size) as usize;
            if !ranges.contains(&range) {
                continue;
            }
            for bytes in OBJECT[range].as_chunks::<INSTRUCTION>().0 {
                let mut without = *bytes;
                // The second half of a word of 64 bits has no code.
                if bytes[0] == 0 || place_in(&mut without, &[]).is_ok() && without == *bytes {
                    continue;
                }
                let offset = i16::from_le_bytes([bytes[2], bytes[3]]);
                let constant = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                let field = Field::of_stand_in(offset.into()).or(Field::of_stand_in(constant));
                let (field, _) = field.unwrap();
                found.push((section.name().unwrap().to_owned(), bytes[0], field));
            }
        }
        found
    }

    #[test]
    fn the_programs_read_every_field() {
        let found = stand_ins();
        for field in Field::ALL {
            assert!(
                found.iter().any(|&(_, _, other)| other == field),
                "{field:?}"
            );
        }
    }

    #[test]
    fn where_pointers_have_types_every_field_is_read_by_a_load() {
        let typed: Vec<_> = stand_ins()
            .into_iter()
            .filter(|(section, ..)| section.starts_with("fentry") || section.starts_with("fexit"))
            .collect();
        assert!(typed.len() > 20, "{typed:?}");
        let loads = |&&(_, code, field): &&(String, u8, Field)| {
            field == Field::InetPortRange && code & CLASS == LDX
        };
        assert!(typed.iter().filter(loads).count() > 2, "{typed:?}");
        for (section, code, field) in typed {
            // Before 5.11 no helper gives a type to the thread, but this field is read all the same.
            if field == Field::TaskFlags && code == ADD_64_CONSTANT {
                continue;
            }
            // Before 6.2 nothing gives a type to a socket of UDP with this field.
            if field == Field::InetPortRange && code == ADD_64_CONSTANT {
                continue;
            }
            assert_eq!(code & CLASS, LDX, "{field:?} in {section}");
        }
    }

    #[test]
    fn the_verifier_sees_every_register_read_at_a_constant_offset_of_the_context() {
        let registers = [
            Field::ProbeArgument0,
            Field::ProbeArgument1,
            Field::ProbeArgument2,
            Field::ProbeReturn,
        ];
        for (section, code, field) in stand_ins() {
            if registers.contains(&field) {
                assert!(section.ends_with("probe"), "{field:?} in {section}");
                assert_eq!(code & CLASS, LDX, "{field:?} in {section}");
            }
        }
    }

    #[test]
    fn nothing_of_the_stand_ins_is_left() {
        let mut object = OBJECT.to_vec();
        let offsets: Vec<_> = Field::ALL.into_iter().zip((8..).step_by(24)).collect();
        place(&mut object, &offsets).unwrap();
        assert_ne!(object, OBJECT);
        let placed = object.clone();
        place(&mut object, &[]).unwrap();
        assert_eq!(object, placed);
    }
}
