//! Runs other programs: quietly, with their output kept for the error message, or with their output shown.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command until it ends and returns its standard output; its messages are shown only if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", line(command)))?;
    if !status.success() {
        let messages = String::from_utf8_lossy(&stderr);
        bail!(
            "`{}` failed ({status}):\n{}",
            line(command),
            indented(messages.trim_end())
        );
    }
    String::from_utf8(stdout)
        .with_context(|| format!("the output of `{}` is not UTF-8", line(command)))
}

/// Runs a command that writes to xtask's own standard output and error.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Returns true if a program of this name is on the PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Returns true if xtask runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no memory effects and cannot fail.
    (unsafe { libc::geteuid() }) == 0
}

/// Returns a command line as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+:,./@%^~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo it's", ""]);
        assert_eq!(line(&command), r"sh -c 'echo it'\''s' ''");
    }

    #[test]
    fn a_failed_command_is_an_error_with_its_messages() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("    why"),
            "{error}"
        );
    }
}
