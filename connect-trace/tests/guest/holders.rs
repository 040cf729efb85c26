//! `--ports`: who holds the ports of a route, and when they end, compared with what the programs know and with the kernel's
//! own list.

use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    output::Lines,
    process::{Process, until},
    program::{connect_trace, report, tracing},
    service::Service,
    truth::{Range, Sysctl},
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        each_port_has_its_holder_in_time_wait_too,
        the_service_tells_the_holders_and_when_the_ports_end,
    ],
    OldestAndNewest: [
        connections_of_before_the_start_are_the_kernels,
    ],
    Oldest: [
        the_text_names_holders_and_the_end,
    ],
];

const ROOT: &str = "/sys/fs/cgroup";

/// A range above the kernel's default range, which no other connection uses.
const LOW: u16 = 61_000;

/// A listener whose connections are closed when the other side closes them.
struct Peer(SocketAddr);

impl Peer {
    /// Listens on a port of the kernel's default range, to which no earlier test has connections in TIME_WAIT.
    fn listen() -> Result<Self> {
        loop {
            let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen")?;
            let peer = Self(listener.local_addr()?);
            if peer.states()? == (0, 0) {
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        thread::spawn(move || wait_for_end(stream));
                    }
                });
                return Ok(peer);
            }
        }
    }

    /// Returns the states of the connections to it, as the kernel's list has them: ESTABLISHED and TIME_WAIT.
    fn states(&self) -> Result<(usize, usize)> {
        let list = fs::read_to_string("/proc/net/tcp").context("read /proc/net/tcp")?;
        let port = format!(":{:04X}", self.0.port());
        let states: Vec<&str> = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.get(2).is_some_and(|remote| remote.ends_with(&port)))
            .filter_map(|fields| fields.get(3).copied())
            .collect();
        let count = |wanted| states.iter().filter(|state| **state == wanted).count();
        Ok((count("01"), count("06")))
    }

    /// Waits until it has this number of connections in ESTABLISHED, and in TIME_WAIT.
    fn wait_for(&self, open: usize, time_wait: usize) -> Result<()> {
        let mut seen = Vec::new();
        let waited = until("all connections are made", || {
            let now = self.states()?;
            // After a minute, those in TIME_WAIT are gone for ever.
            ensure!(
                now.1 >= seen.last().map_or(0, |last: &(usize, usize)| last.1),
                "they end"
            );
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            Ok((now == (open, time_wait)).then_some(()))
        });
        waited.with_context(|| format!("{seen:?} instead of {:?}", (open, time_wait)))
    }
}

/// Lets the kernel keep each port in TIME_WAIT for a minute: no search takes it, and no late reset of the peer, as a busy
/// machine makes them, frees it.
fn kept() -> Result<[Sysctl; 2]> {
    Ok([
        Sysctl::set("tcp_tw_reuse", "0")?,
        Sysctl::set("tcp_rfc1337", "1")?,
    ])
}

fn wait_for_end(mut stream: TcpStream) {
    let mut byte = [0];
    // An error is an end, too.
    let _ = stream.read(&mut byte);
}

/// A program with connections to a peer, in a cgroup of its own.
struct Client {
    process: Process,
    folder: PathBuf,
    cgroup_id: u64,
}

impl Client {
    /// Starts it, and waits until its connections are made.
    fn start(name: &str, peer: &Peer, open: usize, closed: usize) -> Result<Self> {
        let client = Self::begin(name, peer, &format!("--open {open} --closed {closed}"))?;
        until("the client has connected", || {
            let said = client.process.stdout();
            Ok((said.lines().count() == open + closed).then_some(()))
        })?;
        Ok(client)
    }

    fn begin(name: &str, peer: &Peer, arguments: &str) -> Result<Self> {
        let folder = PathBuf::from(format!("{ROOT}/connect-trace-{name}"));
        fs::create_dir_all(&folder).context("make a cgroup")?;
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec truth hold {} {arguments}",
            folder.display(),
            peer.0,
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        Ok(Self {
            process: Process::start(shell)?,
            cgroup_id: fs::metadata(&folder)?.ino(),
            folder,
        })
    }

    /// Returns its part of a report.
    fn held(&self, open: usize, time_wait: usize) -> Value {
        json!({
            "pid": self.process.pid(),
            "comm": "truth",
            "cgroup_id": self.cgroup_id,
            "cgroup": self.cgroup(),
            "strategy": "default",
            "open": open,
            "time_wait": time_wait,
        })
    }

    fn cgroup(&self) -> String {
        self.folder.display().to_string().replace(ROOT, "")
    }

    /// Returns the ports that it says it has.
    fn ports(&self) -> Result<Vec<u16>> {
        let said = self.process.stdout();
        let ports = said.lines().filter_map(|line| line.split('\t').nth(1));
        let ports = ports.map(|port| Ok(port.parse()?));
        let mut ports: Vec<u16> = ports.collect::<Result<_>>()?;
        ports.sort_unstable();
        Ok(ports)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The processes of a cgroup are gone a moment after they were killed; a folder that stays harms nobody.
        let _ = self.process.signal(libc::SIGKILL);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Returns the only route that fills up in a report.
fn the_route(report: &Value) -> Result<&Value> {
    let routes = report["filling"]["routes"].as_array();
    let routes = routes.with_context(|| format!("no routes in {report:#}"))?;
    ensure!(routes.len() == 1, "{routes:#?}");
    Ok(&routes[0])
}

/// Ends a trace, and returns its report.
fn reported(trace: Process) -> Result<Value> {
    trace.signal(libc::SIGINT)?;
    Ok(Lines::of(&report(trace)?)?.report()?.clone())
}

/// From Linux 7.0 on, a program at a tracepoint can be preempted, and the kernel skips it meanwhile: a test is repeated
/// until no end of a connection was skipped.
const UNSKIPPED: &str = "no change of state was skipped";

/// Returns true if the kernel skipped the program at the end of a connection, which the report must say.
fn is_skipped(report: &Value) -> bool {
    let accounting = &report["ends"]["accounting"];
    let is_skipped = accounting["programs_skipped"].as_u64().unwrap_or(0) > 0;
    assert!(
        !is_skipped || accounting["complete"] == false,
        "{accounting:#}"
    );
    is_skipped
}

fn each_port_has_its_holder_in_time_wait_too((): ()) -> Result<()> {
    let _kept = kept()?;
    until(UNSKIPPED, || {
        let peer = Peer::listen()?;
        let _range = Range::read()?.set(LOW, LOW + 199)?;
        let trace = tracing("--ports --format json")?;
        let first = Client::start("first", &peer, 40, 30)?;
        let second = Client::start("second", &peer, 20, 31)?;
        peer.wait_for(60, 61)?;
        let report = reported(trace)?;
        if is_skipped(&report) {
            return Ok(None);
        }
        let route = the_route(&report)?;
        assert_eq!(route["destination_port"], peer.0.port(), "{route:#}");
        let of = |name: &str| route[name].as_u64();
        let counts = ["ports", "open", "time_wait", "reserved", "listener", "free"].map(of);
        assert_eq!(counts, [200, 60, 61, 0, 0, 79].map(Some), "{route:#}");
        let holders = json!([first.held(40, 30), second.held(20, 31)]);
        assert_eq!(route["holders"], holders, "{route:#}");
        assert_eq!(route["unknown"], json!({"open": 0, "time_wait": 0}));
        assert_eq!(route["records_alone"], Value::Null);
        // The even ports have been used up: 121 of 200 are taken.
        let second_pass = &route["forecast"]["second_pass"]["seconds"];
        assert_eq!(*second_pass, 0.0, "{route:#}");
        Ok(Some(()))
    })
}

fn connections_of_before_the_start_are_the_kernels((): ()) -> Result<()> {
    let _kept = kept()?;
    until(UNSKIPPED, || {
        let peer = Peer::listen()?;
        let _range = Range::read()?.set(LOW, LOW + 199)?;
        let before = Client::start("before", &peer, 40, 20)?;
        peer.wait_for(40, 20)?;
        let trace = tracing("--ports --format json")?;
        let after = Client::start("after", &peer, 30, 10)?;
        peer.wait_for(70, 30)?;
        let report = reported(trace)?;
        if is_skipped(&report) {
            return Ok(None);
        }
        let route = the_route(&report)?;
        let counts = ["open", "time_wait", "free"].map(|name| route[name].as_u64());
        assert_eq!(counts, [70, 30, 100].map(Some), "{route:#}");
        let holders = route["holders"].as_array().context("there are holders")?;
        assert!(holders.contains(&after.held(30, 10)), "{route:#}");
        // The kernel knows no process, and a cgroup as long as there is a socket.
        assert_eq!(
            route["unknown"],
            json!({"open": 0, "time_wait": 20}),
            "{route:#}"
        );
        let of_cgroup = json!({
            "pid": null,
            "comm": null,
            "cgroup_id": before.cgroup_id,
            "cgroup": before.cgroup(),
            "strategy": null,
            "open": 40,
            "time_wait": 0,
        });
        assert!(holders.contains(&of_cgroup), "{route:#}");
        Ok(Some(()))
    })
}

fn the_text_names_holders_and_the_end((): ()) -> Result<()> {
    let peer = Peer::listen()?;
    let _range = Range::read()?.set(LOW, LOW + 199)?;
    let trace = tracing("--ports")?;
    let client = Client::start("text", &peer, 150, 0)?;
    peer.wait_for(150, 0)?;
    trace.signal(libc::SIGINT)?;
    let ended = report(trace)?;
    let head = format!("127.0.0.1 -> {}: 150 of the 200 ports 61000-61199", peer.0);
    let holder = format!(
        "{:>7} truth               150          0  default ",
        client.process.pid()
    );
    let cgroup = client.cgroup();
    let parts = [
        &*head,
        &*holder,
        &*cgroup,
        "second pass now",
        "EADDRNOTAVAIL not",
    ];
    for part in parts {
        assert!(ended.stdout.contains(part), "{part}: {ended}");
    }
    for wrong in [
        "--ports --min-latency 1ms",
        "--ports --failed",
        "--max-connections 9",
    ] {
        let ended = Process::start(connect_trace(wrong))?.end()?;
        assert_eq!(ended.status.code(), Some(2), "{ended}");
    }
    Ok(())
}

fn the_service_tells_the_holders_and_when_the_ports_end((): ()) -> Result<()> {
    let _kept = kept()?;
    let (peer, _range, service, _first) = until(UNSKIPPED, || {
        let peer = Peer::listen()?;
        let range = Range::read()?.set(LOW, LOW + 3_999)?;
        let service = Service::start("--ports --metrics-routes 3 --interval 1")?;
        let first = Client::start("first", &peer, 90, 30)?;
        peer.wait_for(90, 30)?;
        let is_told = tells_holders(&service, &peer, &first)?;
        Ok(is_told.then_some((peer, range, service, first)))
    })?;
    let destination = peer.0.to_string();

    // Ten connections a second: the first parity lasts for three minutes, in which some ten seconds of a steady rate come
    // on a busy machine, too.
    let second = Client::begin("second", &peer, "--open 3000 --rate 10")?;
    let report = until("the end is predicted", || {
        let page = service.get("/report")?;
        if page.status != 200 {
            return Ok(None);
        }
        let report: Value = serde_json::from_str(&page.body)?;
        // The first interval may have ended before the first connection.
        let Ok(route) = the_route(&report) else {
            return Ok(None);
        };
        let is_told = |end| route["forecast"][end]["seconds"].is_f64();
        let are_told = ["second_pass", "exhausted"].into_iter().all(is_told);
        Ok(are_told.then_some(report))
    })?;
    let route = the_route(&report)?;
    let number = |value: &Value| value.as_f64().context("a number");
    let forecast = &route["forecast"];
    let exhausted = &forecast["exhausted"];
    let [seconds, least, most] = ["seconds", "at_least", "at_most"].map(|name| &exhausted[name]);
    let (seconds, least, most) = (number(seconds)?, number(least)?, number(most)?);
    assert!(least <= seconds && seconds <= most, "{route:#}");
    assert!(most - seconds <= 0.2 * seconds, "{route:#}");
    // The ports in TIME_WAIT may be free by then, or not.
    let taken = seconds * number(&forecast["opens_per_s"])?;
    let [free, waiting] = ["free", "time_wait"].map(|name| &route[name]);
    let (free, waiting) = (number(free)?, number(waiting)?);
    assert!(
        taken > free * 0.95 && taken < (free + waiting) * 1.05,
        "{taken}: {route:#}"
    );
    let labels = format!("destination=\"{destination}\"");
    // One reading may have no forecast, if the rate varied before it.
    service.metrics_when("both ends are in the metrics", |metrics| {
        let [second_pass, exhausted] = ["second_pass", "exhausted"].map(|end| {
            let name = format!("connect_trace_route_seconds_until_{end}");
            metrics.sum(&name, &["source=\"127.0.0.1\"", &labels])
        });
        0.0 < second_pass && second_pass < exhausted
    })?;
    drop(second);
    service.end()?;
    Ok(())
}

/// Waits until the service tells each port of a client with its holder; returns false if its records are incomplete.
fn tells_holders(service: &Service, peer: &Peer, client: &Client) -> Result<bool> {
    let destination = peer.0.to_string();
    let ports = client.ports()?;
    let ports: Vec<Value> = ports.into_iter().map(|port| json!([port, 0])).collect();
    let mut told = Value::Null;
    let known = until("the service knows all ports", || {
        told = serde_json::from_str(&service.get("/ports")?.body)?;
        if told["complete"] != true {
            return Ok(Some(None));
        }
        // After a minute, the ports in TIME_WAIT are free.
        ensure!(peer.states()? == (90, 30), "they end");
        let mut routes = told["routes"].as_array().into_iter().flatten();
        let route = routes.find(|route| route["destination"] == destination.as_str());
        let route = route.filter(|route| route["ports"] == json!(ports));
        Ok(route.cloned().map(Some))
    });
    let Some(route) = known.with_context(|| format!("{ports:?} instead of {told}"))? else {
        return Ok(false);
    };
    let holder = json!({
        "pid": client.process.pid(),
        "comm": "truth",
        "cgroup_id": client.cgroup_id,
        "strategy": "default",
    });
    assert_eq!(route["holders"], json!([holder]));
    Ok(true)
}
