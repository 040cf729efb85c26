//! Flame graphs, compared with the times that the records of the same calls have.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use connect_trace::{kernel::prototypes::CHECKS, probes::attach::AttachMode};
use serde_json::Value;

use crate::{
    Test,
    process::{Ended, Process},
    program::{attach, connect_trace, report, tracing},
    symbols,
    trace::crowd_is_seen,
    truth::truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        a_flame_graph_of_an_exhausted_range_gives_the_search_the_share_of_its_times,
        a_flame_graph_of_udp_has_its_port_search,
    ],
    OldestAndNewest: [
        a_flame_graph_has_all_times_with_and_without_a_cpu,
    ],
];

pub const TESTS_OF_NO_MODE: &[Test<()>] = crate::tests![
    Oldest: [
        a_flame_graph_has_the_same_time_in_every_format,
        a_flame_graph_names_the_setting_that_hides_addresses,
        a_flame_graph_that_cannot_be_written_is_an_error_before_the_trace,
    ],
    OldestAndNewest: [
        a_flame_graph_leaves_out_samples_of_calls_without_a_record,
    ],
];

/// Stacks with their times in nanoseconds.
type Stacks = BTreeMap<String, u64>;

/// A trace with a flame graph, and the sums of the times in its report.
struct Traced {
    stacks: Stacks,
    connect_ns: u64,
    search_ns: u64,
    ended: Ended,
}

/// Traces a case of `truth` with a report and a flame graph.
fn traced(arguments: &str, case: &str) -> Result<Traced> {
    let _whole = symbols::whole()?;
    let file = "/tmp/traced.folded";
    let process = tracing(&format!(
        "--format json --check-established off --flame {file} {arguments}"
    ))?;
    truth(case)?;
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    let line: Value = serde_json::from_str(&ended.stdout)?;
    let groups = line["groups"].as_array().context("groups")?;
    let sum = |what: &str| -> u64 {
        let times = groups.iter().map(|group| group[what]["total_ns"].as_u64());
        times.map(Option::unwrap_or_default).sum()
    };
    assert_complete(&ended);
    Ok(Traced {
        stacks: read(file)?,
        connect_ns: sum("connect"),
        search_ns: sum("search"),
        ended,
    })
}

fn read(file: &str) -> Result<Stacks> {
    let text = fs::read_to_string(file).context(file.to_owned())?;
    let lines = text.lines().map(|line| {
        let (stack, ns) = line.rsplit_once(' ').context("a time")?;
        Ok((stack.to_owned(), ns.parse()?))
    });
    lines.collect()
}

/// Returns the time of the stacks in which one of these functions is.
fn time_in(stacks: &Stacks, functions: &[&str]) -> u64 {
    let wanted = |stack: &str| stack.split(';').any(|name| functions.contains(&name));
    let with = stacks.iter().filter(|(stack, _)| wanted(stack));
    with.map(|(_, ns)| ns).sum()
}

/// Returns the time of the stacks below a root frame.
fn time_below(stacks: &Stacks, root: &str) -> u64 {
    let below = stacks.iter().filter(|(stack, _)| stack.starts_with(root));
    below.map(|(_, ns)| ns).sum()
}

/// Fails unless every sample is accounted for, and none was lost.
#[track_caller]
fn assert_complete(ended: &Ended) {
    assert!(
        !ended.stderr.contains("flame graph is incomplete"),
        "{ended}"
    );
    let [taken, parts @ ..] = &account(ended)[..] else {
        panic!("no account: {ended}");
    };
    assert_eq!(*taken, parts.iter().sum::<u64>(), "{ended}");
}

/// Returns the numbers of the summary's account: samples that were taken, and the parts of them.
fn account(ended: &Ended) -> Vec<u64> {
    let lines = ended.stderr.lines();
    let mut line = lines.filter_map(|line| line.strip_prefix("samples taken "));
    let line = line.next_back().unwrap_or_default().replace(',', "");
    let words = line.split([' ', '=', '+']);
    words.filter_map(|word| word.parse().ok()).collect()
}

fn a_flame_graph_of_an_exhausted_range_gives_the_search_the_share_of_its_times(
    mode: AttachMode,
) -> Result<()> {
    const SEARCH: &str = "__inet_hash_connect";
    let Traced {
        stacks,
        connect_ns,
        search_ns,
        ended,
    } = traced(attach(mode), "exhaust 20000-22999 --set-range --extra 1500")?;
    let all: u64 = stacks.values().sum();
    let drawn = time_in(&stacks, &[SEARCH]) as f64 / all as f64;
    let clocked = search_ns as f64 / connect_ns as f64;
    assert!(clocked > 0.5, "the range is exhausted: {clocked}: {ended}");
    assert!(
        (drawn - clocked).abs() < 0.05,
        "drawn {drawn}, by the clocks {clocked}: {ended}\n{stacks:#?}"
    );
    // Most of the rest of the search's time lies in the check of a candidate.
    let checks = CHECKS.map(|function| function.symbol);
    let mut callees = BTreeMap::<&str, u64>::new();
    for (stack, ns) in &stacks {
        let mut names = stack.split(';').skip_while(|name| *name != SEARCH).skip(1);
        if let Some(callee) = names.next() {
            *callees.entry(callee).or_default() += ns;
        }
    }
    let most = callees.iter().max_by_key(|(_, ns)| **ns);
    let (most, _) = most.with_context(|| format!("nothing is called: {stacks:#?}"))?;
    assert!(checks.contains(most), "{callees:#?}");
    Ok(())
}

fn a_flame_graph_has_all_times_with_and_without_a_cpu(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    // More threads than CPUs, each of which searches for a long time once the range is used up.
    let Traced {
        stacks,
        connect_ns,
        ended,
        ..
    } = traced(
        attach(mode),
        "threads 27000-28499 --set-range --threads 12 --count 300",
    )?;
    let all: u64 = stacks.values().sum();
    let ratio = all as f64 / connect_ns as f64;
    assert!((0.9..1.1).contains(&ratio), "{ratio}: {ended}");
    let off = ["off-CPU (preempted)", "off-CPU (yielded in cond_resched)"];
    let interrupted: u64 = off.iter().map(|root| time_below(&stacks, root)).sum();
    assert!(
        interrupted > all / 20,
        "without a CPU {interrupted} of {all}: {ended}"
    );
    Ok(())
}

fn a_flame_graph_of_udp_has_its_port_search(mode: AttachMode) -> Result<()> {
    // The load and the tracer are two processes, which preempt each other.
    crowd_is_seen(mode)?;
    // The first jumps to the second, and is in stacks that were not unwound only.
    const FUNCTIONS: [&str; 3] = [
        "inet_dgram_connect",
        "ip4_datagram_connect",
        "udp_lib_get_port",
    ];
    let _whole = symbols::whole()?;
    let file = "/tmp/udp.folded";
    // The searches of UDP are short.
    let process = tracing(&format!(
        "flame --protocol udp -F 9999 --folded {file} {}",
        attach(mode)
    ))?;
    let load = connect_trace("load default --protocol udp --range 20000-22999 -c 3000");
    Process::start(load)?.end()?.successful()?;
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    assert_complete(&ended);
    let stacks = read(file)?;
    let all: u64 = stacks.values().sum();
    assert!(all > 0, "{ended}");
    // The rest is that of our own probes, which take as long as these short functions.
    let within = time_in(&stacks, &FUNCTIONS);
    assert!(within > all / 4, "{within} of {all}: {stacks:#?}");
    // Before 6.1, the kernel unwinds no stack beyond a kretprobe.
    if mode == AttachMode::Fentry {
        let not_unwound = time_below(&stacks, "[not unwound]");
        assert!(not_unwound < all / 5, "{not_unwound} of {all}: {stacks:#?}");
    }
    assert!(time_in(&stacks, &["udp_lib_get_port"]) > 0, "{stacks:#?}");
    Ok(())
}

fn a_flame_graph_leaves_out_samples_of_calls_without_a_record((): ()) -> Result<()> {
    let case = "exhaust 20000-20999 --set-range --extra 1000";
    let Traced { stacks, ended, .. } = traced("--min-latency 1h", case)?;
    let [taken, in_graph, .., without_record, lost] = account(&ended)[..] else {
        panic!("no account: {ended}");
    };
    assert!(taken > 0 && without_record > 0, "{ended}");
    assert_eq!((in_graph, lost, stacks.len()), (0, 0, 0), "{ended}");

    let Traced { stacks, ended, .. } = traced("--pid 1", case)?;
    assert_eq!(account(&ended), [0; 5], "{ended}");
    assert_eq!(stacks.len(), 0);
    Ok(())
}

fn a_flame_graph_has_the_same_time_in_every_format((): ()) -> Result<()> {
    let _whole = symbols::whole()?;
    let files = "--svg /tmp/f.svg --folded /tmp/f.folded --speedscope /tmp/f.json";
    let process = tracing(&format!("flame {files}"))?;
    truth("exhaust 20000-20999 --set-range")?;
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    assert_complete(&ended);
    assert_eq!(ended.stdout, "", "{ended}");
    let all: u64 = read("/tmp/f.folded")?.values().sum();
    let profile: Value = serde_json::from_str(&fs::read_to_string("/tmp/f.json")?)?;
    assert_eq!(profile["profiles"][0]["endValue"], all);
    let svg = fs::read_to_string("/tmp/f.svg")?;
    for part in ["<svg ", "__inet_hash_connect: ", "1000 connect() calls"] {
        assert!(svg.contains(part), "{part}: {svg}");
    }

    // A command alone gets the file that is told, and its own output.
    let mut command = connect_trace("flame -- truth v4 --count 3");
    command.current_dir("/tmp");
    let ended = Process::start(command)?.end()?.successful()?;
    assert!(ended.stderr.contains("wrote connect-flame.svg"), "{ended}");
    assert_eq!(ended.stdout.lines().count(), 1 + 3, "{ended}");
    assert!(fs::read_to_string("/tmp/connect-flame.svg")?.contains("3 connect() calls"));

    // Folded stacks are alone on stdout, and the report is on stderr.
    let process = tracing("--flame -")?;
    truth("exhaust 20000-20999 --set-range")?;
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    assert!(ended.stderr.contains("1000 connect() calls in "), "{ended}");
    ensure!(!ended.stdout.is_empty(), "{ended}");
    for line in ended.stdout.lines() {
        let ns = line.rsplit_once(' ').map(|(_, ns)| ns.parse::<u64>());
        assert!(matches!(ns, Some(Ok(1..))), "{line}");
    }
    Ok(())
}

fn a_flame_graph_names_the_setting_that_hides_addresses((): ()) -> Result<()> {
    const SETTING: &str = "/proc/sys/kernel/kptr_restrict";
    let _whole = symbols::whole()?;
    let before = fs::read_to_string(SETTING)?;
    fs::write(SETTING, "2")?;
    let ended = Process::start(connect_trace("flame -d 1"))?.end();
    let checked = Process::start(connect_trace("check"))?.end();
    fs::write(SETTING, before)?;
    let (ended, checked) = (ended?, checked?);
    assert_eq!(checked.status.code(), Some(0), "a trace works: {checked}");
    assert!(
        checked.stdout.contains("kernel.kptr_restrict=0"),
        "{checked}"
    );
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    for part in ["/proc/kallsyms", "kernel.kptr_restrict"] {
        assert!(ended.stderr.contains(part), "{part}: {ended}");
    }
    Ok(())
}

fn a_flame_graph_that_cannot_be_written_is_an_error_before_the_trace((): ()) -> Result<()> {
    let ended = Process::start(connect_trace("flame --svg /nowhere/f.svg"))?.end()?;
    assert_eq!(ended.status.code(), Some(1), "{ended}");
    assert!(ended.stderr.contains("--svg /nowhere/f.svg"), "{ended}");
    assert!(!ended.stderr.contains("Tracing"), "{ended}");
    Ok(())
}
