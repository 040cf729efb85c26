//! The variables that the programs and the daemon share: maps of one value each that lie in the daemon's memory too,
//! so that it looks at them without a system call. While a process is in one that looks at a map, the kernel runs no
//! kprobe program on its CPU (`bpf_disable_instrumentation`, kernel/bpf/syscall.c); on a kernel that preempts threads
//! within itself that can last, and calls would go unseen.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use bytemuck::Pod;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};

use super::instructions::{self, INSTRUCTION, LOAD_WORD_64};

/// An array that the programs write and the daemon reads.
pub(super) struct Shared<T> {
    name: &'static str,
    map: MapData,
    memory: NonNull<AtomicU64>,
    length: usize,
    of: PhantomData<T>,
}

// SAFETY: the memory is the kernel's, stays where it is, and is read by atomic loads alone.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Pod> Shared<T> {
    const WORDS: usize = size_of::<T>() / size_of::<u64>();

    /// Makes an array of zeros, for the programs' variable of this name. `T` consists of whole words.
    pub(super) fn new(name: &'static str, length: usize) -> Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>())) };
        let bytes = length * size_of::<T>();
        let definition = aya_obj::Map::new_from_params(
            BPF_MAP_TYPE_ARRAY as u32,
            size_of::<u32>() as u32,
            u32::try_from(bytes)?,
            1,
            BPF_F_MMAPABLE,
        );
        let map = MapData::create(definition, name, None)
            .with_context(|| format!("the kernel refused the map {name}"))?;
        // SAFETY: a new mapping, of a descriptor that is open.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(error).with_context(|| format!("map {name} into memory"));
        }
        Ok(Self {
            name,
            map,
            memory: NonNull::new(memory.cast()).context("a mapping at address 0")?,
            length,
            of: PhantomData,
        })
    }

    /// What the elements are now: each word of one is read whole, and one after the other.
    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        // SAFETY: so many words are mapped, page by page, for as long as `self` is; the programs write them whole.
        let words =
            unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.length * Self::WORDS) };
        words.chunks_exact(Self::WORDS).map(|words| {
            let mut element = T::zeroed();
            let copy = bytemuck::bytes_of_mut(&mut element);
            for (bytes, word) in copy.as_chunks_mut().0.iter_mut().zip(words) {
                // In this order: what is counted in one is not missing in a later one.
                *bytes = word.load(Ordering::Acquire).to_ne_bytes();
            }
            element
        })
    }

    /// For [`link`].
    pub(super) fn symbol(&self) -> Symbol {
        Symbol {
            name: self.name,
            map: self.map.fd().as_fd().as_raw_fd(),
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and nothing borrows it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}

/// What a variable of the programs is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    name: &'static str,
    /// The map's descriptor, which must be open when the programs are loaded.
    map: i32,
}

/// Links the programs of an object with the variables that it declares and has not.
pub(super) fn link(object: &mut [u8], variables: &[Symbol]) -> Result<()> {
    for (at, variable) in references(object, variables)? {
        let instructions = object
            .get_mut(at..at + 2 * INSTRUCTION)
            .context("the eBPF object is cut short")?;
        let [first, second] = instructions.as_chunks_mut::<INSTRUCTION>().0 else {
            unreachable!("two instructions were taken");
        };
        ensure!(
            first[0] == LOAD_WORD_64,
            "the eBPF object refers to {} in an instruction {:#x}",
            variable.name,
            first[0]
        );
        // `BPF_PSEUDO_MAP_VALUE`, linux/bpf.h: the first half has the map, the second the place within its value,
        // which the compiler has left in the first.
        const MAP_VALUE: u8 = 2 << 4;
        first[1] |= MAP_VALUE;
        second[4..].copy_from_slice(&first[4..]);
        first[4..].copy_from_slice(&variable.map.to_le_bytes());
    }
    Ok(())
}

/// Where in an object the instructions lie that load the address of a variable.
fn references(object: &[u8], variables: &[Symbol]) -> Result<Vec<(usize, Symbol)>> {
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
            let variable = variables.iter().find(|variable| variable.name == name);
            let variable =
                variable.with_context(|| format!("the eBPF object lacks its variable {name}"))?;
            found.push((usize::try_from(start + offset)?, *variable));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &[u8] = include_bytes!(env!("CONNECT_TRACE_BPF_OBJECT_PATH"));
    const VARIABLES: [Symbol; 2] = [
        Symbol {
            name: "PER_CPU",
            map: 0x0102_0304,
        },
        Symbol {
            name: "THREADS",
            map: 5,
        },
    ];

    #[test]
    fn the_programs_refer_to_each_variable() {
        let found = references(OBJECT, &VARIABLES).unwrap();
        for variable in VARIABLES {
            let of_it = found
                .iter()
                .filter(|(_, other)| other.name == variable.name);
            assert!(of_it.count() > 10, "{variable:?}");
        }
    }

    #[test]
    fn a_reference_becomes_the_map_and_the_place_in_its_value() {
        let found = references(OBJECT, &VARIABLES).unwrap();
        let mut object = OBJECT.to_vec();
        // As if the compiler had wanted a place within the variable.
        let (at, _) = found[0];
        object[at + 4] = 96;
        let before = object.clone();
        link(&mut object, &VARIABLES).unwrap();
        for (at, variable) in &found {
            let [code, registers, low, high] = before[*at..*at + 4] else {
                unreachable!()
            };
            assert_eq!(code, LOAD_WORD_64);
            assert!(registers < 1 << 4, "an address of nothing: {registers:#x}");
            let now = &object[*at..*at + 4];
            assert_eq!(now, [code, registers | 2 << 4, low, high]);
            assert_eq!(object[*at + 4..*at + 8], variable.map.to_le_bytes());
        }
        assert_eq!(object[at + 12..at + 16], [96, 0, 0, 0]);
    }

    #[test]
    fn all_else_stays_as_it_is() {
        let mut object = OBJECT.to_vec();
        link(&mut object, &VARIABLES).unwrap();
        for (at, _) in references(OBJECT, &VARIABLES).unwrap() {
            let instructions = at..at + 2 * INSTRUCTION;
            object[instructions.clone()].copy_from_slice(&OBJECT[instructions]);
        }
        assert!(object == OBJECT);
    }

    #[test]
    fn a_variable_that_nobody_has_is_an_error() {
        let error = link(&mut OBJECT.to_vec(), &VARIABLES[..1]).unwrap_err();
        assert!(error.to_string().contains("THREADS"), "{error}");
    }
}
