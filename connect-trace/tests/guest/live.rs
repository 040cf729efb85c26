//! The live page of `connect-trace serve`, while a range of ports runs out.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use connect_trace_guest::truth::Record;

use crate::{Test, process::until, service::Service, truth::truth};

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [
        the_page_shows_a_range_that_runs_out_as_it_happens,
    ],
];

/// Returns the page, after a check of its head.
fn page(service: &Service) -> Result<String> {
    let page = service.get_through_tcp("/")?;
    ensure!(
        page.status == 200 && page.head.contains("text/html"),
        "{page:?}"
    );
    Ok(page.body)
}

/// Waits until the page begins with this sentence, and returns the page.
fn page_with(service: &Service, sentence: &str) -> Result<String> {
    until(&format!("the page says {sentence:?}"), || {
        let page = page(service)?;
        Ok(page.contains(&format!(">{sentence}</h1>")).then_some(page))
    })
}

/// Returns the destination of all records.
fn destination(records: &[Record]) -> Result<String> {
    let record = records.first().context("a record")?;
    Ok(record.remote.to_string())
}

fn the_page_shows_a_range_that_runs_out_as_it_happens((): ()) -> Result<()> {
    let service = Service::start("--interval 1 --min-latency 20us")?;
    truth("v4 --count 3")?;
    let page = page_with(&service, "All is well")?;
    // Files that the service may not open any more when it makes a page.
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let host = format!("<b>{}</b>", host.trim());
    ensure!(page.contains(&host), "no {host} in {page}");

    // The last searches find nearly all ports of the range taken, and none fails. They go through too many for fast calls,
    // which would have no record.
    let full = destination(&truth("exhaust 20000-22999 --set-range")?)?;
    let page = page_with(
        &service,
        &format!("Ports are running out from 127.0.0.1 to {full}"),
    )?;
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
    let page = page_with(
        &service,
        &format!("Ports have run out from 127.0.0.1 to {full}"),
    )?;
    // The calls of a case may end in two intervals.
    let all = "<dt>Failed, EADDRNOTAVAIL</dt><dd>20</dd>";
    let page = until("all failures are on the page", || {
        let page = if page.contains(all) {
            page.clone()
        } else {
            self::page(&service)?
        };
        Ok(page.contains(all).then_some(page))
    })?;
    assert!(page.contains("every call is accounted for"), "{page}");
    service.end()?;
    Ok(())
}
