//! Builds the eBPF object and hands its path to the crate as `CONNECT_TRACE_BPF_OBJECT_PATH`.
//!
//! The nightly toolchain builds the object in one target folder that every build of the workspace shares. For packagers
//! without a nightly, `CONNECT_TRACE_BPF_OBJECT` names a ready-made object. A source tarball brings one, as
//! `bpf/connect-trace.o`. The object is the same for every architecture.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const OBJECT: &str = "CONNECT_TRACE_BPF_OBJECT";

fn main() {
    println!("cargo:rerun-if-env-changed={OBJECT}");
    let object = match env::var_os(OBJECT) {
        Some(path) => {
            // A relative path is resolved from the workspace's folder, wherever cargo runs this script.
            let path = workspace().join(path);
            assert!(path.is_file(), "{OBJECT}={}: no such file", path.display());
            println!("cargo:rerun-if-changed={}", path.display());
            path
        }
        None => match object_of_tarball() {
            Some(path) => {
                println!("cargo:rerun-if-changed={}", path.display());
                path
            }
            None => build(),
        },
    };
    println!(
        "cargo:rustc-env=CONNECT_TRACE_BPF_OBJECT_PATH={}",
        object.display()
    );
}

fn workspace() -> PathBuf {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    manifest
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// Returns the object that came with the source, if there is one.
fn object_of_tarball() -> Option<PathBuf> {
    let path = workspace().join("connect-trace/bpf/connect-trace.o");
    Some(path).filter(|path| path.is_file())
}

fn build() -> PathBuf {
    let root = &workspace();
    for source in ["connect-trace-ebpf", "connect-trace-common", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    // The daemon puts offsets into instructions of this byte order (probes/object/fields.rs).
    let target = "bpfel-unknown-none";
    let folder = root.join("target/bpf");

    let mut cargo = Command::new("rustup");
    cargo
        .args([
            "run",
            "nightly",
            "cargo",
            "build",
            "--package",
            "connect-trace-ebpf",
            "--release",
        ])
        .args(["-Z", "build-std=core", "--target", target, "--target-dir"])
        .arg(&folder)
        .current_dir(root)
        .env("PATH", path_with_linker(root))
        // bpf-linker optimizes all of the program at the end.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        // The linker turns debug information into BTF; core needs debug information too, or the verifier finds that the
        // number of functions does not match. Functions that the daemon links are exported: the linker takes a function
        // without a visible body for one that needs no arguments.
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            [
                "-Cdebuginfo=2",
                "-Clink-arg=--btf",
                "-Clink-arg=--export=bpf_rdonly_cast,PER_CPU,THREADS,CONTROL",
                // aya-ebpf compiles for one architecture only. The programs read nothing of what differs by it: the
                // registers of a function are fields that the daemon finds (attach/registers.rs).
                "--cfg=bpf_target_arch=\"x86_64\"",
                // The names of files go into the BTF, which does not depend on where it was built.
                &format!(
                    "--remap-path-prefix={}=~",
                    env::var("HOME").unwrap_or_default()
                ),
                &format!("--remap-path-prefix={}=.", root.display()),
            ]
            .join("\x1f"),
        );
    // Variables that cargo and a wrapper such as clippy set for the host's compiler.
    for name in [
        "RUSTC",
        "RUSTDOC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO",
    ] {
        cargo.env_remove(name);
    }
    let built = cargo.status();
    assert!(
        built.as_ref().is_ok_and(|status| status.success()),
        "the eBPF programs were not built ({built:?}): `cargo xtask setup` gets the tools that this \
         takes (a nightly toolchain with rust-src, bpf-linker), and {OBJECT}=PATH builds with a ready \
         object"
    );
    folder.join(target).join("release/connect-trace-ebpf")
}

/// Returns `PATH` with the folder into which `cargo xtask setup` puts bpf-linker.
fn path_with_linker(root: &Path) -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(
        [root.join(".tools/bpf-linker/bin")]
            .into_iter()
            .chain(env::split_paths(&path)),
    )
    .expect("the workspace's path has no colon")
}
