//! Resolves the typed filters on this host: users, cgroups and namespaces by their names.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, bail, ensure};

use super::{Cgroup, FilterArgs, Filters, IpVersion, user};
use crate::{
    connect::Comm,
    kernel::{
        pods::{HIERARCHIES, hierarchy},
        process::Process,
    },
    term::printable::printable,
};

/// Returns the filters of a trace on this host.
///
/// # Errors
/// Names the process, cgroup, user or namespace that does not exist.
pub fn filters(args: &FilterArgs) -> Result<Filters> {
    // The processes are checked before anything is created or changed; the probes open them again.
    for &pid in &args.pids {
        Process::asked_for(pid)?;
    }
    // The following filters are names on this host.
    Ok(Filters {
        cgroups: resolve_all(&args.cgroups, cgroup)?,
        uids: resolve_all(&args.uids, uid)?,
        netns: resolve_all(&args.netns, netns)?,
        ..filters_without_names(args)
    })
}

/// Returns the filters of a recording, which may come from another host: a cgroup and a namespace are given by number.
///
/// # Errors
/// Names a value that is neither a number nor a user of this host.
pub fn filters_of_recording(args: &FilterArgs) -> Result<Filters> {
    let number = |option: &str, text: &str| -> Result<u64> {
        text.parse().map_err(|_| {
            anyhow::anyhow!(
                "{option} {}: for a recording, give the number that the report shows",
                printable(text)
            )
        })
    };
    let cgroup = |text: &str| {
        let id = number("--cgroup", text)?;
        Ok(Cgroup {
            id,
            folder: PathBuf::new(),
        })
    };
    Ok(Filters {
        cgroups: resolve_all(&args.cgroups, cgroup)?,
        uids: resolve_all(&args.uids, uid)?,
        netns: resolve_all(&args.netns, |text| {
            Ok(u32::try_from(number("--netns", text)?)?)
        })?,
        ..filters_without_names(args)
    })
}

fn filters_without_names(args: &FilterArgs) -> Filters {
    Filters {
        pids: args.pids.clone(),
        dports: args.dports.clone(),
        daddrs: args.daddrs.clone(),
        comms: args.comms.iter().map(|name| Comm::of(name)).collect(),
        version: match (args.ipv4, args.ipv6) {
            (true, _) => Some(IpVersion::V4),
            (_, true) => Some(IpVersion::V6),
            _ => None,
        },
        protocols: args.protocol.map(Into::into),
        failed: args.failed,
        min_latency: args.min_latency,
        ..Filters::default()
    }
}

fn resolve_all<T>(texts: &[String], resolve: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    texts.iter().map(|text| resolve(text)).collect()
}

/// Returns the cgroup at a path in the hierarchy, with or without the mount point before it.
fn cgroup(path: &str) -> Result<Cgroup> {
    let Some(root) = hierarchy() else {
        bail!(
            "--cgroup {}: no version 2 hierarchy is mounted at {}",
            printable(path),
            HIERARCHIES.join(" or ")
        );
    };
    let below = Path::new(path).strip_prefix(root).unwrap_or_else(|_| {
        let path = Path::new(path);
        path.strip_prefix("/").unwrap_or(path)
    });
    let folder = Path::new(root).join(below);
    let found = fs::canonicalize(&folder)
        .ok()
        .filter(|folder| folder.join("cgroup.procs").exists());
    let Some(folder) = found else {
        bail!(
            "--cgroup {}: there is no such cgroup ({})",
            printable(path),
            printable(&folder)
        );
    };
    Ok(Cgroup {
        id: fs::metadata(&folder)
            .with_context(|| format!("--cgroup {}", printable(path)))?
            .ino(),
        folder,
    })
}

fn uid(name: &str) -> Result<u32> {
    user::number(name).with_context(|| format!("--uid {}", printable(name)))
}

/// Returns the inode of a network namespace, given by a process or a path.
fn netns(name: &str) -> Result<u32> {
    let shown = printable(name);
    let path = match name.parse::<u32>() {
        Ok(pid) => {
            ensure!(
                Path::new(&format!("/proc/{pid}")).exists(),
                "--netns {shown}: no such process"
            );
            PathBuf::from(format!("/proc/{pid}/ns/net"))
        }
        Err(_) => PathBuf::from(name),
    };
    let found = fs::metadata(&path).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => {
                "; if this is a service that runs already, give a path below /run/netns, or restart it"
            }
            _ => "",
        };
        let what = format!("--netns {shown}: {} cannot be read{hint}", printable(&path));
        Error::from(error).context(what)
    })?;
    let inode = found.ino();
    ensure!(
        is_network_namespace(&path),
        "--netns {shown}: {} is not a network namespace",
        printable(&path)
    );
    Ok(u32::try_from(inode)?)
}

fn is_network_namespace(path: &Path) -> bool {
    // A link of /proc names the kind of namespace; a bind-mounted file belongs to the kernel's nsfs.
    match fs::read_link(path) {
        Ok(link) => link.to_string_lossy().starts_with("net:["),
        Err(_) => {
            use std::os::fd::AsRawFd as _;
            /// `NS_GET_NSTYPE`, `_IO(0xb7, 0x3)`.
            const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
            let Ok(file) = fs::File::open(path) else {
                return false;
            };
            // SAFETY: the request takes no argument, and the descriptor is open.
            let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
            kind == libc::CLONE_NEWNET
        }
    }
}
