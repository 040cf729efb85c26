//! The container image, run as Kubernetes runs it: with namespaces of its own, the capabilities of the DaemonSet, and
//! neither debugfs nor tracefs.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use caps::Capability;
use serde_json::Value;

use crate::{
    Test,
    debian::output,
    metrics::{Service, URL},
    process::{Process, until},
};

pub const TESTS: &[Test] = crate::tests![the_image_traces_the_host_from_namespaces_of_its_own,];

/// The image and the DaemonSet, as `cargo xtask test` puts them here.
const IMAGE: &str = "/root/connect-trace.oci.tar";
const DAEMON_SET: &str = "/root/daemonset.yaml";

/// Folder of the unpacked image, and what the program in it writes.
const FOLDER: &str = "/root/container";
const LOG: &str = "/root/container/log";

/// First argument with which this program becomes the container instead of running tests.
pub const ENTER: &str = "enter-container";

/// Namespaces that the container does not share with the host.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

fn the_image_traces_the_host_from_namespaces_of_its_own() -> Result<()> {
    let image = Image::unpack()?;
    let daemon_set = DaemonSet::read()?;
    let container = Container::start(&image, &daemon_set)?;
    for namespace in NAMESPACES {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        assert_ne!(of(&container.pid.to_string())?, of("self")?, "{namespace}");
    }
    for folder in ["debug", "tracing"] {
        let folder = format!("/proc/{}/root/sys/kernel/{folder}", container.pid);
        assert_eq!(fs::read_dir(&folder)?.count(), 0, "{folder}");
    }
    let service = Service::at(URL).in_network_of(container.pid);
    service.wait_until_ready().with_context(log_text)?;
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid))?;
    let bounding = format!("CapBnd:\t{:016x}\n", daemon_set.capabilities);
    assert!(status.contains(&bounding), "{bounding}: {status}");

    let before = service.ipv6_connects()?;
    output("truth v6 --count 40")?;
    service.wait_for_ipv6_connects(before + 40)
}

/// The image, unpacked.
struct Image {
    root: PathBuf,
    /// Command of the image, and its arguments.
    entry_point: Vec<String>,
    arguments: Vec<String>,
}

impl Image {
    fn unpack() -> Result<Self> {
        let layout = Path::new(FOLDER).join("layout");
        let root = Path::new(FOLDER).join("root");
        for folder in [&layout, &root] {
            fs::create_dir_all(folder)?;
        }
        let (layout, root_path) = (layout.display(), root.display());
        output(&format!("tar -xf {IMAGE} -C {layout}"))?;
        let json = |path: &str| -> Result<Value> {
            let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
            Ok(serde_json::from_str(&text)?)
        };
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().context("no digest")?;
            anyhow::Ok(format!("{layout}/blobs/{}", digest.replace(':', "/")))
        };
        let index = json(&format!("{layout}/index.json"))?;
        let manifest = json(&blob(&index["manifests"][0])?)?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        for layer in layers {
            output(&format!("tar -xzf {} -C {root_path}", blob(layer)?))?;
        }
        let config = &json(&blob(&manifest["config"])?)?["config"];
        Ok(Self {
            root,
            entry_point: words(&config["Entrypoint"]),
            arguments: words(&config["Cmd"]),
        })
    }
}

/// The part of the DaemonSet that the container is started with.
struct DaemonSet {
    /// The added capabilities as the kernel's bit set.
    capabilities: u64,
    /// Arguments that replace those of the image.
    arguments: Vec<String>,
}

impl DaemonSet {
    fn read() -> Result<Self> {
        let text = fs::read_to_string(DAEMON_SET).context(DAEMON_SET)?;
        let manifest: Value = serde_norway::from_str(&text).context(DAEMON_SET)?;
        let container = &manifest["spec"]["template"]["spec"]["containers"][0];
        let added = words(&container["securityContext"]["capabilities"]["add"]);
        ensure!(!added.is_empty(), "{DAEMON_SET} adds no capability");
        let mut capabilities = 0;
        for name in added {
            let capability: Capability = format!("CAP_{name}")
                .parse()
                .with_context(|| format!("capability {name}"))?;
            capabilities |= capability.bitmask();
        }
        Ok(Self {
            capabilities,
            arguments: words(&container["args"]),
        })
    }
}

/// Returns the strings of a list.
fn words(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A running container, ended on drop.
struct Container {
    /// The first process in it, by its id on the host.
    pid: u32,
    _process: Process,
}

impl Container {
    fn start(image: &Image, daemon_set: &DaemonSet) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(NAMESPACES.map(|namespace| {
            let long = if namespace == "mnt" {
                "mount"
            } else {
                namespace
            };
            format!("--{long}")
        }));
        command.args(["--fork", "--kill-child", "sh", "-c"]);
        // Every engine raises it.
        command.arg(format!(r#"ip link set lo up && exec "$@" >{LOG} 2>&1"#));
        command.args(["sh", &env::current_exe()?.display().to_string(), ENTER]);
        command.arg(&image.root);
        command.arg(daemon_set.capabilities.to_string());
        command.args(&image.entry_point);
        command.args(if daemon_set.arguments.is_empty() {
            &image.arguments
        } else {
            &daemon_set.arguments
        });
        let mut process = Process::start(command)?;
        let pid = until("the container runs its program", || {
            ensure!(!process.has_ended()?, "it ended: {}", log_text());
            let Some(pid) = child_of(process.pid())? else {
                return Ok(None);
            };
            // The root changes before the program is started.
            let root = fs::read_link(format!("/proc/{pid}/exe"));
            let entry_point = image.entry_point.first().context("no entry point")?;
            Ok(root
                .is_ok_and(|exe| exe == Path::new(entry_point))
                .then_some(pid))
        })?;
        Ok(Self {
            pid,
            _process: process,
        })
    }
}

/// Returns what the program in the container wrote.
fn log_text() -> String {
    fs::read_to_string(LOG).unwrap_or_else(|error| format!("{LOG}: {error}"))
}

/// Returns the process whose parent is this one.
fn child_of(parent: u32) -> Result<Option<u32>> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if status.contains(&format!("\nPPid:\t{parent}\n")) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Becomes the program of a container: changes the root, keeps only some capabilities, and starts it. This process is
/// the first one of its namespaces.
pub fn enter(mut arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let mut next = || arguments.next().context("an argument is missing");
    let root = PathBuf::from(next()?);
    let capabilities = next()?;
    let capabilities: u64 = capabilities.to_string_lossy().parse()?;
    let program = next()?;
    mount_all(&root)?;
    keep_only(capabilities)?;
    let mut command = Command::new(&program);
    command.args(arguments).env_clear().env("PATH", "/usr/bin");
    bail!("cannot run {}: {}", program.display(), command.exec())
}

/// Mounts what an engine mounts, and makes the folder the root.
fn mount_all(root: &Path) -> Result<()> {
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
        mount_remount, unmount,
    };

    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount_bind_recursive(root, root)?;
    let inside = |name: &str| -> Result<PathBuf> {
        let path = root.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    };
    let read_only = MountFlags::RDONLY | MountFlags::BIND;
    let proc = inside("proc")?;
    mount("proc", &proc, "proc", MountFlags::empty(), None)?;
    mount_bind_recursive(proc.join("sys"), proc.join("sys"))?;
    mount_remount(proc.join("sys"), read_only, "")?;
    mount("sysfs", inside("sys")?, "sysfs", MountFlags::RDONLY, None)?;
    mount("tmpfs", inside("dev")?, "tmpfs", MountFlags::empty(), None)?;
    fs::write(root.join("dev/null"), "")?;
    mount_bind_recursive("/dev/null", root.join("dev/null"))?;
    // The volume of the DaemonSet.
    let cgroups = root.join("sys/fs/cgroup");
    mount_bind_recursive("/sys/fs/cgroup", &cgroups)?;
    mount_remount(&cgroups, read_only, "")?;
    // It must be a place without mounts, which is in the new root and not read-only yet.
    let old = inside("old")?;
    rustix::process::pivot_root(root, &old)?;
    env::set_current_dir("/")?;
    unmount("/old", UnmountFlags::DETACH)?;
    fs::remove_dir("/old")?;
    mount_remount("/", read_only, "")?;
    Ok(())
}

/// Takes away all capabilities but these, and the ways to get others.
fn keep_only(capabilities: u64) -> Result<()> {
    use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};

    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
    for number in 0..=last.trim().parse::<u32>()? {
        if capabilities & 1 << number == 0 {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            remove_capability_from_bounding_set(capability)
                .with_context(|| format!("cannot drop capability {number}"))?;
        }
    }
    set_no_new_privs(true)?;
    Ok(())
}
