//! The kernel's BTF, the description of its types: member offsets and function parameters.
//!
//! Only the types that are looked up are read, straight from the blob (5 MB, a few milliseconds, no copy
//! of any type): the crates that parse it whole cost a hundred times that, or bring an ELF reader.
//! Format: Documentation/bpf/btf.rst in the kernel's source.

use std::collections::HashSet;

use anyhow::{Context as _, Result, bail, ensure};

use super::{limits, mounts, requirement::MissingRequirement};

/// File in which a kernel with `CONFIG_DEBUG_INFO_BTF` shows the types of its own image.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Number of a type within one BTF.
pub type TypeId = u32;

/// The absence of a type: the return type of a function that returns nothing.
pub const VOID: TypeId = 0;

/// The types of one BTF blob.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    /// Byte position in `data` of each type's header.
    types: Vec<usize>,
    /// Byte position in `data` of the strings.
    strings: usize,
    /// Numbers of the functions, in order. Few functions are looked up, so comparing names costs a tenth of an index by
    /// name.
    functions: Vec<TypeId>,
    /// Numbers of the structures, in order.
    structs: Vec<TypeId>,
}

/// A member of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the outermost structure.
    pub offset: u32,
    /// Position of the lowest bit within that byte, for a bit field; else 0.
    pub bit: u32,
    /// The member's type, with typedefs and qualifiers taken off.
    pub type_id: TypeId,
    /// Kind of that type.
    pub kind: Kind,
}

/// The kinds of types that the tracer distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Int,
    /// A pointer.
    Pointer,
    /// An array.
    Array,
    /// A structure or a union.
    Composite,
    /// Anything else.
    Other,
}

// Kinds of types, `BTF_KIND_*`.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

const MAGIC: u16 = 0xeb9f;
/// Size of `struct btf_type`, to which the members or parameters are appended.
const TYPE_HEADER: usize = 12;
/// More qualifiers on one type than any kernel has: ends a cycle in a broken blob.
const MAX_QUALIFIERS: usize = 32;

impl Btf {
    /// Reads the running kernel's types.
    ///
    /// # Errors
    /// If the kernel has no BTF, or it cannot be read.
    pub fn of_running_kernel() -> Result<Self> {
        std::fs::read(VMLINUX)
            .with_context(|| format!("{VMLINUX} cannot be read"))
            .and_then(|data| {
                Self::parse(data).with_context(|| format!("{VMLINUX} cannot be used"))
            })
            .map_err(|error| {
                let error = match mounts::sysfs() {
                    Ok(()) => limits::named(error),
                    Err(lack) => lack.into(),
                };
                if error.is::<MissingRequirement>() {
                    return error;
                }
                MissingRequirement::new(
                    format!(
                        "{error:#}; BTF is needed to find the fields of a socket"
                    ),
                    "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian's, Ubuntu's, Fedora's \
                     and RHEL's are since about 2020)",
                )
                .into()
            })
    }

    /// Returns the size of the blob in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data.len()
    }

    /// Parses a blob.
    ///
    /// # Errors
    /// If the blob is not well formed.
    pub fn parse(data: Vec<u8>) -> Result<Self> {
        let mut btf = Self {
            data,
            types: vec![0],
            strings: 0,
            functions: Vec::new(),
            structs: Vec::new(),
        };
        ensure!(!btf.data.is_empty(), "empty");
        let magic = btf
            .data
            .first_chunk()
            .map(|bytes| u16::from_le_bytes(*bytes));
        ensure!(
            magic == Some(MAGIC),
            "no BTF of this byte order (magic {magic:x?})"
        );
        let header = btf.u32(4)? as usize;
        let (type_offset, type_length) = (btf.u32(8)? as usize, btf.u32(12)? as usize);
        btf.strings = header + btf.u32(16)? as usize;
        let mut position = header + type_offset;
        let end = position + type_length;
        ensure!(
            end <= btf.data.len() && btf.strings <= btf.data.len(),
            "cut short"
        );
        while position < end {
            let id = btf.types.len() as TypeId;
            btf.types.push(position);
            let (kind, count) = btf.kind_and_count(position)?;
            match kind {
                FUNC => btf.functions.push(id),
                STRUCT => btf.structs.push(id),
                _ => {}
            }
            position += TYPE_HEADER
                + match kind {
                    INT | VAR | DECL_TAG => 4,
                    ARRAY => 12,
                    STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
                    ENUM | FUNC_PROTO => 8 * count,
                    PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => {
                        0
                    }
                    // The length of an unknown kind is unknown, and so is the start of the next type.
                    _ => bail!("type {id} is of the unknown kind {kind}"),
                };
        }
        Ok(btf)
    }

    /// Finds a member by its path, such as `__sk_common.skc_num` of `sock`; members of anonymous structures and unions
    /// are found as in C. Returns `None` if the kernel has no such structure or member.
    ///
    /// # Errors
    /// If the blob is broken.
    pub fn member(&self, structure: &str, path: &str) -> Result<Option<Member>> {
        let Some(start) = self.structure(structure) else {
            return Ok(None);
        };
        let mut found = Member {
            offset: 0,
            bit: 0,
            type_id: start,
            kind: Kind::Composite,
        };
        for name in path.split('.') {
            let Some(next) = self.direct_member(found.type_id, name)? else {
                return Ok(None);
            };
            found = Member {
                offset: sum(found.offset, next.offset)?,
                ..next
            };
        }
        Ok(Some(found))
    }

    /// Returns the number of a kernel function; `None` if the kernel has no such function.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<TypeId> {
        self.first_named(name, &self.functions)
    }

    /// Returns the number of a structure; `None` if the kernel has no such structure.
    #[must_use]
    pub fn structure(&self, name: &str) -> Option<TypeId> {
        self.first_named(name, &self.structs)
    }

    /// Returns the size of a structure in bytes; `None` if the kernel has no such structure.
    ///
    /// # Errors
    /// If the blob is broken.
    pub fn structure_bytes(&self, name: &str) -> Result<Option<u32>> {
        self.structure(name)
            .map(|id| self.u32(self.position(id)? + 8))
            .transpose()
    }

    /// Returns the types of a kernel function's parameters; `None` if the kernel has no such function.
    ///
    /// # Errors
    /// If the blob is broken.
    pub fn parameters(&self, function: &str) -> Result<Option<Vec<TypeId>>> {
        let Some(prototype) = self.prototype(function)? else {
            return Ok(None);
        };
        let (_, count) = self.kind_and_count(prototype)?;
        (0..count)
            .map(|index| self.u32(prototype + TYPE_HEADER + 8 * index + 4))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// Returns the return type of a kernel function, [`VOID`] if it returns nothing; `None` if the kernel has no such
    /// function.
    ///
    /// # Errors
    /// If the blob is broken.
    pub fn returned(&self, function: &str) -> Result<Option<TypeId>> {
        let Some(prototype) = self.prototype(function)? else {
            return Ok(None);
        };
        Ok(Some(self.resolve(self.u32(prototype + 8)?)?))
    }

    /// Returns a blob of BTF in which the given functions keep their numbers, and nothing else has a name. A reader
    /// that only looks up numbers parses it in a tenth of the time that the whole blob takes.
    pub(crate) fn with_only<'a>(&self, functions: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
        const HEADER: usize = 24;
        let mut strings = vec![0];
        let mut types = Vec::<u32>::new();
        for name in functions {
            let Some(id) = self.function(name) else {
                continue;
            };
            // Every entry is three words long, so that its place in the list is its number.
            let end = 3 * id as usize;
            while types.len() < end {
                types.extend([0, FWD << 24, 0]);
            }
            types[end - 3..end].copy_from_slice(&[strings.len() as u32, FUNC << 24, 0]);
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        let length = 4 * types.len() as u32;
        let header = [HEADER as u32, 0, length, length, strings.len() as u32];
        let mut blob = Vec::with_capacity(HEADER + length as usize + strings.len());
        blob.extend(MAGIC.to_le_bytes());
        blob.extend([1, 0]); // Version and flags.
        blob.extend(
            header
                .iter()
                .chain(&types)
                .flat_map(|word| word.to_le_bytes()),
        );
        blob.extend(strings);
        blob
    }

    /// Returns the position of a function's prototype in the blob; `None` if the kernel has no such function.
    fn prototype(&self, function: &str) -> Result<Option<usize>> {
        let Some(id) = self.function(function) else {
            return Ok(None);
        };
        let prototype = self.position(self.u32(self.position(id)? + 8)?)?;
        let (kind, _) = self.kind_and_count(prototype)?;
        ensure!(kind == FUNC_PROTO, "function {function} has no prototype");
        Ok(Some(prototype))
    }

    /// Returns whether a type is a pointer to the structure of this name.
    ///
    /// # Errors
    /// If the blob is broken.
    pub fn points_to(&self, id: TypeId, structure: &str) -> Result<bool> {
        let pointer = self.resolve(id)?;
        if pointer == 0 || self.kind_and_count(self.position(pointer)?)?.0 != PTR {
            return Ok(false);
        }
        let target = self.resolve(self.u32(self.position(pointer)? + 8)?)?;
        Ok(target != 0 && self.name(target)? == structure)
    }

    /// Returns whether a type is an integer of `bytes` bytes.
    ///
    /// # Errors
    /// If the blob is broken.
    pub fn is_integer(&self, id: TypeId, bytes: u32) -> Result<bool> {
        let id = self.resolve(id)?;
        if self.kind(id)? != Kind::Int {
            return Ok(false);
        }
        Ok(self.u32(self.position(id)? + 8)? == bytes)
    }

    /// Finds a member of a structure or of the anonymous ones within it. Each type is searched once, so that a broken blob,
    /// in which a type can contain itself, takes no longer than its size.
    fn direct_member(&self, composite: TypeId, name: &str) -> Result<Option<Member>> {
        let mut seen = HashSet::from([composite]);
        let mut ahead = vec![(composite, 0)];
        while let Some((composite, start)) = ahead.pop() {
            let position = self.position(composite)?;
            let (kind, count) = self.kind_and_count(position)?;
            if kind != STRUCT && kind != UNION {
                continue;
            }
            // If the kind flag is set, the upper byte of an offset is the width of a bit field.
            let bit_fields = self.u32(position + 4)? >> 31 != 0;
            for index in 0..count {
                let member = position + TYPE_HEADER + 12 * index;
                let bits = self.u32(member + 8)? & if bit_fields { 0x00ff_ffff } else { u32::MAX };
                let this = name_at(&self.data, self.strings, member)?;
                if !this.is_empty() && this != name {
                    continue;
                }
                let type_id = self.resolve(self.u32(member + 4)?)?;
                let offset = sum(start, bits / 8)?;
                if this.is_empty() {
                    if seen.insert(type_id) {
                        ahead.push((type_id, offset));
                    }
                    continue;
                }
                return Ok(Some(Member {
                    offset,
                    bit: bits % 8,
                    type_id,
                    kind: self.kind(type_id)?,
                }));
            }
        }
        Ok(None)
    }

    fn kind(&self, id: TypeId) -> Result<Kind> {
        if id == 0 {
            return Ok(Kind::Other);
        }
        Ok(match self.kind_and_count(self.position(id)?)?.0 {
            INT => Kind::Int,
            PTR => Kind::Pointer,
            ARRAY => Kind::Array,
            STRUCT | UNION => Kind::Composite,
            _ => Kind::Other,
        })
    }

    /// Strips typedefs, qualifiers and tags from a type.
    fn resolve(&self, mut id: TypeId) -> Result<TypeId> {
        for _ in 0..MAX_QUALIFIERS {
            if id == 0 {
                return Ok(0);
            }
            let position = self.position(id)?;
            match self.kind_and_count(position)?.0 {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = self.u32(position + 8)?,
                _ => return Ok(id),
            }
        }
        bail!("type {id} has no end")
    }

    /// Returns the first type in `among` that has this name.
    fn first_named(&self, name: &str, among: &[TypeId]) -> Option<TypeId> {
        among.iter().copied().find(|&id| self.is_named(id, name))
    }

    fn is_named(&self, id: TypeId, name: &str) -> bool {
        let offset = self.position(id).and_then(|position| self.u32(position));
        let rest = offset.ok().and_then(|offset| {
            let start = self.strings.checked_add(offset as usize)?;
            self.data.get(start..)?.strip_prefix(name.as_bytes())
        });
        !name.is_empty() && rest.and_then(<[u8]>::first) == Some(&0)
    }

    fn name(&self, id: TypeId) -> Result<&str> {
        name_at(&self.data, self.strings, self.position(id)?)
    }

    fn position(&self, id: TypeId) -> Result<usize> {
        ensure!(id != 0, "void has no description");
        self.types
            .get(id as usize)
            .copied()
            .with_context(|| format!("no type {id}"))
    }

    fn kind_and_count(&self, position: usize) -> Result<(u32, usize)> {
        let info = self.u32(position + 4)?;
        Ok((info >> 24 & 0x1f, (info & 0xffff) as usize))
    }

    fn u32(&self, position: usize) -> Result<u32> {
        u32_at(&self.data, position)
    }
}

/// Adds two offsets.
fn sum(one: u32, other: u32) -> Result<u32> {
    one.checked_add(other)
        .context("a member lies outside of any structure")
}

fn u32_at(data: &[u8], position: usize) -> Result<u32> {
    let bytes = data
        .get(position..)
        .and_then(<[u8]>::first_chunk)
        .context("cut short")?;
    Ok(u32::from_le_bytes(*bytes))
}

/// Returns the name whose string offset is stored at `position`.
fn name_at(data: &[u8], strings: usize, position: usize) -> Result<&str> {
    let start = strings + u32_at(data, position)? as usize;
    let bytes = data
        .get(start..)
        .context("a name lies outside of the strings")?;
    let length = bytes
        .iter()
        .position(|&byte| byte == 0)
        .context("a name without an end")?;
    Ok(std::str::from_utf8(&bytes[..length])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_btf_is_refused() {
        assert!(Btf::parse(vec![]).is_err());
        assert!(Btf::parse(vec![0; 64]).is_err());
    }

    #[test]
    fn a_blob_cut_anywhere_is_an_error_and_no_panic() {
        let whole = tiny();
        assert!(Btf::parse(whole.clone()).is_ok());
        for length in 0..whole.len() {
            if let Ok(btf) = Btf::parse(whole[..length].to_vec()) {
                let _ = btf.member("outer", "inner.field");
                let _ = btf.parameters("function");
            }
        }
    }

    #[test]
    fn a_member_is_found_through_anonymous_unions_and_typedefs() {
        let btf = Btf::parse(tiny()).unwrap();
        let member = btf.member("outer", "inner.field").unwrap().unwrap();
        assert_eq!((member.offset, member.bit, member.kind), (12, 0, Kind::Int));
        assert_eq!(btf.member("outer", "nothing").unwrap(), None);
        assert_eq!(btf.member("nothing", "inner").unwrap(), None);
    }

    #[test]
    fn a_type_within_itself_or_within_very_many_others_is_searched_once() {
        let strings = b"\0outer\0";
        // `levels` structures, each of which has the next one as its only members, which have no name.
        let nested = |levels: u32, last: u32| {
            let level = |level: u32| {
                let next = if level < levels { level + 1 } else { last };
                let name = u32::from(level == 1);
                [name, STRUCT << 24 | 2, 8, 0, next, 0, 0, next, 0]
            };
            let types: Vec<u32> = (1..=levels).flat_map(level).collect();
            let length = 4 * types.len() as u32;
            let head = [
                1 << 16 | u32::from(MAGIC),
                24,
                0,
                length,
                length,
                strings.len() as u32,
            ];
            let words = head.iter().chain(&types);
            let blob: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
            Btf::parse([blob.as_slice(), strings].concat()).unwrap()
        };
        for (levels, last) in [(1, 1), (2, 1), (100_000, 1), (100_000, 100_000)] {
            let btf = nested(levels, last);
            assert_eq!(btf.member("outer", "absent").unwrap(), None);
        }
    }

    #[test]
    fn a_bit_field_begins_within_a_byte() {
        let btf = Btf::parse(tiny()).unwrap();
        let member = btf.member("fields", "high").unwrap().unwrap();
        assert_eq!((member.offset, member.bit), (1, 4));
    }

    #[test]
    fn the_parameters_of_a_function_have_their_types() {
        let btf = Btf::parse(tiny()).unwrap();
        let parameters = btf.parameters("function").unwrap().unwrap();
        assert_eq!(parameters.len(), 2);
        assert!(btf.is_integer(parameters[0], 4).unwrap());
        assert!(!btf.is_integer(parameters[0], 8).unwrap());
        assert!(!btf.is_integer(parameters[1], 8).unwrap());
        assert!(!btf.points_to(parameters[0], "outer").unwrap());
        assert!(btf.points_to(parameters[1], "outer").unwrap());
        assert_eq!(btf.parameters("nothing").unwrap(), None);
    }

    #[test]
    fn a_blob_of_some_functions_has_their_numbers_and_no_other_name() {
        let whole = Btf::parse(tiny()).unwrap();
        let some = Btf::parse(whole.with_only(["other", "nothing", "function"])).unwrap();
        for name in ["other", "function"] {
            assert!(whole.function(name).is_some());
            assert_eq!(some.function(name), whole.function(name));
        }
        assert_eq!(some.function("nothing"), None);
        assert_eq!(some.structure("outer"), None);
        assert!(
            Btf::parse(whole.with_only([]))
                .unwrap()
                .functions
                .is_empty()
        );
        // Read by aya's own parser.
        let read = aya::Btf::parse(&whole.with_only(["other"]), aya::Endianness::Little);
        let kind = aya_obj::btf::BtfKind::Func;
        let other = read.unwrap().id_by_type_name_kind("other", kind);
        assert_eq!(other.ok(), whole.function("other"));
    }

    #[test]
    fn what_a_function_returns_is_void_or_a_type() {
        let btf = Btf::parse(tiny()).unwrap();
        assert_eq!(btf.returned("function").unwrap(), Some(VOID));
        assert_eq!(btf.returned("other").unwrap(), Some(1));
        assert_eq!(btf.returned("nothing").unwrap(), None);
    }

    #[test]
    fn a_kind_that_is_not_known_is_an_error() {
        // Byte position of the first type's kind, in the upper byte of its second word.
        const KIND: usize = 24 + 7;
        for kind in [0, 20, 31] {
            let mut blob = tiny();
            blob[KIND] = kind;
            let error = Btf::parse(blob).unwrap_err().to_string();
            assert!(error.contains(&format!("unknown kind {kind}")), "{error}");
        }
    }

    /// Returns a blob with `struct fields { u32 : 8, pad : 4, high : 4; }`,
    /// `struct outer { u32 first; union { typedef struct { u32 pad; u32 field; } inner; }; }` with the union at
    /// offset 8, `void function(u32, const struct outer *)` and `u32 other(void)`.
    fn tiny() -> Vec<u8> {
        let strings = b"\0int\0outer\0first\0inner\0pad\0field\0function\0fields\0high\0other\0";
        let offset = |name: &str| -> u32 {
            let needle = [b"\0", name.as_bytes(), b"\0"].concat();
            let at = strings
                .windows(needle.len())
                .position(|window| window == needle)
                .unwrap();
            at as u32 + 1
        };
        let kind = |kind: u32, count: u32| kind << 24 | count;
        let mut types = Vec::<u32>::new();
        types.extend([offset("int"), kind(INT, 0), 4, 32]); // 1
        types.extend([0, kind(STRUCT, 2), 8]); // 2, anonymous
        types.extend([offset("pad"), 1, 0, offset("field"), 1, 32]);
        types.extend([offset("inner"), kind(TYPEDEF, 0), 2]); // 3
        types.extend([0, kind(UNION, 1), 8, offset("inner"), 3, 0]); // 4, anonymous
        types.extend([offset("outer"), kind(STRUCT, 2), 16]); // 5
        types.extend([offset("first"), 1, 0, 0, 4, 64]);
        types.extend([0, kind(CONST, 0), 5]); // 6
        types.extend([0, kind(PTR, 0), 6]); // 7
        types.extend([0, kind(FUNC_PROTO, 2), 0, 0, 1, 0, 7]); // 8
        types.extend([offset("function"), kind(FUNC, 1), 8]); // 9
        types.extend([offset("fields"), 1 << 31 | kind(STRUCT, 2), 4]); // 10
        types.extend([
            offset("pad"),
            1,
            4 << 24 | 8,
            offset("high"),
            1,
            4 << 24 | 12,
        ]);
        types.extend([0, kind(FUNC_PROTO, 0), 1]); // 11
        types.extend([offset("other"), kind(FUNC, 1), 11]); // 12
        let mut blob = Vec::new();
        blob.extend(MAGIC.to_le_bytes());
        blob.extend([1, 0]);
        for word in [
            24,
            0,
            4 * types.len() as u32,
            4 * types.len() as u32,
            strings.len() as u32,
        ] {
            blob.extend(word.to_le_bytes());
        }
        blob.extend(types.iter().flat_map(|word| word.to_le_bytes()));
        blob.extend(strings);
        blob
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::fixtures::fuzz::fuzz;

    #[test]
    fn any_blob_is_searched_to_an_end() {
        fuzz("btf", |bytes| {
            let Ok(btf) = Btf::parse(bytes.to_vec()) else {
                return;
            };
            for (structure, path) in [
                ("outer", "inner.field"),
                ("outer", "absent"),
                ("fields", "high"),
            ] {
                let _ = btf.member(structure, path);
            }
            let _ = btf.structure_bytes("outer");
            for function in ["function", "other"] {
                let _ = btf.returned(function);
                for id in btf.parameters(function).ok().flatten().unwrap_or_default() {
                    let _ = btf.points_to(id, "outer");
                    let _ = btf.is_integer(id, 4);
                }
            }
            let few = Btf::parse(btf.with_only(["function", "other"])).unwrap();
            for function in ["function", "other"] {
                assert_eq!(few.function(function), btf.function(function));
            }
        });
    }
}
