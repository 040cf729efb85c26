//! The functions that the running kernel has, from `/proc/kallsyms`.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead as _, BufReader},
};

use anyhow::{Context as _, Result};

/// Where the kernel shows its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// Those of `names` that the kernel or one of its modules has.
///
/// # Errors
/// Where `/proc/kallsyms` cannot be read. Addresses may be hidden (`kernel.kptr_restrict`): the names
/// are enough.
pub fn present(names: &[&'static str]) -> Result<HashSet<&'static str>> {
    let file = File::open(KALLSYMS).with_context(|| format!("{KALLSYMS} cannot be read"))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut found = HashSet::new();
    let mut line = Vec::new();
    while found.len() < names.len() && {
        line.clear();
        reader
            .read_until(b'\n', &mut line)
            .with_context(|| format!("read {KALLSYMS}"))?
            > 0
    } {
        // address, type, name, [module]
        let mut words = line.split(|byte| byte.is_ascii_whitespace());
        let (Some(kind), Some(name)) = (words.nth(1), words.next()) else {
            continue;
        };
        if matches!(kind, b"t" | b"T" | b"w" | b"W") {
            found.extend(
                names
                    .iter()
                    .copied()
                    .filter(|wanted| wanted.as_bytes() == name),
            );
        }
    }
    Ok(found)
}
