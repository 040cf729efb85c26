//! The source of Rust's library, which a nightly needs to build `core` for the eBPF target.
//!
//! rustup has it for every nightly. If rustup cannot be reached, it comes from Debian's package of the same version, or
//! from an archive named by an environment variable.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::debian::{SUITES, Suite};
use super::nightly::{self, Compiler};
use super::{report, scratch_folder};
use crate::arch::Arch;
use crate::process;

/// Variable with the path of an archive (.tar.xz) or a folder that has the source's `library/` folder.
const VARIABLE: &str = "CONNECT_TRACE_RUST_SRC";

/// File in a library that xtask installed, with the version of its compiler.
const MARKER: &str = ".put-here-by-connect-trace";

/// Installs the library's source where the compiler expects it, if it is missing.
pub(crate) fn ensure(compiler: &Compiler) -> Result<()> {
    let sysroot = process::output(&mut nightly::rustc(&["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if is_library(&library) && !is_outdated(&library, compiler) {
        return Ok(());
    }

    let ways: [(&str, Way); 3] = [
        ("rustup", from_rustup),
        ("Debian", from_debian),
        (VARIABLE, from_variable),
    ];
    let mut failures = Vec::new();
    for (name, way) in ways {
        report("rust-src", &format!("trying {name}"));
        match way(compiler, &library) {
            Ok(()) if is_library(&library) => {
                report("rust-src", &format!("from {name}"));
                return Ok(());
            }
            Ok(()) => failures.push(format!("{name}: it left no {}", library.display())),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    bail!(
        "cannot get the source of Rust's library for the nightly compiler:\n  {}\n\
         On a machine with a network, run:\n    \
         rustup component add rust-src --toolchain {}\n\
         On one without, set {VARIABLE} to an archive (.tar.xz) or a folder that holds the \
         library/ folder of Rust {}.{}.",
        failures.join("\n  "),
        nightly::NAME,
        compiler.version.0,
        compiler.version.1,
    )
}

type Way = fn(&Compiler, &Path) -> Result<()>;

fn from_rustup(_: &Compiler, _: &Path) -> Result<()> {
    let add = ["component", "add", "rust-src", "--toolchain", nightly::NAME];
    process::output(Command::new("rustup").args(add)).map(drop)
}

fn from_debian(compiler: &Compiler, library: &Path) -> Result<()> {
    // The newest suites have the newest compilers.
    for name in SUITES.into_iter().rev() {
        let suite = Suite::open(name, Arch::HOST)?;
        let versions = suite.versions("rust-src")?;
        let Some(version) = versions
            .iter()
            .find(|text| version_in(text) == Some(compiler.version))
        else {
            continue;
        };
        report("rust-src", &format!("fetching {version} from {name}"));
        let unpacked = scratch_folder("rust-src")?;
        suite.unpack(&[&format!("rust-src={version}")], &unpacked)?;
        install(&unpacked, compiler, library)?;
        return fs::remove_dir_all(&unpacked)
            .with_context(|| format!("cannot remove {}", unpacked.display()));
    }
    let (major, minor) = compiler.version;
    bail!("no suite has rust-src {major}.{minor}, which this nightly needs")
}

fn from_variable(compiler: &Compiler, library: &Path) -> Result<()> {
    let Some(source) = env::var_os(VARIABLE).map(PathBuf::from) else {
        bail!("it is not set");
    };
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    if let Some(version) = version_in(&name)
        && version != compiler.version
    {
        let (major, minor) = compiler.version;
        bail!(
            "{} is not of version {major}.{minor}, the compiler's",
            source.display()
        );
    }
    if source.is_dir() {
        return install(&source, compiler, library);
    }
    let unpacked = scratch_folder("rust-src")?;
    process::output(
        Command::new("tar")
            .arg("-xf")
            .arg(&source)
            .arg("-C")
            .arg(&unpacked),
    )?;
    install(&unpacked, compiler, library)?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
}

/// Copies the library from its place below `source` to the compiler's folder.
fn install(source: &Path, compiler: &Compiler, place: &Path) -> Result<()> {
    let library = find_library(source, 4).with_context(|| {
        format!(
            "{} holds no library/ folder with Rust's core library",
            source.display()
        )
    })?;
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
    process::output(Command::new("cp").arg("-rT").arg(&library).arg(place))?;
    drop_missing_members(place)?;
    let marker = place.join(MARKER);
    fs::write(&marker, marker_text(compiler))
        .with_context(|| format!("cannot write {}", marker.display()))
}

/// Removes missing members from the library's workspace: a copy without the folders of the tests is enough for a build,
/// but cargo refuses a workspace that lacks a member.
fn drop_missing_members(library: &Path) -> Result<()> {
    let path = library.join("Cargo.toml");
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(());
    };
    let kept = present_members(&text, |name| library.join(name).exists());
    fs::write(&path, kept).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns a manifest without the lines that name only a missing folder, such as `"coretests",`.
fn present_members(manifest: &str, is_there: impl Fn(&str) -> bool) -> String {
    let is_kept = |line: &&str| {
        let name = line.trim().strip_suffix(',').unwrap_or(line.trim());
        let name = name
            .strip_prefix('"')
            .and_then(|name| name.strip_suffix('"'));
        name.is_none_or(&is_there)
    };
    let lines = manifest.lines().filter(is_kept);
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Returns true if xtask installed this library for a compiler that has since been replaced.
fn is_outdated(library: &Path, compiler: &Compiler) -> bool {
    fs::read_to_string(library.join(MARKER)).is_ok_and(|text| text != marker_text(compiler))
}

fn marker_text(compiler: &Compiler) -> String {
    format!("{}.{}\n", compiler.version.0, compiler.version.1)
}

fn find_library(folder: &Path, depth: usize) -> Option<PathBuf> {
    if is_library(folder) {
        return Some(folder.to_owned());
    }
    if depth == 0 {
        return None;
    }
    let mut folders = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && !path.is_symlink());
    folders.find_map(|path| find_library(&path, depth - 1))
}

/// Returns true if a folder is the source of Rust's library, complete enough to build core from.
fn is_library(folder: &Path) -> bool {
    folder.join("Cargo.lock").is_file() && folder.join("core/src/lib.rs").is_file()
}

/// Returns the first major and minor version in a text such as `rust-src-1.97.1.tar.xz`.
fn version_in(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = text[start..].split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_names() {
        assert_eq!(version_in("rust-src-1.97.1.tar.xz"), Some((1, 97)));
        assert_eq!(version_in("1.97.1+dfsg1-1"), Some((1, 97)));
        assert_eq!(version_in("rust-src.tar.xz"), None);
    }

    #[test]
    fn members_that_are_not_there_are_taken_out() {
        let manifest = "members = [\n  \"std\",\n  \"coretests\",\n]\nname = \"coretests\"\n";
        assert_eq!(
            present_members(manifest, |name| name == "std"),
            "members = [\n  \"std\",\n]\nname = \"coretests\"\n"
        );
    }

    #[test]
    fn a_folder_without_core_is_no_library() {
        assert!(!is_library(Path::new(env!("CARGO_MANIFEST_DIR"))));
        assert_eq!(find_library(Path::new(env!("CARGO_MANIFEST_DIR")), 2), None);
    }
}
