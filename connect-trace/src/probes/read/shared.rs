//! The variables that the programs and the daemon share: maps of one value each that also lie in the daemon's memory,
//! so that it reads and writes them without a system call. During a system call that reads a map, the kernel runs no
//! kprobe program on that CPU (`bpf_disable_instrumentation`, kernel/bpf/syscall.c); on a kernel that preempts threads
//! within itself this can last, and calls would be missed.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use bytemuck::Pod;

use crate::probes::object::externs::{Extern, Is};

/// An array of words that the programs and the daemon read and write.
pub(crate) struct Shared<T> {
    name: &'static str,
    map: MapData,
    memory: NonNull<AtomicU64>,
    length: usize,
    of: PhantomData<T>,
}

// SAFETY: the memory belongs to the kernel, does not move, and is used only through atomic words.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: the reason for Send holds here too.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Pod> Shared<T> {
    const WORDS: usize = size_of::<T>() / size_of::<u64>();

    /// Creates an array of zeros, for the programs' variable of this name. `T` consists of whole words.
    pub(crate) fn new(name: &'static str, length: usize) -> Result<Self> {
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
        // SAFETY: the mapping is new, and its descriptor is open.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                // Writable although most of it is only read: an acquiring load of read-only memory may be undefined
                // behaviour.
                libc::PROT_READ | libc::PROT_WRITE,
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

    /// Returns the words of all elements. The programs write each word whole.
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: this number of words is mapped, in whole pages, for as long as `self` exists.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.length * Self::WORDS) }
    }

    /// Returns the word of the first element at an offset in bytes, as `offset_of!` gives it.
    ///
    /// # Panics
    /// If the element has no word there.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        &self.words()[offset / size_of::<u64>()]
    }

    /// Returns the present elements: each word of an element is read whole, one after the other.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> {
        self.words().chunks_exact(Self::WORDS).map(|words| {
            let mut element = T::zeroed();
            let copy = bytemuck::bytes_of_mut(&mut element);
            for (bytes, word) in copy.as_chunks_mut().0.iter_mut().zip(words) {
                // Acquire keeps the order: a call counted in one word is not missing in a later one.
                *bytes = word.load(Ordering::Acquire).to_ne_bytes();
            }
            element
        })
    }

    /// Returns the definition with which the programs are linked.
    pub(crate) fn linked(&self) -> Extern {
        Extern {
            name: self.name,
            is: Is::Variable(self.map.fd().as_fd().as_raw_fd()),
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the range is the one that was mapped, and nothing borrows it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}
