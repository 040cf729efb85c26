//! Giving up privileges: the capabilities of this process and, by Landlock, the files and TCP ports that it may use.
//!
//! Both belong to threads, and children inherit them. So this is done while the process has one thread.

use std::{
    collections::HashSet,
    fmt, fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    ptr,
};

use anyhow::{Context as _, Result, ensure};
use caps::{CapSet, Capability};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use crate::term::printable::printable;

/// The newest Landlock whose rights are all taken away; of an older one, those that it has. The next one also closes Unix
/// sockets, and the service manager's may be created again at any time.
const NEWEST: ABI = ABI::V8;

/// Privileges to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Capabilities, each of which is kept if this process has it; otherwise CAP_SYS_ADMIN, which stands for them all.
    pub(crate) capabilities: Vec<Capability>,
    /// Files to read, and folders with all that they contain.
    pub(crate) read: Vec<PathBuf>,
    /// Folders in which files and folders are created, written and removed.
    pub(crate) write: Vec<PathBuf>,
    /// Folders from which files are removed.
    pub(crate) remove: Vec<PathBuf>,
}

/// The privileges that remain.
pub(crate) struct Sandbox {
    capabilities: Vec<Capability>,
    /// The restriction of files; `None` if the kernel has no Landlock.
    files: Option<Files>,
    uid: u32,
}

/// Files that may still be used.
struct Files {
    needs: Needs,
    /// True if opening and connecting TCP sockets is restricted too (Linux 6.7).
    tcp: bool,
    /// Keeps the kernel's entries of these paths alive. The rules belong to inodes, and procfs makes a new one when it
    /// looks up a path that was forgotten.
    _pinned: Vec<PathFd>,
}

impl Sandbox {
    /// Gives up all privileges of this process but these.
    ///
    /// # Errors
    /// If the process has more than one thread, or the kernel refuses. Paths that do not exist are left out.
    pub(crate) fn enter(needs: Needs) -> Result<Self> {
        let threads = fs::read_dir("/proc/self/task").context("read /proc/self/task")?;
        ensure!(
            threads.count() == 1,
            "privileges cannot be dropped: this process has several threads"
        );
        let capabilities =
            drop_capabilities(&needs.capabilities).context("drop the capabilities")?;
        Ok(Self {
            capabilities,
            files: restrict(needs).context("restrict the files (Landlock)")?,
            // SAFETY: the call takes nothing and cannot fail.
            uid: unsafe { libc::geteuid() },
        })
    }

    /// Returns a sentence that root's files stay within reach, if they do.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        (self.uid == 0 && self.files.is_none()).then_some(
            "the files of root stay within reach, because this kernel has no Landlock (Linux 5.13, lsm=landlock): \
             start it as a user of its own, with the capabilities in docs/security.md",
        )
    }
}

/// Says what remains, in sentences.
impl fmt::Display for Sandbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.capabilities[..] {
            [] => write!(formatter, "Dropped all capabilities.")?,
            kept => write!(
                formatter,
                "Dropped all capabilities but {}.",
                names(kept.iter().copied())
            )?,
        }
        let Some(Files { needs, tcp, .. }) = &self.files else {
            return write!(
                formatter,
                " Files are not restricted: this kernel has no Landlock."
            );
        };
        write!(formatter, " May read {}", paths(&needs.read))?;
        write!(formatter, "; may write {}", paths(&needs.write))?;
        if !needs.remove.is_empty() {
            write!(formatter, "; may remove files in {}", paths(&needs.remove))?;
        }
        write!(formatter, "; no other files")?;
        if *tcp {
            write!(formatter, ", and no further TCP sockets")?;
        }
        write!(formatter, " (Landlock).")
    }
}

fn paths(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "nothing".to_owned();
    }
    let paths: Vec<String> = paths
        .iter()
        .map(|path| printable(path).to_string())
        .collect();
    paths.join(", ")
}

/// Returns names of capabilities, in the order of their numbers.
fn names(capabilities: impl IntoIterator<Item = Capability>) -> String {
    let mut all: Vec<_> = capabilities.into_iter().collect();
    all.sort_by_key(Capability::index);
    let names: Vec<String> = all.iter().map(Capability::to_string).collect();
    names.join(", ")
}

/// Returns those of the wanted capabilities that are to be kept of the held ones: all of them, or CAP_SYS_ADMIN, which
/// stands for each of them.
fn kept(wanted: &[Capability], held: &HashSet<Capability>) -> Vec<Capability> {
    let admin = Capability::CAP_SYS_ADMIN;
    if wanted.iter().all(|capability| held.contains(capability)) || !held.contains(&admin) {
        let mut kept = wanted.to_vec();
        kept.retain(|capability| held.contains(capability));
        return kept;
    }
    vec![admin]
}

/// Drops all capabilities of this thread but these, and returns those that it keeps.
fn drop_capabilities(wanted: &[Capability]) -> Result<Vec<Capability>> {
    let held = caps::read(None, CapSet::Permitted)?;
    let kept = kept(wanted, &held);
    caps::clear(None, CapSet::Ambient)?;
    // Without the privilege to do this, the bounding set stays what the starter left. No program that this process
    // executes gains from it: no_new_privs is set with Landlock.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    let all = kept.iter().copied().collect();
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &all)?;
    caps::set(None, CapSet::Permitted, &all)?;
    Ok(kept)
}

/// Restricts the files and TCP ports; `None` if the kernel has no Landlock. Sets no_new_privs on any kernel.
fn restrict(needs: Needs) -> Result<Option<Files>> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::RemoveDir;
    let mut ruleset = nothing_allowed()?;
    let mut pinned = Vec::new();
    let mut allowed = needs;
    for (paths, access) in [
        (&mut allowed.read, read),
        (&mut allowed.write, write),
        (&mut allowed.remove, AccessFs::RemoveFile.into()),
    ] {
        let mut open = |path: &PathBuf| {
            PathFd::new(path).is_ok_and(|fd| {
                pinned.push((fd, access & rights_of(path)));
                true
            })
        };
        paths.retain(&mut open);
    }
    for (fd, access) in &pinned {
        ruleset = ruleset.add_rule(PathBeneath::new(fd, *access))?;
    }
    let RestrictionStatus {
        ruleset,
        no_new_privs,
        landlock,
        ..
    } = ruleset.restrict_self()?;
    ensure!(no_new_privs, "the kernel refuses no_new_privs");
    Ok((ruleset != RulesetStatus::NotEnforced).then(|| Files {
        needs: allowed,
        tcp: ABI::from(landlock) >= ABI::V4,
        _pinned: pinned.into_iter().map(|(fd, _)| fd).collect(),
    }))
}

/// Returns the rights that a rule for this path can have.
fn rights_of(path: &Path) -> BitFlags<AccessFs> {
    if path.is_dir() {
        AccessFs::from_all(NEWEST)
    } else {
        AccessFs::from_file(NEWEST)
    }
}

/// Returns a ruleset that takes every right away.
fn nothing_allowed() -> Result<RulesetCreated> {
    Ok(Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?)
}

/// Returns the rules for [`give_up_all`]; `None` without Landlock.
pub(crate) fn no_files() -> Option<OwnedFd> {
    nothing_allowed().ok().and_then(Into::into)
}

/// Gives up all capabilities of this thread, and all files that are not open, by the rules of [`no_files`] if there are
/// any. What the kernel refuses stays as it is.
///
/// # Safety
/// `rules` must be open. Calls only async-signal-safe functions (signal-safety(7)): for the child of a fork.
pub(crate) unsafe fn give_up_all(rules: Option<libc::c_int>) {
    /// `_LINUX_CAPABILITY_VERSION_3`, linux/capability.h.
    const VERSION: u32 = 0x2008_0522;
    /// More than the number of the last capability: the kernel refuses the others.
    const CAPABILITIES: libc::c_ulong = 64;
    // The version and this thread; three empty sets, each of two words.
    let (header, none) = ([VERSION, 0], [0_u32; 6]);
    // SAFETY: the system calls read the arrays, and nothing else in memory.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if let Some(rules) = rules {
            libc::syscall(libc::SYS_landlock_restrict_self, rules, 0);
        }
        for capability in 0..CAPABILITIES {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr());
    }
}

/// Returns the version of the kernel's Landlock.
///
/// # Errors
/// If the kernel has none, or it is off.
pub(crate) fn landlock_version() -> io::Result<i64> {
    /// `LANDLOCK_CREATE_RULESET_VERSION`, linux/landlock.h.
    const VERSION: libc::c_long = 1;
    // SAFETY: asked for its version, the kernel reads no memory.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<libc::c_void>(),
            0,
            VERSION,
        )
    };
    if version < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(version)
}

/// Returns whether the kernel takes CAP_BPF for reading maps and programs, even by a descriptor: before Linux 5.19, if
/// `kernel.unprivileged_bpf_disabled` is not 0. This thread tries it without its capabilities.
///
/// # Errors
/// If the capabilities cannot be dropped or taken again.
pub(crate) fn reading_takes_privileges() -> Result<bool> {
    /// `BPF_OBJ_GET_INFO_BY_FD`, linux/bpf.h.
    const GET_INFO: libc::c_long = 15;
    let before = caps::read(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Effective)?;
    // The attributes of the call: descriptor -1, and nowhere to write to.
    let attributes = [u32::MAX, 0, 0, 0];
    // SAFETY: the kernel reads the attributes. There is no such descriptor, so it writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            GET_INFO,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    let refused = result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    caps::set(None, CapSet::Effective, &before)?;
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn one_capability_stands_for_those_that_are_missing() {
        use Capability::{CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN};
        let wanted = [CAP_PERFMON, CAP_BPF];
        let of = |held: &[Capability]| kept(&wanted, &held.iter().copied().collect());
        assert_eq!(of(&[CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN]), wanted);
        assert_eq!(of(&[CAP_BPF, CAP_PERFMON]), wanted);
        assert_eq!(of(&[CAP_BPF, CAP_SYS_ADMIN]), [CAP_SYS_ADMIN]);
        assert_eq!(of(&[CAP_BPF]), [CAP_BPF]);
        assert_eq!(of(&[]), []);
        assert_eq!(kept(&[], &[CAP_SYS_ADMIN].into()), []);
        assert_eq!(names(wanted), "CAP_PERFMON, CAP_BPF");
    }

    #[test]
    fn what_remains_is_said() {
        let mut sandbox = Sandbox {
            capabilities: vec![],
            files: Some(Files {
                needs: Needs {
                    read: vec!["/proc/self".into(), "/etc/connect-trace".into()],
                    ..Needs::default()
                },
                tcp: true,
                _pinned: vec![],
            }),
            uid: 0,
        };
        assert_eq!(
            sandbox.to_string(),
            "Dropped all capabilities. May read /proc/self, /etc/connect-trace; may write nothing; no other files, \
             and no further TCP sockets (Landlock)."
        );
        assert_eq!(sandbox.warning(), None);
        sandbox.files = None;
        sandbox.capabilities = vec![Capability::CAP_BPF];
        assert_eq!(
            sandbox.to_string(),
            "Dropped all capabilities but CAP_BPF. Files are not restricted: this kernel has no Landlock."
        );
        assert!(sandbox.warning().is_some_and(|text| text.contains("root")));
        sandbox.uid = 1000;
        assert_eq!(sandbox.warning(), None, "root's files are closed to it");
    }

    #[test]
    fn a_thread_reads_only_what_is_allowed() {
        let folder = tempfile("allowed");
        fs::create_dir(&folder).unwrap();
        let needs = Needs {
            read: vec!["/proc/self".into(), "/does/not/exist".into()],
            write: vec![folder.clone()],
            ..Needs::default()
        };
        // Restrictions belong to a thread, so this does not restrict the other tests.
        let tried = thread::spawn({
            let folder = folder.clone();
            move || {
                let files = restrict(needs).unwrap();
                fs::write(folder.join("x"), "x").unwrap();
                fs::read_to_string("/proc/self/status").unwrap();
                fs::remove_file(folder.join("x")).unwrap();
                fs::create_dir(folder.join("date")).unwrap();
                fs::remove_dir(folder.join("date")).unwrap();
                let outside = fs::read_to_string("/proc/version");
                (files.is_some(), outside.map_err(|error| error.kind()))
            }
        });
        let (has_landlock, outside) = tried.join().unwrap();
        fs::remove_dir(folder).unwrap();
        assert_eq!(has_landlock, landlock_version().is_ok());
        assert_eq!(
            outside.err(),
            has_landlock.then_some(io::ErrorKind::PermissionDenied)
        );
    }

    fn tempfile(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("connect-trace-{}-{name}", std::process::id()))
    }
}
