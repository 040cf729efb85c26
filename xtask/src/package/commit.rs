//! The commit that is packaged: what is archived, and the time that packages bear.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::WORK;
use crate::{process, workspace};

/// Variable with the time of a package, in seconds since 1970 (<https://reproducible-builds.org/specs/source-date-epoch/>).
pub(super) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

pub(super) struct Commit {
    /// Its hash.
    pub(super) id: String,
    /// The time that packages bear, in seconds since 1970.
    pub(super) epoch: u64,
    /// Name and address of the one who packages it: as Debian's tools are told, or else who committed it.
    pub(super) maintainer: String,
    /// True if the files differ from those of the commit.
    pub(super) is_changed: bool,
}

impl Commit {
    /// Reads the commit that is checked out.
    pub(super) fn current() -> Result<Self> {
        let text = process::output(git().args(["log", "-1", "--format=%H%n%ct%n%cn <%ce>"]))
            .context("packages are made from a clone of the repository, with git")?;
        let mut lines = text.lines();
        let mut line = || lines.next().context("git log shows no commit");
        let (id, time, committer) = (line()?, line()?, line()?);
        let time = env::var(SOURCE_DATE_EPOCH).unwrap_or_else(|_| time.to_owned());
        let epoch = time
            .parse()
            .with_context(|| format!("{SOURCE_DATE_EPOCH}={time}: not a number of seconds"))?;
        let maintainer = match (env::var("DEBFULLNAME"), env::var("DEBEMAIL")) {
            (Ok(name), Ok(address)) => format!("{name} <{address}>"),
            _ => committer.to_owned(),
        };
        let changes = process::output(git().args(["status", "--porcelain"]))?;
        Ok(Self {
            id: id.to_owned(),
            epoch,
            maintainer,
            is_changed: !changes.is_empty(),
        })
    }

    /// Returns the hash of the files: those of the commit, or else, through an index below `folder`, those of the
    /// working folder that git does not ignore.
    pub(super) fn files(&self, folder: &Path) -> Result<String> {
        if !self.is_changed {
            return Ok(self.id.clone());
        }
        let index = folder.join(WORK).join("index");
        let git = || {
            let mut git = git();
            git.env("GIT_INDEX_FILE", &index);
            git
        };
        process::output(git().args(["read-tree", "HEAD"]))?;
        process::output(git().args(["add", "--all"]))?;
        Ok(process::output(git().arg("write-tree"))?.trim().to_owned())
    }
}

/// Returns git in the workspace's folder.
pub(super) fn git() -> Command {
    let mut command = Command::new("git");
    // Whoever owns the folder: who runs xtask runs its code already.
    command.args(["-c", "safe.directory=*"]);
    command.current_dir(workspace::root());
    command
}
