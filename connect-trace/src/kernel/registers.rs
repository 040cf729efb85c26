//! The registers of a probed function, as members of the kernel's `struct pt_regs`, which each architecture has in its
//! own way. The kernel's types show which way it is.

use anyhow::Result;
use connect_trace_common::Field;

use super::{
    btf::{Btf, Kind},
    layout::misfit,
};

/// The registers that programs read, with their numbers on arm64 and their names on x86-64. A function takes its
/// arguments in registers, in this order, and returns its value in one.
const REGISTERS: [(Field, u32, &str); 4] = [
    (Field::ProbeArgument0, 0, "di"),
    (Field::ProbeArgument1, 1, "si"),
    (Field::ProbeArgument2, 2, "dx"),
    (Field::ProbeReturn, 0, "ax"),
];

/// A member of `pt_regs` on arm64 alone. Other architectures have an array of registers too, and use it otherwise.
const ARM64: &str = "pstate";

/// Returns the offset of each register.
///
/// # Errors
/// If the types show the registers in neither way.
pub(super) fn of(btf: &Btf) -> Result<Vec<(Field, u32)>> {
    let member = |name| btf.member("pt_regs", name);
    let array = member("regs")?.filter(|registers| registers.kind == Kind::Array);
    if let (Some(registers), Some(_)) = (array, member(ARM64)?) {
        let offset =
            |(field, number, _)| (field, registers.offset + number * size_of::<u64>() as u32);
        return Ok(REGISTERS.map(offset).to_vec());
    }
    let named = |(field, _, name)| {
        let register = member(name)?.ok_or_else(|| {
            misfit(&format!(
                "struct pt_regs has neither the registers of arm64 nor the member {name} of x86-64"
            ))
        })?;
        Ok((field, register.offset))
    };
    REGISTERS.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEGER: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    const STRUCT: u32 = 4 << 24;
    const UNION: u32 = 5 << 24;

    /// The strings of a blob, and the places of the names in it.
    #[derive(Default)]
    struct Names(Vec<u8>);

    impl Names {
        fn add(&mut self, name: &str) -> u32 {
            let at = self.0.len();
            self.0.extend_from_slice(name.as_bytes());
            self.0.push(0);
            at as u32
        }
    }

    /// Returns types with a `struct pt_regs` of members of 8 bytes one after the other; the first one is an array of
    /// `length` registers if that is not 0. They lie in an anonymous structure of an anonymous union, 16 bytes after the
    /// beginning.
    fn types(members: &[&str], length: u32) -> Btf {
        let mut names = Names::default();
        names.add("");
        let mut types = vec![names.add("u64"), INTEGER, 8, 64]; // 1
        types.extend([0, ARRAY, 0, 1, 1, length]); // 2
        types.extend([0, STRUCT | members.len() as u32, 512]); // 3
        let mut bits = 0;
        for (index, name) in members.iter().enumerate() {
            let is_array = index == 0 && length != 0;
            types.extend([names.add(name), 1 + u32::from(is_array), bits]);
            bits += 64 * if is_array { length } else { 1 };
        }
        types.extend([0, UNION | 1, 512, 0, 3, 0]); // 4
        types.extend([names.add("pt_regs"), STRUCT | 1, 528, 0, 4, 128]); // 5
        let length = 4 * types.len() as u32;
        let head = [0x1_eb9f, 24, 0, length, length, names.0.len() as u32];
        let words = head.iter().chain(&types);
        let blob: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        Btf::parse([blob, names.0].concat()).unwrap()
    }

    #[test]
    fn registers_with_numbers_and_registers_with_names_are_found() {
        let arm64 = of(&types(&["regs", "sp", "pc", "pstate"], 31)).unwrap();
        assert_eq!(
            arm64,
            [
                (Field::ProbeArgument0, 16),
                (Field::ProbeArgument1, 24),
                (Field::ProbeArgument2, 32),
                (Field::ProbeReturn, 16)
            ]
        );
        let amd64 = of(&types(&["ax", "cx", "dx", "si", "di", "orig_ax"], 0)).unwrap();
        assert_eq!(
            amd64,
            [
                (Field::ProbeArgument0, 48),
                (Field::ProbeArgument1, 40),
                (Field::ProbeArgument2, 32),
                (Field::ProbeReturn, 16)
            ]
        );
    }

    #[test]
    fn registers_of_another_architecture_are_an_error() {
        for (members, length) in [
            // loongarch64, whose first argument is register 4.
            (&["regs", "orig_a0", "csr_era"] as &[_], 32),
            // riscv64.
            (&["epc", "ra", "sp", "a0", "a1", "a2"], 0),
        ] {
            let error = of(&types(members, length)).unwrap_err().to_string();
            assert!(error.contains("pt_regs"), "{error}");
        }
    }
}
