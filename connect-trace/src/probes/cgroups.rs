//! The traced cgroups, followed by their paths: a cgroup that is removed and created again, as when a service restarts,
//! is a different one to the kernel.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{CgroupArray, MapData};
use connect_trace_common::filter::{CGROUP_PLACES, MOST_CGROUPS};

use crate::{filter::Cgroup, term::printable::printable};

/// The cgroups that are traced.
pub(super) struct Cgroups {
    /// The map `CGROUPS`.
    map: CgroupArray<MapData>,
    /// The cgroups of `--cgroup`, each in its place of the map.
    places: [Option<Followed>; CGROUP_PLACES],
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
    pub(super) fn fill(map: CgroupArray<MapData>, cgroups: &[Cgroup]) -> Result<Self> {
        let mut filled = Self {
            map,
            places: std::array::from_fn(|_| None),
        };
        filled.add(cgroups)?;
        Ok(filled)
    }

    /// Adds cgroups to those of the map.
    ///
    /// # Errors
    /// If there are too many cgroups, or one no longer exists.
    pub(super) fn add(&mut self, cgroups: &[Cgroup]) -> Result<()> {
        ensure!(
            cgroups.len() <= MOST_CGROUPS,
            "--cgroup can be given {MOST_CGROUPS} times, not {}",
            cgroups.len()
        );
        for cgroup in cgroups {
            let folder = cgroup.folder.clone();
            let mut followed = self.places.iter().flatten();
            if followed.any(|followed| followed.folder == folder) {
                continue;
            }
            let opened =
                File::open(&folder).with_context(|| format!("open {}", printable(&folder)))?;
            let free = (0..)
                .zip(&mut self.places)
                .find(|(_, place)| place.is_none());
            let (index, place) = free.context("the map CGROUPS has no free place")?;
            let id = Some(put(&mut self.map, index, &opened, &folder)?);
            *place = Some(Followed { folder, id });
        }
        Ok(())
    }

    /// Removes every other cgroup from the map.
    ///
    /// # Errors
    /// If the map refuses that.
    pub(super) fn keep_only(&mut self, cgroups: &[Cgroup]) -> Result<()> {
        for (index, place) in (0..).zip(&mut self.places) {
            let is_kept = |place: &Followed| cgroups.iter().any(|kept| kept.folder == place.folder);
            if let Some(other) = place.take_if(|place| !is_kept(place)) {
                self.map.unset(index).with_context(|| {
                    format!("remove {} from map CGROUPS", printable(&other.folder))
                })?;
            }
        }
        Ok(())
    }

    /// Returns the number of places up to the last one that is taken.
    pub(super) fn places(&self) -> usize {
        let last = self.places.iter().rposition(Option::is_some);
        last.map_or(0, |last| last + 1)
    }

    /// Looks at the paths: a cgroup that was created again takes the place of the earlier one, with a warning.
    ///
    /// # Errors
    /// If the map refuses the cgroup.
    pub(super) fn follow(&mut self) -> Result<()> {
        for (index, place) in (0..).zip(&mut self.places) {
            let Some(Followed { folder, id }) = place else {
                continue;
            };
            let found = id_of(folder);
            if found == *id {
                continue;
            }
            let shown = printable(folder);
            let opened = found.and_then(|_| File::open(&*folder).ok());
            let new = match opened.map(|opened| put(&mut self.map, index, &opened, folder)) {
                Some(Err(error)) if id_of(folder) == found => return Err(error),
                // The cgroup may be removed again at any time.
                put => put.and_then(Result::ok),
            };
            if let Some(new) = new {
                *id = Some(new);
                log::warn!("--cgroup {shown}: created again (id {new}), traced from now on");
            } else if id.take().is_some() {
                log::warn!("--cgroup {shown}: removed; if it is created again, it will be traced");
            }
        }
        Ok(())
    }
}

/// Returns the id of the cgroup at a path; `None` if there is none.
fn id_of(folder: &Path) -> Option<u64> {
    fs::metadata(folder).map(|metadata| metadata.ino()).ok()
}

/// Puts a cgroup into the map, and returns its id.
fn put(map: &mut CgroupArray<MapData>, index: u32, opened: &File, folder: &Path) -> Result<u64> {
    let shown = printable(folder);
    map.set(index, opened.as_raw_fd(), 0)
        .with_context(|| format!("add {shown} to map CGROUPS"))?;
    let metadata = opened.metadata();
    Ok(metadata.with_context(|| format!("look at {shown}"))?.ino())
}
