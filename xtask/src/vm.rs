//! `cargo xtask vm`: runs a command in a virtual machine with a chosen kernel.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::guest::{Hardware, Kit, Outcome, PROGRAMS, Stream, Task, in_folder};
use crate::tools::kernels::{self, Kernel, Series};
use crate::{stdout, tools};

/// Run a command in a virtual machine
///
/// Boots a kernel of Debian in QEMU and runs COMMAND as root. connect-trace, truth, busybox's commands, bpftool and
/// funclatency are on the PATH; the working folder is /root; the only network interface is lo. The exit status is
/// COMMAND's (with several kernels, the first that is not 0), or 1 if the machine fails.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) kernels: Kernels,
    /// Number of CPUs [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: Option<u32>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Use one CPU whose clock counts instructions: times are the same in every run
    #[arg(long, conflicts_with_all = ["cpus", "kvm"])]
    deterministic: bool,
    /// Use the CPU's virtualisation (/dev/kvm) instead of an emulated CPU
    #[arg(long)]
    kvm: bool,
    /// Hide from the kernel that the machine is a virtual one, so that it takes locks as on a bare host
    #[arg(long, conflicts_with = "kvm")]
    bare: bool,
    /// Stop the machine if COMMAND takes longer
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Load a kernel module (and its dependencies) first; repeatable
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// Copy a file into the machine; repeatable
    ///
    /// Without GUESTPATH an executable goes to /usr/local/bin, which is on the PATH, and any other file to /root, the
    /// working folder. The libraries that it needs are copied too.
    #[arg(long = "copy-in", value_name = "FILE[:GUESTPATH]")]
    inputs: Vec<String>,
    /// Copy a file out of the machine after COMMAND has ended; repeatable
    #[arg(long = "copy-out", value_name = "GUESTPATH:FILE")]
    outputs: Vec<CopyOut>,
    /// Pass more arguments to the kernel
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Install curl, wrk, nginx and python3 in the machine as well
    #[arg(long)]
    clients: bool,
    /// Boot a whole Debian, with systemd, dpkg and apt, which runs COMMAND as a service
    #[arg(long, conflicts_with = "clients")]
    system: bool,
    /// Use the programs of the last build
    #[arg(long)]
    no_build: bool,
    /// Command to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The kernels to run a command on.
#[derive(clap::Args)]
pub(crate) struct Kernels {
    /// Kernel to boot: a series such as 6.12, `all` (5.10, 6.1, 6.12, 6.18, 7.3) or a file; repeatable
    #[arg(long = "kernel", value_name = "KERNEL", default_value = "6.12")]
    choices: Vec<KernelChoice>,
    /// Architecture of the kernel
    #[arg(long, value_enum, default_value_t)]
    pub(crate) arch: Arch,
}

/// The kernels of a command that compares kernels.
#[derive(clap::Args)]
pub struct AllKernels {
    /// Kernel to boot: a series such as 6.12, `all` or a file; repeatable
    #[arg(
        long = "kernel",
        value_name = "KERNEL",
        default_value = "all",
        hide_default_value = true
    )]
    pub choices: Vec<KernelChoice>,
    /// Architecture of the kernels; of arm64, `all` are 6.1, 6.12 and 7.3
    #[arg(long, value_enum, default_value_t)]
    pub arch: Arch,
}

/// A kernel as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelChoice {
    /// Every kernel that the project is tested on.
    All,
    /// The newest kernel of a series.
    Series(Series),
    /// A kernel in a file.
    File(PathBuf),
}

impl FromStr for KernelChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            Ok(Self::All)
        } else if text.contains('/') {
            Ok(Self::File(text.into()))
        } else {
            text.parse().map(Self::Series).map_err(|_| {
                "it is neither a series such as 6.12, nor `all`, nor a path such as ./vmlinuz"
                    .into()
            })
        }
    }
}

/// Returns the chosen kernels, ready to boot.
///
/// # Errors
/// If a kernel cannot be fetched.
pub fn get_kernels(choices: &[KernelChoice], arch: Arch) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for choice in choices {
        match choice {
            KernelChoice::All => {
                for series in kernels::tested(arch) {
                    kernels.push(Kernel::of(series, arch)?);
                }
            }
            KernelChoice::Series(series) => kernels.push(Kernel::of(*series, arch)?),
            KernelChoice::File(path) => kernels.push(Kernel::at(path, arch)?),
        }
    }
    Ok(kernels)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CopyOut {
    guest: String,
    host: PathBuf,
}

impl FromStr for CopyOut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((guest, host)) if !guest.is_empty() && !host.is_empty() => Ok(Self {
                guest: guest.to_owned(),
                host: host.into(),
            }),
            _ => Err("write it as GUESTPATH:FILE, such as /tmp/report.json:report.json".into()),
        }
    }
}

pub(crate) fn vm(options: &Options) -> Result<ExitCode> {
    let task = task(options)?;
    if options.kernels.arch != Arch::HOST
        && (options.kvm || options.bare || options.clients || options.system)
    {
        bail!(
            "--kvm, --bare, --clients and --system are for guests of this machine's architecture"
        );
    }
    if !options.no_build {
        tools::ensure_for_build()?;
    }
    let kernels = get_kernels(&options.kernels.choices, options.kernels.arch)?;
    let mut kit = Kit::prepare(options.kernels.arch, !options.no_build)?;
    if options.clients {
        kit = kit.with_clients()?;
    }
    if options.system {
        kit = kit.with_system()?;
    }

    let mut first_failure = 0;
    for kernel in &kernels {
        if kernels.len() > 1 {
            eprintln!("kernel {}:", kernel.name);
        }
        let result = kit.run(kernel, &task, &mut pass_on).and_then(|outcome| {
            save(&outcome, &options.outputs)?;
            Ok(outcome.status)
        });
        let status = match result {
            Ok(status) => status,
            // With several kernels, one that fails does not stop the run of the others.
            Err(error) if kernels.len() > 1 && !error.is::<stdout::Refused>() => {
                eprintln!("error: {error:#}");
                1
            }
            Err(error) => return Err(error),
        };
        if first_failure == 0 {
            first_failure = status;
        }
    }
    Ok(ExitCode::from(first_failure))
}

fn task(options: &Options) -> Result<Task> {
    let hardware = Hardware {
        cpus: if options.deterministic {
            1
        } else {
            options.cpus.unwrap_or(2)
        },
        memory_mib: options.memory,
        deterministic: options.deterministic,
        kvm: options.kvm,
        bare: options.bare,
        kernel_arguments: options.append.clone(),
        ..Hardware::default()
    };
    let inputs = options
        .inputs
        .iter()
        .map(|text| copy_in(text))
        .collect::<Result<_>>()?;
    Ok(Task {
        command: options.command.clone(),
        hardware,
        timeout: options.timeout.map(Duration::from_secs),
        silence: None,
        system: options.system,
        modules: options.modules.clone(),
        inputs,
        outputs: options
            .outputs
            .iter()
            .map(|output| output.guest.clone())
            .collect(),
    })
}

/// Splits `FILE[:GUESTPATH]` into the file and its path in the guest.
fn copy_in(text: &str) -> Result<(PathBuf, String)> {
    use std::os::unix::fs::PermissionsExt as _;

    // The name of a file may contain a colon.
    let (file, path) = match text.rsplit_once(':') {
        Some((file, path)) if !Path::new(text).exists() => (Path::new(file), Some(path)),
        _ => (Path::new(text), None),
    };
    let metadata = fs::metadata(file)
        .with_context(|| format!("cannot copy {} into the guest", file.display()))?;
    if !metadata.is_file() {
        bail!(
            "cannot copy {} into the guest: it is not a file",
            file.display()
        );
    }
    let path = match path {
        Some(path) if !path.starts_with('/') => {
            bail!("`{path}` is no place in the guest: write a path that begins with /")
        }
        Some(folder) if folder.ends_with('/') => in_folder(folder, file),
        Some(path) => path.to_owned(),
        None if metadata.permissions().mode() & 0o111 != 0 => in_folder(PROGRAMS, file),
        None => in_folder("/root", file),
    };
    Ok((file.to_owned(), path))
}

/// Writes the command's output unchanged and without delay.
pub(crate) fn pass_on(stream: Stream, bytes: &[u8]) -> Result<()> {
    match stream {
        Stream::Stdout => stdout::write(bytes),
        Stream::Stderr => Ok(io::stderr().lock().write_all(bytes)?),
    }
}

/// Saves the files that the guest handed out.
fn save(outcome: &Outcome, outputs: &[CopyOut]) -> Result<()> {
    for (output, content) in outputs.iter().zip(&outcome.outputs) {
        let content = content.as_ref().map_err(|reason| {
            anyhow::anyhow!("cannot copy {} out of the guest: {reason}", output.guest)
        })?;
        fs::write(&output.host, content)
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", output.host.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_a_series_or_all_or_a_file() {
        assert_eq!("all".parse(), Ok(KernelChoice::All));
        assert_eq!(
            "6.12".parse(),
            Ok(KernelChoice::Series("6.12".parse().unwrap()))
        );
        assert_eq!(
            "./vmlinuz".parse(),
            Ok(KernelChoice::File("./vmlinuz".into()))
        );
        assert!("vmlinuz".parse::<KernelChoice>().is_err());
    }

    #[test]
    fn a_program_is_copied_to_the_path_and_a_file_to_the_working_folder() {
        assert_eq!(copy_in("/bin/sh").unwrap().1, "/usr/local/bin/sh");
        assert_eq!(copy_in("/etc/passwd").unwrap().1, "/root/passwd");
        assert_eq!(copy_in("/etc/passwd:/tmp/").unwrap().1, "/tmp/passwd");
        assert_eq!(copy_in("/etc/passwd:/tmp/p").unwrap().1, "/tmp/p");
    }

    #[test]
    fn a_file_that_cannot_be_copied_in_is_an_error() {
        assert!(copy_in("/no/such/file").is_err());
        assert!(copy_in("/etc").is_err());
        assert!(copy_in("/etc/passwd:tmp").is_err());
    }

    #[test]
    fn what_is_copied_out_has_a_place_to_go() {
        let parsed = "/tmp/a:b/c".parse();
        assert_eq!(
            parsed,
            Ok(CopyOut {
                guest: "/tmp/a".into(),
                host: "b/c".into()
            })
        );
        assert!("/tmp/a".parse::<CopyOut>().is_err());
        assert!("/tmp/a:".parse::<CopyOut>().is_err());
    }
}
