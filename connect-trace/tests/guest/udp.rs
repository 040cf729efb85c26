//! UDP and UDP-Lite, compared with the case `udp` of the program `truth`: connect(), and the calls of bind() and send()
//! for which the kernel chooses a port.

use std::{
    collections::HashMap,
    env,
    fs::{self, File},
    net::SocketAddr,
    process,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use connect_trace::{
    connect::{Connect, Family, Operation, PortRange, Protocol, Protocols, SourcePort},
    filter::{Filters, IpVersion},
    load::log,
    overhead::limiter::Level,
    probes::{ProbeConfig, attach::AttachMode},
};
use connect_trace_guest::truth::{self, Port, UdpRecord};

use crate::{
    Test,
    matching::{Extent, matched},
    output::{Lines, connect},
    process::Process,
    program::{assert_fits_a_terminal, connect_trace, report, tracing as tracing_command},
    recording::{Folder, read},
    trace::{Session, Trace, config, crowd_is_seen},
    truth::{Truth, truth as truth_of_tcp},
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        every_call_of_udp_has_one_record_that_is_true,
        udp_of_many_threads_at_once_is_told_apart,
        tcp_and_udp_are_traced_together,
        a_sample_of_udp_is_of_whole_calls,
    ],
    OldestAndNewest: [
        calls_of_udp_that_the_filters_reject_leave_nothing,
        without_the_option_udp_is_not_traced,
        udp_of_a_workload_is_as_the_workload_saw_it,
    ],
];

pub const TESTS_OF_NO_MODE: &[Test<()>] = crate::tests![
    Oldest: [
        the_output_and_a_recording_of_udp_have_protocol_and_operation,
        the_text_of_udp_names_its_functions_and_fits_a_terminal,
    ],
];

fn tracing(mode: AttachMode, protocols: Protocols, filters: Filters) -> Result<Session> {
    Session::start(&ProbeConfig {
        protocols,
        filters,
        ..config(mode)
    })
}

fn udp(case: &str) -> Result<Vec<UdpRecord>> {
    udp_of(Truth::start(case)?)
}

fn udp_of(truth: Truth) -> Result<Vec<UdpRecord>> {
    UdpRecord::parse_report(&truth.end_with_text()?.stdout)
}

fn every_call_of_udp_has_one_record_that_is_true(mode: AttachMode) -> Result<()> {
    let session = tracing(mode, Protocols::UDP, Filters::default())?;
    let truth = udp("udp")?;
    let trace = session.end()?;
    compare(&truth, &trace.connects)?;
    trace.assert_complete();
    assert_eq!(trace.accounting.kernel.filtered, 0);
    // Each kind of call is among them, on every kernel.
    for (case, expected) in [
        ("connect", Port::Searched),
        ("second-connect", Port::Bound),
        ("bind", Port::Searched),
        ("bind-taken", Port::Untraced),
        ("connect-address", Port::Searched),
        ("send", Port::Searched),
        ("second-send", Port::Untraced),
        ("exhausted-connect", Port::Searched),
        ("exhausted-send", Port::Searched),
        ("exhausted-bind", Port::Searched),
        ("reserved", Port::Searched),
        ("other", Port::Untraced),
    ] {
        let found = truth.iter().filter(|call| call.case == case);
        assert!(found.clone().count() > 0, "truth has no call {case}");
        for call in found {
            assert_eq!(call.port, expected, "{call}");
        }
    }
    Ok(())
}

fn udp_of_many_threads_at_once_is_told_apart(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    let session = tracing(mode, Protocols::UDP, Filters::default())?;
    let truth = udp("udp --threads 16")?;
    let trace = session.end()?;
    compare(&truth, &trace.connects)?;
    trace.assert_complete();
    Ok(())
}

/// Traces two cases at the same time with filters, of which one must match nothing of the second case. A connect() that
/// a filter rejects searches for a port like any other, which must not be taken for a send() or bind().
fn calls_of_udp_that_the_filters_reject_leave_nothing(mode: AttachMode) -> Result<()> {
    let all = tracing(mode, Protocols::UDP, Filters::default())?;
    let total = udp("udp")?.len();
    let entered = all.end()?.accounting.kernel.entered;
    assert!(
        entered > 50 && total as u64 > entered,
        "{entered} of {total}"
    );

    let held = Truth::hold("udp")?;
    let of_pid = Filters {
        pids: vec![held.pid()],
        ..Filters::default()
    };
    let session = tracing(mode, Protocols::UDP, of_pid)?;
    let others = udp("udp")?;
    held.release()?;
    let truth = udp_of(held)?;
    let trace = session.end()?;
    compare(&truth, &trace.connects)?;
    trace.assert_complete();
    assert_eq!(trace.accounting.kernel.filtered, entered);
    assert_eq!(others.len(), truth.len());

    // A destination that no call has, and that only connect() can have.
    let to = |dports, daddrs: &[&str], version| {
        let daddrs = daddrs
            .iter()
            .map(|network| network.parse().expect("a network"));
        Filters {
            dports,
            daddrs: daddrs.collect(),
            version,
            ..Filters::default()
        }
    };
    let nowhere = PortRange { low: 9, high: 9 };
    for filters in [
        to(vec![nowhere], &[], None),
        to(vec![], &["198.51.100.0/24"], None),
    ] {
        let session = tracing(mode, Protocols::UDP, filters)?;
        udp("udp")?;
        let trace = session.end()?;
        assert_eq!(trace.connects, []);
        assert_eq!(trace.accounting.kernel.entered, 0);
        assert_eq!(trace.accounting.kernel.filtered, entered);
    }

    for version in [IpVersion::V4, IpVersion::V6] {
        let session = tracing(mode, Protocols::UDP, to(vec![], &[], Some(version)))?;
        let truth = udp("udp")?;
        let trace = session.end()?;
        let wanted = |call: &&UdpRecord| {
            let is_v6 = call.family == truth::Family::V6;
            // The passed address is of the other family.
            call.case != "ipv6-address" && is_v6 == (version == IpVersion::V6)
        };
        let truth: Vec<_> = truth.iter().filter(wanted).cloned().collect();
        let connects = trace.connects.iter().copied();
        let connects = connects.filter(|connect| connect.errno != libc::EAFNOSUPPORT);
        compare(&truth, &connects.collect::<Vec<_>>())?;
        let kernel = &trace.accounting.kernel;
        assert_eq!(kernel.entered + kernel.filtered, entered);
    }

    let failed = Filters {
        failed: true,
        ..Filters::default()
    };
    let session = tracing(mode, Protocols::UDP, failed)?;
    let mut truth = udp("udp")?;
    let trace = session.end()?;
    truth.retain(|call| call.errno != 0);
    compare(&truth, &trace.connects)?;
    assert_eq!(trace.accounting.kernel.entered, entered);

    let slow = Filters {
        min_latency: Some(Duration::from_secs(10)),
        ..Filters::default()
    };
    let session = tracing(mode, Protocols::UDP, slow)?;
    udp("udp")?;
    let trace = session.end()?;
    assert_eq!(trace.connects, []);
    assert_eq!(trace.accounting.kernel.fast, entered);
    Ok(())
}

/// Records one call in two: the search of a connect() without a record must not be taken for a send() or bind().
fn a_sample_of_udp_is_of_whole_calls(mode: AttachMode) -> Result<()> {
    let mut session = Session::start(&ProbeConfig {
        protocols: Protocols::UDP,
        may_sample: true,
        ..config(mode)
    })?;
    let level_switch = session.tracer.probes().level_switch();
    level_switch.go(Level::Full, Level::Sampled(2))?;
    let truth = udp("udp")?;
    let trace = session.end()?;
    compare_to(&truth, &trace.connects, Extent::Fewer)?;
    trace.assert_complete();
    let traced = truth.iter().filter(|call| call.port != Port::Untraced);
    let kernel = &trace.accounting.kernel;
    assert_eq!(kernel.entered, traced.count() as u64);
    assert!(kernel.unsampled > 0 && kernel.reported > 0, "{kernel:?}");
    Ok(())
}

fn tcp_and_udp_are_traced_together(mode: AttachMode) -> Result<()> {
    let session = tracing(mode, Protocols::ALL, Filters::default())?;
    let of_udp = udp("udp")?;
    let of_tcp = truth_of_tcp("v4")?;
    let trace = session.end()?;
    trace.assert_complete();
    let is_tcp = |connect: &&Connect| connect.kind.protocol == Protocol::Tcp;
    let (tcp, udp): (Vec<&Connect>, Vec<&Connect>) = trace.connects.iter().partition(is_tcp);
    let copied = |connects: Vec<&Connect>| connects.into_iter().copied().collect::<Vec<_>>();
    compare(&of_udp, &copied(udp))?;
    let tcp = copied(tcp);
    matched(&of_tcp, &tcp, Extent::Exact)?;
    let by_parity = |connect: &Connect| connect.range.is_some_and(|range| range.by_parity);
    assert!(tcp.iter().all(by_parity));
    Ok(())
}

fn without_the_option_udp_is_not_traced(mode: AttachMode) -> Result<()> {
    let session = tracing(mode, Protocols::TCP, Filters::default())?;
    udp("udp")?;
    let Trace {
        connects,
        accounting,
        ..
    } = session.end()?;
    assert_eq!(connects, []);
    assert_eq!(accounting.kernel.entered, 0);
    let session = tracing(mode, Protocols::UDP, Filters::default())?;
    truth_of_tcp("v4")?;
    assert_eq!(session.end()?.connects, []);
    Ok(())
}

/// Compares each connect() of `connect-trace load --protocol udp`, on a range that it uses up, with its record: the
/// figures of UDP by port are the same from both sides.
fn udp_of_a_workload_is_as_the_workload_saw_it(mode: AttachMode) -> Result<()> {
    const RANGE: PortRange = PortRange {
        low: 20_000,
        high: 20_399,
    };
    let log = env::temp_dir().join(format!("udp-load-{}.csv", process::id()));
    let session = tracing(mode, Protocols::UDP, Filters::default())?;
    let mut command = connect_trace("load default --protocol udp");
    command
        .args(["--range", &RANGE.to_string()])
        .arg("--csv")
        .arg(&log);
    Process::start(command)?.end()?.successful()?;
    let trace = session.end()?;
    trace.assert_complete();
    let read = log::read(File::open(&log)?);
    fs::remove_file(&log)?;
    let (_, attempts) = read?;

    let connects: Vec<&Connect> = trace
        .connects
        .iter()
        .filter(|connect| connect.kind.operation == Operation::Connect)
        .collect();
    assert_eq!(attempts.len(), 400);
    assert_eq!(connects.len(), attempts.len());
    for (attempt, connect) in attempts.iter().zip(connects) {
        let shown = format!("{attempt:?} {connect:?}");
        assert_eq!(connect.errno, attempt.errno, "{shown}");
        assert_eq!(connect.port.number(), attempt.port, "{shown}");
        assert_eq!(connect.source, attempt.source, "{shown}");
        assert!(connect.connect_ns <= attempt.connect_ns, "{shown}");
        let range = connect.range.context("there was a search")?;
        assert_eq!(range.ports, RANGE, "{shown}");
    }
    Ok(())
}

fn the_output_and_a_recording_of_udp_have_protocol_and_operation((): ()) -> Result<()> {
    let folder = Folder::new("udp")?;
    let file = folder.file();
    let traced = tracing_command(&format!(
        "--protocol all --by protocol --events --format json --record {}",
        file.display()
    ))?;
    let truth = udp("udp")?;
    let of_tcp = truth_of_tcp("v4 --count 5")?;
    traced.signal(libc::SIGINT)?;
    let lines = Lines::of(&report(traced)?)?;

    let of_events: Vec<Connect> = lines.events.iter().map(connect).collect::<Result<_>>()?;
    let (recorded, _) = read(&file)?;
    assert_eq!(recorded, of_events);
    let is_tcp = |connect: &&Connect| connect.kind.protocol == Protocol::Tcp;
    let (tcp, of_udp): (Vec<&Connect>, Vec<&Connect>) = recorded.iter().partition(is_tcp);
    assert_eq!(tcp.len(), of_tcp.len());
    compare(&truth, &of_udp.into_iter().copied().collect::<Vec<_>>())?;

    let again = format!("report {} --by protocol --format json", file.display());
    let again = Lines::of(&Process::start(connect_trace(&again))?.end()?.successful()?)?;
    let again = again.reports.last().context("there is a report")?;
    let first = lines.report()?;
    for said in [first, again] {
        let kinds = said["protocols"].as_array().context("an array")?;
        assert_eq!(kinds, first["protocols"].as_array().context("an array")?);
        for kind in kinds {
            let named = |field: &str| kind[field].as_str().context("a name");
            let (protocol, operation) = (named("protocol")?, named("operation")?);
            let expected = truth.iter().filter(|call| {
                call.port != Port::Untraced
                    && call.protocol == protocol
                    && call.operation == operation
            });
            let expected = match protocol {
                "tcp" => 5,
                _ => expected.count(),
            };
            assert!(
                expected > 0 && kind["connects"] == expected,
                "{kind}: {expected}"
            );
            let name = format!("{protocol} {operation}");
            let groups = said["groups"].as_array().context("an array")?;
            let group = groups.iter().find(|group| group["key"] == name);
            let group = group.with_context(|| format!("no group {name}"))?;
            assert_eq!(group["connect"]["count"], expected, "{name}");
        }
        // Ports of UDP run out for all destinations, of which the advice for TCP knows nothing.
        let warnings = said["warnings"].as_array().context("an array")?;
        let none = warnings
            .iter()
            .all(|warning| warning["kind"] != "exhaustion");
        assert!(none, "{said}");
    }
    Ok(())
}

fn the_text_of_udp_names_its_functions_and_fits_a_terminal((): ()) -> Result<()> {
    for (protocol, named, mixed) in [
        ("udp", "(udp_lib_get_port)", false),
        ("all", "port search of several protocols", true),
    ] {
        let traced = tracing_command(&format!("--protocol {protocol}"))?;
        udp("udp")?;
        truth_of_tcp("v4 --count 5")?;
        traced.signal(libc::SIGINT)?;
        let ended = report(traced)?;
        assert_fits_a_terminal(&ended);
        assert!(ended.stdout.contains(named), "{ended}");
        assert!(ended.stdout.contains("udp bind "), "{ended}");
        assert!(!ended.stdout.contains("__inet_hash_connect"), "{ended}");
        assert_eq!(
            ended.stdout.contains("--by protocol splits"),
            mixed,
            "{ended}"
        );
    }
    Ok(())
}

/// Compares each call of truth with its record; fails if a record is of no call.
fn compare(truth: &[UdpRecord], connects: &[Connect]) -> Result<()> {
    compare_to(truth, connects, Extent::Exact)
}

/// Compares each call of truth with its record, which may be missing if there are fewer.
fn compare_to(truth: &[UdpRecord], connects: &[Connect], extent: Extent) -> Result<()> {
    let mut of_thread: HashMap<u32, Vec<&Connect>> = HashMap::new();
    for connect in connects {
        of_thread.entry(connect.tid).or_default().push(connect);
    }
    let mut wrong = Vec::new();
    for call in truth {
        let records = of_thread.entry(call.tid).or_default();
        let within =
            |connect: &mut &Connect| (call.start_ns..=call.end_ns).contains(&connect.start_ns);
        let of_call: Vec<_> = records.extract_if(.., within).collect();
        match (call.port, &of_call[..]) {
            (Port::Untraced, []) => {}
            (_, []) if extent == Extent::Fewer => {}
            (Port::Searched | Port::Bound, [connect]) => {
                for difference in differences(call, connect)? {
                    wrong.push(format!(
                        "{difference}\n  truth:  {call:?}\n  record: {connect:?}"
                    ));
                }
            }
            _ => wrong.push(format!(
                "{} records of {call:?}: {of_call:?}",
                of_call.len()
            )),
        }
    }
    for connect in of_thread.into_values().flatten() {
        wrong.push(format!("a record of no call of truth's\n  {connect:?}"));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 5;
    let shown = wrong[..wrong.len().min(SHOWN)].join("\n");
    bail!(
        "{} differences between {} calls and {} records, such as:\n{shown}",
        wrong.len(),
        truth.len(),
        connects.len()
    )
}

fn differences(call: &UdpRecord, connect: &Connect) -> Result<Vec<String>> {
    let protocol = Protocol::ALL
        .into_iter()
        .find(|known| known.name() == call.protocol)
        .with_context(|| format!("no protocol {}", call.protocol))?;
    let operation = Operation::ALL
        .into_iter()
        .find(|known| known.name() == call.operation)
        .with_context(|| format!("no operation {}", call.operation))?;
    let searched = call.port == Port::Searched;
    let local = call.local.port();
    let port = match call.port {
        _ if local == 0 => SourcePort::None,
        Port::Bound => SourcePort::Bound(local),
        Port::Searched | Port::Untraced => SourcePort::Searched(local),
    };
    let family = match call.family {
        truth::Family::V4 => Family::V4,
        truth::Family::V6 => Family::V6,
        truth::Family::Mapped => Family::Mapped,
    };
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let range = connect.range.map(|range| range.to_string());
    let reached = searched || call.errno == 0;
    let strategy = connect.port_choice.map(|choice| choice.name());
    let mut source = call.local.ip().to_canonical();
    if call.errno != 0 && source.is_unspecified() {
        // Not compared: the kernel shows either form of the address of an IPv6 socket.
        source = connect.source.unwrap_or(source);
    }
    let facts = [
        ("protocol", protocol == connect.kind.protocol),
        ("operation", operation == connect.kind.operation),
        ("family", family == connect.family),
        ("errno", call.errno == connect.errno),
        ("port", port == connect.port),
        (
            "destination",
            call.remote.map(canonical) == connect.destination,
        ),
        ("source", reached.then_some(source) == connect.source),
        ("netns", Some(call.netns) == connect.netns.map(u64::from)),
        ("search", searched == connect.search_ns.is_some()),
        (
            "search within the call",
            connect.search_ns.unwrap_or(0) <= connect.connect_ns,
        ),
        (
            "end within the call",
            connect.start_ns + connect.connect_ns <= call.end_ns,
        ),
        ("range", searched.then(|| call.range.clone()) == range),
        (
            "no parity",
            connect.range.is_none_or(|range| !range.by_parity),
        ),
        (
            "strategy",
            reached.then_some(&call.strategy[..]) == strategy,
        ),
        (
            "scanned",
            connect.scanned.is_none() && connect.checks.is_none(),
        ),
    ];
    let wrong = facts.into_iter().filter(|&(_, holds)| !holds);
    Ok(wrong.map(|(fact, _)| fact.to_owned()).collect())
}
