//! The files that an installation has below its prefix, `/usr` or `/usr/local`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::NAME;
use super::program::Program;
use super::texts::Texts;
use super::tree::{Tree, gzip};
use crate::workspace;

/// Name of the configuration, in `packaging/` and in packages.
pub(super) const CONFIGURATION: &str = "connect-trace.toml";

/// Returns the files, with the folder of zsh's completions that fits the prefix.
pub(super) fn files(program: &Program, texts: &Texts, zsh: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.add_program(&format!("bin/{NAME}"), program.content());
    for (path, content) in texts.manual.files() {
        tree.add(&format!("share/man/{path}.gz"), gzip(content)?);
    }
    for (shell, script) in &texts.completions {
        let path = match *shell {
            "bash" => "bash-completion/completions/connect-trace",
            "zsh" => &format!("zsh/{zsh}/_connect-trace"),
            _ => "fish/vendor_completions.d/connect-trace.fish",
        };
        tree.add(&format!("share/{path}"), script.as_str());
    }
    let socket = format!("share/doc/{NAME}/examples/connect-trace.socket");
    tree.add(&socket, read("connect-trace.socket")?);
    let rules = packaging("prometheus");
    tree.add_folder("share/connect-trace/rules", &rules, "yml")?;
    let dashboard = packaging("grafana");
    tree.add_folder("share/connect-trace/dashboard", &dashboard, "json")?;
    Ok(tree)
}

/// Reads a file of `packaging/`.
pub(super) fn read(name: &str) -> Result<String> {
    let path = packaging(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn packaging(name: &str) -> PathBuf {
    workspace::root().join("packaging").join(name)
}
