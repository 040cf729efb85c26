//! Guests: virtual machines that boot a kernel of Debian from memory, run one command as root with the workspace's
//! programs installed, and end.

pub(crate) mod binaries;
mod cpio;
mod image;
mod libraries;
mod machine;
mod modules;
mod run_folder;
pub(crate) mod system;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use connect_trace_guest::job::Job;

use self::machine::Limits;
pub use self::machine::{Hardware, Outcome, Stream};
pub use self::run_folder::RunFolder;
use self::system::System;
use crate::arch::Arch;
use crate::tools::guest_clients::GuestClients;
use crate::tools::guest_tools::GuestTools;
use crate::tools::kernels::Kernel;
use crate::tools::peers::Peers;
use crate::tools::qemu;
use crate::tools::tmux::Tmux;

/// Folder of the workspace's programs in a guest. It comes first on the PATH.
pub(crate) const PROGRAMS: &str = "/usr/local/bin";

/// The smallest locale with UTF-8, on the machine and in a guest.
const UTF_8: &str = "/usr/lib/locale/C.utf8";

/// The programs and tools of all guests of one run.
pub struct Kit {
    arch: Arch,
    programs: Vec<PathBuf>,
    tools: GuestTools,
    /// The host's own busybox, which decompresses modules.
    busybox: PathBuf,
    /// Present only if requested.
    clients: Option<(GuestClients, Tmux)>,
    /// Present only if requested.
    peers: Option<Peers>,
    /// Present only if requested.
    system: Option<System>,
}

/// The task of one guest.
#[derive(Default)]
pub struct Task {
    /// Command to run, and its arguments.
    pub command: Vec<String>,
    /// Machine to run it on.
    pub hardware: Hardware,
    /// Time limit of the command; none by default.
    pub timeout: Option<Duration>,
    /// Longest time without output from the command; unlimited by default.
    pub silence: Option<Duration>,
    /// Boot a whole Debian, whose systemd starts the command.
    pub system: bool,
    /// Kernel modules to load first.
    pub modules: Vec<String>,
    /// Files to copy into the guest: path on the host, path in the guest.
    pub inputs: Vec<(PathBuf, String)>,
    /// Files to copy out of the guest.
    pub outputs: Vec<String>,
}

impl Kit {
    /// Fetches or builds missing parts: QEMU, the guests' tools, and (if `build` is true) the workspace's programs.
    ///
    /// # Errors
    /// If a part cannot be fetched or built.
    pub fn prepare(arch: Arch, build: bool) -> Result<Self> {
        let programs = if build {
            binaries::build(arch)?
        } else {
            binaries::built(arch)?
        };
        Self::with_programs(arch, programs)
    }

    /// Gets what is missing of QEMU and the guests' tools.
    ///
    /// # Errors
    /// Says what cannot be fetched.
    pub(crate) fn with_programs(arch: Arch, programs: Vec<PathBuf>) -> Result<Self> {
        qemu::ensure(arch)?;
        Ok(Self {
            arch,
            programs,
            tools: GuestTools::ensure(arch)?,
            busybox: GuestTools::ensure(Arch::HOST)?.busybox(),
            clients: None,
            peers: None,
            system: None,
        })
    }

    /// Adds the clients that tests compare with, curl, wrk, nginx and Python, and tmux.
    ///
    /// # Errors
    /// If a client cannot be fetched.
    pub fn with_clients(self) -> Result<Self> {
        Ok(Self {
            clients: Some((GuestClients::ensure(self.arch)?, Tmux::ensure(self.arch)?)),
            ..self
        })
    }

    /// Adds the tracers to compare with: bpftrace and tcpconnlat.
    ///
    /// # Errors
    /// If a tracer cannot be fetched.
    pub fn with_peers(self) -> Result<Self> {
        Ok(Self {
            peers: Some(Peers::ensure(self.arch)?),
            ..self
        })
    }

    /// Adds the system of tasks that boot one.
    ///
    /// # Errors
    /// If a package of it cannot be fetched.
    pub fn with_system(self) -> Result<Self> {
        Ok(Self {
            system: Some(System::ensure()?),
            ..self
        })
    }

    /// Boots a kernel, runs the task and passes on the output of its command.
    ///
    /// # Errors
    /// If the guest fails, with its last messages; and errors of `listener`.
    pub fn run(
        &self,
        kernel: &Kernel,
        task: &Task,
        listener: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
    ) -> Result<Outcome> {
        let image = self.image(kernel, task)?;
        let limits = Limits {
            whole: task.timeout,
            silence: task.silence,
        };
        machine::run(kernel, &image, &task.hardware, limits, listener)
    }

    /// Runs the task as [`Kit::run`] does, and passes on the stdout of its command.
    ///
    /// # Errors
    /// As for `run`; and if the command's status is not 0: the message has its stderr.
    pub fn run_well(
        &self,
        kernel: &Kernel,
        task: &Task,
        mut stdout: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Outcome> {
        let mut said = Vec::new();
        let outcome = self.run(kernel, task, &mut |stream, bytes| match stream {
            Stream::Stdout => stdout(bytes),
            Stream::Stderr => {
                said.extend_from_slice(bytes);
                Ok(())
            }
        })?;
        if outcome.status != 0 {
            let said = String::from_utf8_lossy(&said);
            bail!(
                "the guest's command ended with status {}: {}",
                outcome.status,
                said.trim_end()
            );
        }
        Ok(outcome)
    }

    fn image(&self, kernel: &Kernel, task: &Task) -> Result<Vec<u8>> {
        let is_init = |path: &&PathBuf| path.ends_with(binaries::INIT);
        let init = self
            .programs
            .iter()
            .find(is_init)
            .context("init was not built")?;
        let programs = self.programs.iter().filter(|path| !is_init(path));
        let mut job = Job {
            command: task.command.iter().map(Into::into).collect(),
            outputs: task.outputs.iter().map(Into::into).collect(),
            ..Job::default()
        };
        let mut modules = Vec::new();
        for module in modules::of(kernel, &task.modules, &self.busybox)? {
            let path = format!("/lib/modules/{}.ko", module.name);
            job.modules.push(path.clone().into());
            modules.push((path, module.content));
        }
        if task.system {
            let system = self.system.as_ref().context("no system was built")?;
            let programs: Vec<_> = programs.map(PathBuf::as_path).collect();
            return system.image(init, &programs, &task.inputs, &modules, job);
        }

        let mut libraries = self.tools.libraries();
        if let Some((clients, tmux)) = &self.clients {
            libraries.extend(clients.libraries().into_iter().chain(tmux.libraries()));
        }
        libraries.extend(self.peers.iter().flat_map(Peers::libraries));
        let mut image = image::Image::new(self.arch, init, &libraries)?;
        for (source, path) in &task.inputs {
            image.add_file(path, source)?;
        }
        for program in programs {
            image.add_file(&in_folder(PROGRAMS, program), program)?;
        }
        let peers = self.peers.iter().flat_map(Peers::programs);
        for program in self.tools.programs().into_iter().chain(peers) {
            image.add_file(&in_folder("/usr/sbin", &program), &program)?;
        }
        if let Some((clients, tmux)) = &self.clients {
            let tmux = tmux.program();
            image.add_file(&in_folder("/usr/bin", &tmux), &tmux)?;
            // tmux takes characters apart by the C library of the machine.
            image.add_tree(UTF_8, Path::new(UTF_8), &[])?;
            for (program, path) in clients.programs() {
                image.add_file(&path, &program)?;
            }
            let (modules, path) = clients.python_modules();
            image.add_tree(&path, &modules, GuestClients::python_leaves_out())?;
        }
        image.add_busybox(&self.tools.busybox(), &self.busybox)?;
        for (path, content) in &modules {
            image.add_content(path, content);
        }
        Ok(image.finish(&job))
    }
}

/// Returns the path of a program in a folder of the guest.
pub(crate) fn in_folder(folder: &str, program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    format!("{}/{name}", folder.trim_end_matches('/'))
}
