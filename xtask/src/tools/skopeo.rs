//! skopeo, which reads images as container engines do, without a daemon: for the tests of the image that we build.

use std::process::Command;

use anyhow::Result;

use super::guest_tools;

/// Packages of the program and of the libraries that it is linked with.
const PACKAGES: [&str; 8] = [
    "skopeo",
    "libassuan0",
    "libdevmapper1.02.1",
    "libgpg-error0",
    "libgpgme11",
    "libpcre2-8-0",
    "libselinux1",
    "libudev1",
];

/// Returns the program as a command, and fetches it if it is missing.
pub(crate) fn command() -> Result<Command> {
    let folder = guest_tools::unpacked("skopeo", &PACKAGES)?;
    let mut command = Command::new(folder.join("usr/bin/skopeo"));
    let libraries = guest_tools::libraries(&folder).map(|path| path.display().to_string());
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    Ok(command)
}
