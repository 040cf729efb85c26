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
mod texts;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use self::commit::Commit;
use self::program::Program;
use self::texts::Texts;
use crate::arch::Arch;
use crate::tools::checkers::Checkers;
use crate::{stdout, workspace};

/// Name of the program and of the packages.
const NAME: &str = "connect-trace";

/// Version of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Build packages for each architecture: a .deb, a static tarball, a container image; a source tarball and lists of crates
///
/// They are written to target/package/. The same program and commit give the same .deb, tarball and image; times in them
/// are that of the commit, or `SOURCE_DATE_EPOCH`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Packages to build [default: all]
    #[arg(value_enum)]
    kinds: Vec<Kind>,

    /// Build for this architecture; can be repeated [default: both]
    #[arg(long, value_enum, value_name = "ARCH", conflicts_with = "program")]
    arch: Vec<Arch>,

    /// Package this program, which must be static, for its architecture, instead of building any
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

    let programs = match &options.program {
        Some(file) => vec![Program::open(file)?],
        None => build(
            &options.arch,
            sboms.as_ref().map(|[of_program, _]| &**of_program),
        )?,
    };
    if wanted(Kind::Deb) || wanted(Kind::Tarball) {
        let texts = Texts::of(&programs, folder)?;
        for program in &programs {
            if wanted(Kind::Deb) {
                let package = deb::write(program, &texts, &commit, folder)?;
                print(&package)?;
                if options.check {
                    eprint!("{}", Checkers::ensure()?.lintian(&package)?);
                }
            }
            if wanted(Kind::Tarball) {
                print(&tarball::write(program, &texts, &commit, folder)?)?;
            }
        }
    }
    if wanted(Kind::Deb) && options.check {
        Checkers::ensure()?.verify(&workspace::root().join("packaging/connect-trace.service"))?;
    }
    if wanted(Kind::Image) {
        let of_all = (programs.len() > 1).then_some(&*programs);
        for programs in programs.chunks(1).chain(of_all) {
            let image = image::write(programs, &commit, folder)?;
            print(&image)?;
            for program in programs.iter().filter(|_| options.check) {
                eprint!("{}", image::inspect(&image, program.arch())?);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs for these architectures, or for all, and checks what they have inside: the same eBPF programs, and
/// no crate that the list of crates lacks.
fn build(archs: &[Arch], sbom: Option<&Path>) -> Result<Vec<Program>> {
    let all = Arch::ALL.into_iter();
    let archs: Vec<_> = all
        .filter(|arch| archs.is_empty() || archs.contains(arch))
        .collect();
    let programs = Program::build(&archs)?;
    let object = source::object();
    let object = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    for program in &programs {
        program.check_object(&object)?;
        let audited = audit::crates(program.path())?;
        if let Some(sbom) = sbom {
            sbom::check(sbom, &audited)?;
        }
    }
    Ok(programs)
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
        let texts = Texts::printed_by(program.path(), folder)?;
        Ok(Self {
            deb: deb::write(&program, &texts, &commit, folder)?,
            image: image::write(&[program], &commit, folder)?,
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
