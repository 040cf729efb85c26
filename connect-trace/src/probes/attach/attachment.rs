//! The programs of connect() and the port search on their functions: attached at the start and, if a trace has an
//! overhead limit, detached for a while and attached again.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use aya::Ebpf;

use super::{AttachMode, kprobe, link::Link, return_events::ReturnEvents};
use crate::kernel::prototypes::Function;
use crate::probes::{
    object::{self, descriptor, lock},
    read::run_stats::RunStats,
};

/// Programs that are loaded, attached or not.
pub(crate) struct Attachment {
    ebpf: Arc<Mutex<Ebpf>>,
    mode: AttachMode,
    functions: Vec<&'static Function>,
    /// The function of TIME_WAIT, whose return alone is probed, if it is.
    time_wait: Option<&'static Function>,
    /// Functions that are probed by kprobe in every mode, with the default number of slots.
    by_kprobe: Vec<&'static Function>,
    /// The events of the kretprobes, if they could be created.
    return_events: Option<ReturnEvents>,
    links: Vec<Link>,
}

impl Attachment {
    /// Creates an attachment of loaded programs, which are not attached yet.
    pub(crate) fn new(
        ebpf: Arc<Mutex<Ebpf>>,
        mode: AttachMode,
        functions: Vec<&'static Function>,
        time_wait: Option<&'static Function>,
        return_events: Option<ReturnEvents>,
    ) -> Self {
        Self {
            ebpf,
            mode,
            functions,
            time_wait,
            by_kprobe: Vec::new(),
            return_events,
            links: Vec::new(),
        }
    }

    /// Returns the attachment with further functions, which are probed by kprobe in every mode.
    pub(crate) fn with_kprobes(self, by_kprobe: Vec<&'static Function>) -> Self {
        Self { by_kprobe, ..self }
    }

    /// Attaches the programs. Their order does not matter: until calls are let in
    /// ([`Maps::open`](super::maps::Maps::open)), every program ignores them.
    pub(crate) fn attach(&mut self, stats: Option<&RunStats>) -> Result<()> {
        let mut ebpf = lock(&self.ebpf);
        for &function in &self.functions {
            match &mut self.return_events {
                Some(events) => {
                    let name = kprobe::return_program(function);
                    let program: &mut aya::programs::KProbe = object::program(&mut ebpf, &name)?;
                    events.attach(function, descriptor(program.fd())?)?;
                }
                None => {
                    let link = Link::to_return(&mut ebpf, self.mode, function)?;
                    self.links.push(link);
                }
            }
            let program = self.mode.entry_program(function);
            let link = Link::to_entry(&mut ebpf, self.mode, program, function)?;
            self.links.push(link);
        }
        if let Some(function) = self.time_wait {
            // The kernel's default number of slots is enough: this function does not sleep.
            let link = Link::to_return(&mut ebpf, self.mode, function)?;
            self.links.push(link);
        }
        for &function in &self.by_kprobe {
            let mode = AttachMode::Kprobe;
            self.links.push(Link::to_return(&mut ebpf, mode, function)?);
            let program = mode.entry_program(function);
            self.links
                .push(Link::to_entry(&mut ebpf, mode, program, function)?);
        }
        // Attaching may have loaded a program again.
        stats.map_or(Ok(()), |stats| stats.look_at(&ebpf))
    }

    /// Detaches the programs. Calls must be kept out already ([`Maps::close`](super::maps::Maps::close)).
    pub(crate) fn detach(&mut self) -> Result<()> {
        let mut ebpf = lock(&self.ebpf);
        for link in self.links.drain(..) {
            link.detach(&mut ebpf)?;
        }
        drop(ebpf);
        self.let_go_of_returns();
        Ok(())
    }

    /// Detaches from the return events, if there are any.
    pub(crate) fn let_go_of_returns(&mut self) {
        if let Some(events) = &mut self.return_events {
            events.detach();
        }
    }
}
