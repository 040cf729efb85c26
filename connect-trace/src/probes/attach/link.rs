//! A program attached to a function, until it is detached. The program stays loaded.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{
        FEntry, FExit, KProbe, ProgramError, fentry::FEntryLinkId, fexit::FExitLinkId,
        kprobe::KProbeLinkId, links,
    },
};

use super::{AttachMode, fentry, kprobe};
use crate::kernel::prototypes::Function;
use crate::probes::object;

/// An attached program, with its name.
pub(crate) enum Link {
    Entry(String, FEntryLinkId),
    Exit(String, FExitLinkId),
    Probe(String, KProbeLinkId),
}

impl Link {
    /// Attaches the loaded program of this name to the entry of a function, for the first time or again.
    pub(crate) fn to_entry(
        ebpf: &mut Ebpf,
        mode: AttachMode,
        program: String,
        function: &Function,
    ) -> Result<Self> {
        match mode {
            AttachMode::Fentry => {
                let link = fentry::attach_entry(ebpf, &program, function)?;
                Ok(Self::Entry(program, link))
            }
            AttachMode::Kprobe => Self::probe(ebpf, program, function),
        }
    }

    /// Loads the program for the return of a function.
    pub(crate) fn load_return(
        ebpf: &mut Ebpf,
        mode: AttachMode,
        function: &Function,
    ) -> Result<()> {
        match mode {
            AttachMode::Fentry => {
                fentry::load_exit(ebpf, function, &fentry::kernel_types(&[function])?)?;
            }
            AttachMode::Kprobe => {
                kprobe::load(ebpf, &kprobe::return_program(function))?;
            }
        }
        Ok(())
    }

    /// Attaches the loaded program to the return of a function, for the first time or again. Kretprobes get the
    /// kernel's default number of slots.
    pub(crate) fn to_return(
        ebpf: &mut Ebpf,
        mode: AttachMode,
        function: &Function,
    ) -> Result<Self> {
        match mode {
            AttachMode::Fentry => {
                let link = fentry::attach_exit(ebpf, function)?;
                Ok(Self::Exit(fentry::exit_program(function), link))
            }
            AttachMode::Kprobe => Self::probe(ebpf, kprobe::return_program(function), function),
        }
    }

    fn probe(ebpf: &mut Ebpf, program: String, function: &Function) -> Result<Self> {
        let probe: &mut KProbe = object::program(ebpf, &program)?;
        let link = probe.attach(function.symbol, 0);
        let link = link.with_context(|| kprobe::refused(&program, function))?;
        Ok(Self::Probe(program, link))
    }

    /// Detaches the program. The call can wait for grace periods of the kernel, up to seconds.
    pub(crate) fn detach(self, ebpf: &mut Ebpf) -> Result<()> {
        self.take(ebpf)?()
    }

    /// Takes the link from its program, and returns what detaches it, so that several can be detached at once.
    pub(crate) fn take(self, ebpf: &mut Ebpf) -> Result<Detach> {
        match self {
            Self::Entry(name, link) => {
                let link = object::program::<FEntry>(ebpf, &name)?.take_link(link);
                detach(name, link)
            }
            Self::Exit(name, link) => {
                let link = object::program::<FExit>(ebpf, &name)?.take_link(link);
                detach(name, link)
            }
            Self::Probe(name, link) => {
                let link = object::program::<KProbe>(ebpf, &name)?.take_link(link);
                detach(name, link)
            }
        }
    }
}

/// Detaches a link.
pub(crate) type Detach = Box<dyn FnOnce() -> Result<()> + Send>;

fn detach<L: links::Link + Send + 'static>(
    name: String,
    link: Result<L, ProgramError>,
) -> Result<Detach> {
    let failed = format!("detach program {name}");
    let link = link.context(failed.clone())?;
    Ok(Box::new(move || link.detach().context(failed)))
}
