//! The container image: an archive in the layout of the OCI's image specification, with the program alone in it. No
//! daemon is needed to make it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::commit::Commit;
use super::program::Program;
use super::tree::{Tree, gzip};
use super::{NAME, VERSION};
use crate::arch::Arch;
use crate::tools::skopeo;
use crate::{process, workspace};

/// Path of the program in the image.
const PROGRAM: &str = "usr/bin/connect-trace";

/// Address of the service in a container, which other containers can reach.
const LISTEN: &str = "0.0.0.0:19435";

/// Media types of the layout.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes the image of a program, or one image for several architectures, of which engines take the one that fits. Returns
/// its path.
pub(super) fn write(programs: &[Program], commit: &Commit, folder: &Path) -> Result<PathBuf> {
    let platform = match programs {
        [program] => &format!("{}-linux", program.arch().machine()),
        _ => "linux",
    };
    let path = folder.join(format!("{NAME}-{VERSION}-{platform}.oci.tar"));
    let image = layout(programs, commit, &created(commit)?).and_then(|tree| tree.tar(commit.epoch));
    let image = image.with_context(|| format!("cannot make {}", path.display()))?;
    super::write(&path, &image)?;
    Ok(path)
}

/// Reads the image as a container engine of this architecture does, with all digests, and returns its configuration.
pub(super) fn inspect(image: &Path, arch: Arch) -> Result<String> {
    let source = format!("oci-archive:{}", image.display());
    let unpacked = image.with_extension("copy");
    let skopeo = || {
        let mut skopeo = skopeo::command()?;
        skopeo.args(["--override-arch", arch.debian()]);
        anyhow::Ok(skopeo)
    };
    let mut copy = skopeo()?;
    copy.args(["copy", "--quiet", "--insecure-policy", "--all", &source]);
    process::output(copy.arg(format!("dir:{}", unpacked.display())))?;
    std::fs::remove_dir_all(&unpacked)
        .with_context(|| format!("cannot remove {}", unpacked.display()))?;
    process::output(skopeo()?.args(["inspect", "--config", &source]))
}

/// Returns the commit's time as RFC 3339 writes it.
fn created(commit: &Commit) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", "+%Y-%m-%dT%H:%M:%SZ", "--date"]);
    let date = process::output(date.arg(format!("@{}", commit.epoch)))?;
    Ok(date.trim().to_owned())
}

/// Returns the files of the archive: an index that leads to the image, which is a manifest, or an index of several.
fn layout(programs: &[Program], commit: &Commit, created: &str) -> io::Result<Tree> {
    let mut layout = Tree::default();
    let images = programs.iter();
    let images = images.map(|program| add_image(&mut layout, program, commit, created));
    let images = images.collect::<io::Result<Vec<_>>>()?;
    let mut image = match <[Value; 1]>::try_from(images) {
        Ok([image]) => image,
        Err(images) => add_blob(&mut layout, INDEX, serde_json::to_vec(&index(&images))?),
    };
    // Engines name the image by it when they load the archive.
    image["annotations"] = json!({"org.opencontainers.image.ref.name": VERSION});
    layout.add("index.json", serde_json::to_vec(&index(&[image]))?);
    layout.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    Ok(layout)
}

fn index(images: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images})
}

/// Adds the manifest of a program, its configuration and its layer, and returns the manifest's descriptor.
fn add_image(
    layout: &mut Tree,
    program: &Program,
    commit: &Commit,
    created: &str,
) -> io::Result<Value> {
    let arch = program.arch().debian();
    let files = layer(program)?.tar(commit.epoch)?;
    let layer = add_blob(layout, LAYER, gzip(&files)?);
    let labels = json!({
        "org.opencontainers.image.title": NAME,
        "org.opencontainers.image.description":
            "Shows why connect() is slow: its latency by the source port that the kernel chose",
        "org.opencontainers.image.version": VERSION,
        "org.opencontainers.image.revision": commit.id,
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
    });
    let configuration = json!({
        "created": created,
        "architecture": arch,
        "os": "linux",
        "config": {
            "Entrypoint": [format!("/{PROGRAM}")],
            "Cmd": ["serve", "--listen", LISTEN],
            "Env": ["PATH=/usr/bin"],
            "ExposedPorts": {"19435/tcp": {}},
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&files)]},
        "history": [{"created": created, "created_by": "cargo xtask package image"}],
    });
    let configuration = add_blob(layout, CONFIGURATION, serde_json::to_vec(&configuration)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": configuration,
        "layers": [layer],
        "annotations": labels,
    });
    let mut manifest = add_blob(layout, MANIFEST, serde_json::to_vec(&manifest)?);
    manifest["platform"] = json!({"architecture": arch, "os": "linux"});
    Ok(manifest)
}

/// Returns the files of a container.
fn layer(program: &Program) -> io::Result<Tree> {
    let mut tree = Tree::default();
    tree.add_program(PROGRAM, program.content());
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let text = std::fs::read(workspace::root().join(name))?;
        tree.add(&format!("usr/share/doc/{NAME}/{name}"), text);
    }
    Ok(tree)
}

/// Adds content under its digest, and returns its descriptor.
fn add_blob(layout: &mut Tree, media_type: &str, content: Vec<u8>) -> Value {
    let digest = digest(&content);
    let descriptor = json!({"mediaType": media_type, "digest": digest, "size": content.len()});
    layout.add(&format!("blobs/{}", digest.replace(':', "/")), content);
    descriptor
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}
