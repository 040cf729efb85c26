//! Names that the programs declare and the object does not define: constants, variables (maps that the daemon creates)
//! and a kernel function. aya does not link them.

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};

use super::instructions::{self, INSTRUCTION, LOAD_WORD_64};
use crate::kernel::btf::TypeId;

/// Codes of instructions, linux/bpf.h.
const CALL: u8 = 0x85;
const MOVE: u8 = 0xbf;
/// `BPF_PSEUDO_MAP_VALUE` and `BPF_PSEUDO_KFUNC_CALL`, at the place of the source register in an instruction.
const MAP_VALUE: u8 = 2 << 4;
const KERNEL_FUNCTION: u8 = 2 << 4;

/// A name that the programs declare, with its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extern {
    /// The name.
    pub(crate) name: &'static str,
    /// The definition of the name.
    pub(crate) is: Is,
}

/// A definition to link with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    /// A constant.
    Constant(u64),
    /// The value of a map with one element, by the map's descriptor, which must be open when the programs are loaded.
    Variable(i32),
    /// A kernel function, by its number in the kernel's BTF; `None` if the kernel lacks it. The programs then never
    /// reach the call.
    Function(Option<TypeId>),
}

/// Links the programs of an object.
pub(crate) fn link(object: &mut [u8], externs: &[Extern]) -> Result<()> {
    for (at, Extern { name, is }) in references(object, externs)? {
        let wanted = match is {
            Is::Constant(_) | Is::Variable(_) => LOAD_WORD_64,
            Is::Function(_) => CALL,
        };
        let code = object.get(at).copied();
        ensure!(
            code == Some(wanted),
            "the eBPF object refers to {name} in an instruction {code:x?}"
        );
        let rest = object
            .get_mut(at..)
            .context("the eBPF object is cut short")?;
        let (instructions, _) = rest.as_chunks_mut::<INSTRUCTION>();
        match (is, instructions) {
            (Is::Constant(value), [first, second, ..]) => {
                let value = value.to_le_bytes();
                first[4..].copy_from_slice(&value[..4]);
                second[4..].copy_from_slice(&value[4..]);
            }
            (Is::Variable(map), [first, second, ..]) => {
                // The first half holds the map, the second half the offset within its value, which the compiler has
                // left in the first.
                first[1] = first[1] & 0x0f | MAP_VALUE;
                second[4..].copy_from_slice(&first[4..]);
                first[4..].copy_from_slice(&map.to_le_bytes());
            }
            (Is::Function(Some(id)), [call, ..]) => {
                *call = [CALL, KERNEL_FUNCTION, 0, 0, 0, 0, 0, 0];
                call[4..].copy_from_slice(&id.to_le_bytes());
            }
            // The verifier accepts this instruction even if it reaches it: r0 = r1.
            (Is::Function(None), [call, ..]) => *call = [MOVE, 1 << 4, 0, 0, 0, 0, 0, 0],
            (_, _) => anyhow::bail!("the eBPF object is cut short"),
        }
    }
    Ok(())
}

/// Returns the positions of the instructions in an object that refer to undefined names, with these names.
fn references(object: &[u8], externs: &[Extern]) -> Result<Vec<(usize, Extern)>> {
    let file = instructions::parse(object)?;
    let mut found = Vec::new();
    for section in instructions::executable(&file) {
        let Some((start, _)) = section.file_range() else {
            continue;
        };
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(symbol) = relocation.target() else {
                continue;
            };
            let symbol = file
                .symbol_by_index(symbol)
                .context("the eBPF object refers to no symbol")?;
            if !symbol.is_undefined() {
                continue;
            }
            let name = symbol.name()?;
            let known = externs.iter().find(|known| known.name == name);
            let known = known.with_context(|| {
                format!("the eBPF object refers to {name}, which is not defined")
            })?;
            found.push((usize::try_from(start + offset)?, *known));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use connect_trace_common::Params;

    use super::*;
    use crate::kernel::cast;

    const OBJECT: &[u8] = include_bytes!(env!("CONNECT_TRACE_BPF_OBJECT_PATH"));
    const MAP: i32 = 0x0102_0304;

    const CONSTANT: u64 = 0x0807_0605_0403_0201;

    fn externs(function: Option<TypeId>) -> Vec<Extern> {
        let known = |name, is| Extern { name, is };
        let constants = Params::default().named().into_iter();
        [
            known("PER_CPU", Is::Variable(MAP)),
            known("THREADS", Is::Variable(MAP + 1)),
            known("CONTROL", Is::Variable(MAP + 2)),
            known("FAST", Is::Variable(MAP + 3)),
            known(cast::FUNCTION, Is::Function(function)),
        ]
        .into_iter()
        .chain(constants.map(|(name, _)| known(name, Is::Constant(CONSTANT))))
        .collect()
    }

    /// Returns an object that is linked, and the positions of the linked instructions.
    fn linked(object: &[u8], function: Option<TypeId>) -> (Vec<u8>, Vec<(usize, Extern)>) {
        let externs = externs(function);
        let found = references(object, &externs).unwrap();
        let mut object = object.to_vec();
        link(&mut object, &externs).unwrap();
        (object, found)
    }

    #[test]
    fn the_programs_refer_to_each() {
        let (_, found) = linked(OBJECT, None);
        for known in externs(None) {
            let least = if matches!(known.is, Is::Constant(_)) {
                1
            } else {
                6
            };
            let of_it = found.iter().filter(|(_, other)| *other == known);
            assert!(of_it.count() >= least, "{known:?}");
        }
    }

    #[test]
    fn a_variable_becomes_the_map_and_the_place_in_its_value() {
        let (_, found) = linked(OBJECT, None);
        let is_variable = |known: &Extern| matches!(known.is, Is::Variable(_));
        let (first, _) = *found.iter().find(|(_, known)| is_variable(known)).unwrap();
        // The same instruction with an offset within the variable, as a compiler may emit it.
        let mut before = OBJECT.to_vec();
        before[first + 4] = 96;
        let (after, _) = linked(&before, None);
        for (at, known) in found {
            let Is::Variable(map) = known.is else {
                continue;
            };
            let place = if at == first { 96 } else { 0 };
            let target = before[at + 1];
            assert!(target < 1 << 4, "an address of nothing: {target:#x}");
            assert_eq!(after[at..at + 4], [LOAD_WORD_64, target | 2 << 4, 0, 0]);
            assert_eq!(after[at + 4..at + 8], map.to_le_bytes());
            assert_eq!(after[at + 12..at + 16], [place, 0, 0, 0]);
        }
    }

    #[test]
    fn a_constant_becomes_the_word_that_is_loaded() {
        let (object, found) = linked(OBJECT, None);
        for (at, _) in found
            .iter()
            .filter(|(_, known)| known.is == Is::Constant(CONSTANT))
        {
            assert_eq!(object[*at], LOAD_WORD_64);
            assert_eq!(object[at + 4..at + 8], [1, 2, 3, 4]);
            assert_eq!(object[at + 12..at + 16], [5, 6, 7, 8]);
        }
    }

    #[test]
    fn a_function_is_called_by_its_number_where_the_kernel_has_it() {
        for (id, instruction) in [
            (Some(0x0a_0b0c), [0x85, 0x20, 0, 0, 0x0c, 0x0b, 0x0a, 0]),
            (None, [0xbf, 0x10, 0, 0, 0, 0, 0, 0]),
        ] {
            let (object, found) = linked(OBJECT, id);
            for (at, known) in found {
                if known.is == Is::Function(id) {
                    assert_eq!(object[at..at + INSTRUCTION], instruction);
                }
            }
        }
    }

    #[test]
    fn all_else_stays_as_it_is() {
        let (mut object, found) = linked(OBJECT, None);
        for (at, known) in found {
            let count = if known.name == cast::FUNCTION { 1 } else { 2 };
            let instructions = at..at + count * INSTRUCTION;
            object[instructions.clone()].copy_from_slice(&OBJECT[instructions]);
        }
        assert!(object == OBJECT);
    }

    #[test]
    fn what_nobody_has_is_an_error() {
        let some = &externs(None)[..1];
        let error = link(&mut OBJECT.to_vec(), some).unwrap_err();
        assert!(
            error.to_string().contains("which is not defined"),
            "{error}"
        );
    }
}
