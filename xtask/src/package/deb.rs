//! The package for Debian, made by dpkg-deb.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::commit::{Commit, SOURCE_DATE_EPOCH};
use super::program::Program;
use super::texts::Texts;
use super::tree::{Tree, gzip};
use super::{NAME, VERSION, WORK, installed};
use crate::{process, workspace};

/// Number of this packaging of the version.
const REVISION: u32 = 1;

/// The scripts that dpkg runs, in `packaging/deb/`.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Writes the package and returns its path.
pub(super) fn write(
    program: &Program,
    texts: &Texts,
    commit: &Commit,
    folder: &Path,
) -> Result<PathBuf> {
    if !process::is_installed("dpkg-deb") {
        bail!("packages for Debian are made with dpkg-deb; install the package dpkg");
    }
    let arch = program.arch().debian();
    let path = folder.join(format!("{NAME}_{VERSION}-{REVISION}_{arch}.deb"));
    let mut tree = files(program, texts, commit)?;
    for (name, content) in control(&tree, arch, commit)? {
        if SCRIPTS.contains(&name) {
            tree.add_program(&format!("DEBIAN/{name}"), content);
        } else {
            tree.add(&format!("DEBIAN/{name}"), content);
        }
    }
    let staged = folder.join(WORK).join("deb");
    tree.write(&staged)?;
    let mut build = Command::new("dpkg-deb");
    build
        .args(["--root-owner-group", "-Zxz", "--build"])
        .args([&staged, &path])
        // Files that are newer, which are all of them, get this time.
        .env(SOURCE_DATE_EPOCH, commit.epoch.to_string());
    process::output(&mut build)?;
    Ok(path)
}

/// Returns the files that dpkg installs.
fn files(program: &Program, texts: &Texts, commit: &Commit) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.add_tree(
        "usr",
        installed::files(program, texts, "vendor-completions")?,
    );
    tree.add(
        "usr/lib/systemd/system/connect-trace.service",
        installed::read("connect-trace.service")?,
    );
    tree.add(
        &format!("etc/{NAME}/{}", installed::CONFIGURATION),
        installed::read(installed::CONFIGURATION)?,
    );
    let documents = format!("usr/share/doc/{NAME}");
    let changelog = workspace::root().join("CHANGELOG.md");
    let changelog =
        fs::read(&changelog).with_context(|| format!("cannot read {}", changelog.display()))?;
    tree.add(&format!("{documents}/changelog.gz"), gzip(&changelog)?);
    tree.add(
        &format!("{documents}/changelog.Debian.gz"),
        gzip(own_changelog(commit)?.as_bytes())?,
    );
    tree.add(
        &format!("{documents}/copyright"),
        installed::read("deb/copyright")?,
    );
    tree.add(
        &format!("usr/share/lintian/overrides/{NAME}"),
        installed::read("deb/lintian-overrides")?,
    );
    Ok(tree)
}

/// Returns the changelog of the packaging, which only points to that of the project.
fn own_changelog(commit: &Commit) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email", "--date"]);
    let date = process::output(date.arg(format!("@{}", commit.epoch)).env("LC_ALL", "C"))?;
    Ok(format!(
        "{NAME} ({VERSION}-{REVISION}) unstable; urgency=medium\n\n  \
         * Package of version {VERSION}: see changelog.gz.\n\n \
         -- {}  {date}",
        commit.maintainer
    ))
}

/// Returns the files that dpkg keeps about the package, by their names.
fn control(tree: &Tree, arch: &str, commit: &Commit) -> Result<Vec<(&'static str, String)>> {
    let kilobytes: usize = tree
        .files()
        .map(|(_, content)| content.len().div_ceil(1024))
        .sum();
    let control = format!(
        "Package: {NAME}\nVersion: {VERSION}-{REVISION}\nArchitecture: {arch}\n\
         Maintainer: {}\nInstalled-Size: {kilobytes}\n{}",
        commit.maintainer,
        installed::read("deb/control")?
    );
    let configuration = tree.files().filter(|(path, _)| path.starts_with("etc/"));
    let configuration = configuration
        .map(|(path, _)| format!("/{path}\n"))
        .collect();
    let mut files = vec![("control", control), ("conffiles", configuration)];
    for script in SCRIPTS {
        files.push((script, installed::read(&format!("deb/{script}"))?));
    }
    Ok(files)
}
