//! Software bills of materials: the crates in the program, and those in the eBPF programs, which are built apart.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::audit::Crate;
use super::commit::{Commit, SOURCE_DATE_EPOCH};
use super::{NAME, VERSION, WORK, source};
use crate::arch::Arch;
use crate::process;
use crate::tools::cargo_tool::CARGO_CYCLONEDX;
use crate::tools::musl::Musl;

/// Packages with the targets that they are built for.
const LISTS: [(&str, &str); 2] = [
    (NAME, Arch::HOST.musl()),
    ("connect-trace-ebpf", "bpfel-unknown-none"),
];

/// Writes the lists and returns their paths, that of the program first.
pub(super) fn write(commit: &Commit, folder: &Path) -> Result<[PathBuf; 2]> {
    let tool = CARGO_CYCLONEDX.ensure()?;
    // The tool takes the target's settings from the compiler.
    Musl::ensure(Arch::HOST)?;
    // It writes a file beside every Cargo.toml: in a copy of the tree.
    let work = folder.join(WORK);
    let archive = work.join("sbom.tar");
    source::archive(commit, None, folder, &archive)?;
    let root = source::unpack(&archive, &work.join("sbom"))?;
    for (package, target) in LISTS {
        let mut list = Command::new(&tool);
        list.args([
            "cyclonedx",
            "--quiet",
            "--format",
            "json",
            "--describe",
            "binaries",
        ])
        .args([
            "--spec-version",
            "1.5",
            "--no-build-deps",
            "--target",
            target,
        ])
        .arg("--manifest-path")
        .arg(root.join(package).join("Cargo.toml"))
        .current_dir(&root)
        .env(SOURCE_DATE_EPOCH, commit.epoch.to_string());
        process::output(&mut list)?;
        let made = root.join(package).join(format!("{package}_bin.cdx.json"));
        let text = fs::read_to_string(&made)
            .with_context(|| format!("cargo-cyclonedx did not write {}", made.display()))?;
        // The folder of the copy says nothing.
        let text = text.replace(&format!("file://{}", root.display()), "file://");
        super::write(&path(folder, package), text.as_bytes())?;
    }
    Ok(LISTS.map(|(package, _)| path(folder, package)))
}

fn path(folder: &Path, package: &str) -> PathBuf {
    folder.join(format!("{package}-{VERSION}.cdx.json"))
}

/// The part of a list that is compared with a program.
#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    components: Vec<Crate>,
}

#[derive(Deserialize)]
struct Metadata {
    component: Crate,
}

/// Checks that a list has all crates of a program.
pub(super) fn check(sbom: &Path, program: &BTreeSet<Crate>) -> Result<()> {
    let text = fs::read(sbom).with_context(|| format!("cannot read {}", sbom.display()))?;
    let list: List = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no list of CycloneDX", sbom.display()))?;
    let mut listed: BTreeSet<_> = list.components.into_iter().collect();
    listed.insert(list.metadata.component);
    let missing: Vec<_> = program.difference(&listed).collect();
    ensure!(
        missing.is_empty(),
        "{} lacks crates that the program has: {missing:?}",
        sbom.display()
    );
    Ok(())
}
