//! The candidate ports in TIME_WAIT (`--time-wait`): their section in the text, and what to do about refused ones.

use std::fmt;

use serde::Serialize;

use crate::{
    connect::TimeWaitSettings,
    stats::{TimeWait, report::Report},
    term::numbers::{counted, wrapped},
};

/// Writes the counts, if these ports were counted.
pub(super) fn write(text: &mut String, report: &Report) -> fmt::Result {
    let Some(TimeWait {
        counts, skipped, ..
    }) = report.time_wait
    else {
        return Ok(());
    };
    let met = counts.refused + counts.reused;
    let mut words = match met {
        0 => "no candidate port was in it".to_owned(),
        _ => format!(
            "{} refused, {} reused; met by {}",
            counted(counts.refused, "candidate port", "candidate ports"),
            counts.reused,
            counted(counts.calls, "connect() call", "connect() calls"),
        ),
    };
    let scanned = scanned(report);
    if met > 0 && met <= scanned {
        let share = met as f64 / scanned as f64 * 100.0;
        words += &format!("; {share:.1} % of all ports scanned");
    }
    if let Some(skipped @ 1..) = skipped {
        words += &format!("; {skipped} more were not seen");
    }
    text.push('\n');
    wrapped(text, "TIME_WAIT:", "  ", &words)
}

/// Returns the number of ports that all searches of known length went through.
fn scanned(report: &Report) -> u64 {
    let summary = &report.summary;
    let groups = [&summary.even, &summary.odd, &summary.failures()];
    groups.iter().map(|group| group.scanned.total).sum()
}

/// Returns what follows for the settings if the kernel refused ports in TIME_WAIT.
pub(super) fn advice(report: &Report) -> Option<String> {
    let time_wait = report.time_wait?;
    let refused = time_wait.counts.refused;
    (refused > 0).then(|| {
        let times = counted(refused, "time", "times");
        let why = time_wait.settings.map_or_else(String::new, why);
        format!("the kernel refused a port in TIME_WAIT {times}{why}")
    })
}

/// Returns why these settings make the kernel refuse ports, and what changes that.
fn why(settings: TimeWaitSettings) -> String {
    let delay = format!(
        "{} s after their connection ended",
        f64::from(settings.reuse_delay_ms) / 1e3
    );
    match settings {
        TimeWaitSettings { timestamps: 0, .. } => {
            "; net.ipv4.tcp_timestamps is 0, without which none is reused. With 1, and net.ipv4.tcp_tw_reuse 1, ports \
             are reused if the peer has timestamps too"
                .to_owned()
        }
        TimeWaitSettings { reuse: 0, .. } => format!(
            "; net.ipv4.tcp_tw_reuse is 0, so that none is reused. With 1, ports are reused {delay}"
        ),
        TimeWaitSettings { reuse: 2, .. } => format!(
            "; net.ipv4.tcp_tw_reuse is 2: ports are reused on loopback only, {delay}. With 1, for all destinations"
        ),
        _ => format!(
            "; net.ipv4.tcp_tw_reuse is {} already: ports are reused {delay}, if the peer has timestamps. Connections that \
             are kept open, or more source addresses, avoid it",
            settings.reuse
        ),
    }
}

/// The counts in JSON.
#[derive(Serialize)]
pub(super) struct Object {
    refused: u64,
    reused: u64,
    connects: u64,
    skipped: Option<u64>,
    tcp_tw_reuse: Option<u32>,
    tcp_timestamps: Option<u32>,
    tcp_tw_reuse_delay_ms: Option<u32>,
}

impl Object {
    pub(super) fn of(time_wait: &TimeWait) -> Self {
        let TimeWait {
            counts,
            skipped,
            settings,
        } = time_wait;
        Self {
            refused: counts.refused,
            reused: counts.reused,
            connects: counts.calls,
            skipped: *skipped,
            tcp_tw_reuse: settings.map(|settings| settings.reuse),
            tcp_timestamps: settings.map(|settings| settings.timestamps),
            tcp_tw_reuse_delay_ms: settings.map(|settings| settings.reuse_delay_ms),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use connect_trace_common::counters::TimeWaitCounts;

    use super::*;
    use crate::report::example::parity;

    /// Returns a report with ports in TIME_WAIT.
    pub(in crate::report) fn example() -> Report {
        Report {
            time_wait: Some(TimeWait {
                counts: TimeWaitCounts {
                    refused: 40,
                    reused: 2,
                    calls: 3,
                },
                skipped: Some(0),
                settings: Some(TimeWaitSettings {
                    reuse: 2,
                    timestamps: 1,
                    reuse_delay_ms: 1_000,
                }),
            }),
            ..parity()
        }
    }

    fn section(report: &Report) -> String {
        let mut text = String::new();
        write(&mut text, report).unwrap();
        text
    }

    #[test]
    fn a_report_says_how_many_ports_were_refused_and_reused() {
        let mut report = example();
        assert_eq!(
            section(&report),
            "\nTIME_WAIT: 40 candidate ports refused, 2 reused; met by 3 connect() calls; 1.4 %\n  \
             of all ports scanned\n"
        );
        let time_wait = report.time_wait.as_mut().unwrap();
        time_wait.counts = TimeWaitCounts::default();
        time_wait.skipped = Some(7);
        assert_eq!(
            section(&report),
            "\nTIME_WAIT: no candidate port was in it; 7 more were not seen\n"
        );
        assert_eq!(advice(&report), None);
        assert_eq!(section(&parity()), "");
    }

    #[test]
    fn the_advice_is_that_of_the_settings() {
        let advice = |reuse, timestamps| {
            let mut report = example();
            report.time_wait.as_mut().unwrap().settings = Some(TimeWaitSettings {
                reuse,
                timestamps,
                reuse_delay_ms: 500,
            });
            advice(&report).unwrap()
        };
        for ((reuse, timestamps), part) in [
            ((1, 0), "tcp_timestamps is 0"),
            (
                (0, 1),
                "tcp_tw_reuse is 0, so that none is reused. With 1, ports are reused 0.5 s",
            ),
            (
                (2, 1),
                "tcp_tw_reuse is 2: ports are reused on loopback only",
            ),
            ((1, 1), "tcp_tw_reuse is 1 already"),
        ] {
            let text = advice(reuse, timestamps);
            assert!(text.contains(part), "{text}");
        }
    }
}
