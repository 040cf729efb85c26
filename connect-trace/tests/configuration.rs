//! The configuration file that packages install.

use std::{collections::BTreeSet, fs, path::Path};

use clap::{ArgAction, CommandFactory as _, Parser as _};
use connect_trace::cli::Cli;
use serde_json::Value;

/// Options of `serve` that are not settings.
const NO_SETTINGS: [&str; 2] = ["config", "help"];

fn lines() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/connect-trace.toml");
    let text = fs::read_to_string(file).expect("the file is in the repository");
    text.lines().map(str::to_owned).collect()
}

/// Returns the settings, all of which are commented out. Their values are those of TOML that are JSON too.
fn settings() -> Vec<(String, Value)> {
    let lines = lines();
    let settings = lines
        .iter()
        .filter_map(|line| line.strip_prefix('#')?.split_once(" = "))
        .filter(|(key, _)| key.starts_with(|first: char| first.is_ascii_lowercase()));
    settings
        .map(|(key, value)| {
            let value = serde_json::from_str(value);
            let value = value.unwrap_or_else(|error| panic!("{key}: {error}"));
            (key.to_owned(), value)
        })
        .collect()
}

#[test]
fn an_unedited_file_sets_nothing() {
    for line in lines() {
        assert!(line.is_empty() || line.starts_with('#'), "{line}");
    }
}

#[test]
fn every_option_of_the_service_is_explained_and_no_other() {
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve").expect("the service");
    let options = serve.get_arguments().filter_map(|option| option.get_long());
    let options: BTreeSet<_> = options.filter(|name| !NO_SETTINGS.contains(name)).collect();
    let settings = settings();
    let keys: BTreeSet<_> = settings.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, options);
    assert_eq!(keys.len(), settings.len(), "a key is there twice");
}

#[test]
fn every_example_is_a_valid_value() {
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve").expect("the service");
    for (key, value) in settings() {
        let mut options = serve.get_arguments();
        let option = options.find(|option| option.get_long() == Some(&key));
        let action = option.expect("an option").get_action().clone();
        let typed = match &value {
            Value::Bool(true) => vec![format!("--{key}")],
            Value::Number(times) if matches!(action, ArgAction::Count) => {
                let times = times.as_u64().expect("a count");
                (0..times).map(|_| format!("--{key}")).collect()
            }
            Value::Array(values) => {
                assert!(matches!(action, ArgAction::Append), "{key} is no list");
                let texts = values.iter().map(|value| value.as_str());
                texts
                    .zip(values)
                    .map(|(text, value)| match text {
                        Some(text) => format!("--{key}={text}"),
                        None => format!("--{key}={value}"),
                    })
                    .collect()
            }
            Value::String(text) => vec![format!("--{key}={text}")],
            other => vec![format!("--{key}={other}")],
        };
        let mut arguments = vec!["connect-trace".to_owned(), "serve".to_owned()];
        // Options of a recording need one.
        if key.starts_with("record-") {
            arguments.push("--record=/var/lib/connect-trace/".to_owned());
        }
        if let Err(error) = Cli::try_parse_from(arguments.into_iter().chain(typed)) {
            panic!("{key} = {value}: {error}");
        }
    }
}
