//! Containers, found by the paths of their cgroups. Kubernetes and other managers put the uid of the pod and the id of the
//! container into the names of the folders, in one of two styles: that of systemd
//! (`kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope`) and that of cgroupfs (`kubepods/burstable/pod<uid>/<id>`).

use std::{
    collections::HashMap,
    fmt, fs,
    os::unix::fs::DirEntryExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Mount points of version 2 of the cgroup hierarchy.
pub(crate) const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Returns the mount point of version 2 of the cgroup hierarchy, if it is mounted.
pub(crate) fn hierarchy() -> Option<&'static str> {
    // This file exists only at the root of version 2.
    let mut mounted = HIERARCHIES.into_iter();
    mounted.find(|root| Path::new(root).join("cgroup.controllers").exists())
}

/// A pod, or a container that belongs to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pod {
    /// The uid of a pod of Kubernetes.
    Uid([u8; 16]),
    /// The id of a container.
    Container([u8; 32]),
}

impl Pod {
    /// Returns the pod or container of a cgroup, by its path in the hierarchy; `None` if it belongs to neither.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let folders = || path.rsplit('/');
        let uid = folders().find_map(|name| {
            let name = name.strip_suffix(".slice").unwrap_or(name);
            let (_, uid) = name.rsplit_once("pod")?;
            bytes(&uid.replace(['-', '_'], ""))
        });
        let id = || {
            folders().find_map(|name| {
                let name = name.strip_suffix(".scope").unwrap_or(name);
                bytes(name.rsplit('-').next()?)
            })
        };
        uid.map(Self::Uid).or_else(|| id().map(Self::Container))
    }
}

/// Returns the bytes that hexadecimal digits stand for, if there are exactly as many as wanted.
fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Display for Pod {
    /// Writes the uid of a pod as Kubernetes does, and of a container's id the twelve digits that managers show.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        match self {
            Self::Uid(uid) => {
                let digits = hex(uid);
                let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
                formatter.write_str(&parts.map(|part| &digits[part]).join("-"))
            }
            Self::Container(id) => formatter.write_str(&hex(&id[..6])),
        }
    }
}

/// Largest number of cgroups whose pods are kept, 40 bytes each.
const MOST_CGROUPS: usize = 65_536;
/// Shortest time between two readings of the hierarchy.
const READ_EVERY: Duration = Duration::from_secs(1);

/// The pods of cgroups. The hierarchy is read when a cgroup appears that was not there at the last reading.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    known: HashMap<u64, Option<Pod>>,
    read_at: Option<Instant>,
}

impl Pods {
    /// Returns the pod of a cgroup (v2) with this id; `None` if it belongs to none, or was removed before it was looked up.
    pub fn of(&mut self, cgroup_id: u64) -> Option<Pod> {
        if let Some(&pod) = self.known.get(&cgroup_id) {
            return pod;
        }
        if self.read_at.is_some_and(|at| at.elapsed() < READ_EVERY) {
            return None;
        }
        self.read_at = Some(Instant::now());
        if self.known.len() >= MOST_CGROUPS {
            self.known.clear();
        }
        if let Some(root) = hierarchy() {
            // Those that were removed since stay known: their calls may be read late, and ids are not used again.
            self.known.extend(read(Path::new(root)));
        }
        *self.known.entry(cgroup_id).or_default()
    }
}

/// Reads a hierarchy: the id of a cgroup is the inode number of its folder.
fn read(root: &Path) -> HashMap<u64, Option<Pod>> {
    let mut known = HashMap::new();
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // A cgroup may be removed meanwhile.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if known.len() >= MOST_CGROUPS {
                return known;
            }
            let path = entry.path();
            known.insert(entry.ino(), path.to_str().and_then(Pod::of_path));
            folders.push(path);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn the_names_of_cgroups_tell_pods_and_containers() {
        let systemd = UID.replace('-', "_");
        for path in [
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{systemd}.slice/crio-{ID}.scope/container"),
            format!("/kubepods/besteffort/pod{UID}/{ID}"),
            format!("/kubepods/pod{UID}"),
        ] {
            let pod = Pod::of_path(&path).map(|pod| pod.to_string());
            assert_eq!(pod.as_deref(), Some(UID), "{path}");
        }
        for path in [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/machine.slice/libpod-{ID}.scope/init"),
        ] {
            let pod = Pod::of_path(&path).map(|pod| pod.to_string());
            assert_eq!(pod.as_deref(), Some("001122334455"), "{path}");
        }
        for path in [
            "",
            "/",
            "/user.slice",
            "/podman",
            "/kubepods/pod12",
            "/x-podé-1.slice",
        ] {
            assert_eq!(Pod::of_path(path), None, "{path}");
        }
    }

    #[test]
    fn a_hierarchy_is_read_by_inode_numbers() {
        let root = std::env::temp_dir().join(format!("connect-trace-pods-{}", std::process::id()));
        let folder = root.join(format!("docker/{ID}"));
        fs::create_dir_all(&folder).unwrap();
        let inode = fs::metadata(&folder).unwrap().ino();
        let known = read(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(known[&inode], Pod::of_path(&format!("/docker/{ID}")));
    }
}
