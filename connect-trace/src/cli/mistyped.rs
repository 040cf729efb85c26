//! Tips for a word in a place where only an option or a subcommand is allowed.

use std::ffi::OsString;

use clap::{
    Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Adds a tip to the error of a command line: a subcommand with a similar name, or how to trace a command.
/// clap adds none because a COMMAND can follow `--`.
pub(super) fn with_tip(mut error: Error, command: &Command, arguments: &[OsString]) -> Error {
    let word = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => word.clone(),
        _ => return error,
    };
    let mut before = arguments.iter().take_while(|before| **before != *word);
    if word.starts_with('-') || before.any(|before| command.find_subcommand(before).is_some()) {
        return error;
    }
    match similar(&word, command) {
        Some(subcommands) => error.insert(ContextKind::SuggestedSubcommand, subcommands),
        None => {
            let tip = format!("to trace a command, put '--' before it: connect-trace -- {word}");
            error.insert(
                ContextKind::Suggested,
                ContextValue::StyledStrs(vec![tip.into()]),
            )
        }
    };
    error
}

/// Returns the names of the subcommands that are similar to a word, as clap measures it.
fn similar(word: &str, command: &Command) -> Option<ContextValue> {
    let subcommands = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let alone = Command::new("connect-trace").subcommands(subcommands.cloned());
    let error = alone.try_get_matches_from(["connect-trace", word]).err()?;
    error.get(ContextKind::SuggestedSubcommand).cloned()
}
