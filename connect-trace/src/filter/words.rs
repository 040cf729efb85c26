//! The filters in the words of the command line, for a report that names its filters.

use crate::{
    connect::Comm,
    filter::{Filters, IpVersion},
};

/// Returns the options that give these filters, with names resolved to numbers; none if every call is traced.
#[must_use]
pub fn filter_words(filters: &Filters) -> Vec<String> {
    let mut words = Vec::new();
    let mut add = |option: &str, value: String| words.push(format!("{option} {value}"));
    for pid in &filters.pids {
        add("--pid", pid.to_string());
    }
    for cgroup in &filters.cgroups {
        add("--cgroup", cgroup.id.to_string());
    }
    for uid in &filters.uids {
        add("--uid", uid.to_string());
    }
    for netns in &filters.netns {
        add("--netns", netns.to_string());
    }
    for span in &filters.dports {
        add(
            "--dport",
            if span.low == span.high {
                span.low.to_string()
            } else {
                format!("{}-{}", span.low, span.high)
            },
        );
    }
    for network in &filters.daddrs {
        add("--daddr", network.to_string());
    }
    for comm in &filters.comms {
        add("--comm", Comm::to_string(comm));
    }
    if let Some(protocols) = filters.protocols {
        add("--protocol", protocols.name().to_owned());
    }
    if let Some(least) = filters.min_latency {
        add("--min-latency", format!("{}ns", least.as_nanos()));
    }
    let flags = [
        (filters.follow, "--follow"),
        (filters.version == Some(IpVersion::V4), "--ipv4"),
        (filters.version == Some(IpVersion::V6), "--ipv6"),
        (filters.failed, "--failed"),
    ];
    let set = flags.iter().filter(|(set, _)| *set);
    words.extend(set.map(|(_, flag)| (*flag).to_owned()));
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connect::Protocols;
    use crate::filter::{Cgroup, PortRange};

    #[test]
    fn no_filter_needs_no_words() {
        assert_eq!(filter_words(&Filters::default()), Vec::<String>::new());
    }

    #[test]
    fn every_filter_has_its_word() {
        let span = |low, high| PortRange { low, high };
        let filters = Filters {
            pids: vec![1, 2],
            follow: true,
            cgroups: vec![Cgroup {
                id: 7,
                folder: "/sys/fs/cgroup/a".into(),
            }],
            uids: vec![1000],
            netns: vec![4_026_531_840],
            dports: vec![span(443, 443), span(8000, 8999)],
            daddrs: vec!["10.0.0.0/8".parse().unwrap()],
            comms: vec![Comm::of("a\x1bb")],
            version: Some(IpVersion::V6),
            protocols: Some(Protocols::ALL),
            failed: true,
            min_latency: Some(Duration::from_millis(1)),
        };
        let expected = "--pid 1 --pid 2 --cgroup 7 --uid 1000 --netns 4026531840 --dport 443 \
            --dport 8000-8999 --daddr 10.0.0.0/8 --comm a\\x1bb --protocol all --min-latency 1000000ns --follow \
            --ipv6 --failed";
        assert_eq!(filter_words(&filters).join(" "), expected);
    }
}
