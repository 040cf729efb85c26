//! The texts that the program prints about itself, which packages bring. They are the same for all architectures, and
//! are printed by a program of the same source that runs on this machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::WORK;
use super::program::{self, Program};
use super::tree::Tree;
use crate::arch::Arch;
use crate::process;

pub(super) struct Texts {
    /// Pages of the manual, below the folder `man1`.
    pub(super) manual: Tree,
    /// The scripts that complete its command line, with the shells that they are for.
    pub(super) completions: [(&'static str, String); 3],
}

impl Texts {
    /// Takes the texts from the one of the programs that runs on this machine, or else builds such a program.
    pub(super) fn of(programs: &[Program], folder: &Path) -> Result<Self> {
        let mut programs = programs.iter();
        match programs.find(|program| program.arch() == Arch::HOST) {
            Some(program) => Self::printed_by(program.path(), folder),
            None => Self::printed_by(&program::build_for_host()?, folder),
        }
    }

    /// Runs a program, which writes its manual below `folder`.
    pub(super) fn printed_by(program: &Path, folder: &Path) -> Result<Self> {
        let folder = folder.join(WORK).join("man");
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let mut write = Command::new(program);
        process::output(write.args(["man", "--output-dir"]).arg(&folder))?;
        let mut manual = Tree::default();
        manual.add_folder("man1", &folder, "1")?;
        let completions = |shell| {
            let mut print = Command::new(program);
            Ok::<_, anyhow::Error>((shell, process::output(print.args(["completions", shell]))?))
        };
        Ok(Self {
            manual,
            completions: [
                completions("bash")?,
                completions("zsh")?,
                completions("fish")?,
            ],
        })
    }
}
