//! The traced cgroups, followed by their paths: a cgroup that is removed and created again, as when a service restarts,
//! is a different one to the kernel.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{CgroupArray, MapData};
use connect_trace_common::filter::MOST_CGROUPS;

use crate::{filter::Cgroup, term::printable::printable};

/// The cgroups that are traced.
pub(super) struct Cgroups {
    /// The map `CGROUPS`.
    map: CgroupArray<MapData>,
    /// The cgroups of `--cgroup`, in the order of the map.
    asked_for: Vec<Followed>,
}

/// A path of the cgroup hierarchy that is followed.
struct Followed {
    folder: PathBuf,
    /// Id of the cgroup at this path; `None` after it was removed.
    id: Option<u64>,
}

impl Cgroups {
    /// Puts cgroups into the map.
    ///
    /// # Errors
    /// If there are too many cgroups, or one no longer exists.
    pub(super) fn fill(mut map: CgroupArray<MapData>, cgroups: &[Cgroup]) -> Result<Self> {
        ensure!(
            cgroups.len() <= MOST_CGROUPS,
            "--cgroup can be given {MOST_CGROUPS} times, not {}",
            cgroups.len()
        );
        let mut asked_for = Vec::new();
        for (index, cgroup) in (0..).zip(cgroups) {
            let folder = cgroup.folder.clone();
            let opened =
                File::open(&folder).with_context(|| format!("open {}", printable(&folder)))?;
            let id = Some(put(&mut map, index, &opened, &folder)?);
            asked_for.push(Followed { folder, id });
        }
        Ok(Self { map, asked_for })
    }

    /// Looks at the paths: a cgroup that was created again takes the place of the earlier one, with a warning.
    ///
    /// # Errors
    /// If the map refuses the cgroup.
    pub(super) fn follow(&mut self) -> Result<()> {
        for (index, followed) in (0..).zip(&mut self.asked_for) {
            let Followed { folder, id } = followed;
            let found = fs::metadata(&*folder).map(|metadata| metadata.ino()).ok();
            if found == *id {
                continue;
            }
            let shown = printable(folder);
            // The cgroup may be removed again at any time.
            let opened = found.and_then(|_| File::open(&*folder).ok());
            if let Some(opened) = opened {
                let new = put(&mut self.map, index, &opened, folder)?;
                *id = Some(new);
                log::warn!("--cgroup {shown}: created again (id {new}), traced from now on");
            } else if id.take().is_some() {
                log::warn!("--cgroup {shown}: removed; if it is created again, it will be traced");
            }
        }
        Ok(())
    }
}

/// Puts a cgroup into the map, and returns its id.
fn put(map: &mut CgroupArray<MapData>, index: u32, opened: &File, folder: &Path) -> Result<u64> {
    let shown = printable(folder);
    map.set(index, opened.as_raw_fd(), 0)
        .with_context(|| format!("add {shown} to map CGROUPS"))?;
    let metadata = opened.metadata();
    Ok(metadata.with_context(|| format!("look at {shown}"))?.ino())
}
