//! The service as the package installs it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Test,
    debian::{output, run},
    metrics::Service,
    package::{CONFIGURATION, UNIT, installed, journal, main_pid, programs_in_kernel, property},
    process::until,
};

pub const TESTS: &[Test] = crate::tests![
    it_counts_the_connections_of_the_host,
    it_runs_with_two_capabilities_and_no_way_to_more,
    it_can_write_to_its_state_folder_alone,
    its_exposure_is_as_documented,
    a_reload_changes_the_filter_and_keeps_the_counters,
    a_bad_configuration_is_named_and_the_old_one_stays,
    a_service_that_hangs_is_restarted_and_leaves_nothing,
    it_takes_the_socket_that_systemd_passes,
    a_mitigation_is_a_unit_beside_it,
];

/// The capabilities of `docs/service.md`, as the kernel's bit set: CAP_PERFMON and CAP_BPF.
const CAPABILITIES: u64 = 1 << 38 | 1 << 39;

/// Ten times the exposure that `docs/service.md` states as a limit.
const EXPOSURE: u32 = 19;

/// A file for the service, removed on drop.
struct File(String);

impl File {
    fn write(path: &str, text: &str) -> Result<Self> {
        let folder = Path::new(path).parent().context("it has a folder")?;
        fs::create_dir_all(folder)?;
        fs::write(path, text).with_context(|| path.to_owned())?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0);
        }
        // The folder may have been made for it; with other files in it, it stays.
        let _ = Path::new(&self.0).parent().map(fs::remove_dir);
    }
}

/// The configuration, which a test changes. Dropping this value restores it and restarts the service.
struct Configuration(String);

impl Configuration {
    fn read() -> Result<Self> {
        Ok(Self(fs::read_to_string(CONFIGURATION)?))
    }

    /// Adds a line, has the service read it, and waits until the journal names it.
    fn reload_with(&self, line: &str, expected: &str) -> Result<()> {
        let before = journal()?.len();
        fs::write(CONFIGURATION, format!("{}\n{line}\n", self.0))?;
        output(&format!("systemctl reload {UNIT}"))?;
        let mut said = String::new();
        let told = until("the journal tells of the reload", || {
            said = journal()?.split_off(before);
            Ok(said.contains(expected).then_some(()))
        });
        told.with_context(|| format!("no {expected:?} in {said}"))
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        let restored = fs::write(CONFIGURATION, &self.0).map_err(Into::into);
        if let Err(error) = restored.and_then(|()| output(&format!("systemctl restart {UNIT}"))) {
            eprintln!("cannot put {CONFIGURATION} back: {error:#}");
        }
    }
}

/// Returns a line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    Ok(value.with_context(|| format!("no {name}"))?.to_owned())
}

fn connect_ipv6(service: &Service, count: u64) -> Result<u64> {
    let before = service.ipv6_connects()?;
    output(&format!("truth v6 --count {count}"))?;
    Ok(before + count)
}

fn it_counts_the_connections_of_the_host() -> Result<()> {
    let service = installed()?;
    let expected = connect_ipv6(&service, 60)?;
    service.wait_for_ipv6_connects(expected)
}

fn it_runs_with_two_capabilities_and_no_way_to_more() -> Result<()> {
    installed()?;
    let pid = main_pid()?;
    let set = |name: &str| anyhow::Ok(u64::from_str_radix(&status(pid, name)?, 16)?);
    assert_eq!(set("CapBnd")?, CAPABILITIES);
    for name in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(set(name)? & !CAPABILITIES, 0, "{name}");
    }
    assert_eq!(status(pid, "NoNewPrivs")?, "1");
    // A filter of system calls.
    assert_eq!(status(pid, "Seccomp")?, "2");
    let uids = status(pid, "Uid")?;
    assert!(uids.split('\t').all(|uid| uid != "0"), "{uids}");
    Ok(())
}

fn it_can_write_to_its_state_folder_alone() -> Result<()> {
    installed()?;
    let pid = main_pid()?.to_string();
    // Root in the service's view of the file system: only that view can refuse it.
    let touch = |path: &str| {
        let enter = ["--target", &pid, "--mount", "touch", path];
        run("nsenter", &enter)
    };
    for folder in ["/", "/etc", "/usr/bin", "/var/lib", "/sys/fs/cgroup"] {
        let ended = touch(&format!("{folder}/of-connect-trace"))?;
        assert!(ended.stderr.contains("Read-only file system"), "{ended}");
    }
    let uid = status(pid.parse()?, "Uid")?;
    let uid: u32 = uid.split('\t').next().unwrap_or_default().parse()?;
    let state = fs::metadata("/var/lib/connect-trace")?;
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&state), uid);
    touch("/var/lib/connect-trace/file")?.successful()?;
    fs::remove_file("/var/lib/connect-trace/file")?;
    Ok(())
}

fn its_exposure_is_as_documented() -> Result<()> {
    installed()?;
    let threshold = format!("--threshold={EXPOSURE}");
    run(
        "systemd-analyze",
        &["security", &threshold, "--no-pager", UNIT],
    )?
    .successful()?;
    Ok(())
}

fn a_reload_changes_the_filter_and_keeps_the_counters() -> Result<()> {
    let service = installed()?;
    let configuration = Configuration::read()?;
    let counted = connect_ipv6(&service, 10)?;
    service.wait_for_ipv6_connects(counted)?;
    let pid = main_pid()?;

    configuration.reload_with("ipv4 = true", "ipv4")?;
    connect_ipv6(&service, 10)?;
    service.wait_for_ipv6_connects(counted)?;

    configuration.reload_with("ipv6 = true", "ipv6")?;
    let expected = connect_ipv6(&service, 10)?;
    assert_eq!(expected, counted + 10);
    service.wait_for_ipv6_connects(expected)?;
    assert_eq!(main_pid()?, pid);
    Ok(())
}

fn a_bad_configuration_is_named_and_the_old_one_stays() -> Result<()> {
    let service = installed()?;
    let configuration = Configuration::read()?;
    let pid = main_pid()?;
    configuration.reload_with("no-such-option = 1", "no-such-option")?;
    let expected = connect_ipv6(&service, 10)?;
    service.wait_for_ipv6_connects(expected)?;
    assert_eq!(main_pid()?, pid);
    Ok(())
}

fn a_service_that_hangs_is_restarted_and_leaves_nothing() -> Result<()> {
    installed()?;
    ensure!(property("WatchdogUSec")? != "0", "it has no watchdog");
    let _shorter = File::write(
        &format!("/etc/systemd/system/{UNIT}.d/shorter.conf"),
        "[Service]\nWatchdogSec=10\nRestartSec=0\n",
    )?;
    output("systemctl daemon-reload")?;
    output(&format!("systemctl restart {UNIT}"))?;
    let service = installed()?;
    let (pid, programs) = (main_pid()?, programs_in_kernel()?);
    assert!(!programs.is_empty());
    run("sh", &["-c", &format!("kill -STOP {pid}")])?.successful()?;
    until("systemd restarts it", || {
        let restarted = property("NRestarts")? != "0" && property("ActiveState")? == "active";
        Ok(restarted.then_some(()))
    })?;
    assert_ne!(main_pid()?, pid);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    service.wait_until_ready()?;
    assert_eq!(programs_in_kernel()?, programs);
    let expected = connect_ipv6(&service, 10)?;
    service.wait_for_ipv6_connects(expected)?;
    let journal = journal()?;
    assert!(journal.to_lowercase().contains("watchdog"), "{journal}");
    Ok(())
}

fn it_takes_the_socket_that_systemd_passes() -> Result<()> {
    let default = installed()?;
    let socket = "connect-trace.socket";
    let _unit = File::write(
        &format!("/etc/systemd/system/{socket}"),
        "[Socket]\nListenStream=127.0.0.1:19999\n",
    )?;
    output(&format!("systemctl stop {UNIT}"))?;
    output("systemctl daemon-reload")?;
    output(&format!("systemctl start {socket}"))?;
    assert_eq!(property("ActiveState")?, "inactive");
    // The request starts the service.
    let passed = Service::at("http://127.0.0.1:19999").wait_until_ready();
    let at_default = default.get("/readyz");
    output(&format!("systemctl stop {socket} {UNIT}"))?;
    passed?;
    assert!(at_default.is_err(), "it listens on the default too");
    Ok(())
}

/// The command of docs/mitigate.md, with another cgroup.
fn a_mitigation_is_a_unit_beside_it() -> Result<()> {
    installed()?;
    let before = programs_in_kernel()?;
    // Of this type, the unit is started once the service manager is told that the programs are attached.
    output(
        "systemd-run --unit connect-trace-mitigate --service-type notify connect-trace mitigate --cgroup /system.slice \
         --quiet select-test-repeat",
    )?;
    assert_eq!(
        output("systemctl is-active connect-trace-mitigate")?,
        "active\n"
    );
    let during = programs_in_kernel()?;
    ensure!(during.len() > before.len(), "{during:?} after {before:?}");
    output("systemctl stop connect-trace-mitigate")?;
    until("the programs are gone", || {
        Ok((programs_in_kernel()? == before).then_some(()))
    })
}
