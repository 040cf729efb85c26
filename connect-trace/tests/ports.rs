//! `connect-trace ports` on the kernel of this machine, compared with `ss` and with the sockets of the test.

mod command;
#[path = "ports/ss.rs"]
mod ss;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::ExitCode,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::Value;

use self::command::{connect_trace, text};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests = vec![
        Trial::ignorable_test("a_route_agrees_with_ss", || {
            let has_ss = std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|folder| folder.join("ss").exists())
            });
            if !has_ss {
                return Ok(Completion::ignored_with("there is no ss: install iproute2"));
            }
            a_route_agrees_with_ss().map_err(|error| format!("{error:#}"))?;
            Ok(Completion::Completed)
        }),
        Trial::test("holders_of_a_service_include_those_of_time_wait", || {
            holders_of_a_service_include_those_of_time_wait()
                .map_err(|error| format!("{error:#}").into())
        }),
        Trial::test("what_is_wrong_is_said", || {
            what_is_wrong_is_said().map_err(|error| format!("{error:#}").into())
        }),
    ];
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// Connections to a listener of the test, one of three closed by the client first.
struct Connections {
    listener: TcpListener,
    open: Vec<[TcpStream; 2]>,
    /// Ports in TIME_WAIT.
    ended: Vec<u16>,
}

impl Connections {
    fn make(address: &str, count: usize) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let mut made = Self {
            listener,
            open: Vec::new(),
            ended: Vec::new(),
        };
        for number in 0..count {
            let client = TcpStream::connect(made.listener.local_addr()?)?;
            let (server, _) = made.listener.accept()?;
            if number % 3 == 0 {
                made.ended.push(client.local_addr()?.port());
                drop(client);
                drop(server);
            } else {
                made.open.push([client, server]);
            }
        }
        Ok(made)
    }

    /// Runs `connect-trace ports` for the route, and returns its object.
    fn ports(&self, options: &[&str]) -> Result<Value> {
        let destination = self.listener.local_addr()?.to_string();
        let arguments = [&["ports", &destination, "--format", "json"], options].concat();
        let ended = connect_trace(&arguments);
        ensure!(ended.status.success(), "{ended:?}");
        serde_json::from_slice(&ended.stdout).with_context(|| text(&ended.stdout))
    }
}

fn a_route_agrees_with_ss() -> Result<()> {
    for address in ["127.0.0.1", "::1"] {
        let made = Connections::make(address, 30)?;
        let listening = ss::listening()?;
        assert!(listening.contains(&made.listener.local_addr()?.port()));
        let object = made.ports(&[])?;
        ss::compare(&object, &listening)?;
        assert_eq!(object["states"]["ESTAB"], made.open.len(), "{object}");
        assert_eq!(object["states"]["TIME-WAIT"], made.ended.len(), "{object}");
        assert_eq!(object["unknown"]["time_wait"], made.ended.len(), "{object}");
        let holder = &object["holders"][0];
        assert_eq!(holder["pid"], std::process::id(), "{object}");
        assert_eq!(holder["open"], made.open.len(), "{object}");
    }
    Ok(())
}

fn holders_of_a_service_include_those_of_time_wait() -> Result<()> {
    let made = Connections::make("127.0.0.1", 9)?;
    let object = made.ports(&[])?;
    let ended: Vec<_> = made
        .ended
        .iter()
        .map(|port| serde_json::json!([port, 0]))
        .collect();
    let answer = serde_json::json!({ "complete": true, "routes": [{
        "netns": object["netns"], "source": object["source"], "destination": object["destination"],
        "holders": [{ "pid": 77, "comm": "gone", "cgroup_id": 1, "strategy": "default" }],
        "ports": ended,
    }]});
    let server = TcpListener::bind("127.0.0.1:0")?;
    let address = server.local_addr()?.to_string();
    let serve = thread::spawn(move || -> Result<()> {
        let (mut client, _) = server.accept()?;
        let _ = client.read(&mut [0; 1_024])?;
        let body = answer.to_string();
        write!(
            client,
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        Ok(())
    });
    let object = made.ports(&["--service", &address])?;
    serve.join().expect("it does not panic")?;
    assert_eq!(object["service"]["complete"], true, "{object}");
    assert_eq!(object["unknown"]["time_wait"], 0, "{object}");
    let holders = object["holders"].as_array().context("holders")?;
    let of = |pid: u32| holders.iter().find(|holder| holder["pid"] == pid);
    let gone = of(77).context("77")?;
    assert_eq!(gone["time_wait"], made.ended.len(), "{object}");
    assert_eq!(gone["strategy"], "default", "{object}");
    assert_eq!(
        of(std::process::id()).context("own")?["open"],
        made.open.len()
    );
    Ok(())
}

fn what_is_wrong_is_said() -> Result<()> {
    for (arguments, expected) in [
        (
            &["ports", "--netns", "4294967295"][..],
            "there is no such process",
        ),
        (&["ports", "--netns", "/nonexistent"], "cannot be opened"),
        (
            &["ports", "--service", "127.0.0.1:1"],
            "connect-trace serve --ports",
        ),
        (&["ports", "10.0.0.7", "--source", "::1"], "family"),
        (&["ports", "10.0.0.7:1", "--svg", "-"], "there is no map"),
    ] {
        let ended = connect_trace(arguments);
        let stderr = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    Ok(())
}
