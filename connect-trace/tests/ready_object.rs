//! A build with a ready eBPF object, as packagers do it: `CONNECT_TRACE_BPF_OBJECT=path`, no nightly toolchain and no
//! rustup.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

const VARIABLE: &str = "CONNECT_TRACE_BPF_OBJECT";

/// The object that this test was built with; stands for one in a source package.
const OBJECT: &str = env!("CONNECT_TRACE_BPF_OBJECT_PATH");

/// Folder of all build output of this test, relative to the workspace. Kept between runs, so that the dependencies are
/// checked once.
const FOLDER: &str = "target/ready-object";

#[test]
fn a_ready_object_is_built_with_and_rustup_is_not_called() {
    let root = workspace();
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder).expect("target/ can be written to");
    // A relative path, resolved from the workspace's folder.
    let ready = format!("{FOLDER}/ready.o");
    fs::copy(OBJECT, root.join(&ready)).expect("the object was built with this test");
    let rustup_called = folder.join("rustup-was-called");
    let _ = fs::remove_file(&rustup_called);

    let built = cargo_check(&ready, &rustup_called);
    assert!(built.status.success(), "{}", shown(&built));
    assert!(!rustup_called.exists(), "{}", shown(&built));
    let used = path_of_object(&built).unwrap_or_else(|| panic!("{}", shown(&built)));
    assert_eq!(used, root.join(&ready), "{}", shown(&built));

    let missing = format!("{FOLDER}/missing.o");
    let failed = cargo_check(&missing, &rustup_called);
    assert!(!failed.status.success(), "{}", shown(&failed));
    let message = format!("{VARIABLE}={}: no such file", root.join(&missing).display());
    assert!(shown(&failed).contains(&message), "{}", shown(&failed));
    assert!(!rustup_called.exists(), "{}", shown(&failed));
}

fn workspace() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.parent();
    root.expect("the crate lies in the workspace").to_owned()
}

/// Runs `cargo check` of connect-trace with this object, by a toolchain without rustup.
fn cargo_check(object: &str, rustup_called: &Path) -> Output {
    let root = workspace();
    let toolchain = toolchain();
    let mut cargo = Command::new(toolchain.join("cargo"));
    // Offline: building this test has fetched all dependencies.
    cargo
        .args(["check", "--package", "connect-trace", "--lib", "--offline"])
        .args(["--message-format", "json", "--target-dir", FOLDER])
        .current_dir(&root)
        .env(VARIABLE, object)
        .env("RUSTC", toolchain.join("rustc"))
        .env("PATH", path_without_rustup(&toolchain, rustup_called));
    // Variables set by the cargo and the rustup that run this test.
    for name in [
        "CARGO",
        "CARGO_TARGET_DIR",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ] {
        cargo.env_remove(name);
    }
    cargo.output().expect("the toolchain has a cargo")
}

/// Returns the folder of the real cargo and rustc, behind rustup's proxies of the same names.
fn toolchain() -> PathBuf {
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .expect("a rustc built this test");
    let sysroot = String::from_utf8(sysroot.stdout).expect("the sysroot's path is text");
    Path::new(sysroot.trim()).join("bin")
}

/// Returns a `PATH` with the toolchain and without the folders that have rustup, unless they have the linker too. In
/// its first folder, `rustup` only leaves a mark.
fn path_without_rustup(toolchain: &Path, rustup_called: &Path) -> std::ffi::OsString {
    let folder = workspace().join(FOLDER).join("bin");
    fs::create_dir_all(&folder).expect("target/ can be written to");
    let rustup = folder.join("rustup");
    let script = format!("#!/bin/sh\n: > '{}'\nexit 1\n", rustup_called.display());
    fs::write(&rustup, script).expect("target/ can be written to");
    fs::set_permissions(&rustup, fs::Permissions::from_mode(0o755)).expect("our own file");
    let path = env::var_os("PATH").unwrap_or_default();
    let others = env::split_paths(&path)
        .filter(|folder| !folder.join("rustup").exists() || folder.join("cc").exists());
    let all = [folder, toolchain.to_owned()].into_iter().chain(others);
    env::join_paths(all).expect("the workspace's path has no colon")
}

/// Returns the object that the build script handed to the crate.
fn path_of_object(built: &Output) -> Option<PathBuf> {
    let messages = String::from_utf8_lossy(&built.stdout);
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let variables = messages
        .filter(|message| message["reason"] == "build-script-executed")
        .filter_map(|message| message["env"].as_array().cloned());
    let path = variables
        .flatten()
        .find(|variable| variable[0] == "CONNECT_TRACE_BPF_OBJECT_PATH")?;
    path[1].as_str().map(PathBuf::from)
}

/// Returns the messages of a build for people.
fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
