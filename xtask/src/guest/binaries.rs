//! Builds the programs of this workspace that run in guests. They are static, so that a guest needs no libraries for
//! them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::process;
use crate::tools::musl::Musl;
use crate::workspace;

/// File name of init's program.
pub(crate) const INIT: &str = "guest-init";

/// The profiles that programs of guests are built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// The profile that users get.
    Release,
    /// The same, except that the programs share their dependencies with the tests.
    Guest,
}

impl Profile {
    /// Returns the name, which is also that of its folder.
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Guest => "guest",
        }
    }
}

/// Builds all programs for guests except the tests. The output of cargo is shown.
pub(crate) fn build(arch: Arch) -> Result<Vec<PathBuf>> {
    process::shown(&mut cargo(arch, Profile::Release)?)
        .context("cannot build the programs that run in guests (cargo's messages say why)")?;
    built(arch)
}

/// Returns the programs of the last build; an error if init is missing.
pub(crate) fn built(arch: Arch) -> Result<Vec<PathBuf>> {
    built_with(arch, Profile::Release)
}

/// The programs of tests that run in guests.
pub(crate) struct Tests {
    /// Tests on a kernel.
    pub(crate) guest: PathBuf,
    /// Tests on a whole system.
    pub(crate) system: PathBuf,
}

/// Builds everything that guests run for the tests, and returns it and the tests' programs.
pub(crate) fn build_with_tests(arch: Arch) -> Result<(Vec<PathBuf>, Tests)> {
    let mut command = cargo(arch, Profile::Guest)?;
    command.args(["--test", "guest", "--test", "system"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", process::line(&command)))?;
    if !output.status.success() {
        bail!("cannot build the tests that run in guests (cargo's messages say why)");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = |name: &str| {
        let mut messages = messages.lines().rev();
        let program = messages.find_map(|message| executable_in(message, name));
        program.with_context(|| format!("cargo names no program of the tests `{name}`"))
    };
    let tests = Tests {
        guest: program("guest")?,
        system: program("system")?,
    };
    Ok((built_with(arch, Profile::Guest)?, tests))
}

fn built_with(arch: Arch, profile: Profile) -> Result<Vec<PathBuf>> {
    let folder = workspace::guest_target().join(arch.guest_target());
    let folder = folder.join(profile.name());
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

/// The build of the programs. Arguments may be added.
fn cargo(arch: Arch, profile: Profile) -> Result<Command> {
    let mut command = workspace::cargo();
    command.args(["build", "--profile", profile.name()]);
    command.args(["--package", "connect-trace"]);
    command.args(["--package", "connect-trace-guest", "--bins"]);
    command.args(["--target", arch.guest_target(), "--target-dir"]);
    command.arg(workspace::guest_target());
    if arch.guest_target() == arch.musl() {
        Musl::ensure(arch)?.apply(&mut command)?;
    }
    // A variable of one target applies to the guests' programs and not to build scripts.
    let target = arch.guest_target().replace('-', "_").to_uppercase();
    command.env(
        format!("CARGO_TARGET_{target}_RUSTFLAGS"),
        "-C target-feature=+crt-static",
    );
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    Ok(command)
}

/// Returns the path of the test program of this name in one of cargo's JSON messages. The command is built too, before
/// or after the tests.
fn executable_in(message: &str, name: &str) -> Option<PathBuf> {
    let is_named = message.contains(&format!(r#""name":"{name}""#));
    if !is_named || !message.contains(r#""kind":["test"]"#) {
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
        let message = |kind: &str, name: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":{executable}}}"#
            )
        };
        let program = message("test", "guest", r#""/t/deps/guest-1a""#);
        assert_eq!(
            executable_in(&program, "guest"),
            Some("/t/deps/guest-1a".into())
        );
        assert_eq!(executable_in(&program, "system"), None);
        let nothing = message("test", "guest", "null");
        assert_eq!(executable_in(&nothing, "guest"), None);
        let command = message("bin", "guest", r#""/t/connect-trace""#);
        assert_eq!(executable_in(&command, "guest"), None);
    }
}
