//! Tests that the record of a connect() matches the call.
//!
//! The tests share one trace for each way to attach; the first test makes it.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    net::SocketAddr,
    process,
    sync::OnceLock,
};

use anyhow::{Result, anyhow};
use connect_trace::{
    connect::{Connect, Family, Pass, PortRange, SearchRange, SourcePort},
    probes::attach::AttachMode,
};
use connect_trace_guest::truth::{Explicit, Record};

use crate::{
    Lacking, Test,
    matching::{Extent, Pair, matched},
    socket,
    trace::{Session, Trace, config, crowd_is_seen},
    truth::truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        every_connect_has_one_record_that_is_true,
        every_call_is_accounted_for,
        an_ipv4_connect_shows_the_port_that_was_searched,
        an_ipv6_connect_shows_the_port_that_was_searched,
        a_v4_mapped_connect_is_one_record,
        an_explicit_port_is_bound,
        a_port_that_bind_chose_is_bound,
        a_port_that_bind_left_to_connect_is_searched,
        a_refused_connect_has_a_port_and_no_error,
        an_unreachable_destination_has_no_search,
        a_taken_port_is_kept,
        the_even_ports_of_an_exhausted_range_go_first,
        the_odd_ports_go_first_where_the_range_begins_odd,
        a_connect_that_found_no_port_shows_where_it_went,
        a_port_in_time_wait_is_found_again,
        the_same_ports_in_two_namespaces_are_told_apart,
        threads_that_connect_at_once_all_have_records,
        a_connect_that_does_not_wait_is_one_record,
        each_try_on_one_socket_is_a_record,
        a_thread_that_dies_has_one_record_or_none,
        a_range_of_the_sockets_own_is_shown,
        nothing_is_known_of_checks_that_are_not_watched,
        addresses_are_given_types_where_the_kernel_can,
    ],
];

/// Range of the sockets with a range of their own, above the kernel's default range.
const OWN_RANGE: (u16, u16) = (61_000, 61_031);

/// Searches so long that most threads are in one of them at the same time.
const CROWD: &str = "threads 20000-21999 --set-range --threads 32 --count 100";
/// Default number of slots of a kretprobe on a machine with few CPUs.
const USUAL_SLOTS: i32 = 10;

/// The shared trace and its truth.
struct Sample {
    all: Vec<Record>,
    even_first: Vec<Record>,
    odd_first: Vec<Record>,
    crowd: Vec<Record>,
    /// Ports of the sockets with a range of their own, if this kernel supports one.
    own: Option<Vec<u16>>,
    trace: Trace,
}

fn sample(mode: AttachMode) -> Result<&'static Sample> {
    static SAMPLES: [OnceLock<Result<Sample, String>>; 2] = [const { OnceLock::new() }; 2];
    let sample = SAMPLES[usize::from(mode == AttachMode::Kprobe)]
        .get_or_init(|| Sample::take(mode).map_err(|error| format!("{error:#}")));
    sample.as_ref().map_err(|error| anyhow!("{error}"))
}

/// Returns the sample, or fails with [`Lacking`] if calls of the crowd may have no record.
fn sample_of_all(mode: AttachMode) -> Result<&'static Sample> {
    crowd_is_seen(mode)?;
    sample(mode)
}

impl Sample {
    fn take(mode: AttachMode) -> Result<Self> {
        let session = Session::start(&config(mode))?;
        Ok(Self {
            all: truth("all")?,
            even_first: truth("exhaust 20000-20999 --set-range --extra 5")?,
            odd_first: truth("exhaust 20001-20200 --set-range --extra 1")?,
            crowd: truth(CROWD)?,
            own: socket::connect_from_all(OWN_RANGE.0, OWN_RANGE.1)?,
            trace: session.end()?,
        })
    }

    fn truth(&self) -> impl Iterator<Item = &Record> {
        let Self {
            all,
            even_first,
            odd_first,
            crowd,
            ..
        } = self;
        [all, even_first, odd_first, crowd].into_iter().flatten()
    }

    /// Returns the connections of one case of `truth all`.
    fn case(&self, name: &str) -> Result<Vec<Pair<'_>>> {
        let truth = self.all.iter().filter(|record| record.case == name);
        let pairs = matched(truth, &self.trace.connects, Extent::More)?;
        assert!(!pairs.is_empty(), "truth has no case {name}");
        Ok(pairs)
    }

    fn pairs<'a>(&'a self, truth: &'a [Record]) -> Result<Vec<Pair<'a>>> {
        matched(truth, &self.trace.connects, Extent::More)
    }

    /// Returns the test's own connections, in their order.
    fn own_connects(&self) -> impl Iterator<Item = &Connect> {
        let connects = self.trace.connects.iter();
        connects.filter(|connect| connect.pid == process::id())
    }
}

fn every_connect_has_one_record_that_is_true(mode: AttachMode) -> Result<()> {
    let sample = sample_of_all(mode)?;
    let of_truth: Vec<_> = sample
        .trace
        .connects
        .iter()
        .filter(|connect| connect.pid != process::id())
        .copied()
        .collect();
    matched(sample.truth(), &of_truth, Extent::Exact)?;
    Ok(())
}

fn every_call_is_accounted_for(mode: AttachMode) -> Result<()> {
    let trace = &sample(mode)?.trace;
    if sample_of_all(mode).is_ok() {
        trace.assert_complete();
    } else {
        trace.assert_lost_are_counted();
    }
    assert_eq!(trace.accounting.kernel.filtered, 0);
    let slots = (mode == AttachMode::Kprobe).then_some(0);
    assert_eq!(trace.accounting.kretprobe_misses, slots);
    assert_eq!(
        trace.accounting.recursion_misses, trace.running.recursion_misses,
        "what the kernel counted is known after the end as it was before"
    );
    Ok(())
}

fn an_ipv4_connect_shows_the_port_that_was_searched(mode: AttachMode) -> Result<()> {
    shows_the_port_that_was_searched(&sample(mode)?.case("v4")?, Family::V4);
    Ok(())
}

fn an_ipv6_connect_shows_the_port_that_was_searched(mode: AttachMode) -> Result<()> {
    shows_the_port_that_was_searched(&sample(mode)?.case("v6")?, Family::V6);
    Ok(())
}

fn a_v4_mapped_connect_is_one_record(mode: AttachMode) -> Result<()> {
    shows_the_port_that_was_searched(&sample(mode)?.case("mapped")?, Family::Mapped);
    Ok(())
}

fn shows_the_port_that_was_searched(pairs: &[Pair<'_>], family: Family) {
    let usual = SearchRange {
        ports: PortRange {
            low: 32_768,
            high: 60_999,
        },
        by_parity: true,
    };
    for pair in pairs {
        let record = pair.record();
        assert_eq!((record.family, record.errno), (family, 0), "{record:?}");
        assert_eq!(record.range, Some(usual), "{record:?}");
        assert_eq!(searched(record), pair.outcome().local.port());
    }
}

fn an_explicit_port_is_bound(mode: AttachMode) -> Result<()> {
    is_bound(&sample(mode)?.case("bind-port")?);
    Ok(())
}

fn a_port_that_bind_chose_is_bound(mode: AttachMode) -> Result<()> {
    is_bound(&sample(mode)?.case("bind-any")?);
    Ok(())
}

fn is_bound(pairs: &[Pair<'_>]) {
    for pair in pairs {
        let record = pair.record();
        assert_eq!(record.port, SourcePort::Bound(pair.outcome().local.port()));
        assert_eq!(record.pass(), None, "{record:?}");
        assert!(record.search_ns.is_some(), "{record:?}");
    }
}

fn a_port_that_bind_left_to_connect_is_searched(mode: AttachMode) -> Result<()> {
    for pair in sample(mode)?.case("bind-address")? {
        assert_eq!(pair.truth.explicit, Explicit::Address);
        assert_eq!(searched(pair.record()), pair.outcome().local.port());
    }
    Ok(())
}

fn a_refused_connect_has_a_port_and_no_error(mode: AttachMode) -> Result<()> {
    for pair in sample(mode)?.case("refused")? {
        assert_eq!(pair.outcome().errno, libc::ECONNREFUSED);
        assert_eq!(pair.record().errno, 0, "{:?}", pair.record());
        searched(pair.record());
    }
    Ok(())
}

fn an_unreachable_destination_has_no_search(mode: AttachMode) -> Result<()> {
    for case in ["unreachable", "v6-unreachable"] {
        for pair in sample(mode)?.case(case)? {
            let record = pair.record();
            assert_eq!(record.errno, libc::ENETUNREACH, "{record:?}");
            assert_eq!(record.port, SourcePort::None, "{record:?}");
            assert_eq!((record.search_ns, record.range), (None, None), "{record:?}");
            assert_eq!(record.source, None, "{record:?}");
            // The address that was passed; a v4-mapped one is an IPv4 address.
            let remote = pair.truth.remote;
            let passed = SocketAddr::new(remote.ip().to_canonical(), remote.port());
            assert_eq!(record.destination, Some(passed), "{record:?}");
        }
    }
    Ok(())
}

fn a_taken_port_is_kept(mode: AttachMode) -> Result<()> {
    for (index, pair) in sample(mode)?.case("taken")?.iter().enumerate() {
        let record = pair.record();
        // The first connect() of each pair succeeds, the second one fails.
        let errno = [0, libc::EADDRNOTAVAIL][index % 2];
        assert_eq!(record.errno, errno, "{record:?}");
        assert_eq!(record.port, SourcePort::Bound(pair.outcome().local.port()));
    }
    Ok(())
}

fn the_even_ports_of_an_exhausted_range_go_first(mode: AttachMode) -> Result<()> {
    let sample = sample(mode)?;
    parity_of_the_lowest_goes_first(&sample.pairs(&sample.even_first)?, 20_000, 20_999);
    for family in [Family::V4, Family::V6, Family::Mapped] {
        let pairs = sample.case("exhaust")?.into_iter();
        let pairs: Vec<_> = pairs
            .filter(|pair| pair.record().family == family)
            .collect();
        parity_of_the_lowest_goes_first(&pairs, 20_000, 20_063);
    }
    Ok(())
}

fn the_odd_ports_go_first_where_the_range_begins_odd(mode: AttachMode) -> Result<()> {
    let sample = sample(mode)?;
    parity_of_the_lowest_goes_first(&sample.pairs(&sample.odd_first)?, 20_001, 20_200);
    Ok(())
}

fn parity_of_the_lowest_goes_first(pairs: &[Pair<'_>], low: u16, high: u16) {
    let ports = usize::from(high - low) + 1;
    let (found, failed) = pairs.split_at(ports);
    for (index, pair) in found.iter().enumerate() {
        let record = pair.record();
        let first = index < ports / 2;
        let port = searched(record);
        assert_eq!(
            port % 2 == low % 2,
            first,
            "port {port} at {index}: {record:?}"
        );
        let pass = if first { Pass::First } else { Pass::Second };
        assert_eq!(record.pass(), Some(pass), "{record:?}");
    }
    let different: HashSet<_> = found.iter().map(|pair| searched(pair.record())).collect();
    assert_eq!(different.len(), ports);
    let by_parity = true;
    for pair in pairs {
        let range = SearchRange {
            ports: PortRange { low, high },
            by_parity,
        };
        assert_eq!(pair.record().range, Some(range), "{:?}", pair.record());
    }
    assert!(!failed.is_empty(), "none failed of {}", pairs.len());
    for pair in failed {
        assert_eq!(pair.record().errno, libc::EADDRNOTAVAIL);
    }
}

fn a_connect_that_found_no_port_shows_where_it_went(mode: AttachMode) -> Result<()> {
    let sample = sample(mode)?;
    let pairs = sample.pairs(&sample.even_first)?;
    let failed = &pairs[1000..];
    assert_eq!(failed.len(), 5);
    for pair in failed {
        let record = pair.record();
        assert_eq!(record.port, SourcePort::None, "{record:?}");
        assert_eq!(record.pass(), None, "{record:?}");
        assert_eq!(record.destination, Some(pair.truth.remote), "{record:?}");
        assert_eq!(record.source, Some(pair.truth.remote.ip()), "{record:?}");
        assert!(record.search_ns.is_some(), "{record:?}");
    }
    Ok(())
}

fn a_port_in_time_wait_is_found_again(mode: AttachMode) -> Result<()> {
    let pairs = sample(mode)?.case("time-wait")?;
    let errnos: Vec<_> = pairs.iter().map(|pair| pair.record().errno).collect();
    assert_eq!(errnos, [0, 0, libc::EADDRNOTAVAIL, 0, 0]);
    let ports = |pairs: &[Pair<'_>]| -> BTreeSet<u16> {
        pairs.iter().map(|pair| searched(pair.record())).collect()
    };
    assert_eq!(ports(&pairs[..2]), BTreeSet::from([20_000, 20_001]));
    assert_eq!(ports(&pairs[3..]), BTreeSet::from([20_000, 20_001]));
    Ok(())
}

fn the_same_ports_in_two_namespaces_are_told_apart(mode: AttachMode) -> Result<()> {
    let pairs = sample(mode)?.case("netns")?;
    let namespaces: BTreeSet<_> = pairs.iter().map(|pair| pair.record().netns).collect();
    assert_eq!(namespaces.len(), 2);
    let ports = |namespace| -> BTreeSet<_> {
        let records = pairs.iter().map(|pair| pair.record());
        let within = records.filter(|record| record.netns == namespace);
        within.map(|record| record.port.number()).collect()
    };
    let mut of_each = namespaces.iter().map(|&namespace| ports(namespace));
    assert_eq!(of_each.next(), of_each.next());
    Ok(())
}

fn threads_that_connect_at_once_all_have_records(mode: AttachMode) -> Result<()> {
    let sample = sample_of_all(mode)?;
    let pairs = sample.pairs(&sample.crowd)?;
    let threads: HashSet<_> = pairs.iter().map(|pair| pair.record().tid).collect();
    assert_eq!((threads.len(), pairs.len()), (32, 32 * 100));
    let ports: Vec<_> = pairs
        .iter()
        .filter_map(|pair| pair.record().port.number())
        .collect();
    let different: HashSet<_> = ports.iter().collect();
    assert_eq!((ports.len(), different.len()), (2_000, 2_000));
    let most = most_at_once(pairs.iter().map(|pair| pair.record()));
    assert!(most > USUAL_SLOTS, "no more than {most} at the same time");
    Ok(())
}

/// Returns the largest number of calls in flight at the same time.
fn most_at_once<'a>(connects: impl Iterator<Item = &'a Connect>) -> i32 {
    let ends = |connect: &Connect| {
        let start = connect.start_ns;
        [(start, 1), (start + connect.connect_ns, -1)]
    };
    let mut ends: Vec<(u64, i32)> = connects.flat_map(ends).collect();
    ends.sort_unstable();
    let mut now = 0;
    let counts = ends.iter().map(|(_, change)| {
        now += change;
        now
    });
    counts.max().unwrap_or(0)
}

fn a_connect_that_does_not_wait_is_one_record(mode: AttachMode) -> Result<()> {
    let pairs = sample(mode)?.case("nonblocking")?;
    let mut begun = 0;
    for pair in &pairs {
        match pair.outcome().errno {
            libc::EINPROGRESS => {
                begun += 1;
                assert_eq!(pair.record().errno, 0);
            }
            libc::EALREADY | libc::EISCONN => assert_eq!(pair.connect, None),
            _ => {}
        }
    }
    assert!(begun > 0, "no call of {} was in progress", pairs.len());
    Ok(())
}

fn each_try_on_one_socket_is_a_record(mode: AttachMode) -> Result<()> {
    let pairs = sample(mode)?.case("retry")?;
    for tries in pairs.chunks(3) {
        let explicit = tries[0].truth.explicit;
        for pair in tries {
            assert_eq!(pair.record().errno, 0);
            let bound = matches!(pair.record().port, SourcePort::Bound(_));
            assert_eq!(bound, explicit == Explicit::Port, "{:?}", pair.record());
        }
    }
    Ok(())
}

fn a_thread_that_dies_has_one_record_or_none(mode: AttachMode) -> Result<()> {
    let pairs = sample_of_all(mode)?.case("dies")?;
    // The threads of one process ended by themselves; two other processes were killed.
    let processes: HashSet<_> = pairs.iter().map(|pair| pair.truth.pid).collect();
    assert_eq!(processes.len(), 3);
    Ok(())
}

fn a_range_of_the_sockets_own_is_shown(mode: AttachMode) -> Result<()> {
    let sample = sample(mode)?;
    let Some(ports) = &sample.own else {
        return Err(Lacking("the option IP_LOCAL_PORT_RANGE").into());
    };
    let connects: Vec<_> = sample.own_connects().collect();
    let searched: Vec<_> = connects.iter().map(|connect| searched(connect)).collect();
    assert_eq!(&searched, ports);
    // The kernel's order of ports shows if it searches by parity.
    let half = ports.len() / 2;
    let by_parity = ports[..half].iter().all(|port| port % 2 == OWN_RANGE.0 % 2);
    for connect in connects {
        let range = SearchRange {
            ports: PortRange {
                low: OWN_RANGE.0,
                high: OWN_RANGE.1,
            },
            by_parity,
        };
        assert_eq!(connect.range, Some(range), "{connect:?}; ports: {ports:?}");
    }
    Ok(())
}

fn nothing_is_known_of_checks_that_are_not_watched(mode: AttachMode) -> Result<()> {
    let trace = &sample(mode)?.trace;
    for connect in &trace.connects {
        assert_eq!((connect.checks, connect.checks_watched), (None, false));
    }
    assert_eq!(trace.checks.map(|function| function.calls), [0, 0]);
    Ok(())
}

/// Returns the port, which the kernel's search must have found.
#[track_caller]
fn searched(connect: &Connect) -> u16 {
    match connect.port {
        SourcePort::Searched(port) => port,
        _ => panic!("the port was not searched: {connect:?}"),
    }
}

fn addresses_are_given_types_where_the_kernel_can(mode: AttachMode) -> Result<()> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let can = symbols
        .lines()
        .any(|line| line.ends_with(" bpf_rdonly_cast"));
    let mut session = Session::start(&config(mode))?;
    assert_eq!(session.tracer.probes().layout().cast.is_some(), can);
    session.end()?;
    Ok(())
}
