//! The completion scripts of `connect-trace completions`.

use clap::{ArgGroup, Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, NAME};

/// Returns the script that completes the command line in this shell.
#[must_use]
pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut completed(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        // clap_complete 4.6 escapes the hyphen of our name in two ways in the script of bash, so that no
        // subcommand is recognized: https://github.com/clap-rs/clap/issues/6421
        Shell::Bash => script.replace(
            "connect__subcmd__trace__subcmd__",
            "connect__trace__subcmd__",
        ),
        // In zsh, an option after a subcommand would get the values of the option of the same name before it.
        Shell::Zsh => {
            let options = "_arguments \"${_arguments_options[@]}\" : \\";
            let only_before = "_arguments \"${_arguments_options[@]}\" -A \"-*\" : \\";
            script.replacen(options, only_before, 1)
        }
        _ => script.into_owned(),
    }
}

/// Returns the part of the command line that is completed. It leaves out the hidden subcommands, which clap_complete
/// would offer, and the COMMAND after `--`: the script for zsh would expect a subcommand in its place.
fn completed() -> Command {
    let all = Cli::command();
    let arguments = all.get_arguments();
    let arguments = arguments.filter(|argument| !argument.is_last_set());
    let arguments: Vec<_> = arguments.cloned().collect();
    let subcommands = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let is_whole = |group: &&ArgGroup| {
        let mut of_group = group.get_args();
        of_group.all(|id| arguments.iter().any(|argument| argument.get_id() == id))
    };
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .groups(all.get_groups().filter(is_whole).cloned())
        .args(&arguments)
        .subcommands(subcommands.cloned())
}
