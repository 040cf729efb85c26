//! Packages of Debian, of any suite, fetched and unpacked but never installed.
//!
//! apt fetches them with a separate list of sources per suite: it verifies every package by the signature of Debian's
//! archive, and the machine's own apt configuration stays unchanged. The address of the archive is the one that the
//! machine itself uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::scratch_folder;
use crate::{arch::Arch, process, workspace};

/// Suites that have needed packages, stable suites first.
pub(crate) const SUITES: [&str; 7] = [
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "forky",
    "sid",
];

/// Variable with the address of an archive, for a machine whose own apt has none.
const MIRROR_VARIABLE: &str = "CONNECT_TRACE_DEBIAN_MIRROR";

/// Paths where the package `debian-archive-keyring` puts its keys, in newer and older releases.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// Age at which the package list of a suite is read again.
const FRESH: Duration = Duration::from_hours(24);

/// One suite of the archive for one architecture, with its package list.
pub(crate) struct Suite {
    name: &'static str,
    arch: Arch,
    folder: PathBuf,
}

impl Suite {
    /// Prepares a suite; downloads its package list if that is missing or old.
    pub(crate) fn open(name: &'static str, arch: Arch) -> Result<Self> {
        if !process::is_installed("apt-get") || !process::is_installed("dpkg-deb") {
            bail!(
                "Debian's packages are fetched with apt-get and unpacked with dpkg-deb, which this \
                 machine does not have; install the packages apt and dpkg (most distributions \
                 have them)"
            );
        }
        let suite = Self {
            name,
            arch,
            folder: workspace::tools_of(arch).join("apt").join(name),
        };
        suite.prepare()?;
        let marker = suite.folder.join("updated");
        let fresh = fs::metadata(&marker)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| {
                SystemTime::now()
                    .duration_since(time)
                    .is_ok_and(|age| age < FRESH)
            });
        if !fresh {
            eprintln!("reading Debian's list of packages for {name}");
            suite.write_sources()?;
            process::output(suite.apt("apt-get").arg("update"))
                .with_context(|| format!("cannot read Debian's list of packages for {name}"))?;
            fs::write(&marker, "").with_context(|| format!("cannot write {}", marker.display()))?;
        }
        Ok(suite)
    }

    /// Returns the suite's name, such as `bookworm`.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the names of the packages that begin with `beginning`.
    pub(crate) fn names(&self, beginning: &str) -> Result<Vec<String>> {
        let text = process::output(self.apt("apt-cache").args(["pkgnames", beginning]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Returns the versions of a package; none if the suite does not have it.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let text = process::output(self.apt("apt-cache").args(["madison", package]))?;
        Ok(text
            .lines()
            .filter_map(madison_version)
            .map(str::to_owned)
            .collect())
    }

    /// Returns these packages and all that they depend on, in the order in which apt would install them on an empty
    /// system.
    pub(crate) fn with_dependencies(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut apt = self.apt("apt-get");
        apt.args(["--simulate", "--no-install-recommends", "install"]);
        let text = process::output(apt.args(packages))
            .with_context(|| format!("cannot resolve dependencies in {}", self.name))?;
        Ok(text
            .lines()
            .filter_map(installed_package)
            .map(str::to_owned)
            .collect())
    }

    /// Downloads packages (`name` or `name=version`) and unpacks them into one folder.
    pub(crate) fn unpack(&self, packages: &[impl AsRef<str>], folder: &Path) -> Result<()> {
        let archives = scratch_folder(&format!("{}-archives", self.name))?;
        for archive in self.download(packages, &archives)? {
            process::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
        }
        fs::remove_dir_all(&archives)?;
        Ok(())
    }

    /// Downloads packages (`name` or `name=version`) into an empty folder, and returns the paths of their archives.
    pub(crate) fn download(
        &self,
        packages: &[impl AsRef<str>],
        folder: &Path,
    ) -> Result<Vec<PathBuf>> {
        let packages: Vec<_> = packages.iter().map(AsRef::as_ref).collect();
        let mut apt = self.apt("apt-get");
        apt.arg("download").args(&packages).current_dir(folder);
        process::output(&mut apt).with_context(|| {
            format!("cannot download {} from {}", packages.join(", "), self.name)
        })?;
        let entries = fs::read_dir(folder)?;
        let mut archives = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        archives.sort();
        Ok(archives)
    }

    /// Returns an apt command that sees this suite only.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.folder.join(name).display().to_string();
        for (option, value) in [
            ("APT::Architecture", self.arch.debian().to_owned()),
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", path("sources.list.d")),
            ("Dir::State::lists", path("lists")),
            // A separate file, which apt may replace: as root it would replace /dev/null too.
            ("Dir::State::status", path("status")),
            ("Dir::Cache", path("cache")),
            // Otherwise apt only warns about an unreachable archive.
            ("APT::Update::Error-Mode", "any".to_owned()),
            // Root may write to these folders; apt's own user may not.
            ("APT::Sandbox::User", "root".to_owned()),
            // Packages for this architecture alone, whatever else the machine may install.
            ("APT::Architectures::", self.arch.debian().to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command.env("LC_ALL", "C");
        command
    }

    /// Creates the folders and files that apt expects.
    fn prepare(&self) -> Result<()> {
        for name in ["lists/partial", "cache/archives/partial", "sources.list.d"] {
            let folder = self.folder.join(name);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let status = self.folder.join("status");
        fs::write(&status, "").with_context(|| format!("cannot write {}", status.display()))
    }

    fn write_sources(&self) -> Result<()> {
        let keyring = KEYRINGS
            .iter()
            .find(|path| Path::new(path).exists())
            .with_context(|| {
                format!(
                    "packages of Debian cannot be verified without {}; install the package \
                 debian-archive-keyring",
                    KEYRINGS[1]
                )
            })?;
        let archive = archive()?;
        let arch = self.arch.debian();
        let options = format!("arch={arch} signed-by={keyring} target=Packages");
        let sources = format!("deb [{options}] {archive} {} main\n", self.name);
        let path = self.folder.join("sources.list");
        fs::write(&path, sources).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Returns the address of Debian's archive, from the machine's own apt.
fn archive() -> Result<String> {
    if let Ok(address) = std::env::var(MIRROR_VARIABLE) {
        return Ok(address);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let mut parts: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| {
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        })
        .unwrap_or_default();
    parts.sort();
    files.append(&mut parts);
    files
        .iter()
        .filter_map(|path| {
            let text = fs::read_to_string(path).ok()?;
            match path.extension()?.to_str()? {
                "list" => archive_in_list(&text),
                "sources" => archive_in_stanzas(&text),
                _ => None,
            }
        })
        .next()
        .with_context(|| {
            format!(
                "this machine's apt sources (/etc/apt/sources.list.d) name no archive of Debian; \
                 set {MIRROR_VARIABLE} to the address of one"
            )
        })
}

/// Finds the archive in a file of one-line entries: `deb [options] URI SUITE COMPONENT…`.
fn archive_in_list(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line
            .split('#')
            .next()?
            .trim()
            .strip_prefix("deb ")?
            .trim_start();
        let rest = match line.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?.1,
            None => line,
        };
        let mut words = rest.split_whitespace();
        let (address, suite) = (words.next()?, words.next()?);
        is_debian(address, &[suite], &words.collect::<Vec<_>>()).then(|| address.to_owned())
    })
}

/// Finds the archive in a file of stanzas (deb822 format).
fn archive_in_stanzas(text: &str) -> Option<String> {
    // Comments may be between a stanza's fields.
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>();
    lines
        .split(|line| line.trim().is_empty())
        .find_map(|stanza| {
            let words = |field: &str| stanza_field(stanza, field);
            let off = words("enabled")
                .iter()
                .any(|word| word.eq_ignore_ascii_case("no"));
            if off || !words("types").contains(&"deb") {
                return None;
            }
            let (suites, components) = (words("suites"), words("components"));
            let addresses = words("uris");
            addresses
                .into_iter()
                .find(|address| is_debian(address, &suites, &components))
                .map(str::to_owned)
        })
}

/// Returns the words of a stanza's field, including its continuation lines.
fn stanza_field<'a>(stanza: &[&'a str], name: &str) -> Vec<&'a str> {
    let mut words = Vec::new();
    let mut inside = false;
    for line in stanza {
        let mut rest = *line;
        if !line.starts_with([' ', '\t']) {
            let Some((field, value)) = line.split_once(':') else {
                continue;
            };
            inside = field.eq_ignore_ascii_case(name);
            rest = value;
        }
        if inside {
            words.extend(rest.split_whitespace());
        }
    }
    words
}

/// Returns true if a source is Debian's main archive, not its security archive or another archive.
fn is_debian(address: &str, suites: &[&str], components: &[&str]) -> bool {
    let reachable = ["http://", "https://", "file:"]
        .iter()
        .any(|kind| address.starts_with(kind));
    let release = |suite: &&str| {
        SUITES.contains(suite) || ["stable", "testing", "unstable", "oldstable"].contains(suite)
    };
    reachable && suites.iter().any(release) && components.contains(&"main")
}

/// Returns the version in a line of `apt-cache madison`: `package | version | source`.
fn madison_version(line: &str) -> Option<&str> {
    line.split('|').nth(1).map(str::trim)
}

/// Returns the package in a line of `apt-get --simulate install`: `Inst package (version suite)`.
fn installed_package(line: &str) -> Option<&str> {
    line.strip_prefix("Inst ")?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_found_among_stanzas() {
        let text = "Types: deb\nURIs: https://elsewhere.example/debian\nSuites: nodistro\n\
                    Components: main\n\n\
                    Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\n\
                    Suites: bookworm\n bookworm-updates\nComponents: main contrib\n";
        assert_eq!(
            archive_in_stanzas(text).as_deref(),
            Some("http://mirror.example/debian")
        );
    }

    #[test]
    fn a_stanza_that_is_off_is_passed_over() {
        let text = "Enabled: no\nTypes: deb\nURIs: http://mirror.example/debian\n\
                    Suites: bookworm\nComponents: main\n";
        assert_eq!(archive_in_stanzas(text), None);
    }

    #[test]
    fn the_archive_is_found_among_lines() {
        let text = "# deb http://commented.example/debian sid main\n\
                    deb-src http://source.example/debian sid main\n\
                    deb cdrom:[Debian]/ sid main\n\
                    deb http://other.example/debian bookworm stable\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main # x\n";
        assert_eq!(
            archive_in_list(text).as_deref(),
            Some("http://mirror.example/debian")
        );
    }

    #[test]
    fn the_security_archive_is_not_the_archive() {
        let text = "deb http://mirror.example/debian-security bookworm-security main\n";
        assert_eq!(archive_in_list(text), None);
    }

    #[test]
    fn versions_are_read_from_madison() {
        let line = "  rust-src | 1.97.1+dfsg1-1 | http://mirror.example/debian sid/main Packages";
        assert_eq!(madison_version(line), Some("1.97.1+dfsg1-1"));
        assert_eq!(madison_version(""), None);
    }

    #[test]
    fn packages_to_install_are_read_from_a_simulation() {
        let line = "Inst libc6 (2.36-9+deb12u13 Debian:12.12/oldstable [amd64]) []";
        assert_eq!(installed_package(line), Some("libc6"));
        assert_eq!(installed_package("Conf libc6 (2.36)"), None);
    }
}
