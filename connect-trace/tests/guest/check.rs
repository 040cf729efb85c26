//! `connect-trace check` and a trace on hostile kernels: both name the missing feature and its remedy.
//!
//! Mounts over the kernel's files make a kernel hostile for one process, in its own mount namespace. [`LAST`] locks the
//! kernel down until the next boot.

use std::{fs, io, net::TcpListener, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Error, Result, ensure};
use connect_trace::kernel::{self, access, btf::VMLINUX, preemption::Model, symbols::KALLSYMS};
use serde_json::Value;

use crate::{
    Kernels, Lacking, Test,
    process::{Ended, Process, until},
    program::connect_trace,
    scan::starts_are_known,
    symbols::{has_fentry, has_kprobes_by_ftrace},
    trace::cheapest_mode,
    truth::{Range, Sysctl, truth},
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        the_mode_that_check_names_is_the_one_that_a_trace_takes,
        without_ipv6_the_rest_is_traced,
        without_a_function_of_candidate_ports_only_their_checks_are_lost,
        the_step_of_a_socket_range_is_told_by_the_change_that_made_it,
        without_the_table_of_starts_all_but_scanned_ports_is_traced,
        kprobes_that_are_turned_off_are_told,
        an_ftrace_that_is_turned_off_is_told,
        the_facts_of_the_port_search_are_those_of_the_kernel,
        a_limit_of_locked_memory_is_told_by_both,
    ],
    OldestAndNewest: [
        what_lies_in_the_range_and_beside_it_is_told,
        the_namespaces_of_a_container_are_told,
        without_btf_both_say_which_kernel_has_it,
        without_a_function_both_name_it,
        a_function_by_a_symbol_of_clang_is_the_function,
        a_prototype_that_does_not_fit_is_refused_by_each_way,
        a_prototype_that_does_not_fit_costs_no_more_than_its_function,
        without_sysfs_both_say_how_to_mount_it,
        a_comparison_without_privileges_says_what_a_trace_takes,
        an_unprivileged_user_learns_what_could_not_be_looked_at,
        two_capabilities_are_enough_and_one_is_not,
        without_any_mount_no_call_is_lost,
        without_any_mount_a_killed_trace_leaves_nothing,
        without_the_privilege_to_mount_the_way_that_loses_least_is_taken,
        what_a_trace_leaves_that_is_killed_with_its_janitor_is_told_and_removed,
        a_limit_of_open_files_is_told_by_both,
        a_limit_of_memory_is_told_by_both,
    ],
];

/// The test after which the kernel cannot be traced any more until the next boot.
pub const LAST: Test<()> = Test {
    name: "a_lockdown_is_told_by_both",
    kernels: Kernels::All,
    run: a_lockdown_is_told_by_both,
};

/// Runs a script in a shell with a private mount namespace.
fn shell(script: &str) -> Result<Ended> {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-e", "-c", script]);
    Process::start(command)?.end()
}

/// Output of `connect-trace check --format json`.
struct Checked {
    ended: Ended,
    object: Value,
}

impl Checked {
    /// Runs the check after a script has changed the kernel's files.
    fn after(script: &str) -> Result<Self> {
        Self::of(shell(&format!(
            "{script}\nexec connect-trace check --format json"
        ))?)
    }

    /// Runs the check through another program.
    fn run_by(runner: &str) -> Result<Self> {
        Self::of(shell(&format!(
            "exec {runner} connect-trace check --format json"
        ))?)
    }

    /// Parses the output of the check.
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

/// Fails unless the check reports `name` as missing, a trace ends with a single message, and both contain `words`. In
/// text, the verdict is the last line of the check.
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
    // The reason has the same words in both.
    let reason = &checked.finding("attach_mode")?["note"];
    let reason = reason.as_str().unwrap_or_default();
    assert!(
        !reason.is_empty() && trace.stderr.contains(reason),
        "{reason}: {trace}"
    );
    // And trying both ways left nothing behind.
    let lacks_fentry = checked.state("fentry")? == "missing";
    assert_eq!(lacks_fentry, !has_fentry()?, "{}", checked.ended);
    if lacks_fentry {
        assert_eq!(mode, "kprobe/kretprobe");
        let trace = shell("exec connect-trace -d 0.1 --attach fentry")?;
        assert_eq!(trace.status.code(), Some(1), "{trace}");
        let finding = checked.finding("fentry")?.to_string();
        for word in ["direct calls", "arm64", "6.4"] {
            assert!(finding.contains(word), "{word}: {finding}");
            assert!(trace.stderr.contains(word), "{word}: {trace}");
        }
    }
    assert_ne!(checked.state("kprobe")?, "missing", "{}", checked.ended);
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
    for name in [
        "fentry",
        "kprobe",
        "attach_mode",
        "return_slots",
        "flame_graph",
    ] {
        assert_eq!(checked.state(name)?, "unknown", "{name}: {shown}");
        let remedy = &checked.finding(name)?["remedy"];
        assert_eq!(remedy, "run it with sudo", "{name}: {shown}");
    }
    // Files that every user may read were checked.
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

const PERFMON: libc::c_int = 38;
const BPF: libc::c_int = 39;
/// Needed for the memory of maps, which counts against a limit of the process before Linux 5.11.
const SYS_RESOURCE: libc::c_int = 24;

/// Runs `connect-trace` as root with only the capabilities `kept`.
fn with_capabilities(kept: &'static [libc::c_int], arguments: &str) -> Result<Ended> {
    Process::start(keeping(kept, connect_trace(arguments)))?.end()
}

/// Limits a command of root to the capabilities `kept`.
fn keeping(kept: &'static [libc::c_int], mut command: Command) -> Command {
    let drop_others = move || {
        for capability in (0..64).filter(|capability| !kept.contains(capability)) {
            // Beyond the kernel's last capability the call fails, which is harmless.
            // SAFETY: the call takes numbers only.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls.
    unsafe { command.pre_exec(drop_others) };
    command
}

fn two_capabilities_are_enough_and_one_is_not((): ()) -> Result<()> {
    const JSON: &str = "check --format json";
    // Debian's kernels let only CAP_SYS_ADMIN open perf events if this setting is 3, the default.
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
    // Root in a user namespace has all capabilities inside it, and none outside.
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

    // Only --pid does not work in a PID namespace.
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
        // Without the socket option there is no step.
        let known = name == "socket_range_step" && state == "missing";
        assert!(known || state == "unknown", "{name}: {}", checked.ended);
    }
    Ok(())
}

/// Removes the symbols `names` from the kernel's list of symbols.
fn without_symbols(names: &[&str]) -> Result<String> {
    changed_symbols(|line| {
        let is_kept = !names.iter().any(|name| line.ends_with(&format!(" {name}")));
        is_kept.then(|| line.to_owned())
    })
}

/// Changes the kernel's list of symbols: each line is changed or left out.
fn changed_symbols(change: impl FnMut(&str) -> Option<String>) -> Result<String> {
    const CHANGED: &str = "/tmp/kallsyms";
    let all = fs::read_to_string(KALLSYMS).context(KALLSYMS)?;
    let kept: Vec<String> = all.lines().filter_map(change).collect();
    let kept = kept.join("\n");
    ensure!(kept != all.trim_end(), "nothing was changed");
    fs::write(CHANGED, kept).context(CHANGED)?;
    Ok(format!("mount --bind {CHANGED} {KALLSYMS}"))
}

fn without_a_function_both_name_it((): ()) -> Result<()> {
    let script = without_symbols(&["tcp_v4_connect"])?;
    assert_both_refuse(&script, "functions", &["tcp_v4_connect", "Debian"], "-d 1")
}

fn without_a_function_of_candidate_ports_only_their_checks_are_lost((): ()) -> Result<()> {
    const FUNCTION: &str = "__inet_check_established";
    for names in [&[FUNCTION][..], &[FUNCTION, "__inet6_check_established"]] {
        let script = without_symbols(names)?;
        let checked = Checked::after(&script)?;
        assert_eq!(checked.status(), Some(0), "{}", checked.ended);
        assert_eq!(checked.state("functions")?, "limited", "{}", checked.ended);
        let trace = format!("{script}\nexec connect-trace -- truth v6 --count 2");
        let trace = shell(&trace)?.successful()?;
        let note = format!("calls of {FUNCTION} are not seen");
        assert!(trace.stderr.contains(&note), "{trace}");
        assert!(trace.stdout.contains("2 connect() calls in "), "{trace}");
    }
    Ok(())
}

fn a_function_by_a_symbol_of_clang_is_the_function((): ()) -> Result<()> {
    const SYMBOL: &str = "tcp_v6_connect.llvm.1234567890123456789";
    let script = changed_symbols(|line| match line.strip_suffix(" tcp_v6_connect") {
        Some(rest) => Some(format!("{rest} {SYMBOL}")),
        None => Some(line.to_owned()),
    })?;
    let checked = Checked::after(&script)?;
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    assert_eq!(checked.state("functions")?, "ok", "{}", checked.ended);
    // The kernel's types have the function by its name in the source.
    if has_fentry()? {
        let trace = format!("{script}\nexec connect-trace --attach fentry -- truth v6 --count 2");
        let trace = shell(&trace)?.successful()?;
        assert!(trace.stdout.contains("2 connect() calls in "), "{trace}");
    }
    // A kprobe needs the symbol itself, which this kernel lacks.
    let trace = shell(&format!(
        "{script}\nexec connect-trace --attach kprobe -d 0.1"
    ))?;
    assert_eq!(trace.status.code(), Some(1), "{trace}");
    assert!(trace.stderr.contains(SYMBOL), "{trace}");
    Ok(())
}

/// Changes the kernel's types: functions get the prototype of another one.
fn with_prototypes(changes: &[(&str, &str)]) -> Result<String> {
    const CHANGED: &str = "/tmp/btf";
    let mut blob = fs::read(VMLINUX).context(VMLINUX)?;
    for (function, other) in changes {
        let prototype = word(&blob, described(&blob, other)? + 8)?;
        let at = described(&blob, function)? + 8;
        blob[at..at + 4].copy_from_slice(&prototype.to_le_bytes());
    }
    fs::write(CHANGED, blob).context(CHANGED)?;
    Ok(format!("mount --bind {CHANGED} {VMLINUX}"))
}

/// Returns the offset at which a blob of BTF describes a function.
fn described(blob: &[u8], function: &str) -> Result<usize> {
    const FUNC: u8 = 12;
    let (header, types, length) = (word(blob, 4)?, word(blob, 8)?, word(blob, 12)?);
    let strings = (header + word(blob, 16)?) as usize;
    let start = (header + types) as usize;
    let name = [b"\0", function.as_bytes(), b"\0"].concat();
    let mut names = blob[strings..].windows(name.len());
    let name = names.position(|window| window == name);
    let name = name.with_context(|| format!("no name {function}"))? as u32 + 1;
    let mut words = (start..start + length as usize).step_by(4);
    let found = words.find(|&at| {
        word(blob, at).is_ok_and(|word| word == name) && blob.get(at + 7) == Some(&FUNC)
    });
    found.with_context(|| format!("no function {function}"))
}

fn word(blob: &[u8], at: usize) -> Result<u32> {
    let bytes = blob.get(at..).and_then(<[u8]>::first_chunk);
    bytes
        .map(|bytes| u32::from_le_bytes(*bytes))
        .context("a blob that is cut short")
}

fn a_prototype_that_does_not_fit_is_refused_by_each_way((): ()) -> Result<()> {
    // Its first argument is not the socket.
    let script = with_prototypes(&[("tcp_v4_connect", "inet_hash_connect")])?;
    let words = [
        "argument 0 of tcp_v4_connect is not a struct sock *",
        "report it",
    ];
    for trace in ["-d 1", "-d 1 --attach fentry", "-d 1 --attach kprobe"] {
        assert_both_refuse(&script, "prototypes", &words, trace)?;
    }
    Ok(())
}

fn a_prototype_that_does_not_fit_costs_no_more_than_its_function((): ()) -> Result<()> {
    let script = with_prototypes(&[("__inet_check_established", "tcp_v4_connect")])?;
    let checked = Checked::after(&script)?;
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    assert_eq!(checked.state("functions")?, "limited", "{}", checked.ended);
    let trace = format!("{script}\nexec connect-trace -- truth v4 --count 2");
    let trace = shell(&trace)?.successful()?;
    let note = "argument 1 of __inet_check_established is not a struct sock *";
    assert!(trace.stderr.contains(note), "{trace}");
    assert!(trace.stdout.contains("2 connect() calls in "), "{trace}");
    Ok(())
}

fn the_step_of_a_socket_range_is_told_by_the_change_that_made_it((): ()) -> Result<()> {
    const FUNCTION: &str = "inet_sk_get_local_port_range";
    let step = |script: &str| {
        let checked = Checked::after(script)?;
        let data = checked.finding("socket_range_step")?["data"].as_u64();
        anyhow::Ok(data)
    };
    let (void, int) = ("inet_bind_hash", "tcp_v4_connect");
    if step("")?.is_none() {
        return Err(Lacking("IP_LOCAL_PORT_RANGE").into());
    }
    // Regardless of the type of the range in a socket.
    for (other, expected) in [(void, 2), (int, 1)] {
        let script = with_prototypes(&[(FUNCTION, other)])?;
        assert_eq!(step(&script)?, Some(expected), "as {other}");
    }
    Ok(())
}

fn without_the_table_of_starts_all_but_scanned_ports_is_traced((): ()) -> Result<()> {
    starts_are_known()?;
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
    assert!(trace.stderr.contains("only IPv4 is traced"), "{trace}");
    Ok(())
}

/// As in a container: neither tracefs nor debugfs is mounted.
pub const BARE: &str = "umount -l /sys/kernel/tracing\numount -l /sys/kernel/debug";

/// More threads than CPUs, in searches of all ports of an exhausted range.
const CROWD: &str = "threads 26000-26499 --set-range --threads 32 --count 24";

/// Returns the account in the last report of a trace that prints JSON.
fn account(ended: &Ended) -> Result<Value> {
    let report = ended.stdout.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(report).with_context(|| ended.to_string())?;
    Ok(report["accounting"].clone())
}

/// Runs a crowd beside a trace, and returns the output of the trace.
fn traced_crowd(mut trace: Process) -> Result<Ended> {
    trace.wait_for_stderr("Tracing connect()")?;
    let calls = truth(CROWD)?.len() as u64;
    trace.signal(libc::SIGINT)?;
    let ended = trace.end()?.successful()?;
    let account = account(&ended)?;
    assert_eq!(account["adds_up"], true, "{ended}");
    assert!(account["entered"].as_u64() <= Some(calls), "{ended}");
    Ok(ended)
}

fn without_any_mount_no_call_is_lost((): ()) -> Result<()> {
    let checked = Checked::after(BARE)?;
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    for name in ["preemption", "return_slots"] {
        assert_eq!(checked.state(name)?, "ok", "{name}: {}", checked.ended);
    }
    let mode = checked.object["attach_mode"].as_str().unwrap_or_default();
    for asked in ["", " --attach kprobe"] {
        let mut command = Command::new("unshare");
        let script = format!("{BARE}\nexec connect-trace --format json{asked}");
        command.args(["-m", "sh", "-e", "-c", &script]);
        let ended = traced_crowd(Process::start(command)?)?;
        let mode = if asked.is_empty() {
            mode
        } else {
            "kprobe/kretprobe"
        };
        assert!(ended.stderr.contains(mode), "{ended}");
        let account = account(&ended)?;
        assert_eq!(account["lost"], 0, "{ended}");
        assert_eq!(account["complete"], true, "{ended}");
    }
    Ok(())
}

fn without_any_mount_a_killed_trace_leaves_nothing((): ()) -> Result<()> {
    let mut command = Command::new("unshare");
    let script = format!("{BARE}\nexec connect-trace --attach kprobe");
    command.args(["-m", "sh", "-e", "-c", &script]);
    let mut trace = Process::start(command)?;
    trace.wait_for_stderr("Tracing connect()")?;
    assert!(!our_events()?.is_empty());
    trace.signal(libc::SIGKILL)?;
    trace.end()?;
    until("its events are removed", || {
        Ok(our_events()?.is_empty().then_some(()))
    })
}

/// Returns connect-trace's return events in the kernel.
fn our_events() -> Result<Vec<String>> {
    let events = fs::read_to_string("/sys/kernel/tracing/kprobe_events")?;
    let ours = events
        .lines()
        .filter(|line| line.contains(":connect_trace/"));
    Ok(ours.map(str::to_owned).collect())
}

fn without_the_privilege_to_mount_the_way_that_loses_least_is_taken((): ()) -> Result<()> {
    let paranoid = Setting::of("/proc/sys/kernel/perf_event_paranoid")?;
    paranoid.set("2")?;
    let start = |arguments: &str| {
        let mut command = connect_trace(arguments);
        // SAFETY: the closure only makes system calls. It comes before the capabilities are dropped.
        unsafe { command.pre_exec(without_mounts) };
        Process::start(keeping(&[PERFMON, BPF, SYS_RESOURCE], command))
    };
    let checked = Checked::of(start("check --format json")?.end()?)?;
    assert_eq!(checked.status(), Some(0), "{}", checked.ended);
    let mode = cheapest_mode()?.to_string();
    assert_eq!(checked.object["attach_mode"], mode);
    assert_eq!(checked.state("return_slots")?, "limited");

    let ended = traced_crowd(start("--format json")?)?;
    let account = account(&ended)?;
    let attached = format!("Attached by {mode}");
    assert!(ended.stderr.contains(&attached), "{ended}");
    // The version line has the kernel's build options; the rest is in debugfs.
    if checked.state("preemption")? == "unknown" {
        for words in ["may lose calls", "not known", "would lose more", "tracefs"] {
            assert!(ended.stderr.contains(words), "{words}: {ended}");
        }
    }
    let skipped = account["programs_skipped"].as_u64().unwrap_or(0);
    assert_eq!(account["complete"], skipped == 0, "{ended}");
    let preempts = Model::of_running_kernel().preempts;
    // A kernel without fentry has kprobe alone, and few slots for returns.
    if !preempts && has_fentry()? {
        assert_eq!((&account["lost"], skipped), (&Value::from(0), 0), "{ended}");
    }

    // With an explicit kprobe, the remedy is printed.
    let kprobe = start("--attach kprobe -d 0.1")?.end()?.successful()?;
    for words in ["returns may be lost", "tracefs", "run as root"] {
        assert!(kprobe.stderr.contains(words), "{words}: {kprobe}");
    }
    Ok(())
}

/// Removes tracefs and debugfs from this process's mounts.
fn without_mounts() -> io::Result<()> {
    // SAFETY: the calls take NUL-terminated strings.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            return Err(io::Error::last_os_error());
        }
        let (none, root) = (c"none".as_ptr(), c"/".as_ptr());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        if libc::mount(none, root, none, private, std::ptr::null()) != 0 {
            return Err(io::Error::last_os_error());
        }
        for path in [c"/sys/kernel/tracing", c"/sys/kernel/debug"] {
            libc::umount2(path.as_ptr(), libc::MNT_DETACH);
        }
    }
    Ok(())
}

fn what_a_trace_leaves_that_is_killed_with_its_janitor_is_told_and_removed((): ()) -> Result<()> {
    let mut trace = Process::start(connect_trace("--attach kprobe"))?;
    trace.wait_for_stderr("Tracing connect()")?;
    let janitor = until("there is a janitor", || child_of(trace.pid(), "ct-janitor"))?;
    // At once, as by cgroup.kill.
    for (pid, signal) in [
        (janitor, libc::SIGSTOP),
        (libc::pid_t::try_from(trace.pid())?, libc::SIGKILL),
        (janitor, libc::SIGKILL),
    ] {
        // SAFETY: the call takes numbers only.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }
    trace.end()?;
    let left = our_events()?;
    assert!(!left.is_empty());
    let told = || -> Result<String> {
        let checked = Checked::after("")?;
        assert_eq!(checked.status(), Some(0), "{}", checked.ended);
        Ok(checked.finding("return_slots")?["note"].to_string())
    };
    until("check tells what is left", || {
        Ok(told()?
            .contains("connect_trace/tcp_v4_connect_")
            .then_some(()))
    })?;
    assert_eq!(our_events()?, left, "check changes nothing");
    shell("exec connect-trace --attach kprobe -d 0.1")?.successful()?;
    assert_eq!(our_events()?, Vec::<String>::new());
    assert_eq!(told()?, "null");
    Ok(())
}

/// Returns the child of a process with this name.
fn child_of(parent: u32, name: &str) -> Result<Option<libc::pid_t>> {
    let children = format!("/proc/{parent}/task/{parent}/children");
    for child in fs::read_to_string(children)?.split_whitespace() {
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        if comm.trim() == name {
            return Ok(Some(child.parse()?));
        }
    }
    Ok(None)
}

/// Fails unless both the check and a trace fail under a limit, and give the reason with `words`.
fn assert_both_name_the_limit(script: &str, words: &[&str]) -> Result<()> {
    let checked = Checked::after(script)?;
    assert_eq!(checked.status(), Some(1), "{}", checked.ended);
    let finding = checked.finding("attach_mode")?.to_string();
    let trace = shell(&format!("{script}\nexec connect-trace -d 0.1"))?;
    assert_eq!(trace.status.code(), Some(1), "{trace}");
    for word in words {
        assert!(finding.contains(word), "{word}: {}", checked.ended);
        assert!(trace.stderr.contains(word), "{word}: {trace}");
    }
    assert!(!trace.stderr.contains("neither fentry/fexit"), "{trace}");
    Ok(())
}

fn a_limit_of_open_files_is_told_by_both((): ()) -> Result<()> {
    for files in ["20", "40", "56"] {
        let script = format!("ulimit -n {files}");
        let words = ["ulimit -n", "LimitNOFILE", files];
        assert_both_name_the_limit(&script, &words)?;
    }
    shell("ulimit -n 96\nexec connect-trace -d 0.1")?.successful()?;
    Ok(())
}

fn a_limit_of_locked_memory_is_told_by_both((): ()) -> Result<()> {
    let paranoid = Setting::of("/proc/sys/kernel/perf_event_paranoid")?;
    paranoid.set("2")?;
    let limited = |arguments| with_capabilities(&[PERFMON, BPF], arguments);
    let checked = Checked::of(limited("check --format json")?)?;
    let trace = limited("-d 0.1")?;
    assert_eq!(checked.object["works"], trace.status.success(), "{trace}");
    if trace.status.success() {
        return Err(Lacking("eBPF that counts against the limit of locked memory").into());
    }
    let finding = checked.finding("attach_mode")?.to_string();
    for word in ["CAP_SYS_RESOURCE", "ulimit -l", "LimitMEMLOCK"] {
        assert!(finding.contains(word), "{word}: {}", checked.ended);
        assert!(trace.stderr.contains(word), "{word}: {trace}");
    }
    Ok(())
}

fn a_limit_of_memory_is_told_by_both((): ()) -> Result<()> {
    const SCRIPT: &str = "mount -t cgroup2 none /sys/fs/cgroup || true\n\
        echo +memory > /sys/fs/cgroup/cgroup.subtree_control\nmkdir -p /sys/fs/cgroup/little/least\n\
        echo 32M > /sys/fs/cgroup/little/memory.max\n\
        echo $$ > /sys/fs/cgroup/little/least/cgroup.procs";
    if !shell(SCRIPT)?.status.success() {
        return Err(Lacking("a cgroup that limits memory").into());
    }
    let trace = shell(&format!("{SCRIPT}\nexec connect-trace -d 0.1"))?;
    if trace.status.success() {
        return Err(Lacking("eBPF that counts against the memory of a cgroup").into());
    }
    let words = ["32 MiB", "memory.max", "docker run --memory"];
    assert_both_name_the_limit(SCRIPT, &words)
}

fn without_sysfs_both_say_how_to_mount_it((): ()) -> Result<()> {
    let words = ["sysfs is not mounted", "mount -t sysfs none /sys"];
    assert_both_refuse("umount -l /sys", "btf", &words, "-d 1")
}

fn a_comparison_without_privileges_says_what_a_trace_takes((): ()) -> Result<()> {
    let mut command =
        connect_trace("compare default addresses --range 20000-20099 --repeats 1 --format json");
    command.uid(65_534).gid(65_534);
    let ended = Process::start(command)?.end()?.successful()?;
    let comparison: Value = serde_json::from_str(&ended.stdout).context(ended.stdout.clone())?;
    let measured = comparison["measured"].as_str().unwrap_or_default();
    for words in ["from user space only", "CAP_BPF", "sudo"] {
        assert!(measured.contains(words), "{words}: {measured}");
    }
    Ok(())
}

/// A setting of the kernel, restored on drop.
pub struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    pub fn of(path: &'static str) -> Result<Self> {
        let before = fs::read_to_string(path).context(path)?;
        Ok(Self { path, before })
    }

    pub fn set(&self, value: &str) -> Result<()> {
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
    // Fentry does not need it, if it is used.
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
    if has_kprobes_by_ftrace()? {
        assert_both_refuse("", "kprobe", &words, "-d 1")?;
        assert_both_refuse("", "kprobe", &words, "-d 1 --attach fentry")?;
    } else {
        let checked = Checked::after("")?;
        assert_eq!(checked.state("fentry")?, "missing", "{}", checked.ended);
        assert_eq!(checked.object["attach_mode"], "kprobe/kretprobe");
        let trace = shell("exec connect-trace -- truth v4 --count 5")?.successful()?;
        assert!(trace.stdout.contains("5 connect() calls in "), "{trace}");
        let trace = shell("exec connect-trace -d 1 --attach fentry")?;
        assert_eq!(trace.status.code(), Some(1), "{trace}");
        for word in words {
            assert!(trace.stderr.contains(word), "{word}: {trace}");
        }
    }
    drop(switch);
    assert_eq!(Checked::after("")?.status(), Some(0));
    Ok(())
}

/// Returns true if the kernel does not support changing a setting.
fn is_not_supported(error: &Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.and_then(io::Error::raw_os_error) == Some(libc::EOPNOTSUPP)
}

fn the_facts_of_the_port_search_are_those_of_the_kernel((): ()) -> Result<()> {
    // A separate network namespace: the settings there affect nothing else.
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

    // Known facts of the tested kernels.
    let release = kernel::release();
    let mut numbers = release
        .split('.')
        .map_while(|number| number.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    let version = version.with_context(|| format!("no version: {release}"))?;
    let known = |since, older, newer| if version < since { older } else { newer };
    for (name, state) in [
        // Debian's 6.1 has it since the stable kernel 6.1.32.
        ("socket_range", known((6, 1), "missing", "ok")),
        (
            "socket_range_step",
            known((6, 1), "missing", known((6, 8), "limited", "ok")),
        ),
        ("step_width", known((7, 1), "missing", "ok")),
        ("skip_counter", known((5, 12), "missing", "ok")),
        ("flame_graph", "ok"),
    ] {
        assert_eq!(checked.state(name)?, state, "{name}: {}", checked.ended);
    }
    Ok(())
}

fn what_lies_in_the_range_and_beside_it_is_told((): ()) -> Result<()> {
    // Another namespace, with a process in it and a range of its own.
    let mut other = Command::new("unshare");
    let script =
        "echo 20000 20999 > /proc/sys/net/ipv4/ip_local_port_range; echo ready >&2; exec sleep 60";
    other.args(["-n", "sh", "-e", "-c", script]);
    let mut other = Process::start(other)?;
    other.wait_for_stderr("ready")?;
    let range = Range::read()?.set(1_025, 65_535)?;
    let reserved = Sysctl::set("ip_local_reserved_ports", "18082")?;
    let _servers = [
        TcpListener::bind("127.0.0.1:18081")?,
        TcpListener::bind("127.0.0.1:18082")?,
    ];
    let checked = Checked::of(shell(
        "exec connect-trace check --format json --window 500-900",
    )?)?;
    let data = |name| checked.finding(name).map(|finding| finding["data"].clone());
    let listeners = data("listeners")?;
    let listeners = listeners.as_array().context("a list")?;
    assert!(listeners.contains(&18_081.into()), "{}", checked.ended);
    assert!(!listeners.contains(&18_082.into()), "{}", checked.ended);
    assert_eq!(checked.state("listeners")?, "limited", "{}", checked.ended);
    assert_eq!(checked.state("window")?, "limited", "{}", checked.ended);
    assert_eq!(data("window")?["ports"], 64_511, "{}", checked.ended);
    let others = data("other_ranges")?;
    let expected = serde_json::json!({
        "pid": other.pid(), "comm": "sleep", "first": 20_000, "last": 20_999,
    });
    let others = others.as_array().context("a list")?;
    assert!(others.contains(&expected), "{}", checked.ended);
    let buckets = fs::read_to_string("/proc/sys/net/ipv4/tcp_max_tw_buckets")?;
    assert_eq!(data("time_wait_buckets")?, buckets.trim().parse::<u32>()?);
    drop((range, reserved));
    other.signal(libc::SIGKILL)?;
    Ok(())
}

/// Tests integrity, under which tracing works, and then confidentiality, under which nothing works. Neither can be
/// undone.
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
