//! Every command with a stdout or stderr that cannot be written, as on a full disk or a pipe without a reader; and
//! names that would harm a terminal. No command here needs BPF: traces are tested in guests.

mod command;
#[path = "fixtures/recording.rs"]
mod fixtures;
#[path = "fixtures/folder.rs"]
mod folder;

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, PipeWriter},
    net::{TcpListener, TcpStream},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use self::{
    command::{command, connect_trace, text},
    fixtures::{connect, write_recording},
    folder::Folder,
};

/// Returns the command for a line of arguments, split into words.
fn run(line: &str) -> Command {
    let mut command = command();
    command.args(line.split(' '));
    command
}

/// Writes a recording into the folder, and a copy without its end.
fn recordings(folder: &Folder) -> [String; 2] {
    let path = folder.path("whole");
    let connects = (0..2_000).map(|number| connect(number * 1_000, 20_000, 20_000));
    write_recording(path.as_ref(), "", 1_000, connects).expect("the folder takes a small file");
    let bytes = fs::read(&path).expect("it was written");
    [path, folder.file("cut", &bytes[..bytes.len() - 10])]
}

/// Returns lines of arguments that print on stdout, each with its exit status.
fn printing(folder: &Folder) -> Vec<(String, i32)> {
    let [whole, cut] = recordings(folder);
    let check = connect_trace(&["check"]).status.code().expect("no signal");
    let mut lines = vec![
        ("check".to_owned(), check),
        ("explain 127.0.0.1".to_owned(), 0),
        ("explain 127.0.0.1 --format json".to_owned(), 0),
        ("explain 127.0.0.1 --svg -".to_owned(), 0),
        ("ports".to_owned(), 0),
        ("ports --format json".to_owned(), 0),
        (format!("report {whole}"), 0),
        (format!("report {whole} --events"), 0),
        (format!("report {whole} --events --format json"), 0),
        (format!("report {whole} {whole}"), 0),
        (format!("report {cut} {whole}"), 1),
    ];
    for line in [
        "--help",
        "-h",
        "--version",
        "help load",
        "man",
        "completions bash",
    ] {
        lines.push((line.to_owned(), 0));
    }
    if can_make_namespaces() {
        lines.push((LOAD.to_owned(), 0));
        lines.push((format!("{LOAD} --format json"), 0));
        lines.push((COMPARE.to_owned(), 0));
    }
    lines
}

const LOAD: &str = "load default -c 10 --range 20000-20199";
const COMPARE: &str = "compare default --no-trace --repeats 1 -c 10 --range 20000-20199";

fn can_make_namespaces() -> bool {
    let output = run(LOAD).output().expect("it runs");
    output.status.success()
}

fn full() -> File {
    let mut options = OpenOptions::new();
    options.write(true).open("/dev/full").expect("Linux has it")
}

/// Returns a pipe whose reader has gone.
fn closed() -> PipeWriter {
    let (_, writer) = io::pipe().expect("there is room for a pipe");
    writer
}

#[track_caller]
fn no_panic(line: &str, output: &Output) {
    assert!(output.status.code().is_some(), "{line}: {output:?}");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(!messages.contains("panicked"), "{line}: {messages}");
}

#[test]
fn a_full_disk_behind_stdout_is_one_message_and_exit_status_1() {
    let folder = Folder::new("full-stdout");
    // The subcommand `ports` prints lines of connections.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("it can listen");
    let to = listener.local_addr().expect("it has an address");
    let _client = TcpStream::connect(to).expect("it can connect");
    for (line, _) in printing(&folder) {
        let output = run(&line).stdout(full()).output().expect("it runs");
        no_panic(&line, &output);
        let messages = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {messages}");
        let expected =
            "connect-trace: cannot print on stdout: No space left on device (os error 28)";
        let refusals = messages.lines().filter(|message| *message == expected);
        assert_eq!(refusals.count(), 1, "{line}: {messages}");
        let others = messages.lines().filter(|message| *message != expected);
        assert!(
            others
                .clone()
                .all(|message| message.contains("cut at byte")),
            "{line}: {messages}"
        );
    }
}

#[test]
fn a_reader_of_stdout_that_goes_away_changes_no_exit_status_and_is_no_message() {
    let folder = Folder::new("closed-stdout");
    for (line, status) in printing(&folder) {
        let output = run(&line).stdout(closed()).output().expect("it runs");
        no_panic(&line, &output);
        let messages = text(&output.stderr);
        // A report stops when its reader goes away, perhaps before it finds the cut.
        let status = if line.contains("cut") {
            0..=1
        } else {
            status..=status
        };
        let ended = output.status.code().expect("no signal");
        assert!(status.contains(&ended), "{line}: {ended}: {messages}");
        assert!(!messages.contains("cannot print"), "{line}: {messages}");
    }
}

#[test]
fn a_stderr_that_cannot_be_written_changes_neither_status_nor_stdout() {
    let folder = Folder::new("stderr");
    let mut lines = printing(&folder);
    let [whole, cut, page] = ["whole", "cut", "page.html"].map(|name| folder.path(name));
    for (line, status) in [
        ("--no-such-option", 2),
        ("report", 2),
        ("load --target 1.2.3.4:5 --range 1-2", 2),
        ("--uid no-such-user", 1),
        ("report no-such-file", 1),
        ("-vv --netns no-such-file", 1),
        (&format!("report {cut}"), 1),
        (&format!("report {whole} --html {page}"), 0),
    ] {
        lines.push((line.to_owned(), status));
    }
    for (line, status) in lines {
        let good = run(&line).output().expect("it runs");
        assert_eq!(good.status.code(), Some(status), "{line}: {good:?}");
        let streams: [Stdio; 2] = [full().into(), closed().into()];
        for stderr in streams {
            let mut command = run(&line);
            command.env("RUST_LOG", "trace").stderr(stderr);
            let output = command.output().expect("it runs");
            assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
            // The times differ from run to run.
            if !line.starts_with("load") && !line.starts_with("compare") {
                assert_eq!(output.stdout, good.stdout, "{line}");
            }
        }
    }
}

#[test]
fn streams_that_are_not_open_change_no_status() {
    let folder = Folder::new("not-open");
    for (line, status) in printing(&folder) {
        for closed in [">&-", "2>&-", ">&- 2>&-"] {
            let mut shell = Command::new("sh");
            let program = env!("CARGO_BIN_EXE_connect-trace");
            shell.args(["-c", &format!("exec {program} {line} {closed}")]);
            let output = shell.output().expect("there is a shell");
            assert_eq!(
                output.status.code(),
                Some(status),
                "{line} {closed}: {output:?}"
            );
        }
    }
}

#[test]
fn a_log_of_a_workload_is_kept_where_stdout_refuses() {
    if !can_make_namespaces() {
        return;
    }
    let folder = Folder::new("kept");
    for line in [LOAD, COMPARE] {
        let log = folder.path("log.csv");
        let line = format!("{line} --csv {log}");
        let output = run(&line).stdout(full()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let kept = fs::read_to_string(&log).expect("it was written");
        assert!(kept.lines().count() >= 10, "{kept}");
        fs::remove_file(log).expect("it is there");
    }
}

/// Bytes that the name of a file may have.
const NAME: &[u8] = b"\x1b[2J\x1b]0;x\x07\n\r\x7f\xc2\x9b31m\xe2\x80\xae\xff";

/// Replaces the argument `@` with [`NAME`].
fn harmful(line: &str, name: &OsStr) -> Command {
    let mut command = command();
    for word in line.split(' ') {
        command.arg(if word == "@" { name } else { OsStr::new(word) });
    }
    command
}

#[test]
fn no_name_moves_the_cursor_of_a_terminal() {
    let folder = Folder::new("names");
    let [whole, cut] = recordings(&folder);
    let path = PathBuf::from(folder.path("")).join(OsStr::from_bytes(NAME));
    let absent = path.with_extension("absent");
    fs::copy(&cut, &path).expect("Linux takes the name");
    let name = String::from_utf8_lossy(NAME).into_owned();
    let lines = [
        ("report @", path.as_os_str()),
        ("report @ @ --interval 1", path.as_os_str()),
        ("report --format json @", path.as_os_str()),
        ("report @", absent.as_os_str()),
        (&format!("report {whole} --html @"), absent.as_os_str()),
        (&format!("report {whole} --svg @"), path.as_os_str()),
        ("report --from-load @ --svg x", path.as_os_str()),
        ("report --from-load @ --svg x", absent.as_os_str()),
        (&format!("report {whole} --uid @"), name.as_ref()),
        (&format!("report {whole} --cgroup @"), name.as_ref()),
        (&format!("report {whole} --comm @"), name.as_ref()),
        (&format!("report {whole} --daddr @"), name.as_ref()),
        (&format!("report {whole} --dport @"), name.as_ref()),
        (&format!("report {whole} --by @"), name.as_ref()),
        ("--record @ --uid no-such-user", path.as_os_str()),
        ("--cgroup @", name.as_ref()),
        ("--netns @", name.as_ref()),
        ("--pid @", name.as_ref()),
        ("--max-overhead @", name.as_ref()),
        ("@", name.as_ref()),
        ("check @", name.as_ref()),
        ("explain @", name.as_ref()),
        ("ports @", name.as_ref()),
        ("ports --netns @", name.as_ref()),
        ("ports --service @", name.as_ref()),
        ("explain 127.0.0.1 --svg @", folder.path("").as_ref()),
        ("completions @", name.as_ref()),
        ("-- @", name.as_ref()),
        ("load @", name.as_ref()),
        ("load default --csv @", folder.path("").as_ref()),
        ("load default --target @", name.as_ref()),
        ("compare @", name.as_ref()),
        ("compare --csv @", path.join("x").as_os_str()),
    ]
    .map(|(line, name)| (line.to_owned(), name.to_owned()));
    for (line, name) in lines {
        let output = harmful(&line, &name).output().expect("it runs");
        assert!(output.status.code().is_some(), "{line}: {output:?}");
        for stream in [&output.stdout, &output.stderr] {
            let printed = text(stream);
            let raw = |character: char| {
                character.is_control() && character != '\n' || character == '\u{202e}'
            };
            assert!(!printed.contains(raw), "{line}: {printed:?}");
        }
    }
}

#[test]
fn the_log_names_no_module_of_the_program() {
    let output = run("-v -d 0.1").output().expect("it runs");
    let mut wrong = run("--uid no-such-user");
    let wrong = wrong.env("RUST_LOG", "no=such=level").output();
    let wrong = wrong.expect("it runs");
    let warning = text(&wrong.stderr);
    let expected = "connect-trace: warning: RUST_LOG is ignored: ";
    assert!(warning.starts_with(expected), "{warning}");
    for messages in [text(&output.stderr), warning] {
        assert!(!messages.contains("connect_trace"), "{messages}");
        assert!(!messages.starts_with('['), "{messages}");
    }
}
