//! The server nginx, which counts the connections that it accepts.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::Process;

/// Port of the server, on all addresses.
pub const PORT: u16 = 8080;

const CONFIGURATION: &str = include_str!("clients/nginx.conf");

/// The setting that `connect-trace compare --how nginx` prints.
const SNIPPET: &str = include_str!("../../src/compare/snippets/addresses.nginx");

const FOLDER: &str = "/tmp/nginx";

/// A running nginx. Each request has its own connection, unless its path begins with `/kept`.
pub struct Nginx {
    _process: Process,
}

impl Nginx {
    /// Starts nginx and waits until it listens.
    pub fn start() -> Result<Self> {
        fs::create_dir_all(FOLDER).with_context(|| format!("cannot create {FOLDER}"))?;
        let path = format!("{FOLDER}/nginx.conf");
        fs::write(&path, CONFIGURATION.replace("# SNIPPET", SNIPPET))
            .with_context(|| format!("cannot write {path}"))?;
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c", &path]);
        let mut process = Process::start(command)?;
        // nginx prints this when the sockets are open.
        process.wait_for_stderr("getrlimit(RLIMIT_NOFILE)")?;
        Ok(Self { _process: process })
    }

    /// Returns the number of accepted connections, including the one of this request. Waiting connections are accepted
    /// before that one, and therefore counted.
    pub fn accepted(&self) -> Result<u64> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).context("nginx")?;
        stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let counts = text
            .split_once("server accepts handled requests\n")
            .and_then(|(_, counts)| counts.split_whitespace().next());
        let accepted = counts.with_context(|| format!("nginx says {text:?}"))?;
        Ok(accepted.parse()?)
    }
}
