//! Filters as the options that they were typed as, for people who read a recording.

use std::fmt::Write as _;

use crate::filter::{Filters, IpVersion};

/// The options; empty where nothing was left out.
pub(super) fn options(filters: &Filters) -> String {
    let Filters {
        pids,
        follow,
        cgroups,
        uids,
        netns,
        dports,
        daddrs,
        comms,
        version,
        failed,
        min_latency,
    } = filters;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut add = |option: &str, value: &dyn std::fmt::Display| {
        let space = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{space}{option} {value}");
    };
    pids.iter().for_each(|pid| add("--pid", pid));
    for cgroup in cgroups {
        add("--cgroup", &cgroup.id);
    }
    uids.iter().for_each(|uid| add("--uid", uid));
    netns.iter().for_each(|netns| add("--netns", netns));
    for span in dports {
        let (low, high) = (span.low, span.high);
        if low == high {
            add("--dport", &low);
        } else {
            add("--dport", &format_args!("{low}-{high}"));
        }
    }
    daddrs.iter().for_each(|network| add("--daddr", network));
    comms.iter().for_each(|comm| add("--comm", comm));
    if let Some(least) = min_latency {
        add("--min-latency", &format_args!("{}ns", least.as_nanos()));
    }
    let flags = [
        (*follow, "--follow"),
        (*version == Some(IpVersion::V4), "--ipv4"),
        (*version == Some(IpVersion::V6), "--ipv6"),
        (*failed, "--failed"),
    ];
    for (_, flag) in flags.iter().filter(|(given, _)| *given) {
        let space = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{space}{flag}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{cli::PortSpan, event::Comm};

    #[test]
    fn filters_are_the_options_that_make_them() {
        assert_eq!(options(&Filters::default()), "");
        let filters = Filters {
            pids: vec![7, 8],
            dports: vec![
                PortSpan { low: 1, high: 2 },
                PortSpan {
                    low: 443,
                    high: 443,
                },
            ],
            comms: vec![Comm::of("curl")],
            version: Some(IpVersion::V6),
            failed: true,
            min_latency: Some(Duration::from_millis(1)),
            ..Filters::default()
        };
        assert_eq!(
            options(&filters),
            "--pid 7 --pid 8 --dport 1-2 --dport 443 --comm curl --min-latency 1000000ns --ipv6 --failed"
        );
    }
}
