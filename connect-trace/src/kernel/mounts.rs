//! File systems through which the kernel shows and takes settings: used where they are mounted, or else through a mount
//! that only this process sees. Containers have none of them mounted.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::requirement::MissingRequirement;

/// A folder within one of the kernel's file systems.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The mount, if it is our own: it lasts as long as this value.
    own: Option<Arc<OwnedFd>>,
}

impl Folder {
    /// Returns the first of the places that has this file, or else a mount of the file system that no other process
    /// sees. Such a mount takes CAP_SYS_ADMIN and Linux 5.2.
    ///
    /// # Errors
    /// If the file system cannot be mounted.
    pub(crate) fn find(file_system: &str, places: &[&str], file: &str) -> io::Result<Self> {
        let mounted = places.iter().map(Path::new);
        if let Some(path) = mounted.into_iter().find(|path| path.join(file).exists()) {
            return Ok(Self {
                path: path.to_owned(),
                own: None,
            });
        }
        let mount = mount(file_system)?;
        Ok(Self {
            path: format!("/proc/self/fd/{}", mount.as_raw_fd()).into(),
            own: Some(Arc::new(mount)),
        })
    }

    /// Returns the path of the folder, valid in this process.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the mount is our own, which no other process sees.
    #[must_use]
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }
}

/// Mounts a file system without a mount point: it is reached only through the descriptor, and closing that unmounts it.
fn mount(file_system: &str) -> io::Result<OwnedFd> {
    let context = fsopen(file_system, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Checks that sysfs, in which the kernel shows its features, is mounted.
///
/// # Errors
/// If sysfs is not mounted; says how to mount it.
pub(crate) fn sysfs() -> Result<(), MissingRequirement> {
    if Path::new("/sys/kernel").exists() {
        return Ok(());
    }
    Err(MissingRequirement::new(
        "sysfs is not mounted on /sys, so the kernel's features cannot be read",
        "mount it (mount -t sysfs none /sys), in a container too",
    ))
}
