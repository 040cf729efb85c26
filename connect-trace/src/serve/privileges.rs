//! The privileges that the service keeps once its probes are attached and its sockets are open.

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context as _, Result};
use caps::Capability::CAP_BPF;

use super::{args::ServeArgs, listen::Listeners};
use crate::{
    kernel::{
        sandbox::{Needs, Sandbox, reading_takes_privileges},
        sysctls::RUN_STATISTICS,
    },
    probes::Probes,
    trace::priority,
};

/// Files and folders that readings open: memory of this process, settings of the network, the switch of the programs' run
/// times, cgroups.
const READ: [&str; 4] = [
    "/proc/self",
    "/proc/sys/net",
    RUN_STATISTICS,
    "/sys/fs/cgroup",
];
/// Folders and files that a reload opens besides: the users and the network namespaces with names.
const READ_BY_RELOAD: [&str; 2] = ["/etc/passwd", "/run/netns"];

/// Gives up the privileges that the service no longer needs, and returns those that remain. Warns of what it lacks.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn give_up(args: &ServeArgs, probes: &Probes, listeners: &Listeners) -> Result<Sandbox> {
    if !priority::allow_without_privileges() {
        log::warn!(
            "on a busy host records may be lost, which are counted: the priority cannot be raised there without \
             CAP_SYS_RESOURCE, or LimitNICE=-20 of a service"
        );
    }
    let sandbox = Sandbox::enter(needs(args, probes, listeners)?).context("give up privileges")?;
    if let Some(warning) = sandbox.warning() {
        log::warn!("{warning}");
    }
    Ok(sandbox)
}

fn needs(args: &ServeArgs, probes: &Probes, listeners: &Listeners) -> Result<Needs> {
    let capabilities = match reading_takes_privileges()? {
        true => vec![CAP_BPF],
        false => vec![],
    };
    let mut read: Vec<PathBuf> = READ.map(PathBuf::from).into();
    read.extend(probes.profile());
    if let Some(config) = &args.config {
        read.extend(READ_BY_RELOAD.map(PathBuf::from));
        read.push(around(&absolute(config)?));
    }
    let sockets = listeners
        .all
        .iter()
        .filter_map(|listener| listener.own_path());
    let mut remove: Vec<PathBuf> = sockets
        .filter_map(Path::parent)
        .map(Path::to_owned)
        .collect();
    remove.sort();
    remove.dedup();
    Ok(Needs {
        capabilities,
        read,
        write: args
            .recording
            .folder()
            .map(Path::to_owned)
            .into_iter()
            .collect(),
        remove,
    })
}

/// Returns the folder of a configuration file, because editors and Kubernetes replace the file; the file itself if its
/// folder has all others too.
fn around(config: &Path) -> PathBuf {
    match config.parent() {
        Some(folder) if folder != Path::new("/") => folder.to_owned(),
        _ => config.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_stay_open_are_documented() {
        const DOCS: &str = include_str!("../../../docs/security.md");
        for path in READ.iter().chain(&READ_BY_RELOAD) {
            assert!(DOCS.contains(&format!("\n| `{path}` | ")), "{path}");
        }
    }

    #[test]
    fn the_folder_of_the_configuration_is_open_but_never_all_folders() {
        let of = |path: &str| around(Path::new(path));
        assert_eq!(
            of("/etc/connect-trace/x.toml"),
            Path::new("/etc/connect-trace")
        );
        assert_eq!(of("/x.toml"), Path::new("/x.toml"));
    }
}
