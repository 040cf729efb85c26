//! A variable of the programs in a section of its own, which is a map of one value. aya would read that value
//! through the stack, which is too small for some.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use bytemuck::Pod;

/// `BPF_MAP_LOOKUP_ELEM`, linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;

/// The variable.
pub(super) struct Variable {
    section: &'static str,
    map: MapData,
    bytes: usize,
}

impl Variable {
    /// Takes the section with a variable of so many bytes out of the object.
    pub(super) fn take(ebpf: &mut Ebpf, section: &'static str, bytes: usize) -> Result<Self> {
        let map = ebpf
            .take_map(section)
            .with_context(|| format!("the eBPF object has no section {section}"))?;
        let Map::Array(map) = map else {
            anyhow::bail!("section {section} of the eBPF object is of another type");
        };
        let is = map.info()?.value_size();
        ensure!(
            usize::try_from(is) == Ok(bytes),
            "section {section} of the eBPF object has {is} bytes and not {bytes}"
        );
        Ok(Self {
            section,
            map,
            bytes,
        })
    }

    /// What it holds now.
    pub(super) fn read<T: Pod>(&self) -> Result<Vec<T>> {
        #[repr(C)]
        struct Attr {
            map: u32,
            unused: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let key = 0_u32;
        let mut value = vec![T::zeroed(); self.bytes / size_of::<T>()];
        ensure!(
            size_of_val(value.as_slice()) == self.bytes,
            "section {} is read as another type",
            self.section
        );
        let mut attr = Attr {
            map: self.map.fd().as_fd().as_raw_fd() as u32,
            unused: 0,
            key: &raw const key as u64,
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the kernel writes the map's size of a value, which is that of `value`; any bytes are a `T`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_ELEM,
                &raw mut attr,
                size_of::<Attr>(),
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return Err(error).with_context(|| format!("read section {}", self.section));
        }
        Ok(value)
    }
}
