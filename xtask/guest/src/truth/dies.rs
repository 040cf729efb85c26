//! The case whose connecting threads do not survive: threads that end at once, and a process that is killed while its
//! threads search a range that is used up.
//!
//! The process that is killed, the victim, is this program again. It writes to a pipe before and after each connect(), so that its
//! knowledge outlives it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cases::on_threads;
use super::listener::Listener;
use super::namespace::enter_fresh;
use super::range::PortRange;
use super::record::{Family, Record};
use super::socket::{Socket, check};
use super::witness::Witness;

/// The hidden subcommand of the victim.
pub(super) const VICTIM: &str = "victim";

/// A range large enough for a search to be under way at most times.
const PORTS: (u16, u16) = (20_000, 20_255);

/// Number of the victim's threads.
const THREADS: usize = 4;

/// Runs threads that end, and then processes that are killed.
pub(super) fn dies(threads: usize, victims: usize) -> Result<Vec<Record>> {
    let listener = Listener::new(Family::V4, threads)?;
    let mut records = on_threads(threads, |_| {
        let mut witness = Witness::new("dies")?;
        witness.connect_and_hold(Family::V4, 1, listener.address())?;
        Ok(witness.into_records())
    })?;
    for _ in 0..victims {
        records.extend(watch_a_victim()?);
    }
    Ok(records)
}

fn watch_a_victim() -> Result<Vec<Record>> {
    let program = std::env::current_exe().context("finding this program, to run it again")?;
    let mut victim = Command::new(&program)
        .arg(VICTIM)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {} {VICTIM}", program.display()))?;
    let mut report = String::new();
    if let Some(pipe) = &mut victim.stdout {
        pipe.read_to_string(&mut report)
            .context("reading what the victim wrote")?;
    }
    let status = victim.wait().context("waiting for the victim")?;
    ensure!(
        status.signal() == Some(libc::SIGKILL),
        "the victim was to be killed, and ended with {status}"
    );
    what_is_known(&report)
}

/// Reads the victim's report: each connect() has a line written before it, and another one written after it if it
/// returned.
fn what_is_known(report: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut begun = HashMap::new();
    for line in report.lines() {
        let record: Record = line.parse()?;
        match record.outcome {
            None => {
                begun.insert(record.tid, record);
            }
            Some(_) => {
                begun.remove(&record.tid);
                records.push(record);
            }
        }
    }
    records.extend(begun.into_values());
    Ok(records)
}

/// Uses a range up, goes on connecting on several threads, and kills its own process at a random moment.
pub(super) fn victim() -> Result<Vec<Record>> {
    enter_fresh()?;
    let range = PortRange::new(PORTS.0, PORTS.1)?;
    range.set()?;
    let listener = Listener::outside(Some(range), Family::V4, range.ports())?;
    let mut witness = Witness::new("dies")?;
    for _ in 0..range.ports() {
        let socket = connect_aloud(&mut witness, &listener)?;
        witness.hold(socket);
    }
    thread::spawn(|| {
        // Any hash of the standard library's random state is a random number.
        let random = RandomState::new().hash_one(()) % 20_000;
        thread::sleep(Duration::from_micros(5_000 + random));
        // SAFETY: the call takes no pointers. It does not return.
        check(unsafe { libc::kill(libc::getpid(), libc::SIGKILL) })
    });
    on_threads(THREADS, |_| {
        let mut witness = Witness::new("dies")?;
        loop {
            connect_aloud(&mut witness, &listener)?;
        }
    })
}

fn connect_aloud(witness: &mut Witness, listener: &Listener) -> Result<Socket> {
    let mut socket = Socket::new(Family::V4)?;
    write_line(&witness.begin(&socket, listener.address()))?;
    write_line(witness.connect(&mut socket, listener.address())?)?;
    Ok(socket)
}

/// Writes a line in one piece: a pipe takes a line wholly or not at all.
fn write_line(record: &Record) -> Result<()> {
    let line = format!("{record}\n");
    std::io::stdout()
        .write_all(line.as_bytes())
        .context("writing a line to the pipe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_that_was_only_begun_has_no_outcome() {
        let line = |tid: u32, start: u64, end: &str| {
            format!(
                "dies\t1\t{tid}\t4\t{start}\t{end}\t127.0.0.1\t2000\t1\tunknown\t0\ttruth\tnone\t{}\n",
                if end.starts_with("0\t") {
                    "unknown"
                } else {
                    "yes"
                }
            )
        };
        let unfinished = "0\tunknown\tunknown\tunknown\tunknown";
        let report = [
            line(7, 10, unfinished),
            line(8, 11, unfinished),
            line(7, 12, "20\t99\t99\t0.0.0.0\t0"),
            line(7, 21, unfinished),
        ];
        let records = what_is_known(&report.concat()).unwrap();
        let mut known: Vec<_> = records
            .iter()
            .map(|r| (r.tid, r.start_ns, r.outcome.is_some()))
            .collect();
        known.sort();
        assert_eq!(known, [(7, 12, true), (7, 21, false), (8, 11, false)]);
    }
}
