//! Output of `connect-trace completions` and `connect-trace man` in real shells and formatters. A test whose programs
//! are not on this machine is skipped, with the reason.

#[path = "../command/mod.rs"]
mod command;
#[path = "../fixtures/folder.rs"]
mod folder;

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use libtest_mimic::{Arguments, Completion, Trial};

use self::{
    command::{connect_trace, text},
    folder::Folder,
};

/// The folder into which `cargo xtask` unpacks shells.
const FETCHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/shells");

/// A test: its name, the programs that it needs, and a function that takes the path of the first of them.
type Test = (&'static str, &'static [&'static str], fn(&Path));

const TESTS: &[Test] = &[
    ("bash_completes_every_subcommand", &["bash"], |bash| {
        completes_every_subcommand(bash, in_bash);
        completes_values(bash, in_bash);
    }),
    (
        "zsh_completes_every_subcommand",
        &["zsh", "script"],
        |zsh| {
            completes_every_subcommand(zsh, in_zsh);
            completes_values(zsh, in_zsh);
        },
    ),
    // The script for fish has no values of arguments that are not options.
    ("fish_completes_every_subcommand", &["fish"], |fish| {
        completes_every_subcommand(fish, in_fish);
    }),
    ("mandoc_formats_every_page", &["mandoc"], |mandoc| {
        formats_every_page(mandoc, &["-T", "utf8", "-O", "width=78", "-W", "error"]);
    }),
    ("groff_formats_every_page", &["groff"], |groff| {
        formats_every_page(groff, &["-man", "-ww", "-T", "utf8", "-r", "LL=78n"]);
    }),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = TESTS.iter().map(|&(name, needed, test)| {
        Trial::ignorable_test(name, move || {
            let found: Result<Vec<PathBuf>, String> =
                needed.iter().map(|name| find(name)).collect();
            match found {
                Err(reason) => return Ok(Completion::ignored_with(reason)),
                Ok(programs) => test(&programs[0]),
            }
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Finds a program that xtask unpacked, or one on the PATH.
fn find(name: &str) -> Result<PathBuf, String> {
    let fetched = match name {
        "zsh" => "bin/zsh-static",
        "fish" => "usr/bin/fish",
        "mandoc" => "usr/bin/mandoc",
        _ => name,
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path).map(|folder| folder.join(name));
    [Path::new(FETCHED).join(fetched)]
        .into_iter()
        .chain(installed)
        .find(|program| program.is_file())
        .ok_or_else(|| {
            format!("no {name}: `cargo xtask setup --all` gets zsh, fish and mandoc from Debian")
        })
}

/// Runs a command until it ends and returns its stdout. The command must print nothing on stderr.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program was found");
    assert_eq!(text(&output.stderr), "", "{command:?}");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    text(&output.stdout)
}

/// Returns the names of the subcommands in the help.
fn subcommands() -> Vec<String> {
    let help = text(&connect_trace(&["-h"]).stdout);
    let (_, after) = help.split_once("Commands:\n").expect("the help has them");
    let (commands, _) = after.split_once("\n\n").expect("options follow");
    let names = commands.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty()).then(|| name.to_owned())
    });
    names.collect()
}

/// Returns the long options in the help of a subcommand, or of connect-trace itself.
fn options(subcommand: Option<&str>) -> BTreeSet<String> {
    let arguments: Vec<&str> = subcommand.into_iter().chain(["-h"]).collect();
    let help = text(&connect_trace(&arguments).stdout);
    let headers = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'));
    let words =
        headers.filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
    words
        .map(|word| word.trim_end_matches("...").to_owned())
        .collect()
}

/// Returns the completions that a shell offers for the last word of a line.
type Offered = fn(shell: &Path, line: &str) -> BTreeSet<String>;

/// Asserts that all subcommands are offered, and that after a subcommand exactly its own options are offered, and no
/// subcommand.
fn completes_every_subcommand(shell: &Path, offered: Offered) {
    let long = |line: &str| -> BTreeSet<String> {
        let words = offered(shell, line).into_iter();
        words.filter(|word| word.starts_with("--")).collect()
    };
    let subcommands = subcommands();
    assert!(subcommands.len() > 6, "{subcommands:?}");
    let first = offered(shell, "connect-trace ");
    for subcommand in &subcommands {
        assert!(
            first.contains(subcommand),
            "{subcommand} is not in {first:?}"
        );
    }
    assert!(!first.contains("load-runner"), "{first:?}");
    assert_eq!(long("connect-trace --"), options(None));
    for subcommand in subcommands.iter().filter(|name| *name != "help") {
        let line = format!("connect-trace {subcommand} --");
        assert_eq!(long(&line), options(Some(subcommand)), "{line}");
    }
    for line in [
        "connect-trace check ",
        "connect-trace load ",
        "connect-trace report -",
    ] {
        let offered = offered(shell, line);
        for subcommand in &subcommands {
            assert!(!offered.contains(subcommand), "{line}: {offered:?}");
        }
    }
    for line in [
        "connect-trace load --protocol ",
        "connect-trace compare --protocol u",
    ] {
        let offered = offered(shell, line);
        assert!(
            offered.contains("udp") && offered.contains("udplite"),
            "{line}: {offered:?}"
        );
        assert!(!offered.contains("load"), "{line}: {offered:?}");
    }
}

/// Asserts that the values of arguments are offered.
fn completes_values(shell: &Path, offered: Offered) {
    for (line, value) in [
        ("connect-trace load ", "full-range"),
        ("connect-trace compare default w", "window"),
        ("connect-trace man ", "load"),
        ("connect-trace completions ", "fish"),
    ] {
        let offered = offered(shell, line);
        assert!(offered.contains(value), "{line}: {offered:?}");
    }
}

/// Writes the completion script of a shell into a new folder, and returns the folder and the path of the script.
fn script(shell: &str) -> (Folder, String) {
    let folder = Folder::new(&format!("completions-{shell}"));
    let script = connect_trace(&["completions", shell]).stdout;
    let path = folder.file("script", &script);
    (folder, path)
}

fn words(text: &str) -> BTreeSet<String> {
    let words = text.lines().map(str::trim).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn in_bash(bash: &Path, line: &str) -> BTreeSet<String> {
    const CALL: &str = r#"
        source "$0"
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        function=$(complete -p "$1" | sed 's/.*-F \([^ ]*\).*/\1/')
        "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let (_folder, script) = script("bash");
    let mut command = Command::new(bash);
    command
        .args(["--norc", "-c", CALL, &script])
        .args(line.split(' '));
    words(&run(&mut command))
}

fn in_fish(fish: &Path, line: &str) -> BTreeSet<String> {
    let (folder, script) = script("fish");
    let mut command = Command::new(fish);
    command
        .args([
            "--no-config",
            "-c",
            "source $argv[1]; complete -C $argv[2]",
            &script,
            line,
        ])
        // Otherwise the shell offers files.
        .current_dir(folder.path(""))
        .env("HOME", folder.path(""))
        // One of its libraries was fetched with it.
        .env(
            "LD_LIBRARY_PATH",
            format!("{FETCHED}/usr/lib/{}-linux-gnu", env::consts::ARCH),
        );
    let offered = run(&mut command);
    let names = offered.lines().filter_map(|line| line.split('\t').next());
    names.map(str::to_owned).collect()
}

/// Returns the completions in zsh, which completes on a terminal only: the program `script` makes one.
fn in_zsh(zsh: &Path, line: &str) -> BTreeSet<String> {
    let (folder, script) = script("zsh");
    folder.file(".zshrc", include_bytes!("zshrc"));
    let offered = folder.file("offered", b"");
    // A zsh that asks a question would wait for ever.
    let mut child = Command::new("timeout")
        .args([
            "--foreground",
            "--kill-after=5",
            "60",
            "script",
            "--quiet",
            "--return",
            "--command",
            "exec \"$CONNECT_TRACE_ZSH\" -i",
            "/dev/null",
        ])
        .env("CONNECT_TRACE_ZSH", zsh)
        .env(
            "CONNECT_TRACE_FUNCTIONS",
            format!("{FETCHED}/usr/share/zsh/functions"),
        )
        .env("CONNECT_TRACE_SCRIPT", script)
        .env("CONNECT_TRACE_LINE", line)
        .env("CONNECT_TRACE_OFFERED", &offered)
        .env("ZDOTDIR", folder.path(""))
        .env("TERM", "dumb")
        .current_dir(folder.path(""))
        // The pipe stays open until zsh ends: the end of stdin would be the end of the terminal.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was found");
    let stdin = child.stdin.take();
    let output = child.wait_with_output().expect("it is our child");
    drop(stdin);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}: {shown}", output.status);
    words(&fs::read_to_string(offered).expect("it was there before"))
}

/// Asserts that a formatter reports no problem in any page, and shows every option and the examples line by line.
fn formats_every_page(formatter: &Path, arguments: &[&str]) {
    let folder = Folder::new(
        &formatter
            .file_name()
            .expect("it is a file")
            .display()
            .to_string(),
    );
    let written = connect_trace(&["man", "--output-dir", &folder.path("")]);
    assert!(written.status.success(), "{}", text(&written.stderr));
    let format = |subcommand: Option<&str>| {
        let name = subcommand.map_or_else(String::new, |subcommand| format!("-{subcommand}"));
        let page = folder.path(&format!("connect-trace{name}.1"));
        plain(&run(Command::new(formatter).args(arguments).arg(page)))
    };
    let subcommands = subcommands();
    let names = subcommands
        .iter()
        .filter(|name| *name != "help")
        .map(|name| Some(name.as_str()));
    for subcommand in [None].into_iter().chain(names) {
        let page = format(subcommand);
        for option in options(subcommand) {
            let header = |line: &str| line.trim_start().starts_with('-') && line.contains(&option);
            assert!(page.lines().any(header), "{option} is not in {page}");
        }
    }
    let page = format(None);
    let help = text(&connect_trace(&["--help"]).stdout);
    let (_, after) = help
        .split_once("Examples:\n")
        .expect("the help has examples");
    let (examples, _) = after.split_once("\n\n").expect("more follows");
    let unindented = |text: &str| -> String {
        text.lines()
            .map(|line| format!("{}\n", line.trim()))
            .collect()
    };
    assert!(unindented(&page).contains(&unindented(examples)), "{page}");
}

/// Removes bold and underlined characters, which are overstruck or between escape sequences, from a formatted page.
fn plain(page: &str) -> String {
    let mut plain = String::new();
    for character in page.chars() {
        match character {
            '\x08' => drop(plain.pop()),
            '\u{2010}' | '\u{2212}' => plain.push('-'),
            character => plain.push(character),
        }
    }
    anstream::adapter::strip_str(&plain).to_string()
}
