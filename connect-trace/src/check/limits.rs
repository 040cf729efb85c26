//! Limits that connections meet beside the range of ports: TIME_WAIT and the tracking of connections.

use std::{fs, io, path::Path};

use super::finding::{Finding, Group, State};
use crate::connect::{
    PortRange,
    settings::{is_absent, number, parsed},
};

const NETFILTER: &str = "/proc/sys/net/netfilter";

/// Share of the entries of connection tracking from which on the table counts as nearly full, in percent.
const NEARLY_FULL: u64 = 80;

/// The settings of connection tracking, as texts; `NotFound` if the kernel does not track connections here.
pub(super) struct Conntrack {
    /// net.netfilter.nf_conntrack_max
    pub(super) max: io::Result<String>,
    /// net.netfilter.nf_conntrack_count
    pub(super) count: io::Result<String>,
    /// net.netfilter.nf_conntrack_tcp_timeout_time_wait, in seconds
    pub(super) time_wait: io::Result<String>,
    /// net.netfilter.nf_conntrack_tcp_timeout_established, in seconds
    pub(super) established: io::Result<String>,
}

impl Conntrack {
    pub(super) fn of_this_namespace() -> Self {
        let read = |name: &str| {
            fs::read_to_string(Path::new(NETFILTER).join(format!("nf_conntrack_{name}")))
        };
        Self {
            max: read("max"),
            count: read("count"),
            time_wait: read("tcp_timeout_time_wait"),
            established: read("tcp_timeout_established"),
        }
    }

    /// Returns the finding about the table of tracked connections.
    pub(super) fn finding(&self, span: PortRange) -> Finding {
        const NAME: &str = "conntrack";
        if is_absent(&self.max) {
            let value = "connections are not tracked in this namespace";
            return Finding::ok(Group::Ports, NAME, value);
        }
        let read = |name: &str, text: &io::Result<String>| {
            let text = text.as_ref().map_err(io::Error::to_string);
            let number = text.and_then(|text| number(text).ok_or_else(|| format!("is {text:?}")));
            number.map_err(|error| format!("{NETFILTER}/nf_conntrack_{name}: {error}"))
        };
        let numbers = || {
            Ok::<_, String>([
                read("max", &self.max)?,
                read("count", &self.count)?,
                read("tcp_timeout_time_wait", &self.time_wait)?,
                read("tcp_timeout_established", &self.established)?,
            ])
        };
        let [max, count, time_wait, established] = match numbers() {
            Ok(numbers) => numbers,
            Err(error) => return Finding::unknown(Group::Ports, NAME, error, "run it as root"),
        };
        let finding = Finding::ok(
            Group::Ports,
            NAME,
            format!(
                "{count} of {max} entries, kept {time_wait} s in TIME_WAIT. Ports that NAT may use are in its rules, which \
                 nft and iptables show"
            ),
        )
        .data(serde_json::json!({
            "max": max,
            "count": count,
            "time_wait_s": time_wait,
            "established_s": established,
        }));
        let note = if u64::from(count) * 100 >= u64::from(max) * NEARLY_FULL {
            "the table is nearly full: the first packets of further connections are dropped"
        } else if max < span.ports() {
            "fewer entries than ports: connections to one destination alone can fill the table"
        } else {
            return finding;
        };
        Finding {
            state: State::Limited,
            ..finding
        }
        .note(note)
        .remedy(
            "sysctl net.netfilter.nf_conntrack_max, or no tracking of these connections (notrack)",
        )
    }
}

/// Returns the finding about the number of connections in TIME_WAIT, net.ipv4.tcp_max_tw_buckets.
pub(super) fn time_wait_buckets(setting: &io::Result<String>, span: PortRange) -> Finding {
    const NAME: &str = "time_wait_buckets";
    let most = match parsed("tcp_max_tw_buckets", setting, number) {
        Ok(most) => most,
        Err(error) => {
            return Finding::unknown(
                Group::Ports,
                NAME,
                error,
                "mount /proc with the network's settings in /proc/sys/net",
            );
        }
    };
    let value = format!("{most} connections at most in TIME_WAIT");
    if most < span.ports() {
        return Finding::limited(
            Group::Ports,
            NAME,
            value,
            "fewer than ports: beyond them connections end without TIME_WAIT, and late packets can reach new ones",
        )
        .remedy("sysctl net.ipv4.tcp_max_tw_buckets")
        .data(most.into());
    }
    Finding::ok(Group::Ports, NAME, value).data(most.into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the settings of a host that tracks few connections.
    pub(in crate::check) fn conntrack(max: u32, count: u32) -> Conntrack {
        Conntrack {
            max: Ok(format!("{max}\n")),
            count: Ok(format!("{count}\n")),
            time_wait: Ok("120\n".to_owned()),
            established: Ok("432000\n".to_owned()),
        }
    }

    const SPAN: PortRange = PortRange {
        low: 20_001,
        high: 21_000,
    };

    #[test]
    fn a_table_of_connections_is_large_enough_for_the_range_and_not_nearly_full() {
        let state = |max, count| conntrack(max, count).finding(SPAN).state;
        assert_eq!(state(1_000, 799), State::Ok);
        assert_eq!(state(1_000, 800), State::Limited);
        assert_eq!(state(999, 1), State::Limited);
        let data = conntrack(1_000, 7).finding(SPAN).data;
        let expected = serde_json::json!({
            "max": 1_000, "count": 7, "time_wait_s": 120, "established_s": 432_000,
        });
        assert_eq!(data, expected);
    }

    #[test]
    fn what_cannot_be_read_is_unknown_and_what_is_not_there_is_said() {
        let absent = Conntrack {
            max: Err(io::ErrorKind::NotFound.into()),
            ..conntrack(1, 1)
        };
        assert_eq!(absent.finding(SPAN).state, State::Ok);
        let refused = Conntrack {
            count: Err(io::ErrorKind::PermissionDenied.into()),
            ..conntrack(1, 1)
        };
        let found = refused.finding(SPAN);
        assert_eq!(found.state, State::Unknown);
        assert!(found.note.unwrap().contains("nf_conntrack_count"));
    }

    #[test]
    fn connections_in_time_wait_are_as_many_as_ports() {
        let state = |text: &str| time_wait_buckets(&Ok(text.to_owned()), SPAN).state;
        assert_eq!(state("1000\n"), State::Ok);
        assert_eq!(state("999\n"), State::Limited);
        assert_eq!(state("many"), State::Unknown);
    }
}
