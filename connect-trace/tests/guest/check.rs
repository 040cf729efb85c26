//! `connect-trace check` and a trace on hostile kernels: both name what is missing and its remedy.
//!
//! A kernel is made hostile for one process, by what is mounted over the kernel's files in a mount
//! namespace of its own. [`LAST`] locks the kernel down for good.

use std::{fs, io, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Error, Result, ensure};
use connect_trace::kernel::{self, access, btf::VMLINUX, symbols::KALLSYMS};
use serde_json::Value;

use crate::{
    Lacking, Test,
    process::{Ended, Process},
};

pub const TESTS: &[Test<()>] = crate::tests![
    the_mode_that_check_names_is_the_one_that_a_trace_takes,
    an_unprivileged_user_learns_what_could_not_be_looked_at,
    two_capabilities_are_enough_and_one_is_not,
    the_namespaces_of_a_container_are_told,
    without_btf_both_say_which_kernel_has_it,
    without_a_function_both_name_it,
    without_ipv6_the_rest_is_traced,
    without_the_table_of_starts_all_but_scanned_ports_is_traced,
    without_tracefs_returns_are_limited_and_the_remedy_is_said,
    kprobes_that_are_turned_off_are_told,
    an_ftrace_that_is_turned_off_is_told,
    the_facts_of_the_port_search_are_those_of_the_kernel,
];

/// After it the kernel cannot be traced any more, until it is booted again.
pub const LAST: Test<()> = Test {
    name: "a_lockdown_is_told_by_both",
    run: a_lockdown_is_told_by_both,
};

/// Runs this in a shell whose mounts nobody else sees.
fn shell(script: &str) -> Result<Ended> {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-e", "-c", script]);
    Process::start(command)?.end()
}

/// What `connect-trace check --format json` says.
struct Checked {
    ended: Ended,
    object: Value,
}

impl Checked {
    /// After the kernel was made as a script says.
    fn after(script: &str) -> Result<Self> {
        Self::of(shell(&format!(
            "{script}\nexec connect-trace check --format json"
        ))?)
    }

    /// By a program that runs others.
    fn run_by(runner: &str) -> Result<Self> {
        Self::of(shell(&format!(
            "exec {runner} connect-trace check --format json"
        ))?)
    }

    /// What it said.
    fn of(ended: Ended) -> Result<Self> {
        let object = serde_json::from_str(&ended.stdout).with_context(|| ended.to_string())?;
        Ok(Self { ended, object })
    }

    fn finding(&self, name: &str) -> Result<&Value> {
        let findings = self.object["findings"].as_array();
        let found = findings.and_then(|all| all.iter().find(|finding| finding["name"] == name));
        found.with_context(|| format!("no finding {name}: {}", self.ended))
    }

    fn state(&self, name: &str) -> Result<String> {
        let state = &self.finding(name)?["state"];
        Ok(state.as_str().unwrap_or_default().to_owned())
    }

    fn status(&self) -> Option<i32> {
        self.ended.status.code()
    }
}

/// Fails unless the check finds this missing and a trace ends with one message, and both have these
/// words; in text the verdict comes last.
fn assert_both_refuse(script: &str, name: &str, words: &[&str], trace: &str) -> Result<()> {
    let checked = Checked::after(script)?;
    assert_eq!(checked.status(), Some(1), "{}", checked.ended);
    assert_eq!(checked.state(name)?, "missing", "{}", checked.ended);
    assert_eq!(checked.object["attach_mode"], Value::Null);
    let finding = checked.finding(name)?.to_string();

    let text = shell(&format!("{script}\nexec connect-trace check"))?;
    assert_eq!(text.status.code(), Some(1), "{text}");
    let verdict = text.stdout.lines().last().unwrap_or_default();
    assert!(
        verdict.starts_with("Tracing does not work here: missing: "),
        "{text}"
    );

    let trace = shell(&format!("{script}\nexec connect-trace {trace}"))?;
    assert_eq!(trace.status.code(), Some(1), "{trace}");
    assert_eq!(trace.stdout, "", "{trace}");
    assert_eq!(trace.stderr.lines().count(), 1, "{trace}");
    for word in words {
        assert!(finding.contains(word), "{word}: {finding}");
        assert!(trace.stderr.contains(word), "{word}: {trace}");
    }
    Ok(())
}

fn the_mode_that_check_names_is_the_one_that_a_trace_takes((): ()) -> Result<()> {
    let checked = Checked::after("")?;
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    assert_eq!(checked.ended.stderr, "", "{}", checked.ended);
    let mode = checked.object["attach_mode"].as_str();
    let mode = mode.with_context(|| checked.ended.to_string())?;
    let trace = shell("exec connect-trace -d 0.1")?.successful()?;
    let attached = format!("Attached by {mode}: ");
    assert!(trace.stderr.starts_with(&attached), "{attached}: {trace}");
    // The reason is in the same words.
    let reason = &checked.finding("attach_mode")?["note"];
    let reason = reason.as_str().unwrap_or_default();
    assert!(
        !reason.is_empty() && trace.stderr.contains(reason),
        "{reason}: {trace}"
    );
    // And loading them, both ways, left nothing behind.
    for way in ["fentry", "kprobe"] {
        assert_ne!(checked.state(way)?, "missing", "{}", checked.ended);
    }
    let programs = shell("bpftool prog list")?.successful()?.stdout;
    for name in [
        "name fentry_",
        "name fexit_",
        "name kprobe_",
        "name kretprobe_",
    ] {
        assert!(!programs.contains(name), "{programs}");
    }
    Ok(())
}

fn an_unprivileged_user_learns_what_could_not_be_looked_at((): ()) -> Result<()> {
    let run = |arguments: &[&str]| {
        let mut command = Command::new("connect-trace");
        command.args(arguments).uid(65_534).gid(65_534);
        Process::start(command)?.end()
    };
    let checked = Checked::of(run(&["check", "--format", "json"])?)?;
    let shown = &checked.ended;
    assert_eq!(checked.status(), Some(1), "{shown}");
    assert_eq!(checked.state("capabilities")?, "missing", "{shown}");
    for name in ["fentry", "kprobe", "attach_mode", "return_slots"] {
        assert_eq!(checked.state(name)?, "unknown", "{name}: {shown}");
        let remedy = &checked.finding(name)?["remedy"];
        assert_eq!(remedy, "run it with sudo", "{name}: {shown}");
    }
    // What everybody may see is seen.
    for name in ["btf", "offsets", "functions", "range", "socket_range_step"] {
        assert_ne!(checked.state(name)?, "unknown", "{name}: {shown}");
    }
    let text = run(&["check"])?;
    assert_eq!(text.status.code(), Some(1), "{text}");
    assert!(
        text.stdout
            .ends_with("\nTracing does not work here: missing: capabilities.\n"),
        "{text}"
    );
    Ok(())
}

/// Runs `connect-trace` as root that has been left no other capabilities than these.
fn with_capabilities(kept: &'static [libc::c_int], arguments: &str) -> Result<Ended> {
    let mut command = Command::new("connect-trace");
    command.args(arguments.split_whitespace());
    let drop_others = move || {
        for capability in (0..64).filter(|capability| !kept.contains(capability)) {
            // Beyond the kernel's last one it fails, which is as good.
            // SAFETY: the call takes numbers only.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls.
    unsafe { command.pre_exec(drop_others) };
    Process::start(command)?.end()
}

fn two_capabilities_are_enough_and_one_is_not((): ()) -> Result<()> {
    const PERFMON: libc::c_int = 38;
    const BPF: libc::c_int = 39;
    /// For the memory of maps, which counts against a limit of the process before Linux 5.11.
    const SYS_RESOURCE: libc::c_int = 24;
    const JSON: &str = "check --format json";
    // Debian's kernels let only CAP_SYS_ADMIN open perf events where this is 3, as it is by default.
    let paranoid = Setting::of("/proc/sys/kernel/perf_event_paranoid")?;
    for (level, kept, enough) in [
        ("2", &[PERFMON, BPF, SYS_RESOURCE][..], true),
        ("3", &[PERFMON, BPF, SYS_RESOURCE], true),
        ("2", &[BPF, SYS_RESOURCE], false),
        ("2", &[PERFMON], false),
    ] {
        paranoid.set(level)?;
        let checked = Checked::of(with_capabilities(kept, JSON)?)?;
        let shown = &checked.ended;
        let expected = if enough { "ok" } else { "missing" };
        assert_eq!(checked.state("capabilities")?, expected, "{shown}");
        let works = checked.object["works"] == true;
        if level == "2" {
            assert_eq!(works, enough, "{shown}");
        }
        assert_eq!(checked.status(), Some(i32::from(!works)), "{shown}");

        let trace = with_capabilities(kept, "-d 0.1")?;
        assert_eq!(trace.status.success(), works, "{trace}\n{shown}");
        let words = match checked.object["attach_mode"].as_str() {
            Some(mode) => mode,
            None if enough => "sysctl kernel.perf_event_paranoid=2",
            None => "CAP_BPF",
        };
        assert!(trace.stderr.contains(words), "{words}: {trace}");
        assert!(shown.stdout.contains(words), "{words}: {shown}");
    }
    Ok(())
}

fn the_namespaces_of_a_container_are_told((): ()) -> Result<()> {
    // Root in a user namespace has all capabilities there, and none that count.
    let checked = Checked::run_by("unshare -U -r")?;
    assert_eq!(checked.status(), Some(1), "{}", checked.ended);
    let capabilities = checked.finding("capabilities")?;
    assert_eq!(capabilities["state"], "missing", "{capabilities}");
    assert_eq!(capabilities["data"]["uid"], 0, "{capabilities}");
    let trace = shell("exec unshare -U -r connect-trace -d 0.1")?;
    assert_eq!(trace.status.code(), Some(1), "{trace}");
    for words in ["user namespace", "--userns=host"] {
        let finding = capabilities.to_string();
        assert!(finding.contains(words), "{words}: {finding}");
        assert!(trace.stderr.contains(words), "{words}: {trace}");
    }

    // Its own process ids only keep --pid from working.
    let checked = Checked::run_by("unshare -p -f")?;
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    assert_eq!(
        checked.state("process_ids")?,
        "limited",
        "{}",
        checked.ended
    );
    Ok(())
}

fn without_btf_both_say_which_kernel_has_it((): ()) -> Result<()> {
    let words = [VMLINUX, "CONFIG_DEBUG_INFO_BTF"];
    for script in [
        format!("mount --bind /dev/null {VMLINUX}"),
        format!("echo no BTF > /tmp/no-btf; mount --bind /tmp/no-btf {VMLINUX}"),
        "mount -t tmpfs none /sys/kernel/btf".to_owned(),
    ] {
        assert_both_refuse(&script, "btf", &words, "-d 1")?;
    }
    let checked = Checked::after(&format!("mount --bind /dev/null {VMLINUX}"))?;
    for name in ["offsets", "prototypes", "attach_mode", "socket_range_step"] {
        let state = checked.state(name)?;
        // Without the option it has no step.
        let known = name == "socket_range_step" && state == "missing";
        assert!(known || state == "unknown", "{name}: {}", checked.ended);
    }
    Ok(())
}

/// All of the kernel's symbols but these.
fn without_symbols(names: &[&str]) -> Result<String> {
    const FILTERED: &str = "/tmp/kallsyms";
    let all = fs::read_to_string(KALLSYMS).context(KALLSYMS)?;
    let kept: Vec<&str> = all
        .lines()
        .filter(|line| !names.iter().any(|name| line.ends_with(&format!(" {name}"))))
        .collect();
    ensure!(kept.len() < all.lines().count(), "{names:?} were not there");
    fs::write(FILTERED, kept.join("\n")).context(FILTERED)?;
    Ok(format!("mount --bind {FILTERED} {KALLSYMS}"))
}

fn without_a_function_both_name_it((): ()) -> Result<()> {
    for function in ["tcp_v4_connect", "__inet_check_established"] {
        let script = without_symbols(&[function])?;
        assert_both_refuse(&script, "functions", &[function, "Debian"], "-d 1")?;
    }
    Ok(())
}

fn without_the_table_of_starts_all_but_scanned_ports_is_traced((): ()) -> Result<()> {
    let script = without_symbols(&["table_perturb"])?;
    let checked = Checked::after(&script)?;
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    assert_eq!(checked.state("search_start")?, "missing");
    let trace =
        format!("{script}\nexec connect-trace --format json --events -- truth v4 --count 2");
    let trace = shell(&trace)?.successful()?;
    assert!(trace.stdout.contains("\"scanned\":null"), "{trace}");
    Ok(())
}

fn without_ipv6_the_rest_is_traced((): ()) -> Result<()> {
    let script = without_symbols(&["tcp_v6_connect", "__inet6_check_established"])?;
    let checked = Checked::after(&script)?;
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    assert_eq!(checked.state("functions")?, "limited", "{}", checked.ended);
    let trace = shell(&format!("{script}\nexec connect-trace -d 0.1"))?.successful()?;
    assert!(trace.stderr.contains("IPv4 only"), "{trace}");
    Ok(())
}

fn without_tracefs_returns_are_limited_and_the_remedy_is_said((): ()) -> Result<()> {
    let script = "mount -t tmpfs none /sys/kernel/tracing\nmount -t tmpfs none /sys/kernel/debug";
    let checked = Checked::after(script)?;
    // It works even so, only not as well: the returns are counted that are lost.
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    assert_eq!(
        checked.state("return_slots")?,
        "limited",
        "{}",
        checked.ended
    );
    let finding = checked.finding("return_slots")?.to_string();
    let trace = format!("{script}\nexec connect-trace -d 0.1 --attach kprobe");
    let trace = shell(&trace)?.successful()?;
    for words in ["tracefs", "mount -t tracefs none /sys/kernel/tracing"] {
        assert!(finding.contains(words), "{words}: {finding}");
        assert!(trace.stderr.contains(words), "{words}: {trace}");
    }
    assert!(trace.stderr.contains("returns may be lost"), "{trace}");
    Ok(())
}

/// A setting of the kernel. Dropping it makes it what it was.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn of(path: &'static str) -> Result<Self> {
        let before = fs::read_to_string(path).context(path)?;
        Ok(Self { path, before })
    }

    fn set(&self, value: &str) -> Result<()> {
        fs::write(self.path, value).with_context(|| format!("write {value} to {}", self.path))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(self.path, &self.before).expect("what was set can be set again");
    }
}

fn kprobes_that_are_turned_off_are_told((): ()) -> Result<()> {
    let switch = Setting::of("/sys/kernel/debug/kprobes/enabled")?;
    switch.set("0")?;
    let words = ["kprobes/enabled", "echo 1"];
    let checked = Checked::after("")?;
    assert_eq!(checked.state("kprobe")?, "missing", "{}", checked.ended);
    // Fentry does without, where it is used.
    let by_fentry = checked.object["attach_mode"] == "fentry/fexit";
    assert_eq!(
        checked.status(),
        Some(i32::from(!by_fentry)),
        "{}",
        checked.ended
    );
    let finding = checked.finding("kprobe")?.to_string();
    let trace = shell("exec connect-trace -d 0.1 --attach kprobe")?;
    assert_eq!(trace.status.code(), Some(1), "{trace}");
    for word in words {
        assert!(finding.contains(word), "{word}: {finding}");
        assert!(trace.stderr.contains(word), "{word}: {trace}");
    }
    Ok(())
}

fn an_ftrace_that_is_turned_off_is_told((): ()) -> Result<()> {
    let switch = Setting::of("/proc/sys/kernel/ftrace_enabled")?;
    match switch.set("0") {
        Err(error) if is_not_supported(&error) => {
            return Err(Lacking("a switch that turns ftrace off").into());
        }
        set => set?,
    }
    let words = [
        "kernel.ftrace_enabled is 0",
        "sysctl kernel.ftrace_enabled=1",
    ];
    assert_both_refuse("", "kprobe", &words, "-d 1")?;
    assert_both_refuse("", "kprobe", &words, "-d 1 --attach fentry")?;
    drop(switch);
    assert_eq!(Checked::after("")?.status(), Some(0));
    Ok(())
}

/// Whether the kernel does not let a switch be turned.
fn is_not_supported(error: &Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.and_then(io::Error::raw_os_error) == Some(libc::EOPNOTSUPP)
}

fn the_facts_of_the_port_search_are_those_of_the_kernel((): ()) -> Result<()> {
    // A network namespace of its own: its settings are nobody else's.
    let mut command = Command::new("unshare");
    let script = "cd /proc/sys/net/ipv4\n\
         echo 40001 40010 > ip_local_port_range\n\
         echo 40002-40004,50000 > ip_local_reserved_ports\n\
         exec connect-trace check --format json";
    command.args(["-n", "sh", "-e", "-c", script]);
    let checked = Checked::of(Process::start(command)?.end()?)?;
    let data = |name| checked.finding(name).map(|finding| finding["data"].clone());
    let range = serde_json::json!({"first": 40_001, "last": 40_010, "ports": 10});
    assert_eq!(data("range")?, range);
    assert_eq!(data("first_pass")?, "odd");
    assert_eq!(data("reserved")?, 3);
    let reuse = fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse")?;
    assert_eq!(data("tw_reuse")?, reuse.trim().parse::<u32>()?);

    // What the kernels that are tested are known for.
    let release = kernel::release();
    let mut numbers = release
        .split('.')
        .map_while(|number| number.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    let version = version.with_context(|| format!("no version: {release}"))?;
    let known = |since, older, newer| if version < since { older } else { newer };
    for (name, state) in [
        // Debian's 6.1 has it from the stable kernel 6.1.32.
        ("socket_range", known((6, 1), "missing", "ok")),
        (
            "socket_range_step",
            known((6, 1), "missing", known((6, 8), "limited", "ok")),
        ),
        ("step_width", known((7, 1), "missing", "ok")),
        ("skip_counter", known((5, 12), "missing", "ok")),
    ] {
        assert_eq!(checked.state(name)?, state, "{name}: {}", checked.ended);
    }
    Ok(())
}

/// Integrity, under which tracing works, and then confidentiality, under which nothing does. Neither
/// can be undone.
fn a_lockdown_is_told_by_both((): ()) -> Result<()> {
    let mode = match access::lockdown() {
        Ok(mode) => mode,
        Err(_) => return Err(Lacking("lockdown").into()),
    };
    ensure!(
        mode == "none",
        "the kernel is locked down before the test: {mode}"
    );
    fs::write(access::LOCKDOWN, "integrity").context(access::LOCKDOWN)?;
    let checked = Checked::after("")?;
    assert_eq!(checked.state("lockdown")?, "limited", "{}", checked.ended);
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    let mode = checked.object["attach_mode"].as_str().unwrap_or_default();
    let trace = shell("exec connect-trace -d 0.1")?.successful()?;
    assert!(
        trace.stderr.contains(&format!("Attached by {mode}")),
        "{trace}"
    );

    fs::write(access::LOCKDOWN, "confidentiality").context(access::LOCKDOWN)?;
    let words = [access::LOCKDOWN, "confidentiality", "lockdown=integrity"];
    assert_both_refuse("", "lockdown", &words, "-d 1")?;
    for mode in ["fentry", "kprobe"] {
        assert_both_refuse("", "lockdown", &words, &format!("-d 1 --attach {mode}"))?;
    }
    Ok(())
}
