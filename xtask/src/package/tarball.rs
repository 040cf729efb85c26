//! The static tarball, which is unpacked into `/usr/local`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::commit::Commit;
use super::program::Program;
use super::texts::Texts;
use super::tree::{Tree, gzip};
use super::{NAME, VERSION, installed};
use crate::workspace;

/// Documents of the project that come with the program.
const DOCUMENTS: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// Writes the tarball and returns its path.
pub(super) fn write(
    program: &Program,
    texts: &Texts,
    commit: &Commit,
    folder: &Path,
) -> Result<PathBuf> {
    let name = format!("{NAME}-{VERSION}-{}-linux", program.arch().machine());
    let path = folder.join(format!("{name}.tar.gz"));
    let mut tree = Tree::default();
    tree.add_tree(&name, files(program, texts)?);
    let archive = tree.tar(commit.epoch).and_then(|archive| gzip(&archive));
    let archive = archive.with_context(|| format!("cannot make {}", path.display()))?;
    super::write(&path, &archive)?;
    Ok(path)
}

fn files(program: &Program, texts: &Texts) -> Result<Tree> {
    let mut tree = installed::files(program, texts, "site-functions")?;
    for name in DOCUMENTS {
        let path = workspace::root().join(name);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        tree.add(&format!("share/doc/{NAME}/{name}"), text);
    }
    // systemd looks into /usr/local/lib too, but the program has another path there.
    let unit = installed::read("connect-trace.service")?;
    let unit = unit.replace("/usr/bin/connect-trace", "/usr/local/bin/connect-trace");
    tree.add("lib/systemd/system/connect-trace.service", unit);
    let configuration = installed::read(installed::CONFIGURATION)?;
    let path = format!("share/{NAME}/{}", installed::CONFIGURATION);
    tree.add(&path, configuration);
    Ok(tree)
}
