//! The package for Debian, from its installation to its purge.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Test,
    debian::{output, run},
    metrics::{Service, URL},
    process::until,
};

pub const TESTS: &[Test] = crate::tests![
    installing_gives_a_running_service,
    an_upgrade_keeps_the_configuration_and_restarts,
    removing_ends_the_service_and_keeps_the_configuration,
    purging_leaves_nothing,
];

/// The package, as `cargo xtask test` puts it here.
const PACKAGE: &str = "/root/connect-trace.deb";

const NAME: &str = "connect-trace";
pub const UNIT: &str = "connect-trace.service";
pub const CONFIGURATION: &str = "/etc/connect-trace/connect-trace.toml";

/// Installs the package if it is not installed, starts the service if it does not run, and returns it.
pub fn installed() -> Result<Service> {
    if version()?.is_none() {
        install(PACKAGE)?;
    }
    let started = output(&format!("systemctl start {UNIT}"));
    let service = Service::at(URL);
    let ready = started.and_then(|_| service.wait_until_ready());
    ready.with_context(|| journal().unwrap_or_default())?;
    Ok(service)
}

fn install(package: &str) -> Result<()> {
    output(&format!("apt-get install --yes --quiet {package}"))?;
    Ok(())
}

/// Returns the installed version; `None` if there is none.
fn version() -> Result<Option<String>> {
    let format = "--showformat=${db:Status-Status} ${Version}";
    let ended = run("dpkg-query", &["--show", format, NAME])?;
    let version = ended.stdout.strip_prefix("installed ");
    Ok(version
        .filter(|_| ended.status.success())
        .map(str::to_owned))
}

/// Returns a property of the service.
pub fn property(name: &str) -> Result<String> {
    let text = output(&format!("systemctl show --property {name} --value {UNIT}"))?;
    Ok(text.trim().to_owned())
}

/// Returns the process id of the running service.
pub fn main_pid() -> Result<u32> {
    let state = property("ActiveState")?;
    ensure!(state == "active", "the service is {state}: {}", journal()?);
    Ok(property("MainPID")?.parse()?)
}

/// Returns all that the service has written.
pub fn journal() -> Result<String> {
    output(&format!("journalctl --unit {UNIT} --output cat --no-pager"))
}

/// Returns the traces of connect-trace among the kernel's programs, by name.
pub fn programs_in_kernel() -> Result<Vec<String>> {
    const PREFIXES: [&str; 5] = ["fentry_", "fexit_", "kprobe_", "kretprobe_", "thread_exit"];
    let list = output("bpftool prog list")?;
    let words = list.lines().map(|line| line.split_whitespace());
    let names = words.filter_map(|mut words| words.find(|&word| word == "name").and(words.next()));
    let ours = names.filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    let mut names: Vec<_> = ours.map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

fn installing_gives_a_running_service() -> Result<()> {
    if version()?.is_some() {
        output(&format!("apt-get purge --yes {NAME}"))?;
    }
    install(PACKAGE)?;
    // systemd waits for the service to say that it is ready.
    assert_eq!(property("Type")?, "notify");
    let pid = main_pid()?;
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/exe"))?,
        Path::new("/usr/bin/connect-trace")
    );
    let enabled = output(&format!("systemctl is-enabled {UNIT}"))?;
    assert_eq!(enabled, "enabled\n");
    let service = Service::at(URL);
    service
        .get("/readyz")
        .context("it is active and not ready")?;
    let before = service.ipv6_connects()?;
    output("truth v6 --count 25")?;
    service.wait_for_ipv6_connects(before + 25)
}

fn an_upgrade_keeps_the_configuration_and_restarts() -> Result<()> {
    installed()?;
    let (version, pid) = (version()?.context("it is installed")?, main_pid()?);
    let edited = format!("{}\n# edited here\n", fs::read_to_string(CONFIGURATION)?);
    fs::write(CONFIGURATION, &edited)?;
    let next = next_version(&version)?;
    install(&next)?;
    let upgraded = self::version()?.context("it is not installed after the upgrade")?;
    assert_eq!(upgraded, format!("{version}+next"));
    assert_eq!(fs::read_to_string(CONFIGURATION)?, edited);
    let now = main_pid()?;
    assert_ne!(now, pid, "it was not restarted");
    Service::at(URL).get("/readyz")?;
    Ok(())
}

/// Packs the package again with a higher version, and returns its path.
fn next_version(version: &str) -> Result<String> {
    const FOLDER: &str = "/root/next";
    output(&format!("dpkg-deb --raw-extract {PACKAGE} {FOLDER}"))?;
    let path = format!("{FOLDER}/DEBIAN/control");
    let control = fs::read_to_string(&path)?;
    let line = format!("Version: {version}\n");
    ensure!(control.contains(&line), "no {line:?} in {control}");
    let next = format!("Version: {version}+next\n");
    fs::write(&path, control.replace(&line, &next))?;
    let package = "/root/next.deb";
    output(&format!("dpkg-deb -Znone --build {FOLDER} {package}"))?;
    Ok(package.to_owned())
}

fn removing_ends_the_service_and_keeps_the_configuration() -> Result<()> {
    installed()?;
    let pid = main_pid()?;
    output(&format!("apt-get remove --yes {NAME}"))?;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(property("LoadState")?, "not-found");
    assert!(Path::new(CONFIGURATION).exists());
    nothing_is_left_in_the_kernel()
}

fn purging_leaves_nothing() -> Result<()> {
    installed()?;
    let files = output(&format!("dpkg --listfiles {NAME}"))?;
    let files: Vec<_> = files
        .lines()
        .filter(|path| !Path::new(path).is_dir())
        .collect();
    assert!(files.contains(&"/usr/bin/connect-trace"), "{files:?}");
    output(&format!("apt-get purge --yes {NAME}"))?;
    let links = [
        "/etc/connect-trace",
        "/var/lib/connect-trace",
        "/var/lib/private/connect-trace",
        "/etc/systemd/system/multi-user.target.wants/connect-trace.service",
    ];
    for path in files.iter().copied().chain(links) {
        assert!(fs::symlink_metadata(path).is_err(), "{path} is left");
    }
    let named = output(&format!(
        "find /etc /var /run -name *{NAME}* -not -path /var/log/*"
    ))?;
    assert_eq!(named, "", "these are left");
    let user = run("getent", &["passwd", NAME])?;
    assert!(!user.status.success(), "{user}");
    assert_eq!(property("LoadState")?, "not-found");
    assert_eq!(version()?, None);
    nothing_is_left_in_the_kernel()
}

fn nothing_is_left_in_the_kernel() -> Result<()> {
    let mut left = Vec::new();
    let gone = until("no program is left in the kernel", || {
        left = programs_in_kernel()?;
        Ok(left.is_empty().then_some(()))
    });
    gone.with_context(|| left.join("\n"))
}
