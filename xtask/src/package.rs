//! `cargo xtask package`: builds what users install.

mod audit;
mod commit;
mod deb;
mod image;
mod installed;
mod program;
mod sbom;
mod source;
mod tarball;
#[cfg(test)]
mod tests;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use self::commit::Commit;
use self::program::Program;
use crate::tools::checkers::Checkers;
use crate::{stdout, workspace};

/// Name of the program and of the packages.
const NAME: &str = "connect-trace";

/// Version of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Build packages: a .deb, a static tarball, a container image, a source tarball and lists of all crates
///
/// They are written to target/package/. The same program and commit give the same .deb, tarball and image; times in them
/// are that of the commit, or `SOURCE_DATE_EPOCH`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Packages to build [default: all]
    #[arg(value_enum)]
    kinds: Vec<Kind>,

    /// Package this program, which must be static, instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,

    /// Also check the .deb with lintian, the unit with systemd-analyze and the image with skopeo, all from Debian
    #[arg(long)]
    check: bool,
}

/// The packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// For Debian and its relatives, with a systemd service
    Deb,
    /// The program and its files, for any distribution
    Tarball,
    /// A container image as an OCI archive
    Image,
    /// The source with the compiled eBPF programs, which stable Rust alone can build
    Source,
    /// Software bills of materials of the program and of the eBPF programs in it (`CycloneDX`)
    Sbom,
}

pub(crate) fn package(options: &Options) -> Result<ExitCode> {
    let folder = &workspace::root().join("target/package");
    create(folder)?;
    let wanted = |kind| options.kinds.is_empty() || options.kinds.contains(&kind);
    let commit = Commit::current()?;
    if commit.is_changed {
        eprintln!("these packages have changes that are not committed");
    }

    if wanted(Kind::Source) {
        print(&source::write(&commit, folder)?)?;
    }
    let sboms = if wanted(Kind::Sbom) {
        let sboms = sbom::write(&commit, folder)?;
        sboms.iter().try_for_each(|sbom| print(sbom))?;
        Some(sboms)
    } else {
        None
    };
    if ![Kind::Deb, Kind::Tarball, Kind::Image]
        .into_iter()
        .any(wanted)
    {
        return Ok(ExitCode::SUCCESS);
    }

    let program = match &options.program {
        Some(file) => Program::open(file)?,
        None => {
            let program = Program::build()?;
            let audited = audit::crates(program.path())?;
            if let Some([sbom, _]) = &sboms {
                sbom::check(sbom, &audited)?;
            }
            program
        }
    };
    if wanted(Kind::Deb) {
        let package = deb::write(&program, &commit, folder)?;
        print(&package)?;
        if options.check {
            let checkers = Checkers::ensure()?;
            eprint!("{}", checkers.lintian(&package)?);
            checkers.verify(&workspace::root().join("packaging/connect-trace.service"))?;
        }
    }
    if wanted(Kind::Tarball) {
        print(&tarball::write(&program, &commit, folder)?)?;
    }
    if wanted(Kind::Image) {
        let image = image::write(&program, &commit, folder)?;
        print(&image)?;
        if options.check {
            eprint!("{}", image::inspect(&image)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Packages of a program that is built already, and the files that they are run with, for tests in guests.
pub(crate) struct ForTests {
    /// The package for Debian.
    pub(crate) deb: PathBuf,
    /// The container image.
    pub(crate) image: PathBuf,
    /// The Kubernetes manifest that runs the image.
    pub(crate) daemon_set: PathBuf,
}

impl ForTests {
    /// Makes the packages in a folder.
    pub(crate) fn write(program: &Path, folder: &Path) -> Result<Self> {
        create(folder)?;
        let (program, commit) = (Program::open(program)?, Commit::current()?);
        Ok(Self {
            deb: deb::write(&program, &commit, folder)?,
            image: image::write(&program, &commit, folder)?,
            daemon_set: workspace::root().join("packaging/kubernetes/daemonset.yaml"),
        })
    }
}

/// Folder of what packages are made from, below the folder of the packages.
const WORK: &str = "work";

/// Creates the folder of the packages.
fn create(folder: &Path) -> Result<()> {
    let work = folder.join(WORK);
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))
}

/// Prints the path and the size of a package.
fn print(package: &Path) -> Result<()> {
    let size = fs::metadata(package)
        .with_context(|| format!("cannot read {}", package.display()))?
        .len();
    ensure!(size > 0, "{} is empty", package.display());
    let path = package.strip_prefix(workspace::root()).unwrap_or(package);
    let line = format!("{}: {} KB\n", path.display(), size.div_ceil(1000));
    stdout::write(line.as_bytes())
}

/// Writes a package, whole or not at all.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
