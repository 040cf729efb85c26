//! The kernel function `bpf_rdonly_cast` (since 6.2), which gives an address a type, so that a program reads the memory
//! behind it with plain loads instead of a helper call for each read.

use std::fs;

use anyhow::Result;

use super::btf::{Btf, Kind, TypeId};

/// The name of the function.
pub(crate) const FUNCTION: &str = "bpf_rdonly_cast";

/// Contains 0 if the kernel interprets programs, which then cannot call kernel functions
/// (Documentation/admin-guide/sysctl/net.rst).
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// A structure that begins with a word of 32 bits: the type under which the word at any address is read.
const WORD: (&str, &str) = ("refcount_struct", "refs.counter");

/// Type numbers of the function and of the types that it gives to addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The function itself.
    pub function: TypeId,
    /// `struct sock`
    pub sock: TypeId,
    /// `struct inet_sock`
    pub inet_sock: TypeId,
    /// A structure that begins with a word of 32 bits.
    pub word: TypeId,
}

impl Cast {
    /// Looks up the types in the running kernel's BTF; `None` if the kernel lacks the function.
    ///
    /// # Errors
    /// If the BTF is broken.
    pub(super) fn of_running_kernel(btf: &Btf) -> Result<Option<Self>> {
        let jit = fs::read_to_string(JIT);
        if jit.is_ok_and(|jit| jit.trim() == "0") {
            return Ok(None);
        }
        Self::of(btf)
    }

    fn of(btf: &Btf) -> Result<Option<Self>> {
        let (word, path) = WORD;
        let is_word = btf
            .member(word, path)?
            .is_some_and(|counter| counter.offset == 0 && counter.kind == Kind::Int);
        if !is_word {
            return Ok(None);
        }
        let all = || {
            Some(Self {
                function: btf.function(FUNCTION)?,
                sock: btf.structure("sock")?,
                inet_sock: btf.structure("inet_sock")?,
                word: btf.structure(word)?,
            })
        };
        Ok(all())
    }
}
