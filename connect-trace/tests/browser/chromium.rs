//! Visits a page with headless Chromium: the result of a script of the test, the complaints of the page, and its
//! requests to the network.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    command::{connect_trace, text},
    folder::Folder,
};

/// Variable with the path of the browser, or the reason why there is none. `cargo xtask test` sets it.
const BROWSER: &str = "CONNECT_TRACE_BROWSER";
const NO_BROWSER: &str = "CONNECT_TRACE_NO_BROWSER";

/// Time limit of the browser for a page, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the path of the browser, or the reason why there is none.
pub fn find() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(BROWSER) {
        return Ok(path.into());
    }
    if let Ok(reason) = env::var(NO_BROWSER) {
        return Err(format!("no browser: {}", reason.replace('\n', " ")));
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/browser.sh");
    let names = ["chromium", "chromium-headless-shell", "google-chrome"];
    let path = env::var_os("PATH").unwrap_or_default();
    let mut installed =
        env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    if fetched.is_file() {
        return Ok(fetched);
    }
    installed
        .find(|path| path.is_file())
        .ok_or_else(|| "no browser: `cargo xtask setup --all` gets Chromium from Debian".to_owned())
}

/// Size and settings of the browser's window.
#[derive(Clone, Copy)]
pub struct Window {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

/// An ordinary desktop window.
pub const DESKTOP: Window = Window {
    width: 1280,
    height: 900,
    dark: false,
};

/// Result of a visit to a page.
pub struct Visit {
    /// Value that the script returned.
    pub found: Value,
    /// Complaints of the page itself, and of the browser about the page.
    pub complaints: Vec<String>,
    /// First lines of the requests to the network.
    pub requests: Vec<String>,
}

/// Runs before the page's own script.
const WATCH: &str = r#"<script>
  window.complaints = [];
  addEventListener("error", (e) => complaints.push(e.message || `not loaded: ${e.target.outerHTML}`), true);
  addEventListener("unhandledrejection", (e) => complaints.push(String(e.reason)));
  for (const kind of ["error", "warn"]) console[kind] = (...what) => complaints.push(what.join(" "));
</script>"#;

/// Opens the page with a script of the test, the body of an async function, at its end.
pub fn visit(folder: &Folder, html: &str, window: Window, script: &str) -> Result<Visit> {
    let browser = find().map_err(anyhow::Error::msg)?;
    let report = report(script);
    let with_scripts = html
        .replacen("<head>", &format!("<head>{WATCH}"), 1)
        .replacen("</body>", &report, 1);
    ensure!(with_scripts.contains(&report), "the page has no end");
    let page = folder.file("visited.html", with_scripts.as_bytes());
    visit_file(browser, folder, &page, window)
}

/// Host of the service of [`visit_service`].
const SERVICE: &str = "http://connect-trace.test";

/// Opens the page of a service, as [`visit`] opens a file. The first answer gets the scripts of the test, in the way that
/// the page allows its own.
pub fn visit_service(
    folder: &Folder,
    service: SocketAddr,
    window: Window,
    script: &str,
) -> Result<Visit> {
    let browser = find().map_err(anyhow::Error::msg)?;
    let proxy = Proxy::start(Some((service, report(script))))?;
    visit_url(browser, folder, &format!("{SERVICE}/"), window, proxy)
}

/// Fetches a path of a service, and returns its head and its body.
pub fn fetched(service: SocketAddr, path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect(service)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// Adds the scripts of a test to a page of a service.
fn with_scripts(head: &str, body: &str, report: &str) -> String {
    let nonce = body.split_once("nonce=\"").map_or("", |(_, rest)| rest);
    let nonce = nonce.split('"').next().unwrap_or_default();
    let allowed =
        |script: &str| script.replacen("<script>", &format!("<script nonce=\"{nonce}\">"), 1);
    let body = body
        .replacen("<head>", &format!("<head>{}", allowed(WATCH)), 1)
        .replacen("</body>", &allowed(report), 1);
    let lines = head.lines();
    let lines = lines.filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let head: Vec<_> = lines.collect();
    format!(
        "{}\r\ncontent-length: {}\r\n\r\n{body}",
        head.join("\r\n"),
        body.len()
    )
}

/// Opens an SVG file, as [`visit`] opens a page.
pub fn visit_svg(folder: &Folder, svg: &str, window: Window, script: &str) -> Result<Visit> {
    let browser = find().map_err(anyhow::Error::msg)?;
    let xml = |script: &str| {
        let inner = script.trim_start_matches("<script>");
        let inner = inner
            .trim_end_matches("</body>")
            .trim_end_matches("</script>");
        format!("<script><![CDATA[{inner}]]></script>")
    };
    let report = format!("{}</svg>", xml(&report(script)));
    let with_scripts = svg
        .replacen("<style>", &format!("{}<style>", xml(WATCH)), 1)
        .replacen("</svg>", &report, 1);
    ensure!(
        with_scripts.ends_with(&format!("{report}\n")),
        "the drawing has no end"
    );
    let file = folder.file("visited.svg", with_scripts.as_bytes());
    visit_file(browser, folder, &file, window)
}

/// Returns the script that leaves the result of a test's script in the document, and the end of a page.
fn report(script: &str) -> String {
    format!(
        r#"<script>addEventListener("load", () => setTimeout(async () => {{
  const result = {{}};
  try {{ result.found = await (async () => {{ {script} }})(); }}
  catch (e) {{ complaints.push(`the test's script: ${{e.stack}}`); }}
  result.complaints = complaints;
  document.documentElement.dataset.result = encodeURIComponent(JSON.stringify(result));
}}, 50));</script></body>"#
    )
}

/// Opens a file whose script leaves its result in the document.
fn visit_file(browser: PathBuf, folder: &Folder, file: &str, window: Window) -> Result<Visit> {
    let url = format!("file://{file}");
    visit_url(browser, folder, &url, window, Proxy::start(None)?)
}

fn visit_url(
    browser: PathBuf,
    folder: &Folder,
    url: &str,
    window: Window,
    proxy: Proxy,
) -> Result<Visit> {
    let mut command = Command::new(browser);
    command
        .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
        ])
        .args([
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", folder.path("browser")))
        .arg(format!("--proxy-server=http://{}", proxy.address))
        // Requests to this machine go through the proxy too.
        .arg("--proxy-bypass-list=<-loopback>")
        .arg(format!("--window-size={},{}", window.width, window.height))
        .arg(format!(
            "--blink-settings=preferredColorScheme={}",
            u8::from(!window.dark)
        ))
        .arg(url);
    let (dom, log) = outputs(&mut command)?;
    let (_, result) = dom
        .split_once("data-result=\"")
        .with_context(|| format!("no result of the test's script: {log}\n{:.2000}", dom))?;
    let (result, _) = result.split_once('"').context("the result has an end")?;
    let result: Value = serde_json::from_str(&percent_decoded(result)?)?;
    let mut complaints: Vec<String> = result["complaints"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Value::to_string)
        .collect();
    complaints.extend(
        log.lines()
            .filter(|line| line.contains(":CONSOLE"))
            .map(str::to_owned),
    );
    Ok(Visit {
        found: result["found"].clone(),
        complaints,
        requests: proxy.requests(),
    })
}

/// Runs a command until it ends, and returns its stdout and stderr.
fn outputs(command: &mut Command) -> Result<(String, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the browser does not start")?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let out = scope.spawn(move || out.as_mut().map(std::io::read_to_string));
        let err = scope.spawn(move || err.as_mut().map(std::io::read_to_string));
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                bail!("the browser did not end within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        let text = |reader: thread::ScopedJoinHandle<'_, Option<std::io::Result<String>>>| {
            let text = reader.join().ok().flatten().context("it is read")?;
            Ok::<_, anyhow::Error>(text?)
        };
        Ok((text(out)?, text(err)?))
    })
}

fn percent_decoded(text: &str) -> Result<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(2).context("two digits")?;
        bytes.push(u8::from_str_radix(code, 16)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(String::from_utf8(bytes)?)
}

/// A proxy that gets every request of the browser. It passes on those to the service of a test, and answers all others
/// with an error.
struct Proxy {
    address: SocketAddr,
    /// First lines of the other requests.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy; `service` has its address and the script of the test, for its first page.
    fn start(service: Option<(SocketAddr, String)>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        // The thread ends with the tests.
        thread::spawn(move || {
            let mut script = service.as_ref().map(|(_, script)| script.clone());
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut line = String::new();
                let _ = BufReader::new(&stream).read_line(&mut line);
                let path = line.strip_prefix(&format!("GET {SERVICE}"));
                let path = path.and_then(|path| path.split(' ').next());
                if let (Some(path), Some((service, _))) = (path, &service) {
                    let answer = fetched(*service, path).map(|(head, body)| match script.take() {
                        Some(script) => with_scripts(&head, &body, &script),
                        None => format!("{head}\r\n\r\n{body}"),
                    });
                    // Without an answer the connection is closed, as that of a service that has ended.
                    let _ = stream.write_all(answer.unwrap_or_default().as_bytes());
                    continue;
                }
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(line.trim_end().to_owned());
                let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Ok(Self { address, requests })
    }

    fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes a page of a log or a recording by a command.
pub fn page(arguments: &[&str], html: &str) -> Result<String> {
    let output = connect_trace(&[&["report"], arguments, &["--html", html]].concat());
    ensure!(output.status.success(), "{}", text(&output.stderr));
    Ok(fs::read_to_string(html)?)
}
