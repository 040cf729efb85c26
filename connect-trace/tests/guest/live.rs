//! The live page of `connect-trace serve`, while a range of ports runs out.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use connect_trace_guest::truth::Record;

use crate::{
    Test,
    process::{Process, until},
    truth::truth,
};

pub const TESTS: &[Test<()>] = crate::tests![
    OldestAndNewest: [the_page_shows_a_range_that_runs_out_as_it_happens],
];

/// Address of the service.
const SERVICE: &str = "127.0.0.1:19436";

/// Returns the page, after a check of its head.
fn page() -> Result<String> {
    let mut stream = TcpStream::connect(SERVICE)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, page) = answer.split_once("\r\n\r\n").context("an answer")?;
    ensure!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("text/html"),
        "{head}"
    );
    Ok(page.to_owned())
}

/// Waits until the page begins with this sentence, and returns the page.
fn page_with(sentence: &str) -> Result<String> {
    until(&format!("the page says {sentence:?}"), || {
        let page = page()?;
        Ok(page.contains(&format!(">{sentence}</h1>")).then_some(page))
    })
}

/// Returns the destination of all records.
fn destination(records: &[Record]) -> Result<String> {
    let record = records.first().context("a record")?;
    Ok(record.remote.to_string())
}

fn the_page_shows_a_range_that_runs_out_as_it_happens((): ()) -> Result<()> {
    let mut command = Command::new("connect-trace");
    command
        .args("serve --interval 1 --min-latency 20us --listen".split(' '))
        .arg(SERVICE);
    let mut service = Process::start(command)?;
    service.wait_for_stderr("Serving on ")?;
    truth("v4 --count 3")?;
    page_with("All is well")?;

    // The last searches find nearly all ports of the range taken, and none fails. They go through too many for fast calls,
    // which would have no record.
    let full = destination(&truth("exhaust 20000-22999 --set-range")?)?;
    let page = page_with(&format!("Ports are running out from 127.0.0.1 to {full}"))?;
    for part in [
        "% of the range 20000-22999 is in use, seen by ",
        &format!("127.0.0.1 \u{2192} {full}: "),
        "<code>connect-trace explain ",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    assert!(!page.contains("INCOMPLETE"), "{page}");

    let records = truth("exhaust 30000-32999 --set-range --extra 20")?;
    let full = destination(&records)?;
    let page = page_with(&format!("Ports have run out from 127.0.0.1 to {full}"))?;
    // The calls of a case may end in two intervals.
    let all = "<dt>Failed, EADDRNOTAVAIL</dt><dd>20</dd>";
    let page = until("all failures are on the page", || {
        let page = if page.contains(all) {
            page.clone()
        } else {
            self::page()?
        };
        Ok(page.contains(all).then_some(page))
    })?;
    assert!(page.contains("every call is accounted for"), "{page}");
    service.signal(libc::SIGTERM)?;
    service.end()?.successful()?;
    Ok(())
}
