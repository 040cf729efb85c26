//! The programs of connect() and of its search on their functions: put there at the start, and, where a
//! trace keeps a budget, taken off for a while and put there again.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use aya::Ebpf;

use super::{
    AttachMode, descriptor, kprobe, link::Link, lock, maps::Maps, object,
    return_events::ReturnEvents, run_stats::RunStats,
};
use crate::kernel::prototypes::Function;

/// Programs that are loaded, attached or not.
pub(super) struct Attachment {
    ebpf: Arc<Mutex<Ebpf>>,
    mode: AttachMode,
    functions: Vec<&'static Function>,
    /// Of kretprobes, where they could be made.
    return_events: Option<ReturnEvents>,
    entries: Vec<Link>,
    returns: Vec<Link>,
}

impl Attachment {
    /// Of programs that are loaded.
    pub(super) fn new(
        ebpf: Arc<Mutex<Ebpf>>,
        mode: AttachMode,
        functions: Vec<&'static Function>,
        return_events: Option<ReturnEvents>,
    ) -> Self {
        Self {
            ebpf,
            mode,
            functions,
            return_events,
            entries: Vec::new(),
            returns: Vec::new(),
        }
    }

    /// Attaches, the returns first and then the entries from the innermost out: no call that is seen to
    /// enter may search or return unseen.
    pub(super) fn attach(&mut self, stats: Option<&RunStats>) -> Result<()> {
        let mut ebpf = lock(&self.ebpf);
        for &function in &self.functions {
            match &mut self.return_events {
                Some(events) => {
                    let name = kprobe::return_program(function);
                    let program: &mut aya::programs::KProbe = object::program(&mut ebpf, &name)?;
                    events.attach(function.name, descriptor(program.fd())?)?;
                }
                None => {
                    let link = Link::to_return(&mut ebpf, self.mode, function)?;
                    self.returns.push(link);
                }
            }
        }
        for &function in self.functions.iter().rev() {
            let program = self.mode.entry_program(function);
            let link = Link::to_entry(&mut ebpf, self.mode, program, function)?;
            self.entries.push(link);
        }
        // A program may have been loaded anew for it.
        stats.map_or(Ok(()), |stats| stats.look_at(&ebpf))
    }

    /// Detaches, those that see a call enter first: calls that are in flight then still return, unless they
    /// take very long.
    pub(super) fn detach(&mut self, maps: &Maps) -> Result<()> {
        const LONGEST: Duration = Duration::from_millis(200);
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        // Attached last was the one of the outermost function. That of the search comes after the calls.
        let search = self.entries.drain(..self.entries.len().min(1));
        let search: Vec<Link> = search.collect();
        let mut ebpf = lock(&self.ebpf);
        for link in self.entries.drain(..).rev() {
            link.detach(&mut ebpf)?;
        }
        drop(ebpf);
        let start = Instant::now();
        while maps.in_flight()? > 0 && start.elapsed() < LONGEST {
            thread::sleep(LOOK_EVERY);
        }
        let mut ebpf = lock(&self.ebpf);
        for link in search.into_iter().chain(self.returns.drain(..)) {
            link.detach(&mut ebpf)?;
        }
        drop(ebpf);
        self.let_go_of_returns();
        Ok(())
    }

    /// Detaches from the return events, where there are any.
    pub(super) fn let_go_of_returns(&mut self) {
        if let Some(events) = &mut self.return_events {
            events.detach();
        }
    }
}
