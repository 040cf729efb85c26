//! Packages of the program that guests run, which is static as the shipped one is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Result;
use object::elf::{self, FileHeader64, Ident};
use object::pod::bytes_of;
use object::{LittleEndian, U16, U32, U64};
use serde_json::{Value, json};

use super::commit::Commit;
use super::program::Program;
use super::texts::Texts;
use super::{NAME, VERSION, audit, create, deb, image, installed, sbom, source, tarball};
use crate::arch::Arch;
use crate::guest::binaries;
use crate::tools::cargo_tool::CARGO_AUDITABLE;
use crate::tools::checkers::Checkers;
use crate::{process, workspace};

/// Returns a folder for the packages of one test.
fn folder(test: &str) -> PathBuf {
    let folder = workspace::root().join("target/package-tests").join(test);
    create(&folder).unwrap();
    folder
}

/// Returns the program that guests run in tests, which this builds at most once.
fn program() -> Program {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let (programs, _) = binaries::build_with_tests(Arch::HOST).unwrap();
        let mut programs = programs.into_iter();
        programs.find(|program| program.ends_with(NAME)).unwrap()
    });
    Program::open(path).unwrap()
}

/// Returns the header of a program for a machine, which is all that is left of it: a static program without a segment.
fn header(machine: u16) -> Vec<u8> {
    let header = FileHeader64::<LittleEndian> {
        e_ident: Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LittleEndian, elf::ET_EXEC),
        e_machine: U16::new(LittleEndian, machine),
        e_version: U32::new(LittleEndian, elf::EV_CURRENT.into()),
        e_entry: U64::default(),
        e_phoff: U64::default(),
        e_shoff: U64::default(),
        e_flags: U32::default(),
        e_ehsize: U16::new(LittleEndian, 64),
        e_phentsize: U16::default(),
        e_phnum: U16::default(),
        e_shentsize: U16::default(),
        e_shnum: U16::default(),
        e_shstrndx: U16::default(),
    };
    bytes_of(&header).to_vec()
}

/// Writes a program for a machine that has this inside, and opens it.
fn program_for(machine: u16, inside: &[u8], folder: &Path) -> Result<Program> {
    let path = folder.join(format!("program-{machine}"));
    fs::write(&path, [&header(machine), inside].concat()).unwrap();
    Program::open(&path)
}

/// Returns the output of a command.
fn output(program: &str, arguments: &[&str]) -> String {
    process::output(Command::new(program).args(arguments)).unwrap()
}

/// Returns the paths in an archive.
fn paths(archive: &str) -> BTreeSet<String> {
    let paths = output("tar", &["-tf", archive]);
    paths.lines().map(str::to_owned).collect()
}

/// Packages of one build.
struct Packages {
    deb: PathBuf,
    tarball: PathBuf,
    image: PathBuf,
}

impl Packages {
    fn write(program: Program, folder: &Path) -> Self {
        let texts = Texts::printed_by(self::program().path(), folder).unwrap();
        let commit = Commit::current().unwrap();
        Self {
            deb: deb::write(&program, &texts, &commit, folder).unwrap(),
            tarball: tarball::write(&program, &texts, &commit, folder).unwrap(),
            image: image::write(&[program], &commit, folder).unwrap(),
        }
    }

    /// Returns the packages that all tests look at.
    fn of_tests() -> &'static Self {
        static PACKAGES: OnceLock<Packages> = OnceLock::new();
        PACKAGES.get_or_init(|| Self::write(program(), &folder("once")))
    }
}

#[test]
fn the_same_commit_gives_the_same_bytes() {
    let (one, two) = (
        Packages::of_tests(),
        Packages::write(program(), &folder("twice")),
    );
    for (one, two) in [
        (&one.deb, &two.deb),
        (&one.tarball, &two.tarball),
        (&one.image, &two.image),
    ] {
        assert_ne!(one, two);
        assert!(
            fs::read(one).unwrap() == fs::read(two).unwrap(),
            "{}",
            two.display()
        );
    }
}

#[test]
fn the_deb_has_all_files_and_lintian_finds_no_error() {
    let package = Packages::of_tests().deb.to_str().unwrap();

    let field = |name| output("dpkg-deb", &["--field", package, name]);
    assert_eq!(field("Package"), format!("{NAME}\n"));
    assert_eq!(field("Version"), format!("{VERSION}-1\n"));
    assert_eq!(field("Depends").trim(), "");
    let listed = output("dpkg-deb", &["--contents", package]);
    for (mode, path) in [
        ("-rwxr-xr-x", "usr/bin/connect-trace"),
        ("-rw-r--r--", "usr/lib/systemd/system/connect-trace.service"),
        ("-rw-r--r--", "etc/connect-trace/connect-trace.toml"),
        ("-rw-r--r--", "usr/share/man/man1/connect-trace.1.gz"),
        ("-rw-r--r--", "usr/share/man/man1/connect-trace-check.1.gz"),
        (
            "-rw-r--r--",
            "usr/share/bash-completion/completions/connect-trace",
        ),
        (
            "-rw-r--r--",
            "usr/share/zsh/vendor-completions/_connect-trace",
        ),
        (
            "-rw-r--r--",
            "usr/share/fish/vendor_completions.d/connect-trace.fish",
        ),
        ("-rw-r--r--", "usr/share/doc/connect-trace/copyright"),
        (
            "-rw-r--r--",
            "usr/share/doc/connect-trace/examples/connect-trace.socket",
        ),
    ] {
        let found = listed.lines().any(|line| {
            line.starts_with(&format!("{mode} root/root ")) && line.ends_with(&format!(" ./{path}"))
        });
        assert!(found, "{mode} {path} is not in:\n{listed}");
    }
    let control = output("dpkg-deb", &["--info", package, "conffiles"]);
    assert_eq!(control, "/etc/connect-trace/connect-trace.toml\n");

    Checkers::ensure()
        .unwrap()
        .lintian(package.as_ref())
        .unwrap();
}

#[test]
fn the_tarball_has_a_program_that_runs() {
    let folder = folder("tarball");
    let archive = &Packages::of_tests().tarball;
    let unpacked = folder.join("unpacked");
    fs::create_dir_all(&unpacked).unwrap();
    output(
        "tar",
        &[
            "--strip-components=1",
            "-xf",
            archive.to_str().unwrap(),
            "-C",
            unpacked.to_str().unwrap(),
        ],
    );
    let program = unpacked.join("bin/connect-trace");
    let version = output(program.to_str().unwrap(), &["--version"]);
    assert_eq!(version, format!("{NAME} {VERSION}\n"));
    let unit = unpacked.join("lib/systemd/system/connect-trace.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(unit.contains("\nExecStart=/usr/local/bin/connect-trace serve "));
}

#[test]
fn container_engines_can_read_the_image() {
    let folder = folder("image");
    let image = &Packages::of_tests().image;
    let configuration = image::inspect(image, Arch::HOST).unwrap();
    let configuration: Value = serde_json::from_str(&configuration).unwrap();
    let command = &configuration["config"];
    assert_eq!(command["Entrypoint"], json!(["/usr/bin/connect-trace"]));
    assert_eq!(
        command["Cmd"],
        json!(["serve", "--listen", "0.0.0.0:19435"])
    );
    assert_eq!(command["ExposedPorts"], json!({"19435/tcp": {}}));
    assert_eq!(configuration["architecture"], "amd64");

    // The layer is the blob that is neither the configuration nor the manifest.
    let unpacked = folder.join("unpacked");
    fs::create_dir_all(&unpacked).unwrap();
    let (image, to) = (image.to_str().unwrap(), unpacked.to_str().unwrap());
    output("tar", &["-xf", image, "-C", to]);
    let index = fs::read(unpacked.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        unpacked.join("blobs").join(digest.replace(':', "/"))
    };
    let manifest = fs::read(blob(&index["manifests"][0])).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = blob(&manifest["layers"][0]);
    let files = paths(layer.to_str().unwrap());
    assert!(files.contains("usr/bin/connect-trace"), "{files:?}");
    let mut unpack = Command::new("tar");
    unpack.arg("-xOf").arg(&layer).arg("usr/bin/connect-trace");
    assert!(unpack.output().unwrap().stdout == program().content());
}

#[test]
fn packages_name_the_architecture_of_the_program_in_them() {
    let folder = folder("arm64");
    let program = || program_for(elf::EM_AARCH64, b"", &folder).unwrap();
    let packages = Packages::write(program(), &folder);
    for (package, name) in [
        (&packages.deb, format!("{NAME}_{VERSION}-1_arm64.deb")),
        (
            &packages.tarball,
            format!("{NAME}-{VERSION}-aarch64-linux.tar.gz"),
        ),
        (
            &packages.image,
            format!("{NAME}-{VERSION}-aarch64-linux.oci.tar"),
        ),
    ] {
        assert_eq!(package.file_name().unwrap(), &*name);
    }

    let deb = packages.deb.to_str().unwrap();
    let field = |deb, name| output("dpkg-deb", &["--field", deb, name]);
    assert_eq!(field(deb, "Architecture"), "arm64\n");
    let of_host = Packages::of_tests();
    let deb_of_host = of_host.deb.to_str().unwrap();
    assert_eq!(field(deb_of_host, "Architecture"), "amd64\n");

    Checkers::ensure().unwrap().lintian(&packages.deb).unwrap();

    let unpacked = folder.join("unpacked");
    output("dpkg-deb", &["-x", deb, unpacked.to_str().unwrap()]);
    let installed = fs::read(unpacked.join("usr/bin/connect-trace")).unwrap();
    assert!(installed == program().content());
    // Apart from the program and its name, the packages have the same files.
    let listed = |package: &Path| -> BTreeSet<_> {
        let paths = paths(package.to_str().unwrap()).into_iter();
        paths
            .map(|path| path.split_once('/').unwrap().1.to_owned())
            .collect()
    };
    assert_eq!(listed(&packages.tarball), listed(&of_host.tarball));

    let configuration = image::inspect(&packages.image, Arch::HOST).unwrap();
    let configuration: Value = serde_json::from_str(&configuration).unwrap();
    assert_eq!(configuration["architecture"], "arm64");
}

#[test]
fn one_image_serves_all_architectures() {
    let folder = folder("images");
    let machines = [elf::EM_X86_64, elf::EM_AARCH64];
    let programs = machines.map(|machine| program_for(machine, b"", &folder).unwrap());
    let image = image::write(&programs, &Commit::current().unwrap(), &folder).unwrap();
    assert_eq!(
        image.file_name().unwrap(),
        &*format!("{NAME}-{VERSION}-linux.oci.tar")
    );
    for arch in Arch::ALL {
        let configuration = image::inspect(&image, arch).unwrap();
        let configuration: Value = serde_json::from_str(&configuration).unwrap();
        assert_eq!(configuration["architecture"], arch.debian());
    }
}

#[test]
fn a_program_is_packaged_for_the_machine_in_its_header() {
    let folder = folder("machines");
    for (machine, arch) in [
        (elf::EM_X86_64, Arch::Amd64),
        (elf::EM_AARCH64, Arch::Arm64),
    ] {
        let program = program_for(machine, b"", &folder).unwrap();
        assert_eq!(program.arch(), arch);
    }
    let error = |machine| {
        let refused = program_for(machine, b"", &folder);
        refused.err().unwrap().to_string()
    };
    let of_another = error(elf::EM_RISCV);
    assert!(of_another.contains("program for Riscv64"), "{of_another}");
    assert!(of_another.contains("amd64 and arm64"), "{of_another}");
    let shared = Program::open("/bin/sh".as_ref()).err().unwrap();
    assert!(
        shared.to_string().contains("needs shared libraries"),
        "{shared}"
    );
}

#[test]
fn a_program_with_other_ebpf_programs_is_refused() {
    let folder = folder("object");
    let object = fs::read(source::object_of_build().unwrap()).unwrap();
    program().check_object(&object).unwrap();

    let mut other = object.clone();
    *other.last_mut().unwrap() ^= 1;
    for (inside, is_taken) in [
        ([b"before", &*object, b"after"].concat(), true),
        (other, false),
        (object[1..].to_vec(), false),
    ] {
        let program = program_for(elf::EM_AARCH64, &inside, &folder).unwrap();
        let checked = program.check_object(&object);
        assert_eq!(checked.is_ok(), is_taken, "{checked:?}");
    }
}

#[test]
fn the_source_tarball_is_built_by_stable_rust_alone() {
    let folder = folder("source");
    let archive = source::write(&Commit::current().unwrap(), &folder).unwrap();
    let tree = source::unpack(&archive, &folder.join("unpacked")).unwrap();

    // A toolchain without rustup, so that there is no nightly, and without bpf-linker, which is in no folder of the
    // tarball.
    let sysroot = output("rustc", &["--print", "sysroot"]);
    let toolchain = PathBuf::from(sysroot.trim()).join("bin");
    let path = std::env::var_os("PATH").unwrap();
    let others = std::env::split_paths(&path).filter(|folder| {
        !["rustup", "bpf-linker"]
            .iter()
            .any(|program| folder.join(program).exists())
    });
    let path = std::env::join_paths([toolchain.clone()].into_iter().chain(others)).unwrap();
    let mut cargo = Command::new(toolchain.join("cargo"));
    cargo
        // Building this test has fetched all dependencies, and the test of ready objects checks them there.
        .args([
            "check",
            "--offline",
            "--locked",
            "--package",
            NAME,
            "--target-dir",
        ])
        .arg(workspace::root().join("target/ready-object"))
        .current_dir(&tree)
        .env("RUSTC", toolchain.join("rustc"))
        .env("PATH", path);
    for name in ["CARGO", "CARGO_TARGET_DIR", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(name);
    }
    process::output(&mut cargo).unwrap();
    assert!(tree.join("connect-trace/bpf/connect-trace.o").is_file());

    // Without the object, the same build needs what is hidden from it.
    fs::remove_dir_all(tree.join("connect-trace/bpf")).unwrap();
    let error = process::output(&mut cargo).unwrap_err().to_string();
    assert!(
        error.contains("the eBPF programs were not built"),
        "{error}"
    );
}

/// Returns the values of a key of the unit, each line on its own.
fn unit_values(key: &str) -> Vec<String> {
    let unit = installed::read("connect-trace.service").unwrap();
    let values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

#[test]
fn pods_and_the_unit_have_the_same_privileges() {
    let manifest = installed::read("kubernetes/daemonset.yaml").unwrap();
    let manifest: Value = serde_norway::from_str(&manifest).unwrap();
    assert_eq!(manifest["kind"], "DaemonSet");
    let pod = &manifest["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let security = &container["securityContext"];

    let added = security["capabilities"]["add"].as_array().unwrap();
    let added = added
        .iter()
        .map(|name| format!("CAP_{}", name.as_str().unwrap()));
    let added: BTreeSet<_> = added.collect();
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        let values = unit_values(key).join(" ");
        let of_unit: BTreeSet<_> = values.split(' ').map(str::to_owned).collect();
        assert_eq!(added, of_unit, "{key}");
    }
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(security["privileged"], false);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    for namespace in ["hostPID", "hostNetwork", "hostIPC"] {
        assert_eq!(pod[namespace], Value::Null);
    }
    assert_eq!(pod["automountServiceAccountToken"], false);

    // Every mount is of a volume, and none can be written to.
    let mounts = container["volumeMounts"].as_array().unwrap();
    let volumes = pod["volumes"].as_array().unwrap();
    assert_eq!(mounts.len(), volumes.len());
    for (mount, volume) in mounts.iter().zip(volumes) {
        assert_eq!(mount["name"], volume["name"]);
        assert_eq!(mount["readOnly"], true);
    }

    let memory = container["resources"]["limits"]["memory"].as_str().unwrap();
    let [of_unit] = unit_values("MemoryMax").try_into().unwrap();
    assert_eq!(memory.trim_end_matches('i'), of_unit.trim_end_matches("ib"));
}

#[test]
fn pods_run_on_the_architectures_of_the_image() {
    let manifest = installed::read("kubernetes/daemonset.yaml").unwrap();
    let manifest: Value = serde_norway::from_str(&manifest).unwrap();
    let affinity = &manifest["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    let of_arch = json!({
        "key": "kubernetes.io/arch",
        "operator": "In",
        "values": Arch::ALL.map(Arch::debian),
    });
    assert_eq!(
        required["nodeSelectorTerms"],
        json!([{"matchExpressions": [of_arch]}])
    );
}

#[test]
fn pods_are_asked_at_the_port_that_they_listen_on() {
    let manifest = installed::read("kubernetes/daemonset.yaml").unwrap();
    let manifest: Value = serde_norway::from_str(&manifest).unwrap();
    let template = &manifest["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    let port = &container["ports"][0];
    assert_eq!(
        container["args"][2],
        format!("0.0.0.0:{}", port["containerPort"])
    );
    let annotated = &template["metadata"]["annotations"]["prometheus.io/port"];
    assert_eq!(*annotated, port["containerPort"].to_string());
    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"], path, "{probe}");
        assert_eq!(get["port"], port["name"], "{probe}");
    }
    let labels = &template["metadata"]["labels"];
    assert_eq!(manifest["spec"]["selector"]["matchLabels"], *labels);
}

#[test]
fn systemd_finds_the_unit_sound_and_as_exposed_as_the_documents_say() {
    let checkers = Checkers::ensure().unwrap();
    let unit = workspace::root().join("packaging/connect-trace.service");
    checkers.verify(&unit).unwrap();
    let broken = folder("unit").join("connect-trace.service");
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(&broken, text.replace("ProtectHome=", "ProtectHouse=")).unwrap();
    let error = checkers.verify(&broken).unwrap_err().to_string();
    assert!(error.contains("ProtectHouse"), "{error}");
    let analysis = checkers.exposure(&unit).unwrap();
    let (_, exposure) = analysis.split_once("Overall exposure level for ").unwrap();
    let exposure = exposure.split(' ').nth(1).unwrap();
    let documents = workspace::root().join("docs/service.md");
    let documents = fs::read_to_string(documents).unwrap();
    let expected = format!("Overall exposure level for connect-trace.service: {exposure} OK");
    assert!(documents.contains(&expected), "{expected}");
}

#[test]
fn a_program_says_which_crates_it_is_built_from() {
    let folder = folder("audit");
    for (name, file, code, dependencies) in [
        (
            "one",
            "main.rs",
            "fn main() { two::two(); }",
            "[dependencies]\ntwo = { path = \"../two\" }\n",
        ),
        ("two", "lib.rs", "pub fn two() {}", ""),
    ] {
        let package = folder.join(name);
        fs::create_dir_all(package.join("src")).unwrap();
        fs::write(package.join("src").join(file), code).unwrap();
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"1.2.3\"\nedition = \"2024\"\n{dependencies}\n[workspace]\n"
        );
        fs::write(package.join("Cargo.toml"), manifest).unwrap();
    }
    let mut build = Command::new(CARGO_AUDITABLE.ensure().unwrap());
    build
        .args(["auditable", "build", "--offline"])
        .current_dir(folder.join("one"))
        .env("CARGO", workspace::cargo().get_program())
        .env_remove("CARGO_TARGET_DIR");
    process::output(&mut build).unwrap();

    let program = folder.join("one/target/debug/one");
    let crates = audit::crates(&program).unwrap();
    let crates: Vec<_> = crates
        .iter()
        .map(|found| (&*found.name, &*found.version))
        .collect();
    assert_eq!(crates, [("one", "1.2.3"), ("two", "1.2.3")]);
    let error = audit::crates("/bin/sh".as_ref()).unwrap_err();
    assert!(
        format!("{error:#}").contains("no section .dep-v0"),
        "{error:#}"
    );
}

#[test]
fn a_list_that_lacks_a_crate_is_refused() {
    let list = folder("sbom").join("list.json");
    let crates = |names: &[&str]| -> Vec<_> {
        let crates = names
            .iter()
            .map(|name| json!({"name": name, "version": "1.0.0"}));
        crates.collect()
    };
    let main = &crates(&["main"])[0];
    let text = json!({"metadata": {"component": main}, "components": crates(&["a", "b"])});
    fs::write(&list, text.to_string()).unwrap();
    let program = |names: &[&str]| {
        let found = crates(names).into_iter();
        found
            .map(|found| serde_json::from_value(found).unwrap())
            .collect()
    };
    sbom::check(&list, &program(&["main", "a"])).unwrap();
    let error = sbom::check(&list, &program(&["main", "c"])).unwrap_err();
    assert!(error.to_string().contains("\"c\""), "{error}");
}
