//! `connect-trace try` as a user runs it, on the kernel of this machine: real processes, each in a private network
//! namespace with 200 ports. The tests need no BPF, and no root if the kernel lets users create namespaces.

#[path = "supervise/client.rs"]
mod client;
mod command;
#[path = "supervise/namespace.rs"]
mod namespace;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, ExitCode, Output, Stdio},
    thread,
    time::Duration,
};

use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::Value;

use self::{command::text, namespace::inside};

/// A test: its name and its function, which returns the reason if it cannot be run here.
type Test = (&'static str, fn() -> Option<String>);

macro_rules! tests {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), $name)),+] };
}

const TESTS: &[Test] = tests![
    the_full_range_has_odd_ports_from_the_start_in_every_family,
    a_window_without_a_free_port_is_another_one_and_every_port_is_found,
    addresses_take_turns_where_they_reach_the_destination,
    a_socket_that_has_chosen_for_itself_is_left_alone_and_counted,
    threads_children_and_orphans_are_supervised,
    a_call_that_connects_by_sending_is_set,
    io_uring_and_filters_of_the_program_are_told,
    a_jvm_is_supervised,
    curl_is_supervised,
    status_and_signals_are_those_of_the_command,
    an_ordinary_user_needs_no_privileges,
    a_killed_supervisor_costs_no_call,
    a_killed_standby_is_replaced,
    without_both_every_call_fails_with_enosys,
    a_daemon_is_supervised_after_the_command,
    a_second_supervisor_is_refused_with_the_reason,
    strategies_are_compared_with_their_price,
    wrong_usage_is_one_message_and_exit_status_2,
];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().collect();
    match arguments.get(1).and_then(|argument| argument.to_str()) {
        Some(how @ (namespace::AS_WE_ARE | namespace::AS_NOBODY)) => {
            let error = namespace::enter_and_run(how, &arguments[2..]);
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
        Some("client") => {
            let words: Vec<_> = arguments[2..]
                .iter()
                .filter_map(|word| word.to_str())
                .collect();
            client::run(&words);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let why = no_namespace();
    let trials = TESTS.iter().map(|&(name, test)| {
        let why = why.clone();
        Trial::ignorable_test(name, move || {
            Ok(match why.or_else(test) {
                Some(why) => Completion::ignored_with(why),
                None => Completion::Completed,
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Returns the reason why there can be no namespace here.
fn no_namespace() -> Option<String> {
    let output = inside(&["true"]).output().expect("this program can be run");
    (!output.status.success()).then(|| text(&output.stderr))
}

/// Returns this program, for its clients.
fn this() -> String {
    let path = env::current_exe().expect("this program has a name");
    path.to_str().expect("of text").to_owned()
}

/// Returns `connect-trace try` with these options and a client of this program, in a namespace.
fn supervised(options: &str, client: &str) -> Command {
    let this = this();
    let mut arguments = vec![env!("CARGO_BIN_EXE_connect-trace"), "try"];
    arguments.extend(options.split_whitespace());
    arguments.extend(["--", &this, "client"]);
    arguments.extend(client.split_whitespace());
    let mut command = inside(&arguments);
    command.env_remove("RUST_LOG");
    command
}

/// Runs a client to its end. Returns its output, and the report as JSON.
fn run(options: &str, client: &str) -> (Output, Value) {
    let output = supervised(&format!("{options} --format json"), client)
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let message = text(&output.stderr);
    let line = message.lines().find(|line| line.starts_with('{'));
    let report = line.and_then(|line| serde_json::from_str(line).ok());
    (
        output,
        report.unwrap_or_else(|| panic!("no report: {message}")),
    )
}

fn addresses(output: &Output) -> Vec<SocketAddr> {
    let out = text(&output.stdout);
    out.lines()
        .map(|line| line.parse().unwrap_or_else(|_| panic!("{line}: {out}")))
        .collect()
}

/// Returns the number of connections before the first odd port, and that of the different ports.
fn ports(output: &Output) -> (usize, usize) {
    let addresses = addresses(output);
    let is_odd = |address: &SocketAddr| address.port() % 2 == 1;
    let first = addresses.iter().position(is_odd).unwrap_or(addresses.len());
    let different: BTreeSet<_> = addresses.iter().map(SocketAddr::port).collect();
    (first, different.len())
}

/// Returns the reason if this kernel refuses the strategy.
fn refused(strategy: &str) -> Option<String> {
    let output = supervised(strategy, "udp 0")
        .output()
        .expect("it can be run");
    let message = text(&output.stderr);
    message.contains("which this kernel").then_some(message)
}

fn the_full_range_has_odd_ports_from_the_start_in_every_family() -> Option<String> {
    if let Some(why) = refused("full-range") {
        return Some(why);
    }
    let without = inside(&[&this(), "client", "hold", "200", "-"]).output();
    assert_eq!(ports(&without.expect("it can be run")), (100, 200));
    for family in ["-", "v6", "mapped", "nonblocking"] {
        let (output, report) = run("full-range", &format!("hold 200 {family}"));
        let (first_odd, different) = ports(&output);
        assert_eq!(different, 200, "{family}: every port is found");
        if text(&output.stderr).contains("full-range cannot help") {
            assert_eq!(first_odd, 100, "{family}");
        } else {
            assert!(first_odd < 40, "{family}: {first_odd}");
        }
        let supervision = &report["supervision"];
        assert_eq!(supervision["set"], 200, "{family}: {report}");
        assert_eq!(supervision["calls"], 200, "{family}: {report}");
        assert!(supervision["mean_ns"].as_f64() > Some(0.0), "{report}");
    }
    None
}

fn a_window_without_a_free_port_is_another_one_and_every_port_is_found() -> Option<String> {
    if let Some(why) = refused("window-retry-2") {
        return Some(why);
    }
    // Windows of two ports have none that is free long before the last port.
    for family in ["-", "v6", "nonblocking"] {
        // One more than there are ports.
        let client = format!("hold 201 {family}");
        let output = supervised("window-retry-2 --format json", &client).output();
        let output = output.expect("it can be run");
        let out = text(&output.stdout);
        let last = out.lines().last().expect("it prints");
        assert_eq!(last, format!("errno {}", libc::EADDRNOTAVAIL), "{out}");
        let held: BTreeSet<u16> = out
            .lines()
            .filter_map(|line| line.parse().ok())
            .map(|address: SocketAddr| address.port())
            .collect();
        assert_eq!(held.len(), 200, "{family}: no failure before the last port");
        let message = text(&output.stderr);
        let report: Value = serde_json::from_str(&message).expect("one object");
        let supervision = &report["supervision"];
        assert_eq!(supervision["set"], 201, "{report}");
        assert_eq!(supervision["failed"], 1, "{report}");
        assert!(supervision["retries"].as_u64() > Some(20), "{report}");
    }
    None
}

fn addresses_take_turns_where_they_reach_the_destination() -> Option<String> {
    let options = "addresses --addresses 127.0.0.2,127.0.0.3,10.0.0.7";
    for client in ["hold 40 -", "hold 40 mapped", "udp 40"] {
        let (output, report) = run(options, client);
        let used = addresses(&output);
        let of = |last: u8| {
            let wanted = std::net::Ipv4Addr::new(127, 0, 0, last);
            let is_it = |address: &&SocketAddr| address.ip().to_canonical() == wanted;
            used.iter().filter(is_it).count()
        };
        assert_eq!((of(2), of(3)), (20, 20), "{client}: {used:?}");
        assert_eq!(report["supervision"]["set"], 40, "{report}");
    }
    let (_, report) = run(options, "hold 3 v6");
    assert_eq!(
        report["supervision"]["left_alone"]["destination"], 3,
        "{report}"
    );
    None
}

fn a_socket_that_has_chosen_for_itself_is_left_alone_and_counted() -> Option<String> {
    for strategy in ["full-range", "window-retry-20"] {
        if let Some(why) = refused(strategy) {
            return Some(why);
        }
        let (output, report) = run(strategy, "odd-ones");
        assert_eq!(text(&output.stdout), "done\n");
        let supervision = &report["supervision"];
        // The one that connects twice, and the first of the calls that are refused.
        assert_eq!(supervision["set"], 2, "{report}");
        let left = &supervision["left_alone"];
        // Unix and two of UDP.
        assert_eq!(left["protocol"], 3, "{report}");
        // The second call that is refused has the port of the first.
        assert_eq!(left["port"], 2, "{report}");
        assert_eq!(left["own_range"], 1, "{report}");
        assert_eq!(left["forbidden"], 0, "{report}");
    }
    None
}

fn threads_children_and_orphans_are_supervised() -> Option<String> {
    if let Some(why) = refused("full-range") {
        return Some(why);
    }
    let (output, report) = run("full-range", "threads 8 10");
    let out = text(&output.stdout);
    let odd: u32 = out
        .split_once("80 open, ")
        .and_then(|(_, rest)| rest.split_once(" odd"))
        .and_then(|(odd, _)| odd.parse().ok())
        .expect("it prints");
    assert!(out.contains("orphan"), "{out}");
    if !text(&output.stderr).contains("full-range cannot help") {
        assert!(odd > 10, "{out}");
    }
    assert_eq!(report["supervision"]["set"], 80 + 2, "{report}");
    None
}

fn a_call_that_connects_by_sending_is_set() -> Option<String> {
    if let Some(why) = refused("full-range") {
        return Some(why);
    }
    for strategy in ["full-range", "window-retry-20"] {
        let (output, report) = run(strategy, "fast-open");
        assert_eq!(text(&output.stdout).lines().count(), 50);
        assert_eq!(report["supervision"]["set"], 50, "{report}");
    }
    None
}

fn io_uring_and_filters_of_the_program_are_told() -> Option<String> {
    let options = "addresses --addresses 127.0.0.1";
    let (output, report) = run(options, "io-uring");
    assert_eq!(report["supervision"]["io_urings"], 1, "{report}");
    assert!(!output.stdout.is_empty());
    let (output, report) = run(options, "filtered");
    assert_eq!(text(&output.stdout), "done\n");
    assert_eq!(
        report["supervision"]["processes_with_filters"], 1,
        "{report}"
    );
    for (client, note) in [
        ("io-uring", "by io_uring are not"),
        ("filtered", "filters of their own"),
    ] {
        let output = supervised(options, client).output().expect("it can be run");
        let message = text(&output.stderr).replace("\n  ", " ");
        assert!(message.contains(note), "{message}");
    }
    None
}

/// Runs a program of this machine under supervision, or returns the reason why there is none.
fn run_other(strategy: &str, command: &[&str]) -> Result<(Output, Value), String> {
    let alone = inside(command).output();
    match alone {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(text(&output.stderr)),
        Err(error) => return Err(format!("{}: {error}", command[0])),
    }
    let mut arguments = vec![env!("CARGO_BIN_EXE_connect-trace"), "try", strategy];
    arguments.extend(["--format", "json", "--output", "/dev/stderr", "--"]);
    arguments.extend(command);
    let output = inside(&arguments).output().expect("it can be run");
    let message = text(&output.stderr);
    assert!(output.status.success(), "{message}");
    let line = message.lines().find(|line| line.starts_with('{'));
    let report = line.and_then(|line| serde_json::from_str(line).ok());
    Ok((
        output,
        report.unwrap_or_else(|| panic!("no report: {message}")),
    ))
}

fn a_jvm_is_supervised() -> Option<String> {
    if let Some(why) = refused("window-retry-20") {
        return Some(why);
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/supervise/Client.java");
    let (output, report) = match run_other("window-retry-20", &["java", source]) {
        Ok(ran) => ran,
        Err(why) => return Some(why),
    };
    let out = text(&output.stdout);
    let odd = out
        .strip_prefix("140 open, ")
        .and_then(|rest| rest.strip_suffix(" odd\n"));
    let odd: u32 = odd.and_then(|odd| odd.parse().ok()).expect("it prints");
    assert!(odd > 30, "{out}");
    assert_eq!(report["supervision"]["set"], 140, "{report}");
    None
}

/// Nobody listens: each connection is refused after it was set.
fn curl_is_supervised() -> Option<String> {
    const FAILED_TO_CONNECT: &str = "curl -s http://127.0.0.1:7/[1-30] || [ $? = 7 ]";
    if let Some(why) = refused("full-range") {
        return Some(why);
    }
    let script = format!("command -v curl && {FAILED_TO_CONNECT}");
    match run_other("full-range", &["sh", "-c", &script]) {
        Ok((_, report)) => assert_eq!(report["supervision"]["set"], 30, "{report}"),
        Err(why) => return Some(format!("no curl: {why}")),
    }
    None
}

fn status_and_signals_are_those_of_the_command() -> Option<String> {
    let shell = |script: &str| {
        let arguments = [
            env!("CARGO_BIN_EXE_connect-trace"),
            "try",
            "addresses",
            "--addresses",
            "127.0.0.1",
            "--quiet",
            "--",
            "sh",
            "-c",
            script,
        ];
        let mut command = inside(&arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("it can be run")
    };
    let ended = |child: Child| child.wait_with_output().expect("it ends");
    for status in [0, 7] {
        let output = ended(shell(&format!("echo out; exit {status}")));
        assert_eq!(output.status.code(), Some(status));
        assert_eq!(text(&output.stdout), "out\n");
        assert_eq!(text(&output.stderr), "", "quiet");
    }
    let output = ended(shell("kill -KILL $$"));
    assert_eq!(output.status.signal(), Some(libc::SIGKILL));
    for signal in [libc::SIGTERM, libc::SIGHUP] {
        let mut child = shell(&format!(
            "trap 'exit 3' {signal}; echo ready; while :; do sleep 0.05; done"
        ));
        wait_for(&mut child, "ready");
        kill(child.id(), signal);
        assert_eq!(ended(child).status.code(), Some(3));
    }
    let mut command = inside(&[env!("CARGO_BIN_EXE_connect-trace"), "try", "addresses"]);
    command.args(["--addresses", "127.0.0.1", "--", "/no/such/program"]);
    let output = command.output().expect("it can be run");
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("/no/such/program: No such file"),
        "{message}"
    );
    None
}

/// Sends a signal to a process of this test.
fn kill(pid: u32, signal: libc::c_int) {
    // SAFETY: the call takes numbers.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// Reads the output of a process up to this line.
fn wait_for(child: &mut Child, line: &str) {
    let out = child.stdout.as_mut().expect("it is a pipe");
    let mut read = String::new();
    while !read.ends_with(&format!("{line}\n")) {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).expect("it can be read"), 1, "{read}");
        read.push(byte[0].into());
    }
}

fn an_ordinary_user_needs_no_privileges() -> Option<String> {
    // SAFETY: the call takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Some("all tests are run by an ordinary user".to_owned());
    }
    if let Some(why) = refused("window-retry-20") {
        return Some(why);
    }
    // A folder that this user may enter: that of the build may be another's.
    let folder = Folder::new();
    let copies = [env!("CARGO_BIN_EXE_connect-trace"), &this()].map(|from| {
        let name = PathBuf::from(from);
        let to = folder.0.join(name.file_name().expect("a file"));
        fs::copy(from, &to).expect("the disk has room");
        to.to_str().expect("of text").to_owned()
    });
    let [connect_trace, this] = &copies;
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(this);
        command.args([namespace::AS_NOBODY, connect_trace, "try"]);
        command.args(arguments).env_remove("RUST_LOG");
        let output = command.output().expect("it can be run");
        assert!(output.status.success(), "{}", text(&output.stderr));
        output
    };
    for strategy in ["full-range", "window-retry-20"] {
        let client = [this, "client", "hold", "50", "-"];
        let output = as_nobody(&[&[strategy, "--format", "json", "--"], &client[..]].concat());
        assert_eq!(addresses(&output).len(), 50);
        let message = text(&output.stderr);
        assert!(message.contains("\"set\":50"), "{message}");
    }
    let status = ["full-range", "-q", "--", "cat", "/proc/self/status"];
    let status = text(&as_nobody(&status).stdout);
    for field in ["Uid:\t65534", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
        assert!(status.contains(field), "{field} is not in: {status}");
    }
    let setuid = folder.0.join("setuid");
    fs::copy("/bin/true", &setuid).expect("the disk has room");
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).expect("it is ours");
    let setuid = setuid.to_str().expect("of text");
    let message = text(&as_nobody(&["full-range", "-q", "--", setuid]).stderr);
    assert!(
        message.contains("is a setuid or setgid program"),
        "{message}"
    );
    None
}

/// A folder that everybody may enter, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("connect-trace-try-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files takes one more");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Starts a client under supervision, and waits until it is ready.
fn started(options: &str, client: &str) -> Child {
    let mut command = supervised(options, client);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be run");
    wait_for(&mut child, "ready");
    child
}

/// Returns the children of a process with this name.
fn children(pid: u32, name: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc")
        .expect("there is /proc")
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
            let mut rest = rest.split(' ');
            let state = rest.next()?;
            let parent: u32 = rest.next()?.parse().ok()?;
            (state != "Z").then(|| (pid, name.to_owned(), parent))
        });
    all.filter(|(_, found, parent)| found == name && *parent == pid)
        .map(|(pid, ..)| pid)
        .collect()
}

fn the_standby(of: u32) -> u32 {
    loop {
        if let [standby] = *children(of, "ct-standby") {
            return standby;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn a_killed_supervisor_costs_no_call() -> Option<String> {
    if let Some(why) = refused("window-retry-20") {
        return Some(why);
    }
    let both = "addresses --addresses 127.0.0.2,127.0.0.3";
    for options in ["full-range", "window-retry-20", both] {
        let mut child = started(options, "load 600");
        let standby = the_standby(child.id());
        thread::sleep(Duration::from_millis(200));
        kill(child.id(), libc::SIGKILL);
        let mut out = String::new();
        let mut stdout = child.stdout.take().expect("it is a pipe");
        stdout.read_to_string(&mut out).expect("it can be read");
        let (calls, failed) = out.split_once(" calls, failed: ").expect("it prints");
        assert!(calls.parse::<u64>().expect("a number") > 100, "{out}");
        assert_eq!(failed, "[]\n", "{options}: {out}");
        child.wait().expect("it has ended");
        while is_running(standby) {
            // The process ends by itself: else this never does.
            thread::sleep(Duration::from_millis(5));
        }
    }
    None
}

/// Has a client of `one-a-line` connect once.
fn connect(child: &mut Child) -> String {
    let input = child.stdin.as_mut().expect("it is a pipe");
    input.write_all(b"\n").expect("it is read");
    let mut line = String::new();
    let out = child.stdout.as_mut().expect("it is a pipe");
    // The client prints no more than this line.
    BufReader::with_capacity(1, out)
        .read_line(&mut line)
        .expect("it can be read");
    line
}

const ONE: &str = "addresses --addresses 127.0.0.1 --format json";

fn a_killed_standby_is_replaced() -> Option<String> {
    let mut child = started(ONE, "one-a-line");
    let first = the_standby(child.id());
    kill(first, libc::SIGKILL);
    while the_standby(child.id()) == first {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(connect(&mut child), "connected\n");
    let second = the_standby(child.id());
    kill(child.id(), libc::SIGKILL);
    assert_eq!(connect(&mut child), "connected\n");
    drop(child.stdin.take());
    child.wait().expect("it has ended");
    while is_running(second) {
        thread::sleep(Duration::from_millis(5));
    }
    None
}

fn without_both_every_call_fails_with_enosys() -> Option<String> {
    let mut child = started(ONE, "one-a-line");
    let standby = the_standby(child.id());
    assert_eq!(connect(&mut child), "connected\n");
    // The supervisor would replace it.
    kill(child.id(), libc::SIGKILL);
    kill(standby, libc::SIGKILL);
    while is_running(standby) || is_running(child.id()) {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(connect(&mut child), format!("errno {}\n", libc::ENOSYS));
    drop(child.stdin.take());
    child.wait().expect("it has ended");
    None
}

fn a_daemon_is_supervised_after_the_command() -> Option<String> {
    let this = this();
    let mut arguments = vec![env!("CARGO_BIN_EXE_connect-trace"), "try"];
    arguments.extend(["addresses", "--addresses", "127.0.0.2", "--", "sh", "-c"]);
    let script = format!("(sleep 0.3; exec {this} client hold 3 -) & exit 0");
    arguments.push(&script);
    let mut command = inside(&arguments);
    command.env_remove("RUST_LOG");
    let output = command.output().expect("it can be run");
    let message = text(&output.stderr);
    assert!(message.contains("ct-standby ("), "{message}");
    assert!(
        message.contains("addresses: 0 connect() calls set"),
        "{message}"
    );
    // The pipe of its stdout closes when the daemon ends.
    let used = addresses(&output);
    assert_eq!(used.len(), 3);
    for address in used {
        assert_eq!(address.ip().to_string(), "127.0.0.2", "by the standby");
    }
    None
}

fn a_second_supervisor_is_refused_with_the_reason() -> Option<String> {
    let mut arguments = Vec::new();
    for _ in 0..2 {
        arguments.extend([env!("CARGO_BIN_EXE_connect-trace"), "try", "addresses"]);
        arguments.extend(["--addresses", "127.0.0.1", "--"]);
    }
    arguments.push("true");
    let output = inside(&arguments).output().expect("it can be run");
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("a process can have only one"), "{message}");
    None
}

fn strategies_are_compared_with_their_price() -> Option<String> {
    if let Some(why) = refused("full-range") {
        return Some(why);
    }
    let options = "--against --no-trace default full-range window-retry-20 --repeats 2";
    let (_, report) = run(options, "hold 195 -");
    assert_eq!(report["type"], "comparison");
    let strategies = report["strategies"].as_array().expect("an array");
    assert_eq!(strategies.len(), 3);
    for strategy in strategies {
        let runs = strategy["runs"].as_array().expect("an array");
        assert_eq!(runs.len(), 2);
        for run in runs {
            assert_eq!(
                (&run["connections"], &run["failed"]),
                (&195.into(), &0.into()),
                "{run}"
            );
            assert_eq!(run["supervision"]["set"], 195, "{run}");
        }
        let price = &strategy["price"];
        if strategy["strategy"] == "default" {
            assert!(price.is_null(), "{strategy}");
            assert_eq!(runs[0]["before_odd"], 100, "{strategy}");
        } else {
            assert!(
                price["with_ns"].as_u64() > price["without_ns"].as_u64(),
                "{strategy}"
            );
        }
        if strategy["strategy"] == "window-retry-20" {
            assert!(runs[0]["before_odd"].as_u64() < Some(40), "{strategy}");
        }
    }
    assert_documented(&report);
    let output = supervised(options, "hold 195 -")
        .output()
        .expect("it can be run");
    let table = text(&output.stderr);
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for part in [
        "1st odd",
        "price us",
        "instead of default: a connection from an odd port",
    ] {
        assert!(table.contains(part), "{part} is missing from:\n{table}");
    }
    // Twice each of three strategies.
    assert_eq!(text(&output.stdout).lines().count(), 6 * 195);
    None
}

/// Fails unless docs/try.md has every field.
fn assert_documented(value: &Value) {
    const DOCUMENTATION: &str = include_str!("../../docs/try.md");
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_there = DOCUMENTATION.contains(&format!("`{name}`"));
                assert!(is_there, "{name} is not in docs/try.md");
                assert_documented(value);
            }
        }
        Value::Array(values) => values.iter().for_each(assert_documented),
        _ => {}
    }
}

fn wrong_usage_is_one_message_and_exit_status_2() -> Option<String> {
    for wrong in [
        "try",
        "try full-range",
        "try -- true",
        "try default -- true",
        "try windows -- true",
        "try window-retry-1 -- true",
        "try full-range window-retry-20 -- true",
        "try --against full-range -- true",
        "try addresses -- true",
        "try full-range --addresses 127.0.0.1 -- true",
        "try addresses --addresses here -- true",
        "try full-range --repeats 2 -- true",
        "try full-range --pause 1s -- true",
        "try full-range --no-trace -- true",
    ] {
        let output = command::connect_trace(&wrong.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(text(&output.stderr).starts_with("error: "), "{wrong}");
        assert!(output.stdout.is_empty(), "{wrong}");
    }
    None
}
