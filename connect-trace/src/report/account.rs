//! The sections of a report on candidate checks and on the account of all calls.

use std::fmt::{self, Write as _};

use connect_trace_common::CheckEstablished;

use super::histogram;
use crate::stats::{Summary, accounting::Accounting};
use crate::term::{
    numbers::{counted, wrapped},
    paint::Paint,
};
use crate::{connect::CheckMode, stats::report::Checks};

/// Writes the figures of the watched calls of `__inet{,6}_check_established`.
pub(super) fn checks(text: &mut String, checks: &Checks, summary: &Summary) -> fmt::Result {
    if checks.mode == CheckMode::Off {
        return Ok(());
    }
    writeln!(text)?;
    if checks.mode == CheckMode::Sampled {
        let bursts = match checks.bursts {
            0 => "the first burst has not ended".to_owned(),
            bursts => format!(
                "{} of {:.1} ms in all",
                counted(bursts, "burst", "bursts"),
                checks.watched.as_secs_f64() * 1e3
            ),
        };
        let watched = counted(summary.checks_watched, "connect() call", "connect() calls");
        let words = format!("{bursts}; watched in {watched}");
        wrapped(text, "port checks, sampled:", "  ", &words)?;
    } else {
        writeln!(
            text,
            "port checks, {}: every call, which slows connect() down",
            checks.mode
        )?;
    }
    if summary.checks_counted > 0 {
        writeln!(
            text,
            "{:.1} calls per connect()",
            summary.checks as f64 / summary.checks_counted as f64
        )?;
    }
    let mut seen = false;
    for (name, function) in checks
        .functions
        .iter()
        .filter(|(_, function)| function.calls > 0)
    {
        seen = true;
        check_function(text, name, function)?;
    }
    if !seen {
        writeln!(
            text,
            "no call was seen: no search came to a candidate port that was in use"
        )?;
    }
    Ok(())
}

fn check_function(text: &mut String, name: &str, function: &CheckEstablished) -> fmt::Result {
    write!(text, "{name}: {}", counted(function.calls, "call", "calls"))?;
    if function.times.count == 0 {
        return writeln!(text);
    }
    writeln!(
        text,
        ", mean {:.0} ns, max {} ns",
        function.times.total_ns as f64 / function.times.count as f64,
        function.times.max_ns,
    )?;
    if function.times.count < function.calls {
        writeln!(
            text,
            "  {} not timed: preempted or migrated in the middle, or cut by a burst's end",
            function.calls - function.times.count
        )?;
    }
    histogram::single(text, &function.times.buckets)
}

/// Writes the account: the sum of all calls, always; the losses with their reasons; the kernel's own counts of misses.
pub(super) fn accounting(text: &mut String, paint: Paint, accounting: &Accounting) -> fmt::Result {
    if let Some(unknown) = accounting.unknown {
        return writeln!(text, "\n{unknown}");
    }
    let kernel = &accounting.kernel;
    write!(
        text,
        "\nentered {} = reported {} + lost {} + in flight {}",
        kernel.entered,
        accounting.decoded,
        accounting.lost(),
        accounting.in_flight,
    )?;
    if accounting.left_out() > 0 {
        write!(text, " + left out {}", accounting.left_out())?;
    }
    if accounting.sampled() {
        write!(text, " + not sampled {}", kernel.unsampled)?;
    }
    let in_ring = accounting.in_ring() - accounting.undecodable.min(accounting.in_ring());
    if in_ring > 0 {
        write!(text, " + in the ring {in_ring}")?;
    }
    writeln!(text)?;
    for (count, what) in [
        (
            kernel.ring_full,
            "lost: the ring buffer was full; --ring-buffer makes it larger",
        ),
        (
            kernel.in_flight_full,
            "lost: too many in flight at once; --max-in-flight raises it",
        ),
        (
            kernel.return_missed,
            "lost: the return was not seen; --attach fentry sees all",
        ),
        (
            accounting.undecodable,
            "lost: the ring buffer had an entry that is not a record",
        ),
        (
            kernel.search_return_missed,
            "reported without search time: the return of the search was not seen",
        ),
        (
            kernel.fast,
            "left out: counted without a record, below --min-latency",
        ),
        (
            kernel.succeeded,
            "left out: succeeded, and --failed was asked for",
        ),
        (
            kernel.unsampled,
            "not sampled: no record was kept (--max-overhead, --record-sample)",
        ),
        (kernel.filtered, "more were excluded by the filters"),
        (
            kernel.not_followed,
            "processes were not followed: more than 32768 at once",
        ),
    ] {
        if count > 0 {
            writeln!(text, "{count:>9} {what}")?;
        }
    }
    let any = |misses: Option<u64>| misses.filter(|&count| count > 0);
    let misses = [
        ("programs skipped", accounting.recursion_misses),
        ("kretprobe slots", accounting.kretprobe_misses),
        ("forks", any(accounting.fork_misses)),
        ("ends of threads", any(accounting.thread_end_misses)),
    ];
    let misses: Vec<String> = misses
        .iter()
        .filter_map(|(name, count)| count.map(|count| format!("{name} {count}")))
        .collect();
    if !misses.is_empty() {
        wrapped(
            text,
            "the kernel's own counts of misses:",
            "  ",
            &misses.join(", "),
        )?;
    }
    if !accounting.adds_up() {
        writeln!(
            text,
            "{}: {} entered, {} accounted for",
            paint.warning("INCOMPLETE"),
            kernel.entered,
            accounting.accounted()
        )?;
    } else if !accounting.complete() {
        let incomplete = format!("{}:", paint.warning("INCOMPLETE"));
        for (missed, why) in [
            (
                !accounting.blind.is_zero(),
                format!(
                    "no call was seen for {:.2} s: the probes were detached",
                    accounting.blind.as_secs_f64()
                ),
            ),
            (
                kernel.not_followed > 0,
                "children were not followed, so their calls were not seen".to_owned(),
            ),
            (
                accounting.recursion_misses.unwrap_or(0) > 0,
                "the kernel skipped programs, so calls may not have been seen".to_owned(),
            ),
            (
                accounting.fork_misses.unwrap_or(0) > 0,
                "the kernel skipped the program that runs at a fork, so children may not be traced".to_owned(),
            ),
            (
                accounting.ends_may_be_missing(),
                "the ends of some threads were not seen, so their calls may still count as in flight"
                    .to_owned(),
            ),
        ] {
            if missed {
                wrapped(text, &incomplete, "  ", &why)?;
            }
        }
    }
    Ok(())
}
