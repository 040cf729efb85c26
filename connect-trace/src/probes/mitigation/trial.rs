//! A trial of a mitigation before it is attached: shows what the kernel lets its programs do, in a cgroup of our own with
//! one connect() call of a child. The kernel's version tells nothing: a later one may allow more, and a security module
//! less.

use std::{
    ffi::{CStr, CString},
    fs, io,
    net::Ipv4Addr,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use connect_trace_common::{MitigationCounters, RouteKey, RouteState, mitigation::WHOLE};

use super::{Method, Mitigation, MitigationConfig, PROGRAMS, ShareBy, address_words, attach_to};
use crate::{
    kernel::{
        layout::Layout, mitigation::MitigationFields, pods::hierarchy,
        requirement::MissingRequirement,
    },
    probes::{
        ProbeConfig, attach::functions::Functions, load, read::maps::Maps,
        smallest_ring_buffer_bytes,
    },
    term::printable::printable,
};

/// Destination port of the call, at which nobody listens (tcpmux): not one that the kernel chooses, because the range may
/// be exhausted. If somebody does, the connection is closed at once.
const PORT: u16 = 1;

/// Tries a method. Returns a note if it could not be tried.
///
/// # Errors
/// Names what the kernel refused, and what to do.
pub(in crate::probes) fn try_method(
    config: &ProbeConfig,
    method: &Method,
    layout: &Layout,
    functions: &Functions,
    fields: MitigationFields,
) -> Result<Option<String>> {
    let method = &match method {
        Method::Addresses(_) => Method::Addresses(vec![Ipv4Addr::LOCALHOST.into()]),
        other => other.clone(),
    };
    let cgroup = match TrialCgroup::create() {
        Ok(cgroup) => cgroup,
        Err(error) => return Ok(Some(untried(&format!("{error:#}")))),
    };
    let config = &ProbeConfig {
        // Nothing is traced.
        ring_buffer_bytes: smallest_ring_buffer_bytes(),
        mitigation: Some(MitigationConfig {
            cgroups: vec![cgroup.folder.clone()],
            method: method.clone(),
            share: WHOLE,
            share_by: ShareBy::Thread,
        }),
        ..config.clone()
    };
    let (mut ebpf, variables) = load(config, layout, functions, None, Some(fields))?;
    let maps = Arc::new(Maps::take(&mut ebpf, variables)?);
    let programs = &PROGRAMS[..1];
    let mut mitigation = Mitigation::load(&mut ebpf, programs, method, &maps)?;
    if let Err(error) = attach_to(&mut ebpf, programs, &cgroup.folder) {
        return Ok(Some(untried(&format!("{error:#}"))));
    }
    let netns = fs::metadata("/proc/thread-self/ns/net").context("find the network namespace")?;
    let (family, loopback) = address_words(Ipv4Addr::LOCALHOST.into());
    let key = RouteKey {
        netns: u32::try_from(netns.ino())?,
        family,
        destination_port: PORT,
        destination: loopback,
    };
    let route = RouteState {
        source: loopback,
        acts: 1,
    };
    mitigation.set_route(key, route)?;
    if let Err(error) = cgroup.connect() {
        return Ok(Some(untried(&format!("{error:#}"))));
    }
    judge(method, &mitigation.counters())
}

/// Judges what the programs counted at the call.
fn judge(method: &Method, counters: &MitigationCounters) -> Result<Option<String>> {
    if counters.refused > 0 {
        let errno = i32::try_from(counters.last_errno)?;
        let error = io::Error::from_raw_os_error(errno);
        let (what, remedy) = match method {
            Method::SelectTestRepeat => (
                "select-test-repeat needs programs that set SO_REUSEADDR and bind a port before connect()",
                "use a kernel that allows it (the first one is 6.1), or source addresses",
            ),
            Method::Addresses(_) => (
                "source addresses need programs that bind one before connect()",
                "use a kernel that allows it (5.10 and later)",
            ),
            Method::FullRange => (
                "full-range needs programs that set IP_LOCAL_PORT_RANGE before connect()",
                "no kernel up to 7.3 allows it: use select-test-repeat, or `connect-trace try full-range`, which sets the \
                 option without BPF",
            ),
        };
        let what = format!("{what}, which this kernel refuses ({error})");
        return Err(MissingRequirement::new(what, remedy).into());
    }
    // A search that is exhausted was refused nothing.
    let acted = counters.applied + counters.exhausted;
    Ok((acted == 0).then(|| untried(&format!("its connect() call was left alone: {counters:?}"))))
}

fn untried(reason: &str) -> String {
    format!(
        "the mitigation could not be tried before it was attached: its counts will tell ({reason})"
    )
}

/// A cgroup for the trial, removed when this value is dropped.
struct TrialCgroup {
    folder: PathBuf,
}

impl TrialCgroup {
    fn create() -> Result<Self> {
        let root = hierarchy().context("no cgroup2 file system is mounted in a usual place")?;
        let folder = Path::new(root).join(format!("connect-trace-{}", process::id()));
        fs::create_dir(&folder).with_context(|| format!("create cgroup {}", printable(&folder)))?;
        Ok(Self { folder })
    }

    /// Lets a child in this cgroup call connect() for [`PORT`] of 127.0.0.1, and waits for its end.
    fn connect(&self) -> Result<()> {
        let processes = self.folder.join("cgroup.procs");
        // Made before the fork: after it, in a process that has threads, only async-signal-safe calls are allowed.
        let path = CString::new(processes.as_os_str().as_bytes())?;
        // SAFETY: the child calls only async-signal-safe functions, and never returns.
        let child = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()).context("fork"),
            // SAFETY: this is the child.
            0 => unsafe { connect_and_exit(&path) },
            child => child,
        };
        let mut status = 0;
        // SAFETY: the process is our own child, and there is room for its status.
        while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error).context("wait for the child");
            }
        }
        match libc::WEXITSTATUS(status) {
            0 if libc::WIFEXITED(status) => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno))
                .with_context(|| format!("move a process into {}", printable(&self.folder))),
        }
    }
}

impl Drop for TrialCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            log::warn!("cannot remove cgroup {}: {error}", printable(&self.folder));
        }
    }
}

/// Moves the process into a cgroup, calls connect(), and ends: with 0, or the error of the move.
///
/// # Safety
/// Call only in the child of a fork. Calls only async-signal-safe functions (signal-safety(7)) and never returns.
unsafe fn connect_and_exit(processes: &CStr) -> ! {
    // SAFETY: the system calls act on our own descriptors and memory.
    unsafe {
        let file = libc::open(processes.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 || libc::write(file, c"0".as_ptr().cast(), 1) != 1 {
            libc::_exit(*libc::__errno_location());
        }
        let socket = libc::socket(
            libc::AF_INET,
            libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        );
        let mut name: libc::sockaddr_in = std::mem::zeroed();
        name.sin_family = libc::AF_INET as libc::sa_family_t;
        name.sin_port = PORT.to_be();
        name.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
        let size = size_of_val(&name) as libc::socklen_t;
        libc::connect(socket, (&raw const name).cast(), size);
        libc::_exit(0)
    }
}
