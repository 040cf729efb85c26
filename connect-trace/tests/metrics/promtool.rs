//! promtool, the checker of Prometheus.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::metrics::Format;

use crate::{
    Test,
    folder::Folder,
    reading::{connect, everything, ordinary, text_of},
};

pub const TESTS: &[Test] = crate::tests![
    promtool_finds_nothing_wrong_with_the_metrics,
    promtool_finds_a_fault,
    promtool_accepts_the_rules,
    each_alert_fires_when_it_should_and_not_before,
    the_documented_room_is_that_of_a_host_that_connects,
];

/// Returns the path of promtool, or the reason why there is none.
pub fn find() -> Result<PathBuf, String> {
    let fetched = root().join(".tools/prometheus/usr/bin/promtool");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut installed = env::split_paths(&path).map(|folder| folder.join("promtool"));
    if fetched.is_file() {
        return Ok(fetched);
    }
    installed.find(|path| path.is_file()).ok_or_else(|| {
        "no promtool: `cargo xtask setup --all` gets Prometheus from Debian".to_owned()
    })
}

/// Returns the root of the workspace.
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package is in a workspace")
}

/// Runs promtool with a text on its stdin. Returns whether it was content, and all that it said.
fn promtool(arguments: &[&str], stdin: &str) -> Result<(bool, String)> {
    let mut child = Command::new(find().map_err(anyhow::Error::msg)?)
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run promtool")?;
    // Closed at the end of the statement. promtool says nothing before it has read all.
    child
        .stdin
        .take()
        .context("piped above")?
        .write_all(stdin.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn promtool_finds_nothing_wrong_with_the_metrics() -> Result<()> {
    for reading in [ordinary(), everything()] {
        let text = text_of(reading, Format::Prometheus);
        let (is_content, said) = promtool(&["check", "metrics"], &text)?;
        ensure!(is_content && said.is_empty(), "{said}");
    }
    Ok(())
}

fn promtool_finds_a_fault() -> Result<()> {
    let text = text_of(ordinary(), Format::Prometheus).replace("connects_total", "connects");
    let (is_content, said) = promtool(&["check", "metrics"], &text)?;
    ensure!(!is_content && said.contains("_total"), "{said}");
    Ok(())
}

fn promtool_accepts_the_rules() -> Result<()> {
    let rules = "packaging/prometheus/connect-trace.rules.yml";
    let (is_content, said) =
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", rules], "")?;
    ensure!(is_content && said.contains("15 rules found"), "{said}");
    Ok(())
}

fn each_alert_fires_when_it_should_and_not_before() -> Result<()> {
    let tests = "connect-trace/tests/metrics/rules/connect-trace.tests.yml";
    let (is_content, said) = promtool(&["test", "rules", tests], "")?;
    ensure!(is_content && said.contains("SUCCESS"), "{said}");
    // Each alert has a test in which it fires, and one in which it does not.
    let rules = fs::read_to_string(root().join("packaging/prometheus/connect-trace.rules.yml"))?;
    let tests = fs::read_to_string(root().join(tests))?;
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        let cases: Vec<&str> = tests
            .split("- eval_time:")
            .filter(|case| case.contains(&format!("alertname: {alert}\n")))
            .collect();
        let fires = cases
            .iter()
            .filter(|case| case.contains("exp_labels:"))
            .count();
        ensure!(fires > 0, "{alert} fires in no test");
        ensure!(fires < cases.len(), "{alert} is silent in no test");
    }
    Ok(())
}

/// Prints a figure of docs/fleet.md: `cargo test --test metrics documented -- --nocapture`. Writes two hours of a host that
/// is scraped every 15 s, a block of Prometheus' storage, and sees how large it is.
fn the_documented_room_is_that_of_a_host_that_connects() -> Result<()> {
    const EVERY_S: u64 = 15;
    const SCRAPES: u64 = 2 * 3_600 / EVERY_S;
    /// Begin of a block.
    const START_S: u64 = 1_800_000_000;
    let folder = Folder::new("blocks");
    let mut random = fastrand::Rng::with_seed(1);
    let mut reading = ordinary();
    let mut samples = 0;
    let mut text = String::new();
    for scrape in 0..SCRAPES {
        for _ in 0..random.u32(100..300) {
            let scanned = if random.u32(..20) == 0 {
                random.u32(14_000..20_000)
            } else {
                1
            };
            let port = 32_768 + random.u16(..20_000) / 2 * 2 + u16::from(scanned > 1);
            let time = 5_000 * u64::from(scanned) + random.u64(..100_000);
            reading.totals.record(&connect(time, port, scanned));
        }
        reading.process.cpu += Duration::from_micros(random.u64(1_000..3_000));
        let time = START_S + scrape * EVERY_S;
        for line in text_of(reading.clone(), Format::OpenMetrics).lines() {
            if !line.starts_with('#') {
                text += &format!("{line} {time}\n");
                samples += 1;
            } else if scrape == 0 && line.starts_with("# TYPE") {
                text += &format!("{line}\n");
            }
        }
    }
    text += "# EOF\n";
    let input = folder.file("two-hours", text.as_bytes());
    let blocks = folder.path("data");
    let arguments = ["tsdb", "create-blocks-from", "openmetrics", &input, &blocks];
    let (is_content, said) = promtool(&arguments, "")?;
    ensure!(is_content, "{said}");
    let bytes = bytes_in(Path::new(&blocks))?;
    let a_sample = bytes as f64 / f64::from(samples);
    let a_day = bytes as f64 * 12.0 / 1e6;
    let line = format!("{a_sample:.1} bytes a sample, {a_day:.1} MB a day");
    println!("{line}");
    let fleet = fs::read_to_string(root().join("docs/fleet.md"))?;
    ensure!(fleet.contains(&line), "docs/fleet.md does not say: {line}");
    Ok(())
}

/// Returns the size of all files below a folder.
fn bytes_in(folder: &Path) -> Result<u64> {
    let sizes = fs::read_dir(folder)?.map(|entry| {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes_in(&entry.path())
        } else {
            Ok(entry.metadata()?.len())
        }
    });
    sizes.sum()
}
