//! Kretprobes that hold enough calls in flight.
//!
//! A kretprobe attached through the perf PMU has the kernel's default number of slots, twice the
//! CPUs: with more threads in the search loop than that, most returns are lost. Only an event of
//! tracefs (`kprobe_events`, Documentation/trace/kprobetrace.rst) can ask for more. Such an event
//! outlives its maker, so a janitor removes it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;

use super::{janitor::Janitor, perf_event};
use crate::{kernel::lack::Lack, term::printable::printable};

/// Where tracefs is mounted: its own place, and the older one within debugfs.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// Group of our events. Each is named after its function and the process id of its maker.
const GROUP: &str = "connect_trace";

/// Return events of this process.
pub(crate) struct ReturnEvents {
    tracefs: PathBuf,
    attached: Vec<OwnedFd>,
    /// Removes the events when it is dropped, or when this process dies.
    _janitor: Janitor,
}

impl ReturnEvents {
    /// Calls of one function that can be in flight at once: the most that the kernel allows,
    /// `KRETPROBE_MAXACTIVE_MAX`.
    pub(crate) const MAX_ACTIVE: u32 = 4096;

    /// Makes an event for the return of each function.
    pub(super) fn create(functions: &[&str]) -> Result<Self> {
        let tracefs = offered()?;
        let list = tracefs.join("kprobe_events");
        remove_stale(&list);
        // The janitor comes first: whatever is made from here on is removed.
        let removals = functions
            .iter()
            .map(|name| format!("-:{GROUP}/{}", event(name)));
        let janitor = Janitor::spawn(&list, removals)
            .context("start the process that removes the return events")?;
        for name in functions {
            write(
                &list,
                &format!("r{}:{GROUP}/{} {name}", Self::MAX_ACTIVE, event(name)),
            )
            .with_context(|| format!("add a return event for {name} to {}", printable(&list)))?;
        }
        Ok(Self {
            tracefs,
            attached: Vec::new(),
            _janitor: janitor,
        })
    }

    /// Lets a loaded program run at the return of a function.
    pub(super) fn attach(&mut self, function: &str, program: &ProgramFd) -> Result<()> {
        let path = self
            .tracefs
            .join("events")
            .join(GROUP)
            .join(event(function))
            .join("id");
        let id = fs::read_to_string(&path).with_context(|| format!("read {}", printable(&path)))?;
        let id = id
            .trim()
            .parse()
            .with_context(|| format!("{} has no number", printable(&path)))?;
        let event = perf_event::attach_to_tracepoint(id, program.as_fd().as_raw_fd())
            .with_context(|| format!("attach to the return event of {function}"))?;
        self.attached.push(event);
        Ok(())
    }

    /// Lets go of every program.
    pub(super) fn detach(&mut self) {
        self.attached.clear();
    }

    /// The folder of tracefs.
    pub(super) fn tracefs(&self) -> &Path {
        &self.tracefs
    }
}

/// Returns of this process's events that found no free slot, by the kernel's count (`kprobe_profile`:
/// event, hits, misses).
pub(super) fn missed(tracefs: &Path) -> Result<u64> {
    let path = tracefs.join("kprobe_profile");
    let profile =
        fs::read_to_string(&path).with_context(|| format!("read {}", printable(&path)))?;
    Ok(missed_in(&profile, std::process::id()))
}

/// The folder of tracefs, if events can be made there.
///
/// # Errors
/// Where tracefs is not mounted, or this process may not write to it.
pub(crate) fn offered() -> Result<PathBuf> {
    let found = TRACEFS
        .iter()
        .map(Path::new)
        .find(|path| path.join("kprobe_events").exists());
    let Some(tracefs) = found else {
        return Err(Lack::new(
            "tracefs with kprobe_events is not mounted, or not for this user",
            "mount it (mount -t tracefs none /sys/kernel/tracing) and run as root",
        )
        .into());
    };
    let list = tracefs.join("kprobe_events");
    // Opened as for an event; that alone changes nothing.
    if let Err(error) = OpenOptions::new().append(true).open(&list) {
        return Err(Lack::new(
            format!("{} cannot be written to ({error})", printable(&list)),
            "run as root, without lockdown, and with tracefs mounted for writing",
        )
        .into());
    }
    Ok(tracefs.to_owned())
}

/// Name of the event of a function's return; with the process id, because `kprobe_profile` prints no
/// groups.
fn event(function: &str) -> String {
    format!("{function}_{}", std::process::id())
}

/// Sum of the misses of a process's events.
fn missed_in(profile: &str, maker: u32) -> u64 {
    let own = |line: &&str| line.split_whitespace().next().and_then(maker_of) == Some(maker);
    let missed = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    profile.lines().filter(own).filter_map(missed).sum()
}

/// The process id in the name of an event.
fn maker_of(event: &str) -> Option<u32> {
    event.rsplit_once('_')?.1.parse().ok()
}

/// Removes events whose makers are gone, together with their janitors.
fn remove_stale(list: &Path) {
    for event in fs::read_to_string(list)
        .unwrap_or_default()
        .lines()
        .filter_map(stale)
    {
        if let Err(error) = write(list, &format!("-:{event}")) {
            log::warn!("return event {event} of an earlier run cannot be removed: {error}");
        }
    }
}

/// `group/name` of a line of `kprobe_events` that is ours and whose maker does not run.
fn stale(line: &str) -> Option<&str> {
    let event = line.split_whitespace().next()?.split_once(':')?.1;
    let (group, name) = event.split_once('/')?;
    let maker = maker_of(name).filter(|_| group == GROUP)?;
    (!Path::new("/proc").join(maker.to_string()).exists()).then_some(event)
}

/// `kprobe_events` takes one command a write, and must not be truncated, which removes everything.
fn write(list: &Path, command: &str) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .open(list)?
        .write_all(command.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_stale_only_if_it_is_ours_and_its_maker_is_gone() {
        // Process ids end at 2^22.
        let gone = "r4096:connect_trace/tcp_v4_connect_4999999 tcp_v4_connect+0";
        assert_eq!(stale(gone), Some("connect_trace/tcp_v4_connect_4999999"));
        let own = format!(
            "r4096:connect_trace/{} tcp_v4_connect",
            event("tcp_v4_connect")
        );
        assert_eq!(stale(&own), None);
        assert_eq!(stale("p:kprobes/other_4999999 tcp_v4_connect"), None);
        assert_eq!(stale("p:connect_trace/other tcp_v4_connect"), None);
        assert_eq!(stale(""), None);
    }

    #[test]
    fn only_the_misses_of_the_own_events_are_counted() {
        let profile = "  tcp_v4_connect_17     1280     806\n  tcp_v6_connect_17   3   4\n\
                       tcp_v4_connect_18   1   1000\n  other   1  1000\n\n";
        assert_eq!(missed_in(profile, 17), 810);
        assert_eq!(missed_in("", 17), 0);
    }
}
