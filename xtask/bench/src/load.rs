//! Load test: connects as fast as a guest can, with the tracer and without. The rates with two CPUs depend on other
//! load on the host, and differ from run to run; in every run, no record is lost and every call is counted.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use xtask::guest::{Hardware, Kit, Task};
use xtask::tools;
use xtask::tools::kernels::Kernel;
use xtask::vm::{AllKernels, get_kernels};

/// The script that runs in the guest.
const SCRIPT: &str = include_str!("load.sh");

/// Kernel argument without which most kernels read the time from an emulated device, which takes longer than a
/// connect().
const CLOCK: &str = "tsc=reliable";

/// Schema of the JSON output. Changes when a field is removed or changes its meaning; not when one is added.
const SCHEMA: &str = "connect-trace-bench-load/1";

/// Connect as fast as a virtual machine can, with the tracer and without
///
/// In each virtual machine, with two CPUs, threads call connect() in a loop, each to its own port that refuses: a
/// quarter of the time untraced, then half of it traced by connect-trace with its default options, then a quarter
/// untraced again. The exit status is 1 if a record is lost, a call is not accounted for, or the counts of
/// connect-trace and the connecting program differ.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    kernels: AllKernels,
    /// Duration with the tracer, and in total without
    #[arg(
        long,
        value_name = "N",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..=3600)
    )]
    seconds: u32,
    /// Number of threads that connect
    #[arg(
        long,
        value_name = "N",
        default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    threads: u32,
    /// Use one CPU whose clock counts instructions: the rates are the same in every run
    #[arg(long)]
    deterministic: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Pass more arguments to connect-trace
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

pub(crate) fn load(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernels = get_kernels(&options.kernels.choices, options.kernels.arch)?;
    let kit = Kit::prepare(options.kernels.arch, true)?;
    let mut columns = Vec::new();
    for kernel in &kernels {
        eprintln!("loading {}", kernel.release());
        let printed = run(&kit, kernel, options);
        let figures = printed.and_then(|printed| Figures::of(&printed));
        let figures = figures.with_context(|| format!("on kernel {}", kernel.name))?;
        eprintln!("  {figures}");
        columns.push((kernel.name.clone(), figures));
    }
    if options.json {
        let object = json!({
            "schema": SCHEMA,
            "seconds": options.seconds,
            "threads": options.threads,
            "deterministic": options.deterministic,
            "kernels": columns.iter().map(|(name, figures)| figures.json(name)).collect::<Vec<_>>(),
        });
        println!("{object}");
    } else {
        print!("{}", table(&columns));
    }
    Ok(if columns.iter().all(|(_, figures)| figures.is_whole()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns the output of the script on a kernel.
fn run(kit: &Kit, kernel: &Kernel, options: &Options) -> Result<Printed> {
    let (seconds, threads) = (options.seconds.to_string(), options.threads.to_string());
    let task = Task {
        command: ["sh", "-c", SCRIPT, "load", &seconds, &threads]
            .into_iter()
            .chain(options.arguments.iter().map(String::as_str))
            .map(str::to_owned)
            .collect(),
        hardware: Hardware {
            kernel_arguments: vec![CLOCK.to_owned()],
            cpus: if options.deterministic {
                1
            } else {
                Hardware::default().cpus
            },
            deterministic: options.deterministic,
            ..Hardware::default()
        },
        ..Task::default()
    };
    let mut printed = Printed::default();
    kit.run_well(kernel, &task, |bytes| {
        printed.add(bytes, cpu_seconds()?);
        Ok(())
    })?;
    Ok(printed)
}

/// Returns the CPU time of all running children of this process, that is, of the virtual machine, in seconds.
fn cpu_seconds() -> Result<f64> {
    // SAFETY: no memory effects; every Linux has this clock.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        // Other entries, and processes that have ended, are skipped.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else {
            continue;
        };
        let Some((_, stat)) = stat.rsplit_once(')') else {
            continue;
        };
        let fields: Vec<u64> = stat
            .split(' ')
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        // After the name come the state, the parent, and as 12th and 13th user and system time.
        if let (Some(&parent), Some(times)) = (fields.get(2), fields.get(12..14))
            && parent == u64::from(std::process::id())
        {
            ticks += times.iter().sum::<u64>();
        }
    }
    Ok(ticks as f64 / hertz)
}

/// Printed names and values, and the CPU time of the machine at each of them.
#[derive(Default)]
struct Printed {
    values: BTreeMap<String, (String, f64)>,
    rest: Vec<u8>,
}

impl Printed {
    fn add(&mut self, bytes: &[u8], cpu_seconds: f64) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if let Some((name, value)) = String::from_utf8_lossy(&line[..end]).split_once('\t') {
                self.values
                    .insert(name.to_owned(), (value.to_owned(), cpu_seconds));
            }
        }
    }

    fn get(&self, name: &str) -> Result<(&str, f64)> {
        let (value, cpu_seconds) = self
            .values
            .get(name)
            .with_context(|| format!("the load did not print {name:?}"))?;
        Ok((value, *cpu_seconds))
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<T> {
        let (value, _) = self.get(name)?;
        value
            .parse()
            .map_err(|_| anyhow!("the load printed {value:?} as {name:?}"))
    }

    fn rate(&self, name: &str) -> Result<Rate> {
        let cpu_seconds =
            |line: &str| -> Result<f64> { Ok(self.get(&format!("{name} {line}"))?.1) };
        Ok(Rate {
            calls: self.number(&format!("{name} calls"))?,
            seconds: self.number(&format!("{name} seconds"))?,
            cpu_seconds: cpu_seconds("calls")? - cpu_seconds("begin")?,
        })
    }
}

/// Results on one kernel.
struct Figures {
    before: Rate,
    traced: Rate,
    after: Rate,
    /// CPU time of connect-trace under load, as a share of one CPU.
    daemon_share: f64,
    attached: String,
    /// The accounting as described in docs/output.md.
    accounting: Value,
}

/// Counts of the connecting program.
#[derive(Clone, Copy)]
struct Rate {
    calls: u64,
    seconds: f64,
    /// CPU time of the virtual machine: less than the elapsed time if the host has other work too.
    cpu_seconds: f64,
}

impl Rate {
    fn per_second(self) -> f64 {
        self.calls as f64 / self.seconds
    }

    fn cpu_us(self) -> f64 {
        self.cpu_seconds * 1e6 / self.calls as f64
    }

    fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            seconds: self.seconds + other.seconds,
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
        }
    }
}

impl Figures {
    fn of(printed: &Printed) -> Result<Self> {
        let (report, _) = printed.get("report")?;
        let mut report: Value =
            serde_json::from_str(report).context("what connect-trace printed is no JSON")?;
        let ticks: [f64; 2] = [
            printed.number("ticks before")?,
            printed.number("ticks after")?,
        ];
        let traced = printed.rate("traced")?;
        Ok(Self {
            before: printed.rate("before")?,
            traced,
            after: printed.rate("after")?,
            daemon_share: (ticks[1] - ticks[0]) / 100.0 / traced.seconds,
            attached: report["attached"].as_str().unwrap_or_default().to_owned(),
            accounting: report["accounting"].take(),
        })
    }

    /// Returns the rate without the tracer.
    fn untraced(&self) -> Rate {
        self.before.and(self.after)
    }

    /// Returns the percentage by which the tracer lowers the rate of connections.
    fn difference_percent(&self) -> f64 {
        (self.traced.per_second() / self.untraced().per_second() - 1.0) * 100.0
    }

    /// Returns the same percentage per CPU time of the virtual machine.
    fn cpu_difference_percent(&self) -> f64 {
        (self.untraced().cpu_us() / self.traced.cpu_us() - 1.0) * 100.0
    }

    /// Returns a counter of the accounting; `None` if the kernel lacks it.
    fn count(&self, name: &str) -> Option<u64> {
        self.accounting[name].as_u64()
    }

    /// Returns true if entered = reported + lost + in flight, by the report's own verdict and by this sum.
    fn adds_up(&self) -> bool {
        let sum = ["reported", "lost", "in_flight"].map(|name| self.count(name).unwrap_or(0));
        self.accounting["adds_up"] == true && self.count("entered") == Some(sum.iter().sum())
    }

    /// Returns true if connect-trace counted as many calls as were made.
    fn counts_agree(&self) -> bool {
        self.count("entered") == Some(self.traced.calls)
    }

    fn is_whole(&self) -> bool {
        self.adds_up()
            && self.counts_agree()
            && self.accounting["complete"] == true
            && self.count("lost") == Some(0)
    }

    fn json(&self, kernel: &str) -> Value {
        json!({
            "kernel": kernel,
            "attached": self.attached,
            "untraced_before_per_second": self.before.per_second(),
            "untraced_after_per_second": self.after.per_second(),
            "untraced_per_second": self.untraced().per_second(),
            "traced_per_second": self.traced.per_second(),
            "difference_percent": self.difference_percent(),
            "untraced_cpu_us": self.untraced().cpu_us(),
            "traced_cpu_us": self.traced.cpu_us(),
            "cpu_difference_percent": self.cpu_difference_percent(),
            "calls": self.traced.calls,
            "counts_agree": self.counts_agree(),
            "adds_up": self.adds_up(),
            "daemon_cpu_share": self.daemon_share,
            "accounting": self.accounting,
        })
    }
}

/// Formats the results in one line, while others are still to come.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} connects/s untraced, {:.0} traced; {} of {} lost",
            self.untraced().per_second(),
            self.traced.per_second(),
            cell(self.count("lost")),
            self.traced.calls
        )
    }
}

/// Formats a counter for a table cell.
fn cell(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// Returns a table with a line for each figure and a column for each kernel.
fn table(columns: &[(String, Figures)]) -> String {
    const COUNTS: [(&str, &str); 8] = [
        ("entered", "entered"),
        ("reported", "reported"),
        ("lost: ring full", "lost_ring_full"),
        ("  in flight full", "lost_in_flight_full"),
        ("  return missed", "lost_return_missed"),
        ("  undecodable", "lost_undecodable"),
        ("in flight at end", "in_flight"),
        ("programs skipped", "programs_skipped"),
    ];
    let mut text = String::new();
    let mut line = |title: &str, cell: &dyn Fn(&Figures) -> String| {
        let _ = write!(text, "{title:<20}");
        for (_, figures) in columns {
            let _ = write!(text, "{:>12}", cell(figures));
        }
        text.push('\n');
    };
    let rate = |per_second: f64| format!("{per_second:.0}");
    let yes = |holds: bool| if holds { "yes" } else { "NO" }.to_owned();
    line("attached by", &|figures| {
        let (first, _) = figures
            .attached
            .split_once('/')
            .unwrap_or((&figures.attached, ""));
        first.to_owned()
    });
    let us = |us: f64| format!("{us:.1}");
    let percent = |percent: f64| format!("{percent:+.1} %");
    line("connects/s untraced", &|figures| {
        rate(figures.untraced().per_second())
    });
    line("  before the trace", &|figures| {
        rate(figures.before.per_second())
    });
    line("  after the trace", &|figures| {
        rate(figures.after.per_second())
    });
    line("connects/s traced", &|figures| {
        rate(figures.traced.per_second())
    });
    line("  difference", &|figures| {
        percent(figures.difference_percent())
    });
    line("CPU us, untraced", &|figures| {
        us(figures.untraced().cpu_us())
    });
    line("CPU us, traced", &|figures| us(figures.traced.cpu_us()));
    line("  makes for connects", &|figures| {
        percent(figures.cpu_difference_percent())
    });
    line("connect-trace, CPU", &|figures| {
        format!("{:.1} %", figures.daemon_share * 100.0)
    });
    line("calls that were made", &|figures| {
        figures.traced.calls.to_string()
    });
    for (title, name) in COUNTS {
        line(title, &|figures| cell(figures.count(name)));
    }
    line("it adds up", &|figures| yes(figures.adds_up()));
    line("the counts agree", &|figures| yes(figures.counts_agree()));
    let mut names = format!("{:<20}", "");
    for (name, _) in columns {
        let _ = write!(names, "{name:>12}");
    }
    format!("{names}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(calls: u64) -> String {
        let accounting = json!({
            "entered": 1_000, "reported": 1_000, "lost": 0, "lost_ring_full": 0, "lost_in_flight_full": 0,
            "lost_return_missed": 0, "lost_undecodable": 0, "in_flight": 0, "adds_up": true, "complete": true,
            "programs_skipped": null,
        });
        let report = json!({"attached": "kprobe/kretprobe", "accounting": accounting});
        format!(
            "before begin\t\nbefore calls\t500\nbefore seconds\t1.0\nticks before\t100\ntraced begin\t\n\
             traced calls\t{calls}\ntraced seconds\t2.0\nticks after\t120\nreport\t{report}\n\
             after begin\t\nafter calls\t700\nafter seconds\t1.0\n"
        )
    }

    /// Parses results as if each line had come a second of CPU time after the one before.
    fn figures_of(text: &str) -> Result<Figures> {
        let mut printed = Printed::default();
        for (line, second) in text.split_inclusive('\n').zip(0u32..) {
            let (begin, end) = line.split_at(line.len() / 2);
            printed.add(begin.as_bytes(), f64::from(second));
            printed.add(end.as_bytes(), f64::from(second));
        }
        Figures::of(&printed)
    }

    #[test]
    fn the_rate_untraced_is_that_of_before_and_after() {
        let figures = figures_of(&text(1_000)).unwrap();
        assert_eq!(
            (figures.untraced().per_second(), figures.traced.per_second()),
            (600.0, 500.0)
        );
        assert!((figures.difference_percent() + 100.0 / 6.0).abs() < 1e-9);
        assert!((figures.untraced().cpu_us() - 2e6 / 1_200.0).abs() < 1e-6);
        assert!((figures.traced.cpu_us() - 1e6 / 1_000.0).abs() < 1e-6);
        assert!((figures.daemon_share - 0.1).abs() < 1e-9);
        assert!(figures.is_whole());
        let table = table(&[("5.10".to_owned(), figures)]);
        let expected = [
            ("", "5.10"),
            ("attached by", "kprobe"),
            ("  difference", "-16.7 %"),
            ("programs skipped", "-"),
        ];
        for (title, cell) in expected {
            assert!(
                table.contains(&format!("{title:<20}{cell:>12}\n")),
                "{table}"
            );
        }
    }

    #[test]
    fn a_call_that_is_not_counted_or_a_record_that_is_lost_is_no_success() {
        let figures = figures_of(&text(1_001)).unwrap();
        assert!(figures.adds_up() && !figures.counts_agree() && !figures.is_whole());
        let lost = text(1_000).replace("\"reported\":1000", "\"reported\":999");
        let figures = figures_of(&lost).unwrap();
        assert!(!figures.adds_up() && !figures.is_whole());
        let counted = lost.replace("\"lost\":0", "\"lost\":1");
        let figures = figures_of(&counted).unwrap();
        assert!(figures.adds_up() && !figures.is_whole());
        assert!(figures_of(&text(1_000).replace("traced calls", "calls")).is_err());
    }
}
