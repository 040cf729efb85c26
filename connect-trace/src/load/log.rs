//! The file with every attempt of one or more runs: a line of JSON behind `# `, which describes the runs and
//! the machine, then CSV. Most readers of CSV can be told to treat `#` as a comment.

use std::io::{self, BufRead as _, BufReader, Read};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::attempt::Attempt;
use crate::connect::PortRange;

/// The version of the file's layout.
pub const FORMAT: u32 = 1;

/// Description of the runs and the machine.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Head {
    /// [`FORMAT`].
    pub connect_trace_load: u32,
    /// Release of the kernel, by uname.
    pub kernel: String,
    /// Start of the first run, seconds since 1970.
    pub began_unix_s: u64,
    /// The runs, in the order in which they were made.
    pub runs: Vec<Run>,
}

/// One run of one strategy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// The strategy's name, with its parameter if it has one: `window-500`.
    pub strategy: String,
    /// `tcp`, `udp` or `udplite`.
    pub protocol: String,
    /// Number of this repeat of the strategy, from 1.
    pub repeat: u32,
    /// Lowest and highest port of the range.
    pub range: PortRange,
    /// Number of source addresses that were used.
    pub addresses: u32,
    /// Number of connections that can be open at once: the ports of the range without reserved ones, for each address.
    pub capacity: u32,
    /// Number of threads that opened connections.
    pub threads: u16,
    /// Seed of the random choices.
    pub seed: u64,
    /// Duration of the whole run.
    pub total_ns: u64,
    /// Number of attempts: lines of the file.
    pub attempts: u64,
}

impl Head {
    /// Returns the first line of the file, with its end.
    ///
    /// # Errors
    /// Never in practice: numbers and texts can always be written as JSON.
    pub fn line(&self) -> serde_json::Result<String> {
        Ok(format!("# {}\n", serde_json::to_string(self)?))
    }
}

/// Maximum length of a line in bytes. The first line has some 250 bytes for each run.
const LONGEST_LINE: usize = 1 << 20;

/// Reads a whole file.
///
/// # Errors
/// If the file has another layout or a newer format, is cut or damaged: the message says where.
pub fn read(from: impl Read) -> Result<(Head, Vec<Attempt>)> {
    const FOREIGN: &str = "it is not what `connect-trace load --csv` writes";
    let mut from = BufReader::new(Lines::new(from));
    let mut first = Vec::new();
    from.read_until(b'\n', &mut first)?;
    ensure!(!first.is_empty(), "it is empty");
    let json = first.strip_prefix(b"# ").context(FOREIGN)?;
    let version: Version = serde_json::from_slice(json).context(FOREIGN)?;
    if version.connect_trace_load != FORMAT {
        bail!(
            "it is of format {}, and this connect-trace reads format {FORMAT}: use the one that wrote it",
            version.connect_trace_load
        );
    }
    let head: Head = serde_json::from_slice(json).context("its first line is damaged")?;
    let mut attempts = Vec::new();
    for line in csv::Reader::from_reader(&mut from).into_deserialize() {
        let attempt: Attempt = line.with_context(|| format!("line {}", attempts.len() + 3))?;
        ensure!(
            usize::from(attempt.run) < head.runs.len(),
            "line {}: there is no run {}",
            attempts.len() + 3,
            attempt.run
        );
        attempts.push(attempt);
    }
    let expected: u64 = head.runs.iter().map(|run| run.attempts).sum();
    ensure!(
        attempts.len() as u64 == expected && from.get_ref().length == 0,
        "it is cut: it has {} of {expected} connections",
        attempts.len()
    );
    Ok((head, attempts))
}

#[derive(Deserialize)]
struct Version {
    connect_trace_load: u32,
}

/// Refuses lines that are too long for such a file, before they fill the memory.
struct Lines<R> {
    from: R,
    /// Number of the current line, from 1.
    number: u64,
    /// Bytes of the line that were read: 0 at the end of a line. The length shows a cut, which a number alone
    /// does not: a number that is cut is still a number.
    length: usize,
}

impl<R> Lines<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            number: 1,
            length: 0,
        }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        for piece in buffer[..length].split_inclusive(|&byte| byte == b'\n') {
            self.length += piece.len();
            if self.length > LONGEST_LINE {
                return Err(io::Error::other(format!(
                    "line {} is longer than any line of a log ({LONGEST_LINE} bytes)",
                    self.number
                )));
            }
            if piece.ends_with(b"\n") {
                self.number += 1;
                self.length = 0;
            }
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn example() -> (Head, Vec<Attempt>) {
        let run = Run {
            strategy: "window-500".to_owned(),
            protocol: "tcp".to_owned(),
            repeat: 1,
            range: [9024, 65535].into(),
            addresses: 1,
            capacity: 56_512,
            threads: 1,
            seed: 7,
            total_ns: 1_500_000,
            attempts: 2,
        };
        let head = Head {
            connect_trace_load: FORMAT,
            kernel: "6.12.107".to_owned(),
            began_unix_s: 1_795_000_000,
            runs: vec![run],
        };
        let good = Attempt {
            run: 0,
            number: 0,
            thread: 0,
            start_ns: 10,
            prepare_ns: 2_000,
            connect_ns: 20_000,
            tries: 1,
            held: 0,
            source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: Some(9025),
            errno: 0,
        };
        let failed = Attempt {
            number: 1,
            source: None,
            port: None,
            errno: libc::EADDRNOTAVAIL,
            ..good
        };
        (head, vec![good, failed])
    }

    fn written() -> Vec<u8> {
        let (head, attempts) = example();
        let mut lines = csv::Writer::from_writer(head.line().unwrap().into_bytes());
        for attempt in attempts {
            lines.serialize(attempt).unwrap();
        }
        lines.into_inner().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read(written().as_slice()).unwrap(), example());
    }

    #[test]
    fn a_cut_file_is_an_error_wherever_it_is_cut() {
        let file = written();
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "{length} of {}", file.len());
        }
    }

    #[test]
    fn foreign_and_newer_files_are_told() {
        let why = |file: &[u8]| format!("{:#}", read(file).unwrap_err());
        assert_eq!(why(b""), "it is empty");
        assert!(why(b"a,b\n1,2\n").starts_with("it is not what"));
        assert!(why(b"# a comment\n1,2\n").starts_with("it is not what"));
        let newer = br#"# {"connect_trace_load":2,"other":[]}"#;
        assert!(why(newer).contains("format 2"), "{}", why(newer));
    }

    #[test]
    fn a_line_without_an_end_is_an_error_before_it_fills_the_memory() {
        let why = |from: &mut dyn Read| format!("{:#}", read(from).unwrap_err());
        let endless = why(&mut io::repeat(0));
        assert!(
            endless.starts_with("line 1 is longer than any line of a log (1048576 bytes)"),
            "{endless}"
        );
        let file = written();
        let mut sparse = file.as_slice().chain(io::repeat(0));
        let sparse = why(&mut sparse);
        assert!(sparse.contains("line 5 is longer than"), "{sparse}");
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::fixtures::fuzz::fuzz;

    #[test]
    fn any_log_that_is_read_is_the_same_when_written_again() {
        fuzz("load-log", |bytes| {
            let Ok((head, attempts)) = read(bytes) else {
                return;
            };
            let mut lines = csv::Writer::from_writer(head.line().unwrap().into_bytes());
            for attempt in &attempts {
                lines.serialize(attempt).unwrap();
            }
            let again = lines.into_inner().unwrap();
            assert!(attempts.is_empty() || read(&*again).unwrap() == (head, attempts));
        });
    }
}
