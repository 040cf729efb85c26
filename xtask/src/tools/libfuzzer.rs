//! LLVM's libFuzzer, which Rust does not bring, as a library without `main`.

use std::path::PathBuf;

use anyhow::Result;

use super::guest_tools;

/// Package of clang's runtime libraries.
const PACKAGES: [&str; 1] = ["libclang-rt-19-dev"];

/// Fetches the library if it is missing, and returns its path.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = guest_tools::unpacked("libfuzzer", &PACKAGES)?;
    Ok(folder.join("usr/lib/llvm-19/lib/clang/19/lib/linux/libclang_rt.fuzzer_no_main-x86_64.a"))
}
