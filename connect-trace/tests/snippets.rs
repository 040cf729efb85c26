//! The snippets of `connect-trace compare --how` and docs/how-to.md, compiled and run in a private network namespace:
//! each opens as many connections as there are ports, and none fails.

mod command;

use std::{
    collections::BTreeSet,
    env, fs, io,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
};

use connect_trace::load::namespace;
use libtest_mimic::{Arguments, Trial};
use socket2::{Domain, Socket, Type};

use self::command::{connect_trace, text};

// The range of these is that of the files, so they are run on it.
#[path = "../src/compare/snippets/addresses.rs"]
mod addresses;
#[path = "../src/compare/snippets/cursor.rs"]
mod cursor;
#[path = "../src/compare/snippets/full-range.rs"]
mod full_range;
#[path = "../src/compare/snippets/window-retry.rs"]
mod window_retry;

/// Ports of the namespace, for snippets that take them as a text.
const FEW: (u16, u16) = (20_000, 20_199);

/// Ports in the files of the snippets.
const AS_WRITTEN: (u16, u16) = (9024, 65_535);

/// Port of the server, outside of the ranges.
const SERVER: u16 = 9023;

/// First argument of this program as the process that has a namespace of its own.
const INSIDE: &str = "inside-a-namespace";

/// First argument of this program as a client that uses a snippet in Rust.
const RUST: &str = "snippet-in-rust";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [INSIDE, low, high, command @ ..] => inside(low, high, command),
        [RUST, strategy, count] => in_rust(strategy, count.parse().expect("a number")),
        _ => tests(),
    }
}

fn tests() -> ExitCode {
    let arguments = Arguments::from_args();
    let why = connect_trace(&["load", "-c", "1", "--range", "20000-20199"]);
    let namespace = why.status.success();
    if !namespace {
        eprintln!("all tests are skipped: {}", text(&why.stderr));
    }
    let option = has_option();
    if !option {
        eprintln!("tests of IP_LOCAL_PORT_RANGE are skipped: this kernel refuses it");
    }
    let mut trials = Vec::new();
    for (language, program) in [
        ("c", "cc"),
        ("python", "python3"),
        ("java", "javac"),
        ("go", "go"),
        ("rust", ""),
    ] {
        let is_there = program.is_empty() || which(program);
        if !is_there {
            eprintln!("tests of snippets for {language} are skipped: there is no {program}");
        }
        for strategy in ["full-range", "window-retry", "addresses", "cursor"] {
            if language == "java" && strategy != "cursor" {
                continue;
            }
            let needs_option = matches!(strategy, "full-range" | "window-retry");
            let trial = Trial::test(
                format!("{strategy}_in_{language}_finds_every_port"),
                move || {
                    finds_every_port(strategy, language);
                    Ok(())
                },
            );
            let skipped = !namespace || !is_there || (needs_option && !option);
            trials.push(trial.with_ignored_flag(skipped));
        }
    }
    let curl = Trial::test("curl_connects_from_another_address", || {
        curl_connects_from_another_address();
        Ok(())
    });
    trials.push(curl.with_ignored_flag(!namespace || !which("curl")));
    let haproxy = Trial::test("haproxy_binds_the_ports_of_the_range_in_turn", || {
        haproxy_binds_the_ports_of_the_range_in_turn();
        Ok(())
    });
    let is_there = which("haproxy") && which("curl");
    if !is_there {
        eprintln!("the test of haproxy is skipped: there is no haproxy or no curl");
    }
    trials.push(haproxy.with_ignored_flag(!namespace || !is_there));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Returns true if a program is in the PATH.
fn which(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Returns true if the kernel has IP_LOCAL_PORT_RANGE.
fn has_option() -> bool {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a port");
    let ports: u32 = 1;
    // SAFETY: pointer and length are those of `ports`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            51,
            (&raw const ports).cast(),
            size_of_val(&ports) as libc::socklen_t,
        )
    };
    result == 0
}

/// A folder of a test, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!(
            "connect-trace-snippet-{test}-{}",
            std::process::id()
        ));
        fs::create_dir_all(&path).expect("the folder for temporary files takes one more");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the text of a file below `connect-trace/`.
fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns a snippet with the range of the namespace.
fn snippet(name: &str) -> String {
    file(&format!("src/compare/snippets/{name}"))
        .replace(&AS_WRITTEN.0.to_string(), &FEW.0.to_string())
        .replace(&AS_WRITTEN.1.to_string(), &FEW.1.to_string())
}

/// Runs a command that must succeed, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn finds_every_port(strategy: &str, language: &str) {
    let range = match language {
        // Its snippets are compiled as they are written; more ports than these would take more open files.
        "rust" if matches!(strategy, "window-retry" | "cursor") => AS_WRITTEN,
        _ => FEW,
    };
    let count: usize = match strategy {
        "addresses" => 400,
        _ if range == AS_WRITTEN => 2000,
        _ => 200,
    };
    let folder = Folder::new(&format!("{strategy}-{language}"));
    let (server, number) = (SERVER.to_string(), count.to_string());
    let path = |name: &str| folder.0.join(name).display().to_string();
    let write =
        |name: &str, text: String| fs::write(path(name), text).expect("the folder is writable");
    let mut words: Vec<String> = match language {
        "c" => {
            let connect = match strategy {
                "addresses" => "connect_from(from, 2, (struct sockaddr *)&to, sizeof to)",
                "cursor" => "connect_from(from[0], (struct sockaddr *)&to, sizeof to)",
                _ => "connect_to((struct sockaddr *)&to, sizeof to)",
            };
            write("snippet.h", snippet(&format!("{strategy}.c")));
            write("harness.c", file("tests/snippets/harness.c"));
            let mut compiler = Command::new("cc");
            compiler.args([
                "-Wall",
                "-Wextra",
                "-Werror",
                "-pthread",
                "-o",
                &path("client"),
            ]);
            compiler.args([
                "-include",
                &path("snippet.h"),
                &format!("-DCONNECT={connect}"),
            ]);
            run(compiler.arg(path("harness.c")));
            vec![path("client"), server, number]
        }
        "python" => {
            write("snippet.py", snippet(&format!("{strategy}.py")));
            write("harness.py", file("tests/snippets/harness.py"));
            vec![
                "python3".to_owned(),
                path("harness.py"),
                path("snippet.py"),
                server,
                number,
            ]
        }
        "java" => {
            write("Ports.java", snippet("cursor.java"));
            write("Harness.java", file("tests/snippets/Harness.java"));
            run(Command::new("javac").args([
                "-d",
                &path(""),
                &path("Ports.java"),
                &path("Harness.java"),
            ]));
            let java = ["java", "-cp"].map(str::to_owned);
            [&java[..], &[path(""), "Harness".to_owned(), server, number]].concat()
        }
        "go" => {
            let dial = match strategy {
                "cursor" => "Dial(net.IPv4(127, 0, 0, 1), \"127.0.0.1:\"+os.Args[1])",
                _ => "Dial(\"127.0.0.1:\" + os.Args[1])",
            };
            let main = |text: String| text.replace("package ports", "package main");
            write("snippet.go", main(snippet(&format!("{strategy}.go"))));
            write(
                "main.go",
                file("tests/snippets/harness.go").replace("DIAL", dial),
            );
            write("go.mod", "module client\n\ngo 1.19\n".to_owned());
            let mut build = Command::new("go");
            run(build
                .current_dir(&folder.0)
                .env("GOCACHE", path("cache"))
                .args(["build", "-o", "client", "."]));
            vec![path("client"), server, number]
        }
        "rust" => {
            let this = env::current_exe().expect("this program is a file");
            vec![
                this.display().to_string(),
                RUST.to_owned(),
                strategy.to_owned(),
                number,
            ]
        }
        _ => panic!("no such language: {language}"),
    };
    if (language, strategy) == ("python", "cursor") {
        words.push("127.0.0.1".to_owned());
    }
    let ports = ports_of(&inside_of(range, &words));
    assert_eq!(ports.len(), count);
    assert!(
        ports.iter().all(|port| (range.0..=range.1).contains(port)),
        "{ports:?}"
    );
    let different = ports.iter().collect::<BTreeSet<_>>().len();
    let odd = |ports: &[u16]| ports.iter().filter(|&port| port % 2 == 1).count();
    match strategy {
        "addresses" => {
            assert_eq!(different, 200, "each port once from each address");
            assert_eq!(
                odd(&ports[..200]),
                0,
                "two addresses have twice the first pass"
            );
        }
        "full-range" => {
            assert_eq!(different, count);
            let by_load = connect_trace(&[
                "load",
                "full-range",
                "--range",
                "20000-20199",
                "--format",
                "json",
            ]);
            let by_load: serde_json::Value =
                serde_json::from_slice(&by_load.stdout).expect("one object");
            let keeps_step = by_load["first_pass_connections"] == 100;
            assert_eq!(odd(&ports[..100]) == 0, keeps_step, "{ports:?}");
        }
        _ => {
            assert_eq!(different, count);
            assert!(
                odd(&ports[..100]) > 0,
                "the first half has ports of both parities: {ports:?}"
            );
        }
    }
}

fn ports_of(printed: &str) -> Vec<u16> {
    let ports = printed.lines().map(|line| line.parse());
    ports
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {printed}"))
}

fn curl_connects_from_another_address() {
    let command = snippet("addresses.curl").replace("URL", &format!("http://127.0.0.1:{SERVER}/"));
    assert!(command.starts_with("curl "), "{command}");
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    let peer = inside_of(FEW, &[&words[..], &["--silent".to_owned()]].concat());
    assert!(peer.starts_with("127.0.0.2:"), "{peer}");
}

fn haproxy_binds_the_ports_of_the_range_in_turn() {
    let folder = Folder::new("haproxy");
    let path = folder.0.join("haproxy.cfg").display().to_string();
    let server =
        snippet("cursor.haproxy").replace("127.0.0.1:80 ", &format!("127.0.0.1:{SERVER} "));
    let configuration = format!(
        "defaults\n    mode http\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\n\
         frontend all\n    bind 127.0.0.1:9000\n    default_backend servers\n\
         backend servers\n{server}"
    );
    fs::write(&path, configuration).expect("the folder is writable");
    let requests = "for i in $(seq 100); do curl --silent http://127.0.0.1:9000/; done";
    let shell = format!("haproxy -D -p {path}.pid -f {path} && {requests}; kill $(cat {path}.pid)");
    let peers = inside_of(FEW, &["sh".to_owned(), "-c".to_owned(), shell]);
    let ports = ports_of(&peers.replace("127.0.0.1:", ""));
    assert_eq!(ports.len(), 100, "{peers}");
    assert_eq!(
        ports.iter().collect::<BTreeSet<_>>().len(),
        100,
        "no port comes again: {ports:?}"
    );
    assert!(ports.iter().any(|port| port % 2 == 1), "{ports:?}");
    assert!(
        ports.iter().all(|port| (FEW.0..=FEW.1).contains(port)),
        "{ports:?}"
    );
}

/// Runs a command in a namespace with this range of ports, and returns what it printed.
fn inside_of(range: (u16, u16), words: &[String]) -> String {
    let this = env::current_exe().expect("this program is a file");
    let mut command = Command::new(this);
    command.args([INSIDE, &range.0.to_string(), &range.1.to_string()]);
    run(command.args(words))
}

/// Enters a namespace, opens a server there that tells each client its address, and runs a command.
fn inside(low: &str, high: &str, command: &[&str]) -> ExitCode {
    namespace::enter().expect("connect-trace load could make a namespace");
    fs::write(
        "/proc/sys/net/ipv4/ip_local_port_range",
        format!("{low} {high}"),
    )
    .expect("the range can be set");
    let server = listen().expect("the port is free");
    thread::spawn(move || {
        let mut held = Vec::new();
        for client in server.incoming() {
            let mut client = client.expect("accept() works");
            let peer = client.peer_addr().expect("it is connected");
            held.push(thread::Builder::new().stack_size(64 << 10).spawn(move || {
                // Only curl sends a request.
                if client.read(&mut [0; 1024]).is_ok_and(|bytes| bytes > 0) {
                    let _ = write!(client, "HTTP/1.0 200 OK\r\n\r\n{peer}\n");
                }
            }));
        }
    });
    let status = Command::new(command[0]).args(&command[1..]).status();
    let code = status.expect("the command is there").code();
    ExitCode::from(code.map_or(1, |code| code as u8))
}

/// Opens the server, with a queue for all connections: the client may be faster than accept().
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, SERVER)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Opens connections with a snippet in Rust, and prints the source port of each.
fn in_rust(strategy: &str, count: usize) -> ExitCode {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let sources = [loopback, Ipv4Addr::new(127, 0, 0, 2).into()];
    let to = SocketAddr::new(loopback, SERVER);
    let mut held = Vec::new();
    for _ in 0..count {
        let connected = match strategy {
            "full-range" => full_range::connect(to),
            "window-retry" => window_retry::connect(to),
            "cursor" => cursor::connect(loopback, to),
            _ => addresses::connect(&sources, to),
        };
        held.push(connected.expect("a port is free"));
    }
    let mut out = io::stdout().lock();
    for socket in held {
        let local = socket.local_addr().expect("it is connected").as_socket();
        writeln!(out, "{}", local.expect("an IP socket").port()).expect("stdout is open");
    }
    ExitCode::SUCCESS
}
