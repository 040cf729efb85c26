//! The command `connect-trace serve`, started by a test, with a reader of its pages and of its metrics.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::process::{Ended, Process, until};

/// Time limit for each reading of a page.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns a path in the folder for temporary files that no other call returns.
pub fn temporary(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("connect-trace-{}-{number}-{name}", process::id()))
}

/// A name for the test's own network namespace, below /run/netns as those of `ip netns`. A service has no privilege left to
/// look at the namespace of another process.
pub struct Namespace(PathBuf);

impl Namespace {
    /// Gives it this name.
    pub fn name(name: &str) -> Result<Self> {
        let folder = Path::new("/run/netns");
        fs::create_dir_all(folder)?;
        let named = Self(folder.join(name));
        fs::write(&named.0, "")?;
        rustix::mount::mount_bind("/proc/self/ns/net", &named.0)?;
        Ok(named)
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::empty());
        let _ = fs::remove_file(&self.0);
    }
}

/// A running service, killed on drop. It listens on a free TCP port and on a Unix socket.
pub struct Service {
    pub process: Process,
    /// Address of the TCP socket.
    pub address: SocketAddr,
    socket: Socket,
}

/// Path of a Unix socket. The service removes the socket itself, unless it was killed.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Service {
    /// Starts `connect-trace serve` with these arguments, and waits until it serves.
    pub fn start(arguments: &str) -> Result<Self> {
        Self::start_as(arguments, |_| {})
    }

    /// Starts it with these arguments, changed by `as_what`.
    pub fn start_as(arguments: &str, as_what: impl FnOnce(&mut Command)) -> Result<Self> {
        let socket = Socket(temporary("http"));
        let mut command = Command::new("connect-trace");
        command.args(["serve", "--listen", "127.0.0.1:0", "--listen"]);
        command.arg(format!("unix:{}", socket.0.display()));
        command.args(arguments.split_whitespace());
        as_what(&mut command);
        let mut process = Process::start(command)?;
        process.wait_for_stderr("Serving on unix:")?;
        let said = process.stderr();
        let address = said
            .split_once("Serving on http://")
            .and_then(|(_, rest)| rest.lines().next()?.strip_suffix('.')?.parse().ok())
            .with_context(|| format!("no address in {said}"))?;
        Ok(Self {
            process,
            address,
            socket,
        })
    }

    /// Returns a service that runs already.
    pub fn of(process: Process, address: SocketAddr, socket: &Path) -> Self {
        Self {
            process,
            address,
            socket: Socket(socket.to_owned()),
        }
    }

    /// Reads a page through the Unix socket, which makes no connection that could be traced.
    pub fn get(&self, path: &str) -> Result<Page> {
        get(&self.socket.0, path)
    }

    /// Returns the path of the Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket.0
    }

    /// Reads a page through TCP: the connection is in the trace too, unless a filter leaves it out.
    pub fn get_through_tcp(&self, path: &str) -> Result<Page> {
        let stream = TcpStream::connect(self.address).context("connect to the service")?;
        stream.set_read_timeout(Some(LIMIT))?;
        request(stream, path)
    }

    /// Reads the metrics, in the text format of Prometheus.
    pub fn metrics(&self) -> Result<Metrics> {
        let page = self.get("/metrics")?;
        ensure!(page.status == 200, "{}: {}", page.status, page.body);
        Metrics::parse(&page.body)
    }

    /// Repeats readings of the metrics until `is_it` is true of them, and returns the last one.
    pub fn metrics_when(&self, what: &str, is_it: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        until(what, || Ok(Some(self.metrics()?).filter(&is_it)))
    }

    /// Returns the metrics once no call is in flight.
    pub fn metrics_at_rest(&self) -> Result<Metrics> {
        self.metrics_when("no call is in flight", |metrics| {
            metrics.sum("connect_trace_in_flight", &[]) == 0.0
        })
    }

    /// Sends SIGHUP, and waits until the service says `answer` once more.
    pub fn reload(&self, answer: &str) -> Result<()> {
        let count = || self.process.stderr().matches(answer).count();
        let before = count();
        self.process.signal(libc::SIGHUP)?;
        until(&format!("{answer:?}: {}", self.process.stderr()), || {
            Ok((count() > before).then_some(()))
        })
    }

    /// Ends it by SIGTERM, and returns its output.
    pub fn end(self) -> Result<Ended> {
        let Self {
            process, socket, ..
        } = self;
        process.signal(libc::SIGTERM)?;
        let ended = process.end()?.successful()?;
        ensure!(!socket.0.exists(), "the Unix socket is left: {ended}");
        Ok(ended)
    }
}

/// Reads a page through the Unix socket of a service.
pub fn get(socket: &Path, path: &str) -> Result<Page> {
    let stream = UnixStream::connect(socket).context("connect to the Unix socket")?;
    stream.set_read_timeout(Some(LIMIT))?;
    request(stream, path)
}

fn request(mut stream: impl Read + Write, path: &str) -> Result<Page> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    let answer = String::from_utf8(answer).context("the answer is not text")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no end of the head in {answer:?}"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok(Page {
        status: status.with_context(|| format!("no status in {head:?}"))?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// An answer of the service.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// A reading of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The types of the metrics, by name.
    types: BTreeMap<String, String>,
    /// The values by series: the name with its labels, as written.
    values: BTreeMap<String, f64>,
}

impl Metrics {
    /// Parses the text format of Prometheus.
    pub fn parse(text: &str) -> Result<Self> {
        let mut types = BTreeMap::new();
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').with_context(|| line.to_owned())?;
                types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
                let value = value.parse().with_context(|| line.to_owned())?;
                let twice = values.insert(series.to_owned(), value).is_some();
                ensure!(!twice, "{series} stands there twice");
            }
        }
        ensure!(!values.is_empty(), "no metrics in {text:?}");
        Ok(Self { types, values })
    }

    /// Returns the number of calls.
    pub fn calls(&self) -> f64 {
        self.sum("connect_trace_connects_total", &[])
    }

    /// Returns the sum of a metric over all series that have each of these labels, such as `kind="range"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let series = self.values.iter();
        let series = series.filter(|(series, _)| {
            let (of, rest) = series.split_once('{').unwrap_or((series, ""));
            of == name && labels.iter().all(|label| has_label(rest, label))
        });
        series.map(|(_, value)| value).sum()
    }

    /// Returns an error that names a counter, or a part of a histogram, that is less here than in an earlier reading.
    pub fn ensure_not_before(&self, earlier: &Self) -> Result<()> {
        for (series, before) in &earlier.values {
            if !earlier.is_cumulative(series) {
                continue;
            }
            let now = self.values.get(series);
            let now = now.with_context(|| format!("{series} is gone"))?;
            ensure!(now >= before, "{series} went back from {before} to {now}");
        }
        Ok(())
    }

    /// Returns true if a series belongs to a counter or a histogram.
    fn is_cumulative(&self, series: &str) -> bool {
        let name = series.split('{').next().unwrap_or(series);
        let of_type =
            |name: &str, wanted: &str| self.types.get(name).is_some_and(|is| is == wanted);
        let part = ["_bucket", "_count", "_sum"];
        let of_histogram = part
            .iter()
            .filter_map(|part| name.strip_suffix(part))
            .any(|name| of_type(name, "histogram"));
        // The OpenMetrics format names a counter without its suffix.
        let counter = name.strip_suffix("_total").unwrap_or(name);
        of_type(name, "counter") || of_type(counter, "counter") || of_histogram
    }
}

/// Returns true if the labels of a series, as written, contain this one.
fn has_label(labels: &str, label: &str) -> bool {
    let labels = labels.strip_suffix('}').unwrap_or(labels);
    labels.split(',').any(|one| one == label)
}
