//! The privileges of the service: those that it starts with and those that it keeps (docs/security.md), and what it tells
//! the service manager.

use std::{
    collections::HashSet,
    env, fs, io,
    net::{TcpListener, TcpStream},
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _, symlink},
            net::{UnixDatagram, UnixListener},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use caps::{
    CapSet,
    Capability::{self, CAP_BPF, CAP_PERFMON, CAP_SETGID, CAP_SETPCAP, CAP_SETUID, CAP_SYSLOG},
};
use connect_trace::{kernel, probes::attach::AttachMode};

use crate::{
    Test,
    check::Setting,
    process::{Process, until},
    program::{attach, connect_trace, nothing_is_left, report},
    service::{Service, temporary},
    symbols,
    truth::truth,
};

pub const TESTS_OF_MODES: &[Test<AttachMode>] = crate::tests![
    All: [
        root_keeps_nothing_that_is_not_needed,
        a_user_with_two_capabilities_serves,
    ],
];

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        a_user_with_two_capabilities_traces,
    ],
    All: [
        a_reload_opens_only_what_is_documented,
    ],
    Oldest: [
        the_manager_is_told_what_happens,
        sockets_of_the_manager_are_served_and_stay,
    ],
];

/// A user without privileges.
const NOBODY: u32 = 65_534;

/// The capabilities of a process or a thread, each set as the kernel's bits.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    no_new_privileges: bool,
}

impl Held {
    fn of(status: &Path) -> Result<Self> {
        let text = fs::read_to_string(status)?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
                .with_context(|| format!("no {name} in {text}"))
        };
        let set = |name: &str| anyhow::Ok(u64::from_str_radix(field(name)?, 16)?);
        Ok(Self {
            inheritable: set("CapInh:")?,
            permitted: set("CapPrm:")?,
            effective: set("CapEff:")?,
            bounding: set("CapBnd:")?,
            ambient: set("CapAmb:")?,
            no_new_privileges: field("NoNewPrivs:")? == "1",
        })
    }

    /// Returns the sets of a process that keeps these capabilities.
    fn only(kept: &[Capability]) -> Self {
        let kept = bits(kept);
        Self {
            inheritable: 0,
            permitted: kept,
            effective: kept,
            bounding: 0,
            ambient: 0,
            no_new_privileges: true,
        }
    }
}

fn bits(capabilities: &[Capability]) -> u64 {
    let bits = capabilities
        .iter()
        .map(|capability| 1 << capability.index());
    bits.fold(0, |all, bit: u64| all | bit)
}

/// Returns the capabilities of every thread.
fn of_threads(pid: u32) -> Result<Vec<Held>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
    threads
        .map(|thread| Held::of(&thread?.path().join("status")))
        .collect()
}

/// Returns the processes whose parent is this one, by name.
fn children(pid: u32) -> Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")? {
        let folder = process?.path();
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        if field("PPid:") == Some(pid.to_string()) {
            let id = field("Pid:").context("no Pid")?.parse()?;
            found.push((field("Name:").context("no Name")?, id));
        }
    }
    Ok(found)
}

/// Returns the capabilities that reading maps takes after attaching: Linux 5.19 is the first to let a descriptor be enough.
fn for_reading() -> Result<Vec<Capability>> {
    let release = kernel::release();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let (major, minor) = (numbers.next(), numbers.next());
    let version = (major.context("no release")??, minor.context("no release")??);
    Ok(if version < (5, 19) {
        vec![CAP_BPF]
    } else {
        vec![]
    })
}

/// Returns true if the kernel shows a Landlock among its security modules.
fn has_landlock() -> Result<bool> {
    Ok(fs::read_to_string("/sys/kernel/security/lsm")?.contains("landlock"))
}

/// Makes a program run as a user with these capabilities alone, as systemd does with `User`, `AmbientCapabilities`,
/// `CapabilityBoundingSet` and `LimitMEMLOCK=infinity`.
fn as_user(command: &mut Command, capabilities: &'static [Capability]) {
    let become_user = move || -> Result<(), caps::errors::CapsError> {
        let wanted: HashSet<_> = capabilities.iter().copied().collect();
        let meanwhile = [CAP_SETGID, CAP_SETUID, CAP_SETPCAP];
        let meanwhile = wanted.iter().copied().chain(meanwhile).collect();
        for capability in caps::all() {
            if !wanted.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
        caps::securebits::set_keepcaps(true)?;
        caps::set(None, CapSet::Effective, &meanwhile)?;
        caps::set(None, CapSet::Permitted, &meanwhile)?;
        // SAFETY: the calls take numbers and a limit, and change this process alone.
        unsafe {
            let unlimited = libc::rlimit {
                rlim_cur: libc::RLIM_INFINITY,
                rlim_max: libc::RLIM_INFINITY,
            };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited);
            libc::setgroups(0, std::ptr::null());
            libc::setresgid(NOBODY, NOBODY, NOBODY);
            libc::setresuid(NOBODY, NOBODY, NOBODY);
        }
        caps::set(None, CapSet::Effective, &wanted)?;
        caps::set(None, CapSet::Permitted, &wanted)?;
        caps::set(None, CapSet::Inheritable, &wanted)?;
        caps::set(None, CapSet::Ambient, &wanted)
    };
    // SAFETY: the calls change this process alone. The test's only other threads wait for output.
    unsafe {
        command
            .pre_exec(move || become_user().map_err(|error| io::Error::other(error.to_string())));
    }
}

/// Connects some, and compares the service's figures.
fn it_works(service: &Service) -> Result<()> {
    const CALLS: &str = "connect_trace_connects_total";
    let before = service.metrics()?.sum(CALLS, &[]);
    truth("v4 --count 7")?;
    truth("v6 --count 5")?;
    service.metrics_when("all calls are counted", |metrics| {
        metrics.sum(CALLS, &[]) - before == 12.0
    })?;
    let metrics = service.metrics()?;
    assert_eq!(metrics.sum("connect_trace_account_complete", &[]), 1.0);
    assert!(metrics.sum("process_resident_memory_bytes", &[]) > 0.0);
    assert_eq!(service.get("/healthz")?.status, 200);
    Ok(())
}

/// Ensures that the service said what it keeps, and then that it kept just that.
fn it_keeps_only(service: &Service, kept: &[Capability]) -> Result<()> {
    let said = service.process.stderr();
    let words = match kept {
        [] => "Dropped all capabilities.",
        _ => "Dropped all capabilities but CAP_BPF.",
    };
    ensure!(said.contains(words), "{words}: {said}");
    let of_files = if has_landlock()? {
        "May read /proc/self, "
    } else {
        "Files are not restricted"
    };
    ensure!(said.contains(of_files), "{of_files}: {said}");
    let threads = of_threads(service.process.pid())?;
    ensure!(!threads.is_empty(), "no threads");
    for thread in threads {
        assert_eq!(thread, Held::only(kept), "{said}");
    }
    Ok(())
}

fn root_keeps_nothing_that_is_not_needed(mode: AttachMode) -> Result<()> {
    let service = Service::start(attach(mode))?;
    it_keeps_only(&service, &for_reading()?)?;
    let children = children(service.process.pid())?;
    match mode {
        AttachMode::Fentry => assert_eq!(children, []),
        AttachMode::Kprobe => {
            let [(name, pid)] = &children[..] else {
                anyhow::bail!("{children:?}");
            };
            assert_eq!(name, "ct-janitor");
            assert_eq!(of_threads(*pid)?, [Held::only(&[])]);
        }
    }
    it_works(&service)?;
    service.end()?;
    nothing_is_left()
}

fn a_user_with_two_capabilities_serves(mode: AttachMode) -> Result<()> {
    // Debian's kernels let only CAP_SYS_ADMIN open perf events, which kprobes take, if this setting is 3, the default.
    let paranoid = Setting::of("/proc/sys/kernel/perf_event_paranoid")?;
    if mode == AttachMode::Kprobe {
        paranoid.set("2")?;
    }
    // The tests' own list of symbols shows addresses to everyone.
    let _whole = symbols::whole()?;
    // The service creates its Unix socket there.
    fs::set_permissions(env::temp_dir(), fs::Permissions::from_mode(0o1777))?;
    let service = Service::start_as(attach(mode), |command| {
        as_user(command, &[CAP_BPF, CAP_PERFMON]);
    })?;
    let pid = service.process.pid();
    let owner = fs::metadata(format!("/proc/{pid}"))?.uid();
    assert_eq!(owner, NOBODY);
    let kept = for_reading()?;
    // The bounding set stays what the starter left, because to change it takes CAP_SETPCAP.
    for thread in of_threads(pid)? {
        let bounding = bits(&[CAP_BPF, CAP_PERFMON]);
        let expected = Held {
            bounding,
            ..Held::only(&kept)
        };
        assert_eq!(thread, expected, "{}", service.process.stderr());
    }
    let said = service.process.stderr();
    let mut lost = vec!["the priority cannot be raised", "without CAP_SYSLOG"];
    if mode == AttachMode::Kprobe {
        lost.push("returns may be lost under load (they are counted): ");
    }
    for words in lost {
        ensure!(said.contains(words), "{words}: {said}");
    }
    it_works(&service)?;
    service.end()?;
    nothing_is_left()
}

fn a_user_with_two_capabilities_traces((): ()) -> Result<()> {
    let _whole = symbols::whole()?;
    for (capabilities, is_hidden) in [
        (&[CAP_BPF, CAP_PERFMON][..], true),
        (&[CAP_BPF, CAP_PERFMON, CAP_SYSLOG][..], false),
    ] {
        let mut command = connect_trace("--check-established count");
        as_user(&mut command, capabilities);
        let mut process = Process::start(command)?;
        process.wait_for_stderr("Tracing connect()")?;
        truth("v4 --count 9")?;
        process.signal(libc::SIGINT)?;
        let ended = report(process)?;
        assert!(ended.stdout.starts_with("9 connect() calls in "), "{ended}");
        assert!(!ended.stdout.contains("INCOMPLETE"), "{ended}");
        assert_eq!(
            ended.stderr.contains("without CAP_SYSLOG"),
            is_hidden,
            "{ended}"
        );
    }
    Ok(())
}

fn a_reload_opens_only_what_is_documented((): ()) -> Result<()> {
    let folder = temporary("configuration");
    fs::create_dir(&folder)?;
    let file = folder.join("x.toml");
    let outside = temporary("outside.toml");
    let inside = folder.join("y.toml");
    for file in [&file, &outside, &inside] {
        fs::write(file, "ipv4 = true\n")?;
    }
    let service = Service::start(&format!("--config {}", file.display()))?;
    // An editor, or Kubernetes, replaces the file by another one of its folder.
    fs::write(&inside, "ipv4 = true\ncomm = \"a\"\n")?;
    fs::remove_file(&file)?;
    symlink(&inside, &file)?;
    service.reload("Reloaded: comm a (before: none)")?;
    // The service runs as root, to whom no file's owner or mode matters: Landlock alone keeps it from others.
    fs::write(&outside, "ipv4 = true\ncomm = \"b\"\n")?;
    fs::remove_file(&file)?;
    symlink(&outside, &file)?;
    let answer = if has_landlock()? {
        "Permission denied (os error 13); the options before stay in force"
    } else {
        "Reloaded: comm b (before: a)"
    };
    service.reload(answer)?;
    // The namespaces of other processes are closed by the missing capability (CAP_SYS_PTRACE), on any kernel.
    fs::remove_file(&file)?;
    fs::write(&file, format!("netns = {}\n", std::process::id()))?;
    service.reload(
        "cannot be read; if this is a service that runs already, give a path below /run/netns",
    )?;
    fs::write(&file, "")?;
    service.reload("Reloaded: comm none")?;
    it_works(&service)?;
    service.end()?;
    fs::remove_file(outside)?;
    fs::remove_dir_all(folder)?;
    nothing_is_left()
}

fn the_manager_is_told_what_happens((): ()) -> Result<()> {
    let path = temporary("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_nonblocking(true)?;
    let next = |what: &str| {
        until(&format!("the manager is told {what}"), || {
            let mut text = [0; 4096];
            match socket.recv(&mut text) {
                Ok(length) => Ok(Some(String::from_utf8_lossy(&text[..length]).into_owned())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    };
    let service = Service::start_as("", |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000");
    })?;
    let ready = next("that it is ready")?;
    ensure!(
        ready.starts_with("READY=1\nSTATUS=Tracing by "),
        "{ready:?}"
    );
    let address = format!("http://{}", service.address);
    ensure!(ready.contains(&address), "{ready:?} has no {address}");
    for _ in 0..3 {
        assert_eq!(next("that the loop runs")?, "WATCHDOG=1\n");
    }
    let next_but_alive = |what: &str| {
        until(what, || {
            Ok(Some(next(what)?).filter(|told| told != "WATCHDOG=1\n"))
        })
    };
    service.process.signal(libc::SIGHUP)?;
    let reloads = next_but_alive("that it reloads")?;
    ensure!(
        reloads.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloads:?}"
    );
    assert_eq!(next_but_alive("that it has reloaded")?, "READY=1\n");
    service.process.signal(libc::SIGTERM)?;
    assert_eq!(next_but_alive("that it ends")?, "STOPPING=1\n");
    service.process.end()?.successful()?;
    fs::remove_file(path)?;
    Ok(())
}

fn sockets_of_the_manager_are_served_and_stay((): ()) -> Result<()> {
    let path = temporary("passed");
    let unix = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let address = tcp.local_addr()?;
    // The manager's descriptors begin at 3, and its variable names the process that they are for.
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec connect-trace serve"]);
    let passed = [unix.as_raw_fd(), tcp.as_raw_fd()];
    // SAFETY: the calls duplicate descriptors in the child.
    unsafe {
        command.pre_exec(move || {
            // Out of the way of the numbers that they get.
            let passed = passed.map(|fd| libc::fcntl(fd, libc::F_DUPFD, 64));
            for (to, fd) in (3..).zip(passed) {
                if libc::dup2(fd, to) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let mut process = Process::start(command)?;
    process.wait_for_stderr(&format!("Serving on http://{address}"))?;
    drop((unix, tcp));
    let said = process.stderr();
    ensure!(
        said.contains(&format!("Serving on unix:{}", path.display())),
        "{said}"
    );
    ensure!(!said.contains("19435"), "the default is served too: {said}");
    let service = Service::of(process, address, &path);
    for page in [
        service.get("/healthz")?,
        service.get_through_tcp("/healthz")?,
    ] {
        assert_eq!(page.status, 200, "{page:?}");
    }
    service.process.signal(libc::SIGTERM)?;
    service.process.end()?.successful()?;
    ensure!(path.exists(), "the manager's socket was removed");
    fs::remove_file(&path)?;
    ensure!(
        TcpStream::connect(address).is_err(),
        "{address} is still served"
    );
    Ok(())
}
