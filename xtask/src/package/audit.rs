//! The crates that a program says it is built from: the section that cargo-auditable adds.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::read::ZlibDecoder;
use object::{Object as _, ObjectSection as _};
use serde::Deserialize;

/// Name of the section, with zlib-compressed JSON.
const SECTION: &str = ".dep-v0";

/// One crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
}

/// The content of the section.
#[derive(Deserialize)]
struct Audit {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    #[serde(flatten)]
    id: Crate,
    /// `build` for one that only runs while the program is built.
    kind: Option<String>,
}

/// Returns the crates in a program.
pub(super) fn crates(program: &Path) -> Result<BTreeSet<Crate>> {
    let unreadable = || format!("cannot read the crates of {}", program.display());
    let content = fs::read(program).with_context(unreadable)?;
    let file = object::File::parse(content.as_slice()).with_context(unreadable)?;
    let section = file
        .section_by_name(SECTION)
        .with_context(|| format!("it has no section {SECTION}, which cargo-auditable adds"))
        .with_context(unreadable)?;
    let data = section.data().with_context(unreadable)?;
    let audit: Audit = serde_json::from_reader(ZlibDecoder::new(data)).with_context(unreadable)?;
    let packages = audit.packages.into_iter();
    Ok(packages
        .filter(|package| package.kind.as_deref() != Some("build"))
        .map(|package| package.id)
        .collect())
}
