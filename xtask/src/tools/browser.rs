//! A browser for the tests of the page of `connect-trace report --html`: headless Chromium from Debian, unpacked and
//! not installed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::guest_tools;
use crate::workspace;

/// Packages of the browser and of the libraries that it is linked with; it uses few of them. The C library is the
/// machine's own, which is not older.
const PACKAGES: [&str; 68] = [
    "chromium-common",
    "chromium-headless-shell",
    "fonts-dejavu-core",
    "libasound2",
    "libasyncns0",
    "libatk1.0-0",
    "libatspi2.0-0",
    "libblkid1",
    "libbrotli1",
    "libbsd0",
    "libcap2",
    "libdav1d6",
    "libdbus-1-3",
    "libdouble-conversion3",
    "libdrm2",
    "libexpat1",
    "libffi8",
    "libflac12",
    "libfontconfig1",
    "libfreetype6",
    "libgbm1",
    "libgcrypt20",
    "libglib2.0-0",
    "libgpg-error0",
    "libgraphite2-3",
    "libharfbuzz-subset0",
    "libharfbuzz0b",
    "libjpeg62-turbo",
    "liblz4-1",
    "liblzma5",
    "libmd0",
    "libminizip1",
    "libmount1",
    "libmp3lame0",
    "libmpg123-0",
    "libnspr4",
    "libnss3",
    "libogg0",
    "libopenh264-7",
    "libopus0",
    "libpcre2-8-0",
    "libpng16-16",
    "libpulse0",
    "libselinux1",
    "libsndfile1",
    "libsqlite3-0",
    "libstdc++6",
    "libsystemd0",
    "libudev1",
    "libvorbis0a",
    "libvorbisenc2",
    "libwayland-server0",
    "libx11-6",
    "libx11-xcb1",
    "libxau6",
    "libxcb1",
    "libxcomposite1",
    "libxdamage1",
    "libxdmcp6",
    "libxext6",
    "libxfixes3",
    "libxi6",
    "libxkbcommon0",
    "libxnvctrl0",
    "libxrandr2",
    "libxrender1",
    "libzstd1",
    "zlib1g",
];

/// Fetches the browser if it is missing, and returns the script that starts it.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = guest_tools::unpacked("browser", &PACKAGES)?;
    let script = workspace::tools().join("browser.sh");
    write(&script, &starter(&folder))
        .with_context(|| format!("cannot write {}", script.display()))?;
    Ok(script)
}

fn write(script: &Path, text: &str) -> std::io::Result<()> {
    if fs::read_to_string(script).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::write(script, text)?;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755))
}

/// Returns a script that starts the browser with its own libraries and fonts.
fn starter(folder: &Path) -> String {
    let [lib, usr_lib] = guest_tools::libraries(folder);
    let (lib, usr_lib) = (lib.display(), usr_lib.display());
    let folder = folder.display();
    format!(
        "#!/bin/sh\n\
         # Made by `cargo xtask`: Chromium of Debian, which is unpacked and not installed.\n\
         fonts=$(mktemp) || exit 1\n\
         cat >\"$fonts\" <<END\n\
         <?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n\
         <fontconfig><dir>{folder}/usr/share/fonts</dir><cachedir>{folder}/fonts</cachedir></fontconfig>\n\
         END\n\
         export LD_LIBRARY_PATH=\"{lib}:{usr_lib}:{usr_lib}/pulseaudio\"\n\
         export FONTCONFIG_FILE=\"$fonts\"\n\
         \"{folder}/usr/lib/chromium/chromium-headless-shell\" \"$@\"\n\
         status=$?\n\
         rm -f \"$fonts\"\n\
         exit \"$status\"\n"
    )
}
