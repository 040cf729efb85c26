//! Kernels for guests: Debian's, built for virtual machines, by the name of their series.
//!
//! A series is unpacked in `.tools/kernels/SERIES/`; to fetch its newest kernel, remove that folder.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

use super::debian::{SUITES, Suite};
use super::{lock, replace_folder, report, scratch_folder};
use crate::arch::Arch;
use crate::workspace;

/// A series of kernels, such as 6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    major: u32,
    minor: u32,
}

impl Series {
    const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let halves = text
            .split_once('.')
            .and_then(|(major, minor)| Some(Self::new(major.parse().ok()?, minor.parse().ok()?)));
        halves.ok_or_else(|| format!("`{text}` is not a kernel series such as 6.12"))
    }
}

/// The series that the project is tested on, and the suite of each.
const TESTED: [(Series, &str); 5] = [
    (Series::new(5, 10), "bullseye"),
    (Series::new(6, 1), "bookworm"),
    (Series::new(6, 12), "trixie"),
    (Series::new(6, 18), "trixie-backports"),
    (Series::new(7, 3), "trixie-backports"),
];

/// Series that arm64 is tested on: the oldest without fentry there, Debian's stable one and the newest. The kernel's code
/// that is probed is the same on every architecture; an architecture decides how probes attach, and only that differs
/// by series.
const TESTED_ON_ARM64: [Series; 3] = [Series::new(6, 1), Series::new(6, 12), Series::new(7, 3)];

/// Returns the series that the project is tested on, oldest first.
pub fn tested(arch: Arch) -> impl Iterator<Item = Series> {
    let tested = TESTED.into_iter().map(|(series, _)| series);
    tested.filter(move |series| arch == Arch::Amd64 || TESTED_ON_ARM64.contains(series))
}

/// A kernel that a guest can boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name as given on the command line: the series or the file's path; with the architecture if it is not the host's.
    pub name: String,
    /// Architecture of the machines that it boots on.
    pub arch: Arch,
    /// The compressed kernel.
    pub image: PathBuf,
    /// Folder of its modules; none for a kernel given as a file.
    pub modules: Option<PathBuf>,
}

impl Kernel {
    /// Returns the newest kernel of a series in Debian; fetches it if it is missing.
    pub fn of(series: Series, arch: Arch) -> Result<Self> {
        let _lock = lock()?;
        let folder = workspace::tools_of(arch).join("kernels");
        let folder = folder.join(series.to_string());
        if !folder.exists() {
            fetch(series, arch, &folder)?;
        }
        let modules = folder.join("modules");
        Ok(Self {
            name: arch.named(&series.to_string()),
            arch,
            image: folder.join("vmlinuz"),
            modules: Some(modules),
        })
    }

    /// Returns the release, as `uname -r` prints it; for a kernel in a file, the path of the file.
    pub fn release(&self) -> String {
        fs::read_to_string(self.image.with_file_name("release"))
            .unwrap_or_else(|_| self.name.clone())
    }

    /// Returns the kernel in a file.
    pub fn at(path: &Path, arch: Arch) -> Result<Self> {
        if !path.is_file() {
            bail!(
                "there is no kernel {}; name a file such as /boot/vmlinuz-…",
                path.display()
            );
        }
        Ok(Self {
            name: path.display().to_string(),
            arch,
            image: path.to_owned(),
            modules: None,
        })
    }
}

/// Unpacks the newest kernel of a series into `place` as `vmlinuz`, `modules/` and `release`.
fn fetch(series: Series, arch: Arch, place: &Path) -> Result<()> {
    let (suite, release) = find(series, arch)?;
    report(
        "kernel",
        &format!("fetching {release} from Debian's {}", suite.name()),
    );
    // From 7.2 on an image is an empty package that depends on these.
    let parts = ["binary", "modules", "base"].map(|part| format!("linux-{part}-{release}"));
    let names = suite.names("linux-binary-")?;
    let packages = if names.contains(&parts[0]) {
        parts.to_vec()
    } else {
        vec![format!("linux-image-{release}")]
    };

    let unpacked = scratch_folder(&format!("kernel-{series}"))?;
    suite.unpack(&packages, &unpacked)?;
    let first_of = |choices: [String; 2]| {
        choices
            .iter()
            .map(|choice| unpacked.join(choice))
            .find(|path| path.exists())
            .with_context(|| {
                format!(
                    "{} holds no {}",
                    packages.join(" and "),
                    choices.join(" or ")
                )
            })
    };
    let image = first_of([
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
    ])?;
    let modules = first_of([
        format!("lib/modules/{release}"),
        format!("usr/lib/modules/{release}"),
    ])?;

    let ready = scratch_folder(&format!("kernel-{series}-ready"))?;
    fs::rename(image, ready.join("vmlinuz"))?;
    fs::rename(modules, ready.join("modules"))?;
    fs::write(ready.join("release"), &release)?;
    fs::remove_dir_all(&unpacked)?;
    replace_folder(&ready, place)
}

/// Finds the suite that has the series, and the newest release there.
fn find(series: Series, arch: Arch) -> Result<(Suite, String)> {
    let home = TESTED
        .into_iter()
        .find(|(tested, _)| *tested == series)
        .map(|(_, suite)| suite);
    let others = SUITES
        .into_iter()
        .rev()
        .filter(|suite| Some(*suite) != home);
    let mut seen = Vec::new();
    for name in home.into_iter().chain(others) {
        let suite = Suite::open(name, arch)?;
        let packages = suite.names("linux-image-")?;
        if let Some(release) = newest_release(series, arch, &packages) {
            return Ok((suite, release));
        }
        seen.extend(
            packages
                .iter()
                .filter_map(|package| release_of(package, arch))
                .filter_map(series_of),
        );
    }
    seen.sort();
    seen.dedup();
    let seen = seen
        .iter()
        .map(Series::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    bail!("none of Debian's suites has a cloud kernel of series {series}; they have {seen}")
}

/// Returns the newest release of a series in a list of kernel packages.
fn newest_release(series: Series, arch: Arch, packages: &[String]) -> Option<String> {
    packages
        .iter()
        .filter_map(|package| release_of(package, arch))
        .filter(|release| series_of(release) == Some(series))
        .max_by_key(|release| numbers(release))
        .map(str::to_owned)
}

/// Returns the release, as `uname -r` prints it, of a kernel package for virtual machines.
fn release_of(package: &str, arch: Arch) -> Option<&str> {
    let release = package.strip_prefix("linux-image-")?;
    let numbered = release.starts_with(|c: char| c.is_ascii_digit());
    (numbered && release.ends_with(&format!("-cloud-{}", arch.debian()))).then_some(release)
}

fn series_of(release: &str) -> Option<Series> {
    match numbers(release).as_slice() {
        &[major, minor, _, ..] => Some(Series::new(major, minor)),
        _ => None,
    }
}

/// Returns the numbers in a release, in order; they decide which of two releases is newer.
fn numbers(release: &str) -> Vec<u32> {
    let (version, _) = release.split_once("-cloud-").unwrap_or((release, ""));
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_two_numbers() {
        assert_eq!("6.12".parse(), Ok(Series::new(6, 12)));
        assert!("6".parse::<Series>().is_err());
        assert!("6.12.3".parse::<Series>().is_err());
        assert!("six.one".parse::<Series>().is_err());
    }

    #[test]
    fn the_newest_release_is_so_by_number_and_not_by_spelling() {
        let packages = [
            "linux-image-6.1.0-47-cloud-amd64",
            "linux-image-6.12.90+deb12-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64-unsigned",
            "linux-image-6.12.200+deb13-amd64",
            "linux-image-6.12.300+deb13-cloud-arm64",
            "linux-image-6.18.1+deb13-cloud-amd64",
            "linux-image-cloud-amd64",
        ]
        .map(str::to_owned);
        let newest = |series: &str| newest_release(series.parse().unwrap(), Arch::Amd64, &packages);
        assert_eq!(
            newest("6.12").as_deref(),
            Some("6.12.107+deb13-cloud-amd64")
        );
        assert_eq!(newest("6.1").as_deref(), Some("6.1.0-47-cloud-amd64"));
        assert_eq!(newest("7.3"), None);
    }

    #[test]
    fn a_later_build_of_a_release_is_newer() {
        let packages = ["5.10.0-9", "5.10.0-30", "6.12.90+deb12", "6.12.90+deb12.1"]
            .map(|release| format!("linux-image-{release}-cloud-amd64"));
        let newest = |series: &str| newest_release(series.parse().unwrap(), Arch::Amd64, &packages);
        assert_eq!(newest("5.10").as_deref(), Some("5.10.0-30-cloud-amd64"));
        assert_eq!(
            newest("6.12").as_deref(),
            Some("6.12.90+deb12.1-cloud-amd64")
        );
    }
}
