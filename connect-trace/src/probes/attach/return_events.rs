//! Kretprobes that hold enough calls in flight.
//!
//! A kretprobe attached through the perf PMU has the kernel's default number of slots, twice the CPUs: if more threads
//! than that are in the search loop, most returns are lost. Only an event of tracefs (`kprobe_events`,
//! Documentation/trace/kprobetrace.rst) can have more slots. Such an event outlives the process that created it, so a
//! janitor removes it. If both are killed at once (`cgroup.kill`), the next trace that creates events removes it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;

use super::{janitor::Janitor, perf_event};
use crate::{
    kernel::{mounts::Folder, prototypes::Function, requirement::MissingRequirement},
    term::printable::printable,
};

/// Mount points of tracefs: its own, and the older one within debugfs.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// The file of tracefs that lists the events, and to which commands are written, one per write.
const LIST: &str = "kprobe_events";
/// The file of tracefs with the hits and misses of each event.
const PROFILE: &str = "kprobe_profile";
/// Group of our events. Each event is named after its function and the process that created it.
const GROUP: &str = "connect_trace";

/// Return events of this process.
pub(crate) struct ReturnEvents {
    tracefs: Folder,
    attached: Vec<OwnedFd>,
    /// Removes the events when it is dropped, or when this process dies.
    _janitor: Janitor,
}

impl ReturnEvents {
    /// Number of calls of one function that can be in flight at once: the kernel's maximum, `KRETPROBE_MAXACTIVE_MAX`.
    pub(crate) const MAX_ACTIVE: u32 = 4096;

    /// Creates an event for the return of each function.
    pub(crate) fn create(functions: &[&Function]) -> Result<Self> {
        let Offered { tracefs, list } = offered()?;
        let shown = list_of(&tracefs);
        remove_left_over(&tracefs, &list)
            .with_context(|| format!("lock {shown}, which traces share"))?;
        // The janitor is started first: it removes everything that is created from here on.
        let removals = functions
            .iter()
            .map(|function| format!("-:{GROUP}/{}", event(function)));
        let janitor = Janitor::spawn(&list, removals)
            .context("start the process that removes the return events")?;
        for function in functions {
            let (name, symbol) = (event(function), function.symbol);
            write(
                &list,
                &format!("r{}:{GROUP}/{name} {symbol}", Self::MAX_ACTIVE),
            )
            .with_context(|| format!("add a return event for {symbol} to {shown}"))?;
        }
        Ok(Self {
            tracefs,
            attached: Vec::new(),
            _janitor: janitor,
        })
    }

    /// Attaches a loaded program to the return of a function.
    pub(crate) fn attach(&mut self, function: &Function, program: &ProgramFd) -> Result<()> {
        let folder = self.tracefs.path().join("events").join(GROUP);
        let path = folder.join(event(function)).join("id");
        let id = fs::read_to_string(&path).with_context(|| format!("read {}", printable(&path)))?;
        let id = id
            .trim()
            .parse()
            .with_context(|| format!("{} has no number", printable(&path)))?;
        let event = perf_event::attach_to_tracepoint(id, program.as_fd().as_raw_fd())
            .with_context(|| format!("attach to the return event of {}", function.name))?;
        self.attached.push(event);
        Ok(())
    }

    /// Detaches every program.
    pub(crate) fn detach(&mut self) {
        self.attached.clear();
    }

    /// Returns the folder of tracefs.
    pub(crate) fn tracefs(&self) -> &Folder {
        &self.tracefs
    }
}

/// Returns the number of returns that found no free slot in this process's events, by the kernel's count
/// (`kprobe_profile`: event, hits, misses).
pub(crate) fn missed(tracefs: &Folder) -> Result<u64> {
    let path = profile(tracefs);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", printable(&path)))?;
    Ok(missed_in(&text, &maker()))
}

/// Returns the path of the file that [`missed`] reads.
pub(crate) fn profile(tracefs: &Folder) -> PathBuf {
    tracefs.path().join(PROFILE)
}

/// A tracefs in which events can be created.
pub(crate) struct Offered {
    /// The folder of tracefs.
    pub(crate) tracefs: Folder,
    /// The file that lists its events, open for additions.
    list: File,
}

/// Opens the list of events as for an addition; opening alone changes nothing.
///
/// # Errors
/// If tracefs can be neither found nor mounted, or this process may not write to it.
pub(crate) fn offered() -> Result<Offered> {
    let tracefs = Folder::find("tracefs", &TRACEFS, LIST).map_err(|error| {
        MissingRequirement::new(
            format!(
                "tracefs with {LIST} is not mounted, or not for this user, and cannot be mounted \
                 ({error})"
            ),
            "run as root, or mount it (mount -t tracefs none /sys/kernel/tracing)",
        )
    })?;
    // The file is not truncated: that would remove every event.
    match OpenOptions::new()
        .append(true)
        .open(tracefs.path().join(LIST))
    {
        Ok(list) => Ok(Offered { tracefs, list }),
        Err(error) => Err(MissingRequirement::new(
            format!("{} cannot be written to ({error})", list_of(&tracefs)),
            "run as root, without lockdown, and with tracefs mounted for writing",
        )
        .into()),
    }
}

/// Returns the name of the list of events, for people.
pub(crate) fn list_of(tracefs: &Folder) -> String {
    if tracefs.is_own() {
        format!("{LIST} of a tracefs mounted for this process")
    } else {
        printable(&tracefs.path().join(LIST)).to_string()
    }
}

impl Offered {
    /// Returns the events of traces that were killed together with their janitors; none while another trace runs.
    pub(crate) fn left_over(&self) -> Vec<String> {
        let found = match self.list.try_lock() {
            Ok(()) => ours(&self.tracefs),
            Err(_) => Vec::new(),
        };
        // Unlocking fails only if there is no lock.
        let _ = self.list.unlock();
        found
    }
}

/// Returns the name of a function's return event. The creator is part of it, because `kprobe_profile` prints no groups.
fn event(function: &Function) -> String {
    format!("{}{}", function.name, maker())
}

/// Returns the suffix of the names of this process's events: its id, and the namespace of that id.
fn maker() -> String {
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    format!("_{}_{namespace}", std::process::id())
}

/// Returns the sum of the misses of one process's events.
fn missed_in(profile: &str, maker: &str) -> u64 {
    let own = |line: &&str| {
        let event = line.split_whitespace().next();
        event.is_some_and(|event| event.ends_with(maker))
    };
    let missed = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    profile.lines().filter(own).filter_map(missed).sum()
}

/// Removes the events of traces that were killed together with their janitors, if no other trace runs. Each trace and
/// its janitor hold a shared lock on the list, in whichever container they are; from here on this trace does too.
fn remove_left_over(tracefs: &Folder, list: &File) -> io::Result<()> {
    if list.try_lock().is_ok() {
        for event in ours(tracefs) {
            if let Err(error) = write(list, &format!("-:{event}")) {
                log::warn!("return event {event} of an earlier run cannot be removed: {error}");
            }
        }
    }
    list.lock_shared()
}

/// Returns the events of this program's group.
fn ours(tracefs: &Folder) -> Vec<String> {
    let all = fs::read_to_string(tracefs.path().join(LIST)).unwrap_or_default();
    all.lines()
        .filter_map(of_group)
        .map(str::to_owned)
        .collect()
}

/// Returns `group/name` of a line of the list, if the group is ours.
fn of_group(line: &str) -> Option<&str> {
    let event = line.split_whitespace().next()?.split_once(':')?.1;
    (event.split_once('/')?.0 == GROUP).then_some(event)
}

/// Adds or removes an event.
fn write(mut list: &File, command: &str) -> io::Result<()> {
    list.write_all(command.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_of_our_group_are_ours() {
        let ours = "r4096:connect_trace/tcp_v4_connect_17_4026531836 tcp_v4_connect+0";
        assert_eq!(
            of_group(ours),
            Some("connect_trace/tcp_v4_connect_17_4026531836")
        );
        for other in [
            "p:kprobes/tcp_v4_connect_17_4026531836 tcp_v4_connect",
            "p:connect_trace2/other tcp_v4_connect",
            "p:connect_trace",
            "",
        ] {
            assert_eq!(of_group(other), None, "{other}");
        }
    }

    #[test]
    fn only_the_misses_of_the_own_events_are_counted() {
        let profile = "  tcp_v4_connect_17_2     1280     806\n  tcp_v6_connect_17_2   3   4\n\
                       tcp_v4_connect_18_2   1   1000\ntcp_v4_connect_17_3   1   1000\n  \
                       other   1  1000\n\n";
        assert_eq!(missed_in(profile, "_17_2"), 810);
        assert_eq!(missed_in("", "_17_2"), 0);
    }
}
