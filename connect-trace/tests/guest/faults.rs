//! A service that meets faults: it goes on and counts exactly, or says what is missing. docs/faults.md lists them.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::kernel::btf::VMLINUX;
use serde_json::Value;

use crate::{
    Lacking, Test,
    check::{BARE, Setting},
    output::step_clock,
    peer::{PROBES, is_probed},
    process::{Process, until},
    program::{connect_trace, report, traces_in_kernel, tracing},
    service::{Metrics, Service, get, temporary},
    symbols,
    truth::{Truth, truth},
};

pub const TESTS: &[Test<()>] = crate::tests![
    OldestAndNewest: [
        a_full_ring_buffer_costs_the_service_records_that_are_counted,
        calls_beyond_the_most_in_flight_cost_the_service_nothing_else,
        a_killed_service_leaves_nothing_in_the_kernel_and_its_socket_to_the_next,
        a_cpu_that_goes_and_comes_loses_no_call,
        a_cgroup_that_is_removed_under_a_filter_is_followed,
        a_network_namespace_that_is_deleted_under_a_filter_ends_nothing,
        without_mounts_and_symbols_the_service_counts_all,
        without_types_the_service_says_what_is_missing,
        tracers_that_come_and_go_beside_the_service_take_no_call_unsaid,
    ],
    Oldest: [
        messages_that_cannot_be_written_are_all_that_is_missing,
        a_stop_and_a_step_of_the_clock_change_no_figure,
        a_scrape_while_the_service_starts_or_ends_is_whole_or_none,
        two_thousand_clients_that_ask_for_nothing_leave_room_for_a_scrape,
        clients_that_take_all_descriptors_are_closed,
        requests_without_sense_or_bounds_are_refused_one_by_one,
        an_address_that_is_taken_is_named_before_anything_is_attached,
    ],
];

const OUTCOMES: &str = "connect_trace_connect_calls_total";

/// Returns the number of calls with this outcome of their records.
fn outcome(metrics: &Metrics, of: &str) -> f64 {
    metrics.sum(OUTCOMES, &[&format!("outcome=\"{of}\"")])
}

/// Returns the number of calls, whatever became of their records.
pub fn accounted(metrics: &Metrics) -> f64 {
    metrics.sum(OUTCOMES, &[])
}

pub fn is_complete(metrics: &Metrics) -> bool {
    metrics.sum("connect_trace_account_complete", &[]) == 1.0
}

/// Returns the number of open descriptors of a process.
pub fn descriptors(pid: u32) -> Result<usize> {
    let folder = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&folder).context(folder)?.count())
}

/// Sends a signal to a process that is not a child.
fn signal(pid: libc::pid_t, signal: libc::c_int) -> Result<()> {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::kill(pid, signal) };
    ensure!(result == 0, io::Error::last_os_error());
    Ok(())
}

/// Checks that the service is well and counts `more` connect() calls that are made now, none of which is lost.
#[track_caller]
fn assert_goes_on(service: &Service, more: usize) -> Result<()> {
    let before = service.metrics()?;
    truth(&format!("v4 --count {more}"))?;
    let after = service.metrics()?;
    after.ensure_not_before(&before)?;
    assert_eq!(after.calls() - before.calls(), more as f64);
    assert_eq!(service.get("/healthz")?.status, 200);
    Ok(())
}

fn a_full_ring_buffer_costs_the_service_records_that_are_counted((): ()) -> Result<()> {
    // The smallest ring buffer, with a record of every call.
    let service = Service::start("--ring-buffer 64K --min-latency 1ns")?;
    service.process.signal(libc::SIGSTOP)?;
    // More than the ring buffer has room for, however slow the machine is.
    let mut made = 0.0;
    while made < 3_000.0 {
        made += Truth::start("rate --threads 1 --seconds 2")?.calls()? as f64;
    }
    service.process.signal(libc::SIGCONT)?;
    let metrics = service.metrics_when("each call is accounted for", |metrics| {
        accounted(metrics) == made
    })?;
    let lost = outcome(&metrics, "lost_ring");
    assert!(lost > 0.0 && lost < made, "{lost} of {made}: {metrics:?}");
    assert_eq!(outcome(&metrics, "reported"), made - lost, "{metrics:?}");
    assert_eq!(metrics.calls(), made - lost, "{metrics:?}");
    assert!(is_complete(&metrics), "{metrics:?}");
    assert_goes_on(&service, 20)?;
    service.end()?;
    Ok(())
}

fn calls_beyond_the_most_in_flight_cost_the_service_nothing_else((): ()) -> Result<()> {
    let service = Service::start("--max-in-flight 1")?;
    let made = truth("threads 27000-27255 --set-range --threads 32 --count 16")?.len() as f64;
    let metrics = service.metrics()?;
    let lost = outcome(&metrics, "lost_in_flight");
    assert!(lost > 0.0 && lost < made, "{lost} of {made}: {metrics:?}");
    assert_eq!(accounted(&metrics), made, "{metrics:?}");
    assert_eq!(metrics.calls(), made - lost, "{metrics:?}");
    assert_goes_on(&service, 20)?;
    service.end()?;
    Ok(())
}

/// Starts a service that listens on a Unix socket alone.
fn start_on(socket: &Path) -> Result<Process> {
    let mut process = Process::start(connect_trace(&format!(
        "serve --listen unix:{}",
        socket.display()
    )))?;
    process.wait_for_stderr("Serving on unix:")?;
    Ok(process)
}

fn metrics_of(socket: &Path) -> Result<Metrics> {
    Metrics::parse(&get(socket, "/metrics")?.body)
}

fn a_killed_service_leaves_nothing_in_the_kernel_and_its_socket_to_the_next((): ()) -> Result<()> {
    let socket = temporary("killed");
    let killed = start_on(&socket)?;
    truth("v4 --count 3")?;
    ensure!(!traces_in_kernel()?.is_empty(), "nothing of it is seen");
    killed.signal(libc::SIGKILL)?;
    killed.end()?;
    assert!(socket.exists());
    let mut left = Vec::new();
    until("nothing is left", || {
        left = traces_in_kernel()?;
        Ok(left.is_empty().then_some(()))
    })
    .with_context(|| left.join("\n"))?;
    let next = start_on(&socket)?;
    truth("v4 --count 4")?;
    assert_eq!(metrics_of(&socket)?.calls(), 4.0);
    next.signal(libc::SIGTERM)?;
    next.end()?.successful()?;
    assert!(!socket.exists());
    Ok(())
}

fn a_stop_and_a_step_of_the_clock_change_no_figure((): ()) -> Result<()> {
    const HOUR: i64 = 3600;
    let service = Service::start("--interval 0.5")?;
    service.process.signal(libc::SIGSTOP)?;
    truth("v4 --count 25")?;
    thread::sleep(Duration::from_secs(2));
    service.process.signal(libc::SIGCONT)?;
    let stopped = service.metrics()?;
    assert_eq!(stopped.calls(), 25.0, "{stopped:?}");
    assert!(is_complete(&stopped), "{stopped:?}");
    assert_goes_on(&service, 5)?;
    for step in [HOUR, -HOUR] {
        step_clock(step)?;
        assert_goes_on(&service, 7)?;
        // Intervals end, and the calls of the last ones have a report.
        truth("v6 --count 3")?;
        until("a report has the calls", || {
            let report = service.get("/report")?;
            let report: Value = match report.status {
                200 => serde_json::from_str(&report.body)?,
                _ => Value::Null,
            };
            Ok((report["connects"].as_u64() > Some(0)).then_some(()))
        })?;
    }
    let after = service.metrics()?;
    after.ensure_not_before(&stopped)?;
    assert_eq!(after.calls(), 50.0, "{after:?}");
    service.end()?;
    Ok(())
}

fn messages_that_cannot_be_written_are_all_that_is_missing((): ()) -> Result<()> {
    // A full disk, a pipe without a reader, and no descriptor at all.
    for outputs in [">/dev/full 2>/dev/full", "2>&1 | true", ">&- 2>&-"] {
        let [socket, pid, config] = ["http", "pid", "toml"].map(temporary);
        fs::write(&config, "")?;
        let service = format!(
            "sh -c 'echo $$ >{}; exec connect-trace serve -v --listen unix:{} --config {}' {outputs}",
            pid.display(),
            socket.display(),
            config.display(),
        );
        let mut command = Command::new("sh");
        command.args(["-c", &format!("set -o pipefail; {service}")]);
        let process = Process::start(command)?;
        until("it serves", || {
            Ok(get(&socket, "/readyz")
                .is_ok_and(|page| page.status == 200)
                .then_some(()))
        })
        .with_context(|| outputs)?;
        let id = fs::read_to_string(&pid)?.trim().parse()?;
        // An error of a reload and a warning of a route, in vain.
        fs::write(&config, "no-such-key = 1\n")?;
        signal(id, libc::SIGHUP)?;
        let made = truth("exhaust 26000-26099 --set-range --extra 10")?.len() as f64;
        truth("v4 --count 5")?;
        let metrics = metrics_of(&socket)?;
        assert_eq!(metrics.calls(), made + 5.0, "{outputs}: {metrics:?}");
        let warnings = metrics.sum("connect_trace_route_warnings_total", &[]);
        assert_eq!(warnings, 1.0, "{outputs}: {metrics:?}");
        signal(id, libc::SIGTERM)?;
        process.end()?.successful().with_context(|| outputs)?;
        assert!(!socket.exists(), "{outputs}");
        fs::remove_file(&pid)?;
        fs::remove_file(&config)?;
    }
    Ok(())
}

/// Sends `bytes` and returns all that comes back, without an error if the service closes the connection.
fn answer(mut stream: impl Read + Write, bytes: &[u8]) -> String {
    // The service may have closed the connection before everything was sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Returns the status of an answer; `None` if there is no answer.
fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn a_scrape_while_the_service_starts_or_ends_is_whole_or_none((): ()) -> Result<()> {
    let socket = temporary("starting");
    let ended = AtomicBool::new(false);
    let scrape_on = || {
        let mut whole = 0;
        while !ended.load(Ordering::Relaxed) {
            let Ok(stream) = UnixStream::connect(&socket) else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let answer = answer(stream, SCRAPE);
            match status(&answer) {
                None => ensure!(answer.is_empty(), "{answer}"),
                Some(503) => {}
                Some(200) => {
                    let (head, body) = answer.split_once("\r\n\r\n").context("half a head")?;
                    let length = format!("content-length: {}\r\n", body.len());
                    ensure!(format!("{head}\r\n").contains(&length), "{answer}");
                    whole += 1;
                }
                Some(other) => anyhow::bail!("{other}: {answer}"),
            }
        }
        Ok(whole)
    };
    let whole = thread::scope(|scope| {
        let scraper = scope.spawn(scrape_on);
        let services = || {
            for _ in 0..2 {
                let process = start_on(&socket)?;
                thread::sleep(Duration::from_millis(300));
                process.signal(libc::SIGTERM)?;
                process.end()?.successful()?;
            }
            anyhow::Ok(())
        };
        let served = services();
        ended.store(true, Ordering::Relaxed);
        let whole = scraper.join().expect("it returns its errors");
        served.and(whole)
    })?;
    assert!(whole > 1, "{whole}");
    Ok(())
}

/// Half of a request.
const HALF: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: local";

/// A client that sends nothing or half a request, and waits.
enum Idle {
    Tcp(#[expect(dead_code, reason = "it is kept open")] TcpStream),
    Unix(#[expect(dead_code, reason = "it is kept open")] UnixStream),
}

impl Idle {
    /// Connects the client of this number: half of them by TCP, and half of each send half a request.
    fn connect(service: &Service, number: usize) -> Result<Self> {
        // An error of sending means that the service has closed the connection already.
        Ok(if number.is_multiple_of(2) {
            let mut stream = TcpStream::connect(service.address)?;
            if number.is_multiple_of(4) {
                let _ = stream.write_all(HALF);
            }
            Self::Tcp(stream)
        } else {
            let mut stream = UnixStream::connect(service.socket())?;
            if number % 4 == 1 {
                let _ = stream.write_all(HALF);
            }
            Self::Unix(stream)
        })
    }
}

fn two_thousand_clients_that_ask_for_nothing_leave_room_for_a_scrape((): ()) -> Result<()> {
    const CLIENTS: usize = 2_000;
    /// The maximum of clients of the two listeners, with some that are about to be closed.
    const ROOM: usize = 2 * 64 + 16;
    let service = Service::start("")?;
    let pid = service.process.pid();
    let before = descriptors(pid)?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Idle::connect(&service, number)?);
        if number.is_multiple_of(200) {
            assert_eq!(service.get("/metrics")?.status, 200);
            assert_eq!(service.get_through_tcp("/healthz")?.status, 200);
            let open = descriptors(pid)?;
            assert!(open <= before + ROOM, "{open} descriptors, {before} before");
        }
    }
    // One that reads a byte now and then: the kernel has the whole answer for it, and the service is done with it.
    let mut slow = UnixStream::connect(service.socket())?;
    slow.write_all(SCRAPE)?;
    let mut byte = [0];
    for _ in 0..5 {
        slow.read_exact(&mut byte)?;
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(service.get("/metrics")?.status, 200);
    // Those that are left are closed although they stay.
    until("the service has closed its clients", || {
        Ok((descriptors(pid)? <= before).then_some(()))
    })?;
    let mut rest = String::new();
    slow.read_to_string(&mut rest)?;
    assert!(rest.ends_with('\n'), "{rest}");
    drop(clients);
    assert_goes_on(&service, 5)?;
    service.end()?;
    Ok(())
}

fn clients_that_take_all_descriptors_are_closed((): ()) -> Result<()> {
    const MORE: usize = 12;
    let service = Service::start("")?;
    let pid = service.process.pid();
    let most = (descriptors(pid)? + MORE) as libc::rlim_t;
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: `limit` is a valid rlimit, and the earlier one is not asked for.
    let result = unsafe {
        libc::prlimit(
            pid.cast_signed(),
            libc::RLIMIT_NOFILE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    ensure!(result == 0, io::Error::last_os_error());
    let clients: Result<Vec<Idle>> = (0..8 * MORE)
        .map(|number| Idle::connect(&service, number))
        .collect();
    let clients = clients?;
    // A reading may fail, for a client alone, until clients are closed.
    until("a scrape is answered", || {
        let scrape = get(service.socket(), "/metrics");
        Ok(scrape.is_ok_and(|page| page.status == 200).then_some(()))
    })?;
    drop(clients);
    assert_goes_on(&service, 5)?;
    service.end()?;
    Ok(())
}

fn requests_without_sense_or_bounds_are_refused_one_by_one((): ()) -> Result<()> {
    let service = Service::start("")?;
    let long = "a".repeat(100_000);
    let many = "x: y\r\n".repeat(1000);
    for (request, expected) in [
        ("\0\u{1}\u{2}\r\n\r\n", 400),
        ("GET /metrics HTTP/9.9\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n", 400),
        (&format!("GET /metrics HTTP/1.1\r\nx: {long}\r\n\r\n"), 431),
        (&format!("GET /metrics HTTP/1.1\r\n{many}\r\n"), 431),
        ("GET /nothing HTTP/1.1\r\n\r\n", 404),
        (
            "POST /metrics HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\nx",
            405,
        ),
        ("DELETE /healthz HTTP/1.0\r\n\r\n", 405),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
    ] {
        let stream = UnixStream::connect(service.socket())?;
        let answer = answer(stream, request.as_bytes());
        let start: String = request.chars().take(40).collect();
        assert_eq!(status(&answer), Some(expected), "{start:?}: {answer}");
    }
    // Without an end of the line, and without an end.
    for request in ["", "GET", &long, &format!("GET /{long}")] {
        let stream = UnixStream::connect(service.socket())?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let answer = answer(stream, request.as_bytes());
        let status = status(&answer);
        assert!(matches!(status, None | Some(414 | 431)), "{answer}");
    }
    assert_goes_on(&service, 5)?;
    let ended = service.end()?;
    assert!(!ended.stderr.contains("panic"), "{ended}");
    Ok(())
}

/// The second CPU, which is online again when this value is dropped.
struct SecondCpu(Setting);

impl SecondCpu {
    fn find() -> Result<Self> {
        const SWITCH: &str = "/sys/devices/system/cpu/cpu1/online";
        if !Path::new(SWITCH).exists() {
            return Err(Lacking("CPUs that can be taken offline").into());
        }
        Ok(Self(Setting::of(SWITCH)?))
    }

    fn is_online(&self, online: bool) -> Result<()> {
        self.0.set(if online { "1" } else { "0" })
    }
}

fn a_cpu_that_goes_and_comes_loses_no_call((): ()) -> Result<()> {
    let cpu = SecondCpu::find()?;
    for at_start in [true, false] {
        cpu.is_online(at_start)?;
        let service = Service::start("")?;
        let load = Truth::start("rate --threads 3 --seconds 2")?;
        for online in [!at_start, at_start, !at_start, true] {
            thread::sleep(Duration::from_millis(300));
            cpu.is_online(online)?;
        }
        let made = load.calls()? as f64;
        let metrics = service.metrics_at_rest()?;
        assert_eq!(metrics.calls(), made, "{metrics:?}");
        assert_eq!(accounted(&metrics), made, "{metrics:?}");
        assert!(is_complete(&metrics), "{metrics:?}");
        assert_goes_on(&service, 5)?;
        service.end()?;
    }
    Ok(())
}

fn a_cgroup_that_is_removed_under_a_filter_is_followed((): ()) -> Result<()> {
    let folder = Path::new("/sys/fs/cgroup/connect-trace-faults");
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Err(Lacking("version 2 of the cgroup hierarchy").into());
    }
    let connect_inside = |count| {
        let held = Truth::hold(&format!("v4 --count {count}"))?;
        fs::write(folder.join("cgroup.procs"), held.pid().to_string())?;
        held.release()?;
        held.end()
    };
    let remove = || until("it is removed", || Ok(fs::remove_dir(folder).ok()));
    fs::create_dir(folder)?;
    let mut service = Service::start(&format!("--cgroup {}", folder.display()))?;
    connect_inside(6)?;
    remove()?;
    service
        .process
        .wait_for_stderr("removed; if it is created again")?;
    truth("v4 --count 3")?;
    assert_eq!(service.metrics()?.calls(), 6.0);
    // It comes and goes while the service looks at it.
    for _ in 0..200 {
        fs::create_dir(folder)?;
        fs::remove_dir(folder)?;
    }
    fs::create_dir(folder)?;
    until("its calls are counted again", || {
        connect_inside(4)?;
        Ok((service.metrics()?.calls() > 6.0).then_some(()))
    })?;
    assert!(!service.process.has_ended()?);
    service.end()?;
    remove()
}

/// Returns the inode of the network namespace of a process.
fn netns(process: &str) -> Result<String> {
    let link = fs::read_link(format!("/proc/{process}/ns/net"))?;
    Ok(link.display().to_string())
}

fn a_network_namespace_that_is_deleted_under_a_filter_ends_nothing((): ()) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", "ip link set lo up; exec sleep 1000"]);
    let holder = Process::start(command)?;
    let pid = holder.pid().to_string();
    until("it sleeps in its namespace", || {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"))?;
        Ok((netns(&pid)? != netns("self")? && comm.trim() == "sleep").then_some(()))
    })?;
    let mut service = Service::start(&format!("--netns {pid}"))?;
    let mut inside = Command::new("nsenter");
    inside.args(["-t", &pid, "-n", "truth", "v4", "--count", "5"]);
    let inside = Truth::hold_command(inside)?;
    inside.release()?;
    inside.end()?;
    assert_eq!(service.metrics()?.calls(), 5.0);
    drop(holder);
    truth("v4 --count 7")?;
    // It cannot be found again, so that the old filter stays.
    service.process.signal(libc::SIGHUP)?;
    service.process.wait_for_stderr("stay in force")?;
    assert_eq!(service.metrics()?.calls(), 5.0);
    assert_eq!(service.get("/healthz")?.status, 200);
    service.end()?;
    Ok(())
}

/// Starts a service on a Unix socket, after a script has changed the files that it sees.
fn start_after(script: &str, socket: &Path) -> Result<Process> {
    let mut command = Command::new("unshare");
    let service = format!(
        "exec connect-trace serve --listen unix:{}",
        socket.display()
    );
    command.args(["-m", "sh", "-e", "-c", &format!("{script}\n{service}")]);
    Process::start(command)
}

fn without_mounts_and_symbols_the_service_counts_all((): ()) -> Result<()> {
    let _whole = symbols::whole()?;
    let addresses = Setting::of("/proc/sys/kernel/kptr_restrict")?;
    addresses.set("2")?;
    // The addresses are hidden by the setting, or all symbols by an empty file.
    for symbols in ["", "mount --bind /dev/null /proc/kallsyms"] {
        let socket = temporary("bare");
        let mut process = start_after(&format!("{BARE}\n{symbols}"), &socket)?;
        process.wait_for_stderr("Serving on unix:")?;
        let made = truth("threads 26000-26499 --set-range --threads 8 --count 24")?.len() as f64;
        let metrics = metrics_of(&socket)?;
        assert_eq!(metrics.calls(), made, "{symbols}: {metrics:?}");
        assert!(is_complete(&metrics), "{symbols}: {metrics:?}");
        process.signal(libc::SIGTERM)?;
        process.end()?.successful()?;
    }
    Ok(())
}

fn without_types_the_service_says_what_is_missing((): ()) -> Result<()> {
    let socket = temporary("without");
    let ended = start_after(&format!("mount --bind /dev/null {VMLINUX}"), &socket)?.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
    for word in [VMLINUX, "CONFIG_DEBUG_INFO_BTF"] {
        assert!(ended.stderr.contains(word), "{word}: {ended}");
    }
    assert!(!socket.exists(), "{ended}");
    Ok(())
}

fn an_address_that_is_taken_is_named_before_anything_is_attached((): ()) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let socket = temporary("taken");
    let listener = UnixListener::bind(&socket)?;
    for address in [
        taken.local_addr()?.to_string(),
        format!("unix:{}", socket.display()),
    ] {
        let arguments = format!("serve --listen {address}");
        let ended = Process::start(connect_trace(&arguments))?.end()?;
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        for word in [address.as_str(), "Address already in use"] {
            assert!(ended.stderr.contains(word), "{word}: {ended}");
        }
    }
    drop(listener);
    fs::remove_file(&socket)?;
    Ok(())
}

fn tracers_that_come_and_go_beside_the_service_take_no_call_unsaid((): ()) -> Result<()> {
    let service = Service::start("")?;
    let load = Truth::start("rate --threads 2 --seconds 6")?;
    report(tracing("-d 0.3")?)?;
    let mut command = Command::new("funclatency");
    command.arg("tcp_v4_connect");
    let other = Process::start(command)?;
    until("funclatency has attached", || {
        Ok(is_probed(&fs::read_to_string(PROBES)?, "r").then_some(()))
    })?;
    other.signal(libc::SIGINT)?;
    other.end()?;
    report(tracing("-d 0.3 --attach kprobe")?)?;
    let made = load.calls()? as f64;
    let metrics = service.metrics_at_rest()?;
    let lost = outcome(&metrics, "lost_return");
    assert_eq!(metrics.calls(), accounted(&metrics) - lost, "{metrics:?}");
    if is_complete(&metrics) {
        assert_eq!(accounted(&metrics), made, "{metrics:?}");
    } else {
        assert!(accounted(&metrics) <= made, "{metrics:?}");
    }
    assert_goes_on(&service, 5)?;
    service.end()?;
    Ok(())
}
