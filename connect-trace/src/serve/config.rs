//! The configuration file of the service: TOML, whose keys are the long options of `connect-trace serve`. Its entries are
//! made into arguments, so that clap checks their values as it does those of the command line.

use std::{
    collections::BTreeMap,
    error,
    ffi::OsString,
    fmt,
    fs::File,
    io::Read as _,
    ops::Range,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, ensure};
use clap::{
    Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::args::ServeArgs;
use crate::{
    filter::{Filters, filters},
    kernel::access,
    term::printable::printable,
};

/// Maximum size of a file.
const MOST_BYTES: u64 = 1 << 20;

/// Options that are no keys: the file itself, and those that print something and end.
const NO_KEYS: [&str; 3] = ["config", "help", "version"];

/// Similarity of two keys from which one is suggested for the other, as in clap.
const SIMILAR: f64 = 0.7;

/// The values of all options as typed, by their keys; an option that was not given is absent, or has its default.
pub(crate) type Values = BTreeMap<String, Vec<String>>;

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1; `None` if the mistake has no single place.
    pub line: Option<usize>,
    /// Character within the line, from 1.
    pub column: Option<usize>,
    /// The key, if the mistake is about one.
    pub key: Option<String>,
    /// Description of the mistake.
    pub text: String,
}

/// The mistakes in a file.
#[derive(Clone, Debug)]
pub struct Mistaken {
    /// The file.
    pub file: PathBuf,
    /// The mistakes, in the order of the file.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for Mistaken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(formatter, "{end}{}", printable(&self.file))?;
            if let (Some(line), Some(column)) = (mistake.line, mistake.column) {
                write!(formatter, ":{line}:{column}")?;
            }
            write!(formatter, ": ")?;
            if let Some(key) = &mistake.key {
                write!(formatter, "{}: ", printable(key))?;
            }
            write!(formatter, "{}", printable(&mistake.text))?;
        }
        Ok(())
    }
}

impl error::Error for Mistaken {}

/// Returns the options of the command line with those of its `--config`. An option of the command line takes the place of
/// the file's, and of those of the file that exclude it.
///
/// # Errors
/// With [`Mistaken`] if the file has mistakes; else says why it cannot be read.
pub fn read(typed: &ServeArgs) -> Result<ServeArgs> {
    let mut given: Vec<OsString> = typed.given.clone();
    if let Some(path) = &typed.config {
        let file = Configuration::read(path)?;
        file.check()?;
        let of_file = file.arguments_without(&given)?;
        given.splice(0..0, of_file);
    }
    let command = command();
    let matches = matches(&given)?;
    let args = ServeArgs::from_arg_matches(&matches)?;
    // The command line alone was checked for this before.
    if let (Some(path), Some(text)) = (&typed.config, args.contradiction()) {
        return Err(Error::new(Mistaken {
            file: path.clone(),
            mistakes: vec![Mistake::everywhere(text)],
        }));
    }
    Ok(ServeArgs {
        given: typed.given.clone(),
        values: values(&command, &matches),
        ..args
    })
}

/// Returns the filters of these options on this host, with the names in them resolved. It may take as long as the sources
/// of users' names, such as LDAP.
///
/// # Errors
/// Names the process, cgroup, user or namespace that does not exist.
pub(crate) fn resolve(args: &ServeArgs) -> Result<Filters> {
    if !args.filters.pids.is_empty() {
        access::check_pid_namespace()?;
    }
    filters(&args.filters)
}

/// A file with its entries.
pub(crate) struct Configuration {
    path: PathBuf,
    entries: Vec<Entry>,
    /// Mistakes in the form of the file, and keys that do not exist.
    mistakes: Vec<Mistake>,
}

/// An option in a file: one value of a key.
struct Entry {
    key: String,
    /// The option as an argument.
    argument: String,
    line: usize,
    column: usize,
}

impl Configuration {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is too large. Mistakes in it are no error here.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = bytes(path).with_context(|| format!("read {}", printable(path)))?;
        Ok(Self::of(path, &bytes))
    }

    /// Reads the entries of a file with this content.
    pub(crate) fn of(path: &Path, bytes: &[u8]) -> Self {
        let mut read = Self {
            path: path.to_owned(),
            entries: Vec::new(),
            mistakes: Vec::new(),
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => read.take(text),
            Err(error) => {
                let (right, _) = bytes.split_at(error.valid_up_to());
                let right = String::from_utf8_lossy(right);
                read.mistakes.push(Mistake::at(
                    &right,
                    right.len(),
                    None,
                    "this byte is not UTF-8".to_owned(),
                ));
            }
        }
        read.entries.sort_by_key(|entry| (entry.line, entry.column));
        read
    }

    fn take(&mut self, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let mistakes = errors.iter().map(|error| {
                let at = error.span().map_or(0, |span: Range<usize>| span.start);
                Mistake::at(text, at, None, error.message().to_owned())
            });
            self.mistakes.extend(mistakes);
            return;
        }
        let command = command();
        for (key, value) in table.get_ref() {
            match find(&command, key.get_ref()) {
                Ok(argument) => self.take_values(text, argument, value),
                Err(unknown) => {
                    let key_text = key.get_ref().to_string();
                    let mistake = Mistake::at(text, key.span().start, Some(key_text), unknown);
                    self.mistakes.push(mistake);
                }
            }
        }
    }

    /// Takes the value of a key, or the values of an array.
    fn take_values(&mut self, text: &str, argument: &Arg, value: &Spanned<DeValue<'_>>) {
        let key = argument.get_long().unwrap_or_default();
        let is_repeatable = matches!(argument.get_action(), ArgAction::Append);
        let values: Vec<&Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(values) if is_repeatable => values.iter().collect(),
            _ => vec![value],
        };
        for value in values {
            let at = value.span().start;
            match arguments(argument, value.get_ref()) {
                Ok(arguments) => {
                    let (line, column) = place(text, at);
                    self.entries
                        .extend(arguments.into_iter().map(|argument| Entry {
                            key: key.to_owned(),
                            argument,
                            line,
                            column,
                        }));
                }
                Err(wrong) => {
                    let mistake = Mistake::at(text, at, Some(key.to_owned()), wrong);
                    self.mistakes.push(mistake);
                }
            }
        }
    }

    /// Returns the number of options in the file.
    pub(crate) fn options(&self) -> usize {
        let mut keys: Vec<&str> = self.entries.iter().map(|entry| &*entry.key).collect();
        keys.dedup();
        keys.len()
    }

    /// Checks the entries as clap does.
    ///
    /// # Errors
    /// With [`Mistaken`].
    pub(crate) fn check(&self) -> Result<ServeArgs, Mistaken> {
        let mut mistakes = self.mistakes.clone();
        for entry in &self.entries {
            match matches([&entry.argument]) {
                // The option that it needs may be in the file too.
                Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {}
                Err(error) => mistakes.push(entry.mistake(message(&error))),
                Ok(_) => {}
            }
        }
        if mistakes.is_empty() {
            match self.together() {
                Ok(args) => return Ok(args),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        Err(self.mistaken(mistakes))
    }

    /// Parses all entries, each of which is right by itself.
    fn together(&self) -> Result<ServeArgs, Mistake> {
        let arguments = self.entries.iter().map(|entry| &entry.argument);
        let parsed = matches(arguments).and_then(|matches| ServeArgs::from_arg_matches(&matches));
        let args = parsed.map_err(|error| {
            let first = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(option)) => option.split(' ').next(),
                _ => None,
            };
            let key = first.and_then(|option| option.strip_prefix("--"));
            let entry = self.entries.iter().find(|entry| Some(&*entry.key) == key);
            match entry {
                Some(entry) => entry.mistake(message(&error)),
                None => Mistake::everywhere(message(&error)),
            }
        })?;
        match args.contradiction() {
            None => Ok(args),
            Some(text) => Err(Mistake::everywhere(text)),
        }
    }

    /// Checks the names in the file on this host: processes, cgroups, users and namespaces.
    ///
    /// # Errors
    /// With [`Mistaken`].
    pub(crate) fn check_names(&self) -> Result<(), Mistaken> {
        let mistakes = self.entries.iter().filter_map(|entry| {
            let matches = matches([&entry.argument]).ok()?;
            let args = ServeArgs::from_arg_matches(&matches).ok()?;
            let error = resolve(&args).err()?;
            Some(entry.mistake(format!("{error:#}")))
        });
        let mistakes: Vec<Mistake> = mistakes.collect();
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(self.mistaken(mistakes))
        }
    }

    fn mistaken(&self, mistakes: Vec<Mistake>) -> Mistaken {
        Mistaken {
            file: self.path.clone(),
            mistakes,
        }
    }

    /// Returns the arguments of the file, without those of options that this command line has, or that these exclude.
    fn arguments_without(&self, given: &[OsString]) -> Result<Vec<OsString>> {
        let command = command();
        let typed = matches(given)?;
        let is_typed = |argument: &Arg| {
            typed.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
        };
        let typed: Vec<&Arg> = command
            .get_arguments()
            .filter(|one| is_typed(one))
            .collect();
        let excludes = |one: &Arg, other: &Arg| {
            let mut excluded = command.get_arg_conflicts_with(one).into_iter();
            excluded.any(|excluded| excluded.get_id() == other.get_id())
        };
        let is_replaced = |entry: &&Entry| {
            let argument = find(&command, &entry.key).ok();
            argument.is_some_and(|argument| {
                typed.iter().any(|typed| {
                    typed.get_id() == argument.get_id()
                        || excludes(typed, argument)
                        || excludes(argument, typed)
                })
            })
        };
        let kept = self.entries.iter().filter(|entry| !is_replaced(entry));
        Ok(kept.map(|entry| OsString::from(&entry.argument)).collect())
    }
}

impl Entry {
    fn mistake(&self, text: String) -> Mistake {
        Mistake {
            line: Some(self.line),
            column: Some(self.column),
            key: Some(self.key.clone()),
            text,
        }
    }
}

impl Mistake {
    /// Returns a mistake at a byte of a text.
    fn at(text: &str, byte: usize, key: Option<String>, wrong: String) -> Self {
        let (line, column) = place(text, byte);
        Self {
            line: Some(line),
            column: Some(column),
            key,
            text: wrong,
        }
    }

    fn everywhere(text: String) -> Self {
        Self {
            line: None,
            column: None,
            key: None,
            text,
        }
    }
}

/// Returns the line and the character of a byte, both from 1.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

/// Returns the content of a file, which must not wait for another process as a pipe does.
fn bytes(path: &Path) -> Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    ensure!(file.metadata()?.is_file(), "it is not a regular file");
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= MOST_BYTES,
        "it is larger than {} KiB",
        MOST_BYTES >> 10
    );
    Ok(bytes)
}

/// Returns the definition of the options.
fn command() -> Command {
    let mut command = ServeArgs::augment_args(Command::new("connect-trace serve"));
    command.build();
    command
}

/// Parses options.
fn matches<T: Into<OsString> + Clone>(
    arguments: impl IntoIterator<Item = T>,
) -> Result<ArgMatches, clap::Error> {
    let name = OsString::from("connect-trace serve");
    let arguments = arguments.into_iter().map(Into::into);
    command().try_get_matches_from([name].into_iter().chain(arguments))
}

/// Returns the keys of a file with their options.
fn keys(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let options = command.get_arguments();
    let options = options.filter_map(|option| Some((option.get_long()?, option)));
    options.filter(|(key, _)| !NO_KEYS.contains(key))
}

/// Returns the option of a key, or says that there is none, with the most similar one.
fn find<'a>(command: &'a Command, key: &str) -> Result<&'a Arg, String> {
    if let Some((_, option)) = keys(command).find(|(name, _)| *name == key) {
        return Ok(option);
    }
    if NO_KEYS.contains(&key) {
        return Err(format!("--{key} is for the command line only"));
    }
    let typed = key.replace('_', "-").to_lowercase();
    let similar = keys(command)
        .map(|(name, _)| (strsim::jaro(&typed, name), name))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    Err(match similar {
        Some((_, name)) => format!("unknown key; did you mean `{name}`?"),
        None => "unknown key: the keys are the long options of connect-trace serve".to_owned(),
    })
}

/// Returns the arguments that set an option to a value: one, or for a flag none or several.
fn arguments(option: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let name = option.get_long().unwrap_or_default();
    let found = kind(value);
    let text = match (option.get_action(), value) {
        (ArgAction::SetTrue, DeValue::Boolean(is_set)) => {
            let flag = is_set.then(|| format!("--{name}"));
            return Ok(flag.into_iter().collect());
        }
        (ArgAction::SetTrue, _) => return Err(format!("{found}, must be true or false")),
        (ArgAction::Count, DeValue::Integer(times)) => {
            /// More changes nothing.
            const MOST: usize = 2;
            let times = usize::from_str_radix(times.as_str(), times.radix()).ok();
            let times = times.filter(|&times| times <= MOST);
            let times = times.ok_or_else(|| format!("must be a number from 0 to {MOST}"))?;
            return Ok(vec![format!("--{name}"); times]);
        }
        (ArgAction::Count, _) => return Err(format!("{found}, must be a number")),
        (_, DeValue::String(text)) => text.to_string(),
        (_, DeValue::Integer(number)) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| "this number is too large".to_owned())?
            .to_string(),
        (_, DeValue::Float(number)) => number.as_str().to_owned(),
        (ArgAction::Append, _) => {
            return Err(format!(
                "{found}, must be a text, a number or an array of these"
            ));
        }
        (_, _) => return Err(format!("{found}, must be a text or a number")),
    };
    Ok(vec![format!("--{name}={text}")])
}

/// Returns a value's type in words.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "this is a text",
        DeValue::Integer(_) | DeValue::Float(_) => "this is a number",
        DeValue::Boolean(_) => "this is a truth value",
        DeValue::Datetime(_) => "this is a date or a time",
        DeValue::Array(_) => "this is an array",
        DeValue::Table(_) => "this is a table",
    }
}

/// Returns clap's message in one line, without the hint at `--help`.
fn message(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::ValueValidation
        && let (Some(reason), Some(ContextValue::String(value))) = (
            error::Error::source(error),
            error.get(ContextKind::InvalidValue),
        )
    {
        return format!("{value:?}: {reason}");
    }
    let rendered = error.render().to_string();
    let lines = rendered.lines().map(str::trim);
    let lines =
        lines.take_while(|line| !line.starts_with("Usage: ") && !line.starts_with("For more"));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// Returns the values of all keys.
fn values(command: &Command, matches: &ArgMatches) -> Values {
    let values = keys(command).filter_map(|(key, option)| {
        let id = option.get_id().as_str();
        let values: Vec<String> = match option.get_action() {
            ArgAction::SetTrue => vec![matches.get_flag(id).to_string()],
            ArgAction::Count => vec![matches.get_count(id).to_string()],
            _ => {
                let texts = matches.get_raw(id)?;
                texts.map(|text| printable(text).to_string()).collect()
            }
        };
        Some((key.to_owned(), values))
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, io::Write as _};

    use super::*;

    /// Returns the options of a file and of a command line.
    fn with(file: &str, typed: &str) -> Result<ServeArgs> {
        let mut place = std::env::temp_dir();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default().replace(':', "-");
        place.push(format!("connect-trace-{}-{name}.toml", std::process::id()));
        fs::write(&place, file).unwrap();
        let given: Vec<OsString> = typed.split_whitespace().map(Into::into).collect();
        let args = ServeArgs::from_arg_matches(&matches(&given).unwrap()).unwrap();
        let read = read(&ServeArgs {
            config: Some(place.clone()),
            given,
            ..args
        });
        fs::remove_file(place).unwrap();
        read
    }

    fn mistakes(bytes: &[u8]) -> Vec<Mistake> {
        match Configuration::of(Path::new("FILE"), bytes).check() {
            Ok(args) => panic!("no mistake: {args:?}"),
            Err(mistaken) => mistaken.mistakes,
        }
    }

    /// Returns the only mistake in the words of an error.
    fn mistake(text: &str) -> String {
        let mistakes = mistakes(text.as_bytes());
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        let file = "FILE".into();
        Mistaken { file, mistakes }.to_string()
    }

    /// The file of the packages, which has each option in a comment.
    const FILE: &str = include_str!("../../../packaging/connect-trace.toml");

    /// Returns the lines of an option in the file of the packages.
    fn in_packages(key: &str) -> Vec<&'static str> {
        let lines = FILE.lines().filter_map(|line| line.strip_prefix('#'));
        let of_key = |line: &&str| {
            let rest = line.strip_prefix(key);
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        lines.filter(of_key).collect()
    }

    #[test]
    fn every_option_is_a_key_and_is_explained_in_the_file_of_the_packages() {
        let definition = command();
        assert_eq!(
            definition.get_positionals().count(),
            0,
            "an argument without a name has no key"
        );
        let options = definition.get_arguments();
        let options = options.filter_map(|option| option.get_long());
        let options: BTreeSet<&str> = options.filter(|name| !NO_KEYS.contains(name)).collect();
        let keys: BTreeSet<&str> = keys(&definition).map(|(key, _)| key).collect();
        assert_eq!(keys, options);
        let commented = FILE
            .lines()
            .filter_map(|line| line.strip_prefix('#')?.split_once(" = "));
        let commented = commented.map(|(key, _)| key);
        let commented: Vec<&str> = commented
            .filter(|key| key.starts_with(|first: char| first.is_ascii_lowercase()))
            .collect();
        assert_eq!(commented.iter().copied().collect::<BTreeSet<_>>(), keys);
        assert_eq!(commented.len(), keys.len(), "a key is there twice");
        for key in keys {
            let lines = in_packages(key);
            assert_eq!(lines.len(), 1, "the option {key}: {lines:?}");
            // An option of recordings needs the recording.
            let needed = match key.split_once('-').map_or(key, |(first, _)| first) {
                "record" if key != "record" => "record = \"records/\"\n",
                "keep" if key != "keep" => "record = \"records/\"\nkeep = \"10m\"\nports = true\n",
                "keep" => "record = \"records/\"\n",
                _ => "",
            };
            let file = format!("{needed}{}\n", lines[0]);
            let args = with(&file, "").unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(args.values.contains_key(key), "{key}: {:?}", args.values);
        }
    }

    #[test]
    fn the_file_of_the_packages_sets_nothing() {
        for line in FILE.lines() {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
        let read = Configuration::of(Path::new("connect-trace.toml"), FILE.as_bytes());
        read.check().unwrap();
        assert_eq!(read.options(), 0);
    }

    #[test]
    fn an_option_that_needs_another_one_is_told_without_it() {
        assert!(with("record-sample = 2\nrecord = \"r/\"\n", "").is_ok());
        let found = mistake("record-sample = 2\n");
        assert!(found.contains("--record <FILE>"), "{found}");
    }

    #[test]
    fn a_file_gives_the_same_options_as_a_command_line() {
        let file = "\
            # Everything but the listener.\n\
            dport = [443, \"8000-8999\"]\n\
            uid = \"1000\"\n\
            ipv4 = true\n\
            ipv6 = false\n\
            max-overhead = \"1%\"\n\
            interval = 1.5\n\
            verbose = 1\n";
        let of_file = with(file, "").unwrap();
        let typed =
            "--dport 443 --dport 8000-8999 --uid 1000 --ipv4 --max-overhead 1% --interval 1.5 -v";
        let of_line = with("", typed).unwrap();
        assert_eq!(of_file.values, of_line.values);
        assert_eq!(of_file.filters.dports, of_line.filters.dports);
        assert_eq!(of_file.max_overhead, Some(1.0));
        assert_eq!(of_file.verbose, 1);
    }

    #[test]
    fn the_command_line_takes_precedence() {
        let file = "dport = [1, 2]\nuid = [5]\nipv4 = true\nquiet = true\ninterval = 7\n";
        let args = with(file, "-P 443 --ipv6 -vv --interval 10").unwrap();
        assert_eq!(args.values["dport"], ["443"]);
        assert_eq!(args.values["uid"], ["5"]);
        assert!(args.filters.ipv6 && !args.filters.ipv4);
        assert_eq!((args.verbose, args.quiet), (2, false));
        assert_eq!(
            args.interval.as_secs(),
            10,
            "typed, though it is the default"
        );
    }

    #[test]
    fn an_unknown_key_has_a_suggestion_and_a_place() {
        assert_eq!(
            mistake("dport = 443\n\n  max_overhead = \"1%\"\n"),
            "FILE:3:3: max_overhead: unknown key; did you mean `max-overhead`?"
        );
        assert_eq!(
            mistake("max-overheat = \"1%\""),
            "FILE:1:1: max-overheat: unknown key; did you mean `max-overhead`?"
        );
        let strange = mistake("xyzzy = 1");
        assert!(!strange.contains("did you mean"), "{strange}");
        assert!(mistake("config = \"b.toml\"").contains("command line only"));
        assert!(mistake("[serve]\ndport = 1\n").contains("unknown key"));
    }

    #[test]
    fn all_mistakes_are_told_in_their_order() {
        let found = mistakes(b"uid = true\nring-buffer = \"3M\"\nport = 1\ndport = [443, 70000]\n");
        let lines: Vec<_> = found.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [1, 2, 3, 4].map(Some));
        assert_eq!(found[3].column, Some(15));
        assert_eq!(found[2].text, "unknown key; did you mean `dport`?");
    }

    #[test]
    fn a_wrong_value_is_named_as_on_the_command_line() {
        for (file, expected) in [
            (
                "ring-buffer = \"3M\"",
                "ring-buffer: \"3M\": must be a power of two from 64K to 1G",
            ),
            ("max-overhead = 1", "max-overhead: \"1\": not a percentage"),
            (
                "attach = \"maybe\"",
                "[possible values: auto, fentry, kprobe]",
            ),
            (
                "failed = \"yes\"",
                "failed: this is a text, must be true or false",
            ),
            (
                "dport = true",
                "dport: this is a truth value, must be a text",
            ),
            (
                "interval = [1, 2]",
                "interval: this is an array, must be a text or a number",
            ),
            (
                "verbose = true",
                "verbose: this is a truth value, must be a number",
            ),
            ("verbose = 3", "from 0 to 2"),
            ("uid = 1979-05-27", "uid: this is a date"),
            ("uid = [[1]]", "uid: this is an array, must be a text"),
            ("dport = 99999999999999999999", "too large"),
            ("ipv4 = true\nipv6 = true", "cannot be used with"),
            (
                "ipv4 = true\ndaddr = \"fd00::/8\"",
                "excludes every --daddr",
            ),
            ("uid = 1\nuid = 2", "duplicate key"),
            ("uid = ", "FILE:1:"),
            ("uid", "FILE:1:"),
        ] {
            let found = mistake(file);
            assert!(found.contains(expected), "{file}: {found}");
        }
    }

    #[test]
    fn a_file_that_is_no_text_is_refused_at_its_byte() {
        let found = mistakes(b"dport = 1\ncomm = \"\xff\"\n");
        assert_eq!((found[0].line, found[0].column), (Some(2), Some(9)));
        assert!(found[0].text.contains("UTF-8"), "{found:?}");
    }

    #[test]
    fn a_file_without_an_end_is_not_read_to_it() {
        let error =
            |path: &str| format!("{:#}", Configuration::read(Path::new(path)).err().unwrap());
        assert!(error("/dev/zero").contains("not a regular file"));
        assert!(error("/").contains("not a regular file"));
        assert!(error("/no/such/file").contains("read /no/such/file: "));
        let place = std::env::temp_dir().join(format!("connect-trace-{}-huge", std::process::id()));
        let mut file = File::create(&place).unwrap();
        file.write_all(b"# ").unwrap();
        file.set_len(MOST_BYTES + 1).unwrap();
        let found = error(place.to_str().unwrap());
        fs::remove_file(place).unwrap();
        assert!(found.contains("larger than 1024 KiB"), "{found}");
    }

    #[test]
    fn deep_arrays_end_in_a_mistake() {
        let deep = format!("uid = {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(!mistakes(deep.as_bytes()).is_empty());
    }

    #[test]
    fn a_name_that_is_not_there_is_told_with_its_place() {
        let file = b"uid = [0, \"no such user\"]\nnetns = \"/no/such/path\"\n";
        let read = Configuration::of(Path::new("FILE"), file);
        let args = read.check();
        assert!(args.is_ok(), "{args:?}");
        let mistakes = read.check_names().unwrap_err().mistakes;
        let places: Vec<_> = mistakes.iter().map(|one| (one.line, one.column)).collect();
        assert_eq!(
            places,
            [(Some(1), Some(11)), (Some(2), Some(9))],
            "{mistakes:?}"
        );
        assert!(mistakes[0].text.contains("no such user"), "{mistakes:?}");
    }
}

#[cfg(test)]
mod fuzz {
    use std::fmt::Write as _;

    use super::*;
    use crate::fixtures::fuzz::fuzz;

    #[test]
    fn any_file_is_refused_in_plain_words_or_taken_as_it_is() {
        fuzz("configuration", |bytes| {
            let read = Configuration::of(Path::new("FILE"), bytes);
            if let Err(mistaken) = read.check() {
                let text = mistaken.to_string();
                let is_plain = |c: char| c == '\n' || !crate::term::printable::is_harmful(c);
                assert!(!text.is_empty() && text.chars().all(is_plain), "{text:?}");
                return;
            }
            let arguments = |of: &Configuration| -> Vec<String> {
                of.entries
                    .iter()
                    .map(|entry| entry.argument.clone())
                    .collect()
            };
            let written = written(&read);
            let again = Configuration::of(Path::new("FILE"), written.as_bytes());
            assert!(again.check().is_ok(), "{written}");
            let mut expected = arguments(&read);
            // The keys of `written` are in the order of the alphabet.
            expected.sort_by_key(|argument| argument.split('=').next().map(str::to_owned));
            assert_eq!(arguments(&again), expected, "{written}");
        });
    }

    /// Returns a file with the same options.
    fn written(of: &Configuration) -> String {
        let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for entry in &of.entries {
            keys.entry(&entry.key).or_default().push(&entry.argument);
        }
        let command = command();
        let mut file = String::new();
        for (key, arguments) in keys {
            let values: Vec<String> = arguments
                .iter()
                .filter_map(|argument| argument.split_once('='))
                // A text of JSON is one of TOML, but for a character that JSON does not escape.
                .map(|(_, value)| {
                    serde_json::to_string(value)
                        .unwrap()
                        .replace('\u{7f}', "\\u007f")
                })
                .collect();
            let value = match find(&command, key).unwrap().get_action() {
                ArgAction::SetTrue => "true".to_owned(),
                ArgAction::Count => arguments.len().to_string(),
                ArgAction::Append => format!("[{}]", values.join(", ")),
                _ => values[0].clone(),
            };
            writeln!(file, "{key} = {value}").unwrap();
        }
        file
    }
}
