//! Paths of cgroups by their ids. The id of a cgroup (v2) is the inode number of its folder.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::pods::hierarchy;
use crate::term::printable::printable;

/// Returns the paths of cgroups within the hierarchy, safe for a terminal. A cgroup that was removed has none.
pub(crate) fn paths(ids: &HashSet<u64>) -> HashMap<u64, String> {
    hierarchy().map_or_else(HashMap::new, |root| below(Path::new(root), ids))
}

fn below(root: &Path, ids: &HashSet<u64>) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let own = fs::metadata(root).map(|root| root.ino()).ok();
    found.extend(
        own.filter(|id| ids.contains(id))
            .map(|id| (id, "/".to_owned())),
    );
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        if found.len() == ids.len() {
            break;
        }
        // A cgroup may be removed meanwhile.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if ids.contains(&entry.ino())
                && let Ok(within) = path.strip_prefix(root)
            {
                found.insert(entry.ino(), format!("/{}", printable(within)));
            }
            folders.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_by_the_number_of_its_folder() {
        let root = std::env::temp_dir().join(format!("cgroups-{}", std::process::id()));
        let deep = root.join("a.slice/b\n.service");
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir_all(root.join("other")).unwrap();
        let id = |path: &Path| fs::metadata(path).unwrap().ino();
        let ids = HashSet::from([id(&root), id(&deep), u64::MAX]);
        let found = below(&root, &ids);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        let mut paths: Vec<_> = found.into_values().collect();
        paths.sort();
        assert_eq!(paths, ["/", "/a.slice/b\\n.service"]);
    }
}
