//! bpf-linker, which links the eBPF programs. It works on rustc's own LLVM bitcode, so that its version follows from
//! the compiler's LLVM.

use anyhow::{Context as _, Result, bail};

use super::nightly::Compiler;
use super::report;
use crate::{process, workspace};

/// Major version of LLVM, and the release of bpf-linker that uses the LLVM inside rustc. Later releases need an LLVM of
/// the system.
const RELEASES: [(u32, &str); 1] = [(22, "0.10.3")];

/// Installs the bpf-linker that fits the compiler into `.tools/bpf-linker/` if it is missing, and returns its version.
pub(crate) fn ensure(compiler: &Compiler) -> Result<&'static str> {
    let version = release_for(compiler.llvm)?;
    let folder = workspace::tools().join("bpf-linker");
    let program = folder.join("bin/bpf-linker");
    if is_version(&program, version) {
        return Ok(version);
    }
    report(
        "bpf-linker",
        &format!("building {version} (about a minute)"),
    );
    let package = format!("bpf-linker@{version}");
    let mut install = workspace::cargo();
    // LLVM does the work, so that optimising the rest would cost time and gain none.
    install
        .args([
            "install", "--quiet", "--debug", "--locked", "--force", &package, "--root",
        ])
        .arg(&folder)
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    process::shown(&mut install)
        .with_context(|| format!("cannot build bpf-linker {version}, which links eBPF programs"))?;
    Ok(version)
}

fn release_for(llvm: u32) -> Result<&'static str> {
    if let Some((_, version)) = RELEASES.iter().find(|(major, _)| *major == llvm) {
        return Ok(version);
    }
    let supported = RELEASES.map(|(major, _)| major.to_string()).join(", ");
    bail!(
        "no bpf-linker is known for the nightly compiler's LLVM {llvm} (known: {supported}); \
         install a nightly that has LLVM {supported} as rustup's `nightly`, or add the release of \
         bpf-linker that fits to xtask/src/tools/bpf_linker.rs"
    )
}

fn is_version(program: &std::path::Path, version: &str) -> bool {
    // The output is "bpf-linker 0.10.3".
    process::output(std::process::Command::new(program).arg("--version"))
        .is_ok_and(|text| text.split_whitespace().nth(1) == Some(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_follows_the_compilers_llvm() {
        assert_eq!(release_for(22).unwrap(), "0.10.3");
    }

    #[test]
    fn an_unknown_llvm_is_an_error_that_names_the_known_ones() {
        let error = release_for(99).unwrap_err().to_string();
        assert!(
            error.contains("LLVM 99") && error.contains("known: 22"),
            "{error}"
        );
    }
}
