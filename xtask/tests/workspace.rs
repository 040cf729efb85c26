//! `cargo xtask` works on the tree in which it is called.

use std::process::Command;
use std::{env, fs};

#[test]
fn outside_of_a_workspace_there_is_nothing_to_work_on() {
    let folder = env::temp_dir().join(format!("connect-trace-no-workspace-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder for temporary files can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("lint")
        .current_dir(&folder)
        .output();
    fs::remove_dir_all(&folder).expect("it is empty");
    let output = output.expect("xtask runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let expected = format!("error: neither {} nor a folder above it", folder.display());
    assert!(message.starts_with(&expected), "{message}");
}
