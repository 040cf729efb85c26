//! The command line, as it is typed.

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::probes::{AttachMode, checks::CheckMode};

const LONG_HELP: &str = "\
Examples:
  connect-trace                    every connect() of the host, until Ctrl-C
  connect-trace -p 1234 -d 10      those of process 1234, for 10 seconds
  connect-trace -i 1 -T            a report a second, with the time of day
  connect-trace --attach kprobe    by kprobes, where fentry is in the way
  connect-trace --check-established count
                                   count the candidate ports of each connect()

Reading the report:
  The kernel searches source ports of one parity first, that of the lowest
  port of net.ipv4.ip_local_port_range: even by default. Once those are taken,
  every connect() scans them all before it finds an odd one. If the times of
  odd ports lie a power of ten or two above those of even ports, the range is
  running out. What helps: more source addresses; a random port, bound and
  tried again; a randomly shifted IP_LOCAL_PORT_RANGE for each socket; from
  Linux 6.8 on, that option set to the full range.

Exit status:
  0 success, 1 failure, 2 wrong usage. RUST_LOG=info tells more on stderr.";

/// Show why connect() is slow: its latency by the source port that the kernel chose.
///
/// Traces every TCP connect() with eBPF, from the entry of tcp_v4_connect or tcp_v6_connect to its
/// return (the SYN is sent, or the call has failed), and the search for a source port within it.
/// Prints power-of-ten buckets, percentiles and errors, split by even and odd port.
/// Needs root and a kernel with BTF (5.10 or later).
#[derive(Clone, Debug, Parser)]
#[command(name = "connect-trace", version, after_help = "See --help for examples and how to read the report.", after_long_help = LONG_HELP, max_term_width = 100)]
pub struct Cli {
    /// Trace this process (thread-group id) only; can be given more than once
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=MAX_PID))]
    pub pids: Vec<u32>,

    /// End after this many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,

    /// Print a report every so many seconds, each starting anew
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    pub interval: Option<Duration>,

    /// Print the time of day with each report
    #[arg(short = 'T', long)]
    pub timestamp: bool,

    /// How to attach
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub attach: Attach,

    /// What to pay for watching __inet_check_established, which looks at one candidate port
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub check_established: CheckEstablished,

    /// Size of the ring buffer between kernel and daemon (K, M or G; a power of two)
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = ring_buffer)]
    pub ring_buffer: u32,

    /// Most connect() calls that can be in flight at once
    #[arg(long, value_name = "NUMBER", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_in_flight: u32,
}

/// The largest process id that Linux allows, `PID_MAX_LIMIT`.
const MAX_PID: i64 = 1 << 22;

/// `--attach`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// fentry/fexit where the kernel offers it and is not preemptible, else kprobe/kretprobe
    #[default]
    Auto,
    /// fentry/fexit: cheapest; on a preemptible kernel calls can be lost, and are counted
    Fentry,
    /// kprobe/kretprobe: works everywhere
    Kprobe,
}

impl From<Attach> for Option<AttachMode> {
    fn from(attach: Attach) -> Self {
        match attach {
            Attach::Auto => None,
            Attach::Fentry => Some(AttachMode::Fentry),
            Attach::Kprobe => Some(AttachMode::Kprobe),
        }
    }
}

/// `--check-established`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CheckEstablished {
    /// its latency, in short bursts
    #[default]
    Sampled,
    /// the latency of every call; makes a long port search four to six times as long
    Time,
    /// how many calls each connect() makes; makes a long search two to three times as long
    Count,
    /// nothing
    Off,
}

impl From<CheckEstablished> for CheckMode {
    fn from(mode: CheckEstablished) -> Self {
        match mode {
            CheckEstablished::Sampled => Self::Sampled,
            CheckEstablished::Time => Self::Time,
            CheckEstablished::Count => Self::Count,
            CheckEstablished::Off => Self::Off,
        }
    }
}

/// Seconds, decimals allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    /// A year: longer than any run, and far from what a timer cannot take.
    const LONGEST: f64 = 366.0 * 86_400.0;
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    if (0.001..=LONGEST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be from 0.001 to a year".to_owned())
    }
}

/// A size that the kernel takes for a ring buffer: a power of two of at least a page.
fn ring_buffer(text: &str) -> Result<u32, String> {
    /// The largest page of any architecture that runs BPF, so that any size from it on will do.
    const SMALLEST: u64 = 64 << 10;
    const LARGEST: u64 = 1 << 30;
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a size such as 8M".to_owned())?;
    let bytes = number
        .checked_mul(1 << shift)
        .filter(|bytes| bytes.is_power_of_two());
    match bytes {
        Some(bytes) if (SMALLEST..=LARGEST).contains(&bytes) => Ok(bytes as u32),
        _ => Err("must be a power of two from 64K to 1G".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_ring_buffer_is_a_power_of_two() {
        assert_eq!(ring_buffer("8M"), Ok(8 << 20));
        assert_eq!(ring_buffer("64k"), Ok(64 << 10));
        assert_eq!(ring_buffer("1G"), Ok(1 << 30));
        assert_eq!(ring_buffer("65536"), Ok(65_536));
        for wrong in [
            "",
            "M",
            "3M",
            "32K",
            "2G",
            "-8M",
            "8MB",
            "18446744073709551615G",
            "µ",
        ] {
            assert!(ring_buffer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_a_positive_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "nan", "inf", "1e300", "1s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
