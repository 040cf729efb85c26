//! A filter passes exactly the calls that match: each filter alone in both ways to attach, and each pair of filters.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::MetadataExt as _, fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::{Comm, PortRange, SourcePort},
    filter::{Cgroup, Cidr, Filters, IpVersion},
    probes::{ProbeConfig, attach::AttachMode},
    stats::BelowMinimum,
};
use connect_trace_common::FastKind;
use connect_trace_guest::truth::{Family, Record};
use socket2::{Domain, Socket, Type};

use crate::{
    Test,
    matching::{Extent, matched},
    process::{program, until},
    trace::{Session, cheapest_mode, config},
    truth::{Truth, truth},
};

pub const TESTS_OF_MODES: &[Test<AttachMode>] = crate::tests![
    All: [
        a_process_that_ends_is_no_longer_traced,
        the_fast_ones_are_counted_without_a_record,
    ],
    OldestAndNewest: [
        each_filter_alone_lets_pass_what_belongs_and_no_other,
        the_unspecified_address_counts_as_the_one_that_the_kernel_takes_for_it,
    ],
];

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [
        each_filter_and_the_next_let_pass_what_belongs_to_both,
    ],
    All: [
        all_filters_at_once_let_pass_what_belongs_to_all,
    ],
];

const UID: u32 = 1_000;
const NAME: &str = "verity";
/// Ports of the first of a case's several listeners.
const PORTS: PortRange = PortRange {
    low: 2_000,
    high: 2_000,
};
const NETWORKS: [&str; 2] = ["127.0.0.0/8", "2001:db8::/32"];
const CGROUP: &str = "/sys/fs/cgroup/connect-trace-test";

/// A kind of filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pid,
    PidAndChildren,
    Cgroup,
    Uid,
    Netns,
    Dport,
    Daddr,
    Comm,
    V4,
    V6,
    Failed,
}

const KINDS: [Kind; 11] = [
    Kind::Pid,
    Kind::PidAndChildren,
    Kind::Cgroup,
    Kind::Uid,
    Kind::Netns,
    Kind::Dport,
    Kind::Daddr,
    Kind::Comm,
    Kind::V4,
    Kind::V6,
    Kind::Failed,
];

/// Processes that wait to connect, each with other properties.
struct Workers {
    truths: [Truth; 5],
    ids: Ids,
    cgroup: Option<Cgroup>,
}

/// Process ids of the workers.
struct Ids {
    plain: u32,
    /// A shell whose child connects.
    shell: u32,
    of_user: u32,
    of_name: u32,
    /// A process in a cgroup below the requested one.
    in_cgroup: u32,
}

impl Workers {
    fn hold() -> Result<Self> {
        let named = PathBuf::from("/tmp").join(NAME);
        if !named.exists() {
            symlink(program("truth")?, &named).context("give truth another name")?;
        }
        let mut of_name = Command::new(named);
        of_name.arg("mixed");
        let mut of_user = Command::new("truth");
        of_user.arg("mixed").uid(UID).gid(UID);
        let mut shell = Command::new("sh");
        // Children are followed if they are forked after the start: therefore the shell waits too. truth is not its
        // last command, so that the shell starts a process for it.
        let script = r#"until [ -e "$2" ]; do sleep 0.1; done; truth mixed "$@"; exit $?"#;
        shell.args(["-c", script, "sh"]);
        let truths = [
            Truth::hold("mixed")?,
            Truth::hold_command(shell)?,
            Truth::hold_command(of_user)?,
            Truth::hold_command(of_name)?,
            Truth::hold("mixed")?,
        ];
        let [plain, shell, of_user, of_name, in_cgroup] = truths.each_ref().map(Truth::pid);
        Ok(Self {
            truths,
            ids: Ids {
                plain,
                shell,
                of_user,
                of_name,
                in_cgroup,
            },
            cgroup: move_to_cgroup(in_cgroup)?,
        })
    }

    /// Adds the filter of a kind; returns `None` if this kernel does not support it.
    fn add_filter(&self, kind: Kind, filters: &mut Filters) -> Option<()> {
        match kind {
            Kind::Pid => filters.pids.push(self.ids.plain),
            Kind::PidAndChildren => {
                filters.pids.push(self.ids.shell);
                filters.follow = true;
            }
            Kind::Cgroup => filters.cgroups.push(self.cgroup.clone()?),
            Kind::Uid => filters.uids.push(UID),
            Kind::Netns => filters.netns.push(own_netns() as u32),
            Kind::Dport => filters.dports.push(PORTS),
            Kind::Daddr => filters.daddrs.extend(NETWORKS.map(|text| {
                text.parse::<Cidr>()
                    .expect("these are networks, as the test of the parser says")
            })),
            Kind::Comm => filters.comms.push(Comm::of(NAME)),
            Kind::V4 => filters.version = Some(IpVersion::V4),
            Kind::V6 => filters.version = Some(IpVersion::V6),
            Kind::Failed => filters.failed = true,
        }
        Some(())
    }

    /// Returns the filters of these kinds; `None` if this kernel does not support one of them.
    fn filters(&self, kinds: &[Kind]) -> Option<Filters> {
        let mut filters = Filters::default();
        for &kind in kinds {
            self.add_filter(kind, &mut filters)?;
        }
        Some(filters)
    }

    /// Lets the workers connect, one after the other, in a trace for each of these sets of filters. Returns for each
    /// set the number of calls that passed and of all calls; `None` if this kernel does not support a filter.
    fn traced(self, mode: AttachMode, sets: &[Vec<Kind>]) -> Result<Vec<Option<Passed>>> {
        let traces = sets.iter().map(|kinds| -> Result<_> {
            let Some(filters) = self.filters(kinds) else {
                return Ok(None);
            };
            let session = Session::start(&ProbeConfig {
                filters: filters.clone(),
                ..config(mode)
            })?;
            Ok(Some((filters, session)))
        });
        let traces: Vec<_> = traces.collect::<Result<_>>()?;
        let mut records = Vec::new();
        for truth in self.truths {
            truth.release()?;
            records.extend(truth.end()?);
        }
        let passed = sets.iter().zip(traces).map(|(kinds, traced)| {
            let Some((filters, session)) = traced else {
                return Ok(None);
            };
            let passed = self.ids.check(kinds, &filters, session, &records);
            passed
                .map(Some)
                .with_context(|| format!("filters {kinds:?}"))
        });
        passed.collect()
    }
}

/// Number of calls that passed a filter, and number of all calls.
type Passed = (usize, usize);

impl Ids {
    /// Ends the trace with filters of these kinds, and checks that it has exactly the matching calls.
    fn check(
        &self,
        kinds: &[Kind],
        filters: &Filters,
        session: Session,
        records: &[Record],
    ) -> Result<Passed> {
        let trace = session.end()?;
        let belong = |record: &&Record| self.belongs(kinds, record);
        matched(
            records.iter().filter(belong),
            &trace.connects,
            Extent::Exact,
        )?;
        trace.assert_complete();
        // Recordings use the same filters, except for facts that a recording lacks: the parents of cgroups and of
        // processes.
        let by_record = |kind: &Kind| !matches!(kind, Kind::PidAndChildren | Kind::Cgroup);
        if kinds.iter().all(by_record) {
            for connect in &trace.connects {
                assert!(filters.matches(connect), "{connect:?}");
            }
        }
        Ok((trace.connects.len(), records.len()))
    }

    /// Returns true if a call matches all of these filters, according to truth.
    fn belongs(&self, kinds: &[Kind], record: &Record) -> bool {
        // Process filters are alternatives.
        let is_process = |kind: &Kind| matches!(kind, Kind::Pid | Kind::PidAndChildren);
        let mut processes = kinds.iter().copied().filter(is_process).peekable();
        let others = kinds.iter().copied().filter(|kind| !is_process(kind));
        (processes.peek().is_none() || processes.any(|kind| self.belongs_to(kind, record))) && {
            others
        }
        .all(|kind| self.belongs_to(kind, record))
    }

    fn belongs_to(&self, kind: Kind, record: &Record) -> bool {
        match kind {
            Kind::Pid => record.pid == self.plain,
            // The child's id is not known before it runs; the ids of all other workers are.
            Kind::PidAndChildren => {
                let others = [self.plain, self.of_user, self.of_name, self.in_cgroup];
                assert_ne!(record.pid, self.shell, "a shell makes no connects");
                !others.contains(&record.pid)
            }
            Kind::Cgroup => record.pid == self.in_cgroup,
            Kind::Uid => record.uid == UID,
            Kind::Netns => record.netns == own_netns(),
            Kind::Dport => (PORTS.low..=PORTS.high).contains(&record.remote.port()),
            Kind::Daddr => {
                let ip = record.remote.ip().to_canonical().to_string();
                ip.starts_with("127.") || ip.starts_with("2001:db8:")
            }
            Kind::Comm => record.comm == NAME,
            Kind::V4 => record.family != Family::V6,
            Kind::V6 => record.family == Family::V6,
            Kind::Failed => record
                .outcome
                .as_ref()
                .is_some_and(|outcome| outcome.kernel_errno != Some(0)),
        }
    }
}

/// Returns the number of traces that run at once and share the workers. Kprobes at one place are slow to detach while
/// there are others: Linux 5.10 takes seconds for each.
fn at_once(mode: AttachMode) -> usize {
    match mode {
        AttachMode::Fentry => 6,
        AttachMode::Kprobe => 1,
    }
}

fn each_filter_alone_lets_pass_what_belongs_and_no_other(mode: AttachMode) -> Result<()> {
    let sets = KINDS.map(|kind| vec![kind]);
    for sets in sets.chunks(at_once(mode)) {
        let passed = Workers::hold()?.traced(mode, sets)?;
        for (kinds, passed) in sets.iter().zip(passed) {
            if let Some((passed, all)) = passed {
                assert!(passed > 0 && passed < all, "{kinds:?}: {passed} of {all}");
            }
        }
    }
    Ok(())
}

/// In one mode alone, and not for every pair: the way to attach does not affect the combination of two filters, and each
/// filter is a condition of its own in the programs.
fn each_filter_and_the_next_let_pass_what_belongs_to_both((): ()) -> Result<()> {
    let next = KINDS.into_iter().cycle().skip(1);
    let pairs = KINDS.into_iter().zip(next);
    let pairs = pairs.map(|(first, second)| vec![first, second]);
    let pairs: Vec<_> = pairs.filter(|pair| *pair != [Kind::V4, Kind::V6]).collect();
    let mode = cheapest_mode()?;
    for pairs in pairs.chunks(at_once(mode)) {
        Workers::hold()?.traced(mode, pairs)?;
    }
    Ok(())
}

fn all_filters_at_once_let_pass_what_belongs_to_all((): ()) -> Result<()> {
    let kinds = vec![Kind::Uid, Kind::Netns, Kind::Daddr, Kind::V4, Kind::Failed];
    let passed = Workers::hold()?.traced(AttachMode::Kprobe, &[kinds])?;
    let passed = passed[0].context("none of these takes a cgroup")?;
    assert!(passed.0 > 0, "{passed:?}");
    Ok(())
}

fn a_process_that_ends_is_no_longer_traced(mode: AttachMode) -> Result<()> {
    let worker = Truth::hold("v4 --count 3")?;
    let mut session = Session::start(&ProbeConfig {
        filters: Filters {
            pids: vec![worker.pid()],
            ..Filters::default()
        },
        ..config(mode)
    })?;
    assert!(session.tracer.probes().any_process()?);
    worker.release()?;
    let records = worker.end()?;
    until("the process is forgotten", || {
        Ok((!session.tracer.probes().any_process()?).then_some(()))
    })?;
    let trace = session.end()?;
    matched(&records, &trace.connects, Extent::Exact)?;
    Ok(())
}

fn the_fast_ones_are_counted_without_a_record(mode: AttachMode) -> Result<()> {
    // Some searches of an exhausted range are long; searches of a fresh range are short.
    let range = truth("exhaust 27000-27999 --set-range --extra 20")?;
    let mut times: Vec<u64> = range
        .iter()
        .filter_map(|record| Some(record.outcome.as_ref()?.end_ns - record.start_ns))
        .collect();
    times.sort_unstable();
    let least = Duration::from_nanos(times[times.len() / 2]);

    let mut session = Session::start(&ProbeConfig {
        filters: Filters {
            min_latency: Some(least),
            ..Filters::default()
        },
        ..config(mode)
    })?;
    let records = truth("exhaust 27000-27999 --set-range --extra 20")?;
    let sums = session.tracer.probes().maps().fast();
    let of_v6 = |kind: FastKind| kind.has(FastKind::V6);
    assert!(
        sums.groups()
            .all(|(kind, group)| group.connect.count == 0 || !of_v6(kind))
    );
    let fast = BelowMinimum::from(&sums);
    let trace = session.end()?;
    trace.assert_complete();
    let pairs = matched(&records, &trace.connects, Extent::Fewer)?;
    let slow: Vec<_> = pairs.iter().filter_map(|pair| pair.connect).collect();
    for connect in &slow {
        assert!(u128::from(connect.connect_ns) >= least.as_nanos());
    }
    assert!(!slow.is_empty() && slow.len() < records.len());
    let of = |wanted: fn(u16) -> bool| {
        let ends = records.iter().filter_map(|record| record.outcome.as_ref());
        let is_wanted = |port: u16, errno: i32| errno == 0 && wanted(port);
        let all = ends.filter(|end| is_wanted(end.local.port(), end.errno));
        let slow = slow.iter().filter(|connect| match connect.port {
            SourcePort::Searched(port) => is_wanted(port, connect.errno),
            _ => false,
        });
        (all.count() - slow.count()) as u64
    };
    assert_eq!(fast.even.connect.count, of(|port| port % 2 == 0));
    assert_eq!(fast.odd.connect.count, of(|port| port % 2 == 1));
    assert_eq!(fast.bound.connect.count, 0);
    assert_eq!(fast.count() + slow.len() as u64, records.len() as u64);
    for group in [fast.even, fast.odd, fast.bound, fast.failed] {
        for times in [group.connect, group.search] {
            assert_eq!(times.buckets.iter().sum::<u64>(), times.count);
            assert!(u128::from(times.max_ns) < least.as_nanos());
            assert!(times.max_ns <= times.total_ns && times.total_ns <= times.max_ns * times.count);
        }
    }
    Ok(())
}

fn the_unspecified_address_counts_as_the_one_that_the_kernel_takes_for_it(
    mode: AttachMode,
) -> Result<()> {
    /// Address for a socket that accepts IPv6 only, so that the call fails before `tcp_v4_connect`.
    const REFUSED: &str = "127.0.0.9";
    const TO_LOOPBACK: [(&str, Option<&str>, &str); 6] = [
        ("0.0.0.0:0", None, "127.0.0.1"),
        ("0.0.0.0:0", Some("127.0.0.2:0"), "127.0.0.2"),
        ("[::ffff:0.0.0.0]:0", None, "127.0.0.1"),
        ("[::]:0", Some("[::ffff:127.0.0.1]:0"), "127.0.0.1"),
        ("[::ffff:127.0.0.9]:0", None, REFUSED),
        ("[::]:0", None, "::1"),
    ];
    let any: SocketAddr = "[::]:0".parse()?;
    let listener = TcpListener::bind(any).context("listen to both protocols")?;
    let port = listener.local_addr()?.port();
    for (filters, expected) in [
        ("127.0.0.2/32", &TO_LOOPBACK[1..2]),
        ("::1/128", &TO_LOOPBACK[5..]),
        ("-4", &TO_LOOPBACK[..5]),
    ] {
        let filters = match filters {
            "-4" => Filters {
                version: Some(IpVersion::V4),
                ..Filters::default()
            },
            network => Filters {
                daddrs: vec![network.parse().map_err(anyhow::Error::msg)?],
                ..Filters::default()
            },
        };
        let session = Session::start(&ProbeConfig {
            filters: filters.clone(),
            ..config(mode)
        })?;
        for (to, from, expected) in TO_LOOPBACK {
            let mut to: SocketAddr = to.parse()?;
            to.set_port(port);
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            if let Some(from) = from {
                socket.bind(&from.parse::<SocketAddr>()?.into())?;
            }
            let refused = expected == REFUSED;
            if refused {
                socket.set_only_v6(true)?;
            }
            let connected = socket.connect(&to.into());
            assert_eq!(connected.is_err(), refused, "to {to}: {connected:?}");
        }
        let trace = session.end()?;
        let destinations: Vec<String> = trace
            .connects
            .iter()
            .filter_map(|connect| Some(connect.destination?.ip().to_string()))
            .collect();
        let expected: Vec<&str> = expected.iter().map(|(_, _, address)| *address).collect();
        assert_eq!(destinations, expected, "{filters:?}");
        assert!(
            trace
                .connects
                .iter()
                .all(|connect| filters.matches(connect))
        );
    }
    Ok(())
}

/// Returns the inode of the network namespace in which all workers start.
fn own_netns() -> u64 {
    let found = fs::metadata("/proc/self/ns/net");
    found.expect("every process has one").ino()
}

/// Moves a process into a cgroup below the requested one; returns `None` if there is no version 2 hierarchy.
fn move_to_cgroup(pid: u32) -> Result<Option<Cgroup>> {
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Ok(None);
    }
    let below = Path::new(CGROUP).join("below");
    fs::create_dir_all(&below)?;
    fs::write(below.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("move a process to {}", below.display()))?;
    Ok(Some(Cgroup {
        id: fs::metadata(CGROUP)?.ino(),
        folder: CGROUP.into(),
    }))
}
