//! Shared libraries that a program needs in a guest, including its loader.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Folder of libraries in a guest; the loader must be here, and it finds the others here.
pub(crate) const FOLDER: &str = "/lib64";

/// A library: its path in the guest, and its path on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Library {
    pub(crate) guest: String,
    pub(crate) host: PathBuf,
}

/// Returns the libraries of a program, found in the `extra` folders or else in the machine's own. A script or a static
/// program needs none.
pub(crate) fn of(program: &Path, extra: &[PathBuf]) -> Result<Vec<Library>> {
    if !is_elf(program)? {
        return Ok(Vec::new());
    }
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LC_ALL", "C");
    if !extra.is_empty() {
        ldd.env("LD_LIBRARY_PATH", std::env::join_paths(extra)?);
    }
    let output = ldd
        .output()
        .context("cannot run ldd, which finds the libraries of a program")?;
    // For a static program ldd fails with a message.
    parse(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("cannot copy {} into a guest", program.display()))
}

fn is_elf(path: &Path) -> Result<bool> {
    let mut magic = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(magic == b"\x7fELF")
}

/// Parses the output of ldd: `NAME => PATH (ADDRESS)`, and `PATH (ADDRESS)` for the loader.
fn parse(text: &str) -> Result<Vec<Library>> {
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" => not found") {
            bail!("its library {name} is not on this machine; install the package that has it");
        }
        let Some((line, _address)) = line.rsplit_once(" (") else {
            continue;
        };
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        if path.starts_with('/') {
            let name = name.rsplit('/').next().unwrap_or(name);
            libraries.push(Library {
                guest: format!("{FOLDER}/{name}"),
                host: path.into(),
            });
        } // else it is linux-vdso, which the kernel brings.
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_go_where_the_loader_looks() {
        let text = "\tlinux-vdso.so.1 (0x00007f8b87ddc000)\n\
                    \tlibelf.so.1 => /opt/lib/libelf.so.1 (0x00007f8b87ddc000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f8b87e61000)\n";
        let library = |guest: &str, host: &str| Library {
            guest: guest.into(),
            host: host.into(),
        };
        assert_eq!(
            parse(text).unwrap(),
            [
                library("/lib64/libelf.so.1", "/opt/lib/libelf.so.1"),
                library("/lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2"),
            ]
        );
    }

    #[test]
    fn a_static_program_needs_no_libraries() {
        assert_eq!(parse("\tstatically linked\n").unwrap(), []);
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse("\tlibodd.so.1 => not found\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("libodd.so.1"), "{error}");
    }
}
