//! Kernel modules for a guest to load, with their dependencies.
//!
//! Debian's packages come without an index of dependencies, but every module names its own.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::tools::kernels::Kernel;

/// A module, ready to be loaded.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// Returns the modules of these names and their dependencies, in the order of loading. Modules built into the kernel
/// are left out. `busybox` decompresses.
pub(crate) fn of(kernel: &Kernel, names: &[String], busybox: &Path) -> Result<Vec<Module>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let Some(folder) = &kernel.modules else {
        bail!(
            "kernel {} is a file without modules; name a series to load any",
            kernel.name
        );
    };
    let mut files = HashMap::new();
    find(&folder.join("kernel"), &mut files)?;
    let built_in = fs::read_to_string(folder.join("modules.builtin"))
        .with_context(|| format!("cannot read {}/modules.builtin", folder.display()))?;
    let built_in = built_in
        .lines()
        .filter_map(|line| module_name(Path::new(line)))
        .collect();

    let mut loading = Loading {
        kernel,
        files,
        built_in,
        busybox,
        modules: Vec::new(),
    };
    for name in names {
        loading.add(&normal(name))?;
    }
    Ok(loading.modules)
}

struct Loading<'a> {
    kernel: &'a Kernel,
    files: HashMap<String, PathBuf>,
    built_in: Vec<String>,
    busybox: &'a Path,
    modules: Vec<Module>,
}

impl Loading<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        let known = self.modules.iter().any(|module| module.name == name);
        if known || self.built_in.iter().any(|module| module == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("kernel {} has no module {name}", self.kernel.name);
        };
        let content = read(path, self.busybox)?;
        for dependency in dependencies(&content) {
            self.add(&dependency)?;
        }
        self.modules.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }
}

fn find(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// Returns the name of a module from its path: `drivers/net/veth.ko.xz` is the module `veth`.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(normal(name))
}

/// Returns the normal form of a module's name: the kernel does not distinguish `-` from `_` in names of modules.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn read(path: &Path, busybox: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        Some("xz") => {
            let output = Command::new(busybox).arg("xzcat").arg(path).output();
            let output = output.with_context(|| format!("cannot run {}", busybox.display()))?;
            if !output.status.success() {
                bail!("cannot decompress {}", path.display());
            }
            Ok(output.stdout)
        }
        _ => bail!(
            "cannot load {}: its compression is not supported",
            path.display()
        ),
    }
}

/// Returns the names in the module's `depends=` entry. Entries of `.modinfo` are NUL-terminated strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    module
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .map(|names| String::from_utf8_lossy(names).into_owned())
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(normal)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_module() {
        let module = b"\x7fELF\0license=GPL\0depends=nf-nat,x_tables\0name=veth\0";
        assert_eq!(dependencies(module), ["nf_nat", "x_tables"]);
        assert_eq!(dependencies(b"\0depends=\0"), Vec::<String>::new());
    }

    #[test]
    fn a_module_is_named_as_the_kernel_names_it() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(name("drivers/net/veth.ko.xz").as_deref(), Some("veth"));
        assert_eq!(
            name("crypto/sha256-generic.ko").as_deref(),
            Some("sha256_generic")
        );
        assert_eq!(name("modules.order"), None);
    }
}
