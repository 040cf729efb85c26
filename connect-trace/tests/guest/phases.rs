//! The parts of connect() calls, each cause compared with a truth from another side: a range without even ports, a CPU
//! that another thread wants, and the kernel's own account of the time that a thread waited for a CPU.

use std::{
    fs, io, mem,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::{Cause, Connect, Protocols},
    kernel::btf::Btf,
    probes::{ProbeConfig, attach::AttachMode},
};

use crate::{
    Lacking, Test,
    matching::{Extent, matched},
    trace::{Session, Trace, config, crowd_is_seen},
    truth::{Range, truth},
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        the_causes_of_every_call_add_up_to_its_time,
        the_causes_of_udp_add_up_too,
        a_range_without_even_ports_is_a_matter_of_ports,
        a_thread_that_waits_for_its_cpu_is_a_matter_of_the_scheduler,
    ],
];

/// Tests for a machine with more CPUs, on which a wait for a lock is reported.
pub const TESTS_OF_A_CROWD: &[Test<AttachMode>] =
    crate::tests![All: [waits_for_the_locks_of_ports_come_with_the_threads]];

fn with_phases(mode: AttachMode) -> Result<Session> {
    Session::start(&ProbeConfig {
        phases: true,
        ..config(mode)
    })
}

/// Returns the time of a cause.
#[track_caller]
fn of(connect: &Connect, cause: Cause) -> u64 {
    connect
        .ns_by_cause()
        .expect("the parts of each call are known")[cause.index()]
}

/// Fails unless the parts of each call are known and add up.
#[track_caller]
fn assert_add_up(trace: &Trace) {
    trace.assert_complete();
    for connect in &trace.connects {
        let causes = connect.ns_by_cause();
        let causes = causes.unwrap_or_else(|| panic!("no parts: {connect:?}"));
        assert_eq!(
            causes.iter().sum::<u64>(),
            connect.connect_ns,
            "{connect:?}"
        );
        if let (Some(phases), Some(search_ns), Some(after_ns)) =
            (connect.phases, connect.search_ns, connect.after_search_ns())
        {
            let sum = phases.before_search_ns + search_ns + after_ns;
            assert_eq!(sum, connect.connect_ns, "{connect:?}");
            assert!(phases.before_search_ns > 0, "{connect:?}");
        }
    }
}

fn the_causes_of_every_call_add_up_to_its_time(mode: AttachMode) -> Result<()> {
    let session = with_phases(mode)?;
    let mut of_truth = Vec::new();
    for case in [
        "v4 --count 5",
        "v6 --count 5",
        "mapped --count 5",
        "refused --count 2",
    ] {
        of_truth.extend(truth(case)?);
    }
    of_truth.extend(truth("unreachable --count 2")?);
    let trace = session.end()?;
    assert_add_up(&trace);
    matched(&of_truth, &trace.connects, Extent::More)?;
    // A search in an empty range finds its port at once; the SYN goes through the stack, here to the peer and back. A
    // pause of the whole machine can be longer than both, and disturbs one call.
    let connected: Vec<_> = trace
        .connects
        .iter()
        .filter(|connect| connect.errno == 0)
        .collect();
    let stack = connected
        .iter()
        .filter(|connect| of(connect, Cause::Stack) > of(connect, Cause::Ports));
    assert!(stack.count() > connected.len() / 2, "{connected:#?}");
    let unreachable = trace
        .connects
        .iter()
        .filter(|connect| connect.source.is_none());
    assert!(unreachable.clone().count() >= 2);
    for connect in unreachable {
        assert_eq!(of(connect, Cause::Ports), 0, "{connect:?}");
    }
    Ok(())
}

fn the_causes_of_udp_add_up_too(mode: AttachMode) -> Result<()> {
    const COUNT: usize = 20;
    let session = Session::start(&ProbeConfig {
        phases: true,
        protocols: Protocols::UDP,
        ..config(mode)
    })?;
    for _ in 0..COUNT {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        // The socket has its port: this connect() searches none.
        socket.connect((Ipv4Addr::LOCALHOST, 9))?;
    }
    let trace = session.end()?;
    trace.assert_complete();
    let own = trace.connects.iter();
    let own = own.filter(|connect| connect.pid == process::id());
    assert_eq!(own.clone().count(), 2 * COUNT, "{:#?}", trace.connects);
    for connect in own {
        let causes = connect.ns_by_cause();
        let causes = causes.with_context(|| format!("no parts: {connect:?}"))?;
        assert_eq!(
            causes.iter().sum::<u64>(),
            connect.connect_ns,
            "{connect:?}"
        );
    }
    Ok(())
}

fn a_range_without_even_ports_is_a_matter_of_ports(mode: AttachMode) -> Result<()> {
    let session = with_phases(mode)?;
    truth("exhaust 26000-29999 --set-range --extra 3")?;
    let trace = session.end()?;
    assert_add_up(&trace);
    let odd = trace.connects.iter().filter(|connect| {
        connect.range.is_some_and(|range| range.ports.low == 26_000)
            && connect.port.number().is_some_and(|port| port % 2 == 1)
    });
    let odd: Vec<_> = odd.collect();
    assert!(odd.len() >= 1_900, "{} odd ports", odd.len());
    let sum = |cause| odd.iter().map(|connect| of(connect, cause)).sum::<u64>();
    let [ports, all] = [
        sum(Cause::Ports),
        odd.iter().map(|connect| connect.connect_ns).sum(),
    ];
    assert!(ports > all / 2, "{ports} of {all} ns are the search's");
    Ok(())
}

fn a_thread_that_waits_for_its_cpu_is_a_matter_of_the_scheduler(mode: AttachMode) -> Result<()> {
    const LOW: u16 = 40_000;
    const HALF: usize = 1_500;
    const TURN: Duration = Duration::from_micros(500);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    let connect = || -> Result<_> {
        let stream = TcpStream::connect(to)?;
        Ok((stream, listener.accept()?))
    };
    let _range = Range::read()?.set(LOW, LOW + 2 * HALF as u16 - 1)?;
    let _even = (0..HALF).map(|_| connect()).collect::<Result<Vec<_>>>()?;

    let is_over = AtomicBool::new(false);
    let (session, waited_ns) = thread::scope(|scope| {
        scope.spawn(|| {
            // A thread that takes the CPU from the connecting one whenever it wakes up.
            stay_on_first_cpu().expect("the test may choose its CPU");
            take_precedence().expect("the test may run at once");
            while !is_over.load(Ordering::Relaxed) {
                let start = Instant::now();
                while start.elapsed() < TURN {
                    std::hint::spin_loop();
                }
                thread::sleep(TURN);
            }
        });
        let connecting = scope.spawn(|| -> Result<_> {
            stay_on_first_cpu()?;
            let session = with_phases(mode)?;
            let before_ns = run_delay_ns()?;
            let _odd = (0..HALF / 4)
                .map(|_| connect())
                .collect::<Result<Vec<_>>>()?;
            Ok((session, run_delay_ns()? - before_ns))
        });
        let result = connecting.join();
        is_over.store(true, Ordering::Relaxed);
        result.expect("the thread does not panic")
    })?;
    let trace = session.end()?;
    assert_add_up(&trace);
    let own = trace.connects.iter();
    let own = own.filter(|connect| connect.pid == process::id());
    let of_cause = |cause| own.clone().map(|connect| of(connect, cause)).sum::<u64>();
    let (scheduler_ns, blocked_ns) = (of_cause(Cause::Scheduler), of_cause(Cause::Blocked));
    let connect_ns: u64 = own.clone().map(|connect| connect.connect_ns).sum();
    let shown = format!(
        "{scheduler_ns} ns by our account, {waited_ns} by the kernel's, {blocked_ns} blocked, of {connect_ns}"
    );
    eprintln!("{shown}");
    // The thread is preempted outside of connect() too.
    assert!(scheduler_ns <= waited_ns + waited_ns / 50, "{shown}");
    assert!(scheduler_ns >= waited_ns / 10, "{shown}");
    assert!(scheduler_ns > connect_ns / 10, "{shown}");
    assert!(blocked_ns < scheduler_ns / 10, "{shown}");
    Ok(())
}

/// Keeps the calling thread on the first CPU.
fn stay_on_first_cpu() -> Result<()> {
    // SAFETY: all zeros is an empty set.
    let mut cpus: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set has a first CPU.
    unsafe { libc::CPU_SET(0, &mut cpus) };
    // SAFETY: the pointer and the length are those of the set.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&cpus), &raw const cpus) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("sched_setaffinity"),
    }
}

/// Gives the calling thread a real-time priority.
fn take_precedence() -> Result<()> {
    // The kernel's sched_param. The C library's call has another meaning in musl: it fails.
    let priority: libc::c_int = 1;
    let (call, policy) = (libc::SYS_sched_setscheduler, libc::SCHED_FIFO);
    // SAFETY: the pointer is that of `priority`; 0 is the calling thread.
    match unsafe { libc::syscall(call, 0, policy, &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("sched_setscheduler"),
    }
}

/// Returns the time for which the calling thread has waited for a CPU, by the kernel's account.
fn run_delay_ns() -> Result<u64> {
    const SCHEDSTAT: &str = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(SCHEDSTAT).with_context(|| format!("cannot read {SCHEDSTAT}"))?;
    let delay = text.split_whitespace().nth(1);
    delay
        .and_then(|delay| delay.parse().ok())
        .with_context(|| format!("{SCHEDSTAT} has {text:?}"))
}

fn waits_for_the_locks_of_ports_come_with_the_threads(mode: AttachMode) -> Result<()> {
    if thread::available_parallelism()?.get() < 3 {
        return Err(Lacking("a third CPU: the test is for the machine of crowd::").into());
    }
    crowd_is_seen(mode)?;
    let waited_ns = |threads: u32| -> Result<[u64; 2]> {
        let session = with_phases(mode)?;
        truth(&format!(
            "threads 26000-26063 --set-range --threads {threads} --count 40"
        ))?;
        let trace = session.end()?;
        assert_add_up(&trace);
        let waits = trace.connects.iter().map(|connect| {
            let phases = connect.phases.context("no parts")?;
            let waits = phases.lock_waits.context("no waits for locks")?;
            Ok((waits.bhash_ns, waits.of_tables_ns()))
        });
        let waits = waits.collect::<Result<Vec<_>>>()?;
        let bhash_ns = waits.iter().map(|(bhash_ns, _)| bhash_ns).sum();
        Ok([bhash_ns, waits.iter().map(|(_, all_ns)| all_ns).sum()])
    };
    let btf = Btf::of_running_kernel()?;
    if btf.structure("trace_event_raw_contention_begin").is_none() {
        let error = waited_ns(1).expect_err("the kernel does not show them");
        assert_eq!(error.to_string(), "no waits for locks");
        return Err(Lacking("the tracepoint lock:contention_begin").into());
    }
    let [alone, crowd] = [waited_ns(1)?, waited_ns(32)?];
    eprintln!("bhash, and all tables: {alone:?} ns by one thread, {crowd:?} ns by 32");
    assert_eq!(alone, [0; 2]);
    // Since 6.15 the search passes a flag to the check, and takes no lock for a port that is taken.
    let check = btf.parameters("__inet_check_established")?;
    let takes_locks = check.is_some_and(|parameters| parameters.len() == 4);
    if takes_locks {
        assert!(crowd[0] > 0, "{crowd:?}");
    }
    Ok(())
}
