//! A folder of a test's own, which goes with it.

use std::{env, fs, path::PathBuf, process};

/// The folder.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one for the test of this name.
    pub fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("connect-trace-{test}-{}", process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files takes one more");
        Self(path)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A file in it.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).expect("the folder is there");
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
