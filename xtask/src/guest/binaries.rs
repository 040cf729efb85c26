//! Builds the programs of this workspace that run in guests. They are static, so that a guest needs no libraries for
//! them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process;
use crate::workspace::{self, GUEST_TARGET};

/// File name of init's program.
pub(crate) const INIT: &str = "guest-init";

/// Builds all programs for guests except the tests. The output of cargo is shown.
pub(crate) fn build() -> Result<Vec<PathBuf>> {
    let mut command = cargo("build");
    command.args([
        "--package",
        "connect-trace",
        "--package",
        "connect-trace-guest",
        "--bins",
    ]);
    process::shown(&mut command)
        .context("cannot build the programs that run in guests (cargo's messages say why)")?;
    built()
}

/// Returns the programs of the last build; an error if init is missing.
pub(crate) fn built() -> Result<Vec<PathBuf>> {
    let folder = workspace::guest_target().join(GUEST_TARGET).join("release");
    let names = ["connect-trace", "truth", INIT];
    let programs: Vec<_> = names
        .iter()
        .map(|name| folder.join(name))
        .filter(|path| path.is_file())
        .collect();
    if !programs.iter().any(|path| path.ends_with(INIT)) {
        bail!(
            "there is no {} yet; build it first (leave out --no-build)",
            folder.join(INIT).display()
        );
    }
    Ok(programs)
}

/// Builds the tests that run in guests, and returns their program.
pub(crate) fn build_tests() -> Result<PathBuf> {
    let mut command = cargo("test");
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    command.args(["--package", "connect-trace", "--test", "guest"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", process::line(&command)))?;
    if !output.status.success() {
        bail!("cannot build the tests that run in guests (cargo's messages say why)");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().rev().find_map(executable_in);
    program.context("cargo names no program of the tests that run in guests")
}

fn cargo(subcommand: &str) -> Command {
    let mut command = workspace::cargo();
    command.args([
        subcommand,
        "--release",
        "--target",
        GUEST_TARGET,
        "--target-dir",
    ]);
    command.arg(workspace::guest_target());
    // A variable of one target applies to the guests' programs and not to build scripts.
    command.env(
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
        "-C target-feature=+crt-static",
    );
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// Returns the path of the test program in one of cargo's JSON messages. The command is built too, before or after the
/// tests.
fn executable_in(message: &str) -> Option<PathBuf> {
    if !message.contains(r#""kind":["test"]"#) {
        return None;
    }
    let (_, rest) = message.split_once(r#""executable":""#)?;
    let (path, _) = rest.split_once('"')?;
    // A path with characters that JSON escapes is not supported, which saves a parser.
    (!path.contains('\\')).then(|| Path::new(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_program_is_found_in_cargos_messages() {
        let message = |kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"]}},"executable":{executable}}}"#
            )
        };
        let found = executable_in(&message("test", r#""/t/deps/guest-1a""#));
        assert_eq!(found, Some("/t/deps/guest-1a".into()));
        assert_eq!(executable_in(&message("test", "null")), None);
        assert_eq!(
            executable_in(&message("bin", r#""/t/connect-trace""#)),
            None
        );
    }
}
