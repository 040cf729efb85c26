//! The samples of calls: kept until the record of the call has come, because only the calls that the filters want get one.

use std::{collections::HashMap, mem};

use connect_trace_common::{Flags, SampleKind, StackSample, stacks::Header};

use super::tree::{ALL, Name, NodeId, Tree};
use crate::kernel::{
    prototypes::{CHECKS, CONNECT, TIME_WAIT, UDP},
    text::KernelText,
};

/// Maximum number of samples that wait for the record of their call, some 20 MB.
const MOST_WAITING: usize = 1 << 20;

/// Maximum number of addresses whose names are kept.
const MOST_ADDRESSES: usize = 1 << 16;

/// Root frames of the time during which a thread had no CPU.
pub(super) const PREEMPTED: &str = "off-CPU (preempted)";
pub(super) const YIELDED: &str = "off-CPU (yielded in cond_resched)";
pub(super) const BLOCKED: &str = "off-CPU (blocked)";

/// Name of code that has no symbol.
const UNKNOWN: &str = "[unknown]";
/// Root frame of the stacks that do not reach down to connect().
const NOT_UNWOUND: &str = "[not unwound]";

/// Functions by which the kernel offers its CPU: since 5.11, on arm64 if the model of preemption can change, and before.
const YIELDS: [&str; 3] = ["__cond_resched", "dynamic_cond_resched", "_cond_resched"];

/// Beginnings of the names of our own tracepoint's frames, above the scheduler.
const OF_TRACEPOINT: [&str; 5] = [
    "bpf_get_stack",
    "bpf_prog_",
    "bpf_trace_run",
    "__bpf_trace_",
    "__traceiter_",
];

/// Beginnings of the names of the kernel's outermost functions: of system calls, on x86-64 and on arm64, and of kernel
/// threads.
const ENTRIES: [&str; 3] = ["entry_", "el0", "ret_from_fork"];

/// Beginning of the names of arm64's outermost functions of system calls.
const ENTRY_OF_ARM64: &str = "el0";

/// Beginnings of the names of functions that run for a probe, beside those of [`OF_PROBES`].
const OF_PROGRAMS: [&str; 6] = [
    "bpf_prog_",
    "bpf_skc_",
    "bpf_ktime_",
    "__bpf_prog",
    "update_prog_stats",
    "el1",
];

/// Code to which a function with a kretprobe returns, since 6.1 and before: that return address is its first byte.
const RETURNS: [&str; 3] = [
    "arch_rethook_trampoline",
    "__kretprobe_trampoline",
    "kretprobe_trampoline",
];

/// The functions that have probes.
const PROBED: [&str; 9] = [
    CONNECT[0].symbol,
    CONNECT[1].symbol,
    CONNECT[2].symbol,
    CHECKS[0].symbol,
    CHECKS[1].symbol,
    TIME_WAIT.symbol,
    UDP[0].symbol,
    UDP[1].symbol,
    UDP[2].symbol,
];

/// Beginnings of the names of the code that calls a probe from a function; the last four are handlers of a breakpoint, on
/// x86-64 and on arm64.
const OF_PROBES: [&str; 8] = [
    "bpf_trampoline",
    "ftrace_",
    "kprobe_",
    "optimized_callback",
    "asm_exc_int3",
    "asm_int3",
    "el1h_64_sync",
    "el1_sync",
];

/// Account of the samples that arrived, each of which is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Samples that arrived.
    pub arrived: u64,
    /// Samples that are in the graph: on a CPU, and times without one.
    pub in_graph: u64,
    /// Ends of times without a CPU.
    pub resumed: u64,
    /// Samples of calls that got no record.
    pub without_record: u64,
    /// Times without a CPU whose end is not known.
    pub unpaired: u64,
    /// Samples that found too many others waiting, or could not be read.
    pub dropped: u64,
}

impl Account {
    /// Returns true if every sample is accounted for.
    pub(super) fn adds_up(&self) -> bool {
        self.arrived
            == self.in_graph + self.resumed + self.without_record + self.unpaired + self.dropped
    }
}

/// The identity of a call: its thread and its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallId {
    pub tid: u32,
    pub start_ns: u64,
}

/// A call whose record has not come.
#[derive(Debug)]
struct Waiting {
    start_ns: u64,
    /// Nodes and times; successive samples of one node are one entry.
    times: Vec<(NodeId, u64)>,
    /// Number of samples that the CPU clock took.
    on_cpu: u64,
    /// Number of times without a CPU whose end is known.
    off_cpu: u64,
    /// The last switch away from the thread, with its time.
    switched_out: Option<(NodeId, u64)>,
    /// Number of the reading during which the thread's next call was seen.
    ended_before: Option<u64>,
}

/// The samples of a trace.
pub(super) struct Samples {
    text: KernelText,
    period_ns: u64,
    addresses: HashMap<u64, Name>,
    pub(super) tree: Tree,
    waiting: HashMap<u32, Vec<Waiting>>,
    /// Number of entries of all waiting calls.
    entries: usize,
    /// Threads that have more than one waiting call.
    ended: Vec<u32>,
    readings: u64,
    /// Number of samples in the graph that the CPU clock took.
    pub(super) on_cpu: u64,
    /// True if an address had no name since this was last asked for.
    unknown: bool,
    pub(super) account: Account,
}

impl Samples {
    /// Creates an empty set. The first sample of a CPU stands for `period_ns`.
    pub(super) fn new(text: KernelText, period_ns: u64) -> Self {
        Self {
            text,
            period_ns,
            addresses: HashMap::new(),
            tree: Tree::new(ALL),
            waiting: HashMap::new(),
            entries: 0,
            ended: Vec::new(),
            readings: 0,
            on_cpu: 0,
            unknown: false,
            account: Account::default(),
        }
    }

    /// Adds a sample as the ring buffer has it.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.account.arrived += 1;
        let Some((header, frames)) = parsed(bytes) else {
            self.account.dropped += 1;
            return;
        };
        let tid = header.pid_tgid as u32;
        if header.kind == SampleKind::RESUMED {
            self.account.resumed += 1;
            self.resumed(tid, &header);
            return;
        }
        if self.entries >= MOST_WAITING {
            self.account.dropped += 1;
            return;
        }
        let node = self.node(&header, frames);
        let period_ns = self.period_ns;
        let call = self.call(tid, header.call_ns);
        if header.kind == SampleKind::RUNNING {
            call.on_cpu += 1;
            let stands_for_ns = match header.elapsed_ns {
                0 => period_ns,
                elapsed_ns => elapsed_ns,
            };
            let is_new = call.push(node, stands_for_ns);
            self.entries += usize::from(is_new);
        } else {
            let unpaired = call.switched_out.replace((node, header.at_ns)).is_some();
            self.account.unpaired += u64::from(unpaired);
        }
    }

    /// Ends the time without a CPU.
    fn resumed(&mut self, tid: u32, header: &Header) {
        let calls = self.waiting.get_mut(&tid).into_iter().flatten();
        let mut of_call = calls.filter(|call| call.start_ns == header.call_ns);
        if let Some(call) = of_call.next()
            && let Some((node, since_ns)) = call.switched_out.take()
        {
            call.off_cpu += 1;
            let is_new = call.push(node, header.at_ns.saturating_sub(since_ns));
            self.entries += usize::from(is_new);
        }
    }

    /// Returns the waiting call of a thread, which may be new.
    fn call(&mut self, tid: u32, start_ns: u64) -> &mut Waiting {
        let calls = self.waiting.entry(tid).or_default();
        let index = match calls.iter().position(|call| call.start_ns == start_ns) {
            Some(index) => index,
            None => {
                // The calls of a thread come one after the other.
                for call in calls.iter_mut() {
                    call.ended_before.get_or_insert(self.readings);
                }
                if !calls.is_empty() {
                    self.ended.push(tid);
                }
                calls.push(Waiting {
                    start_ns,
                    times: Vec::new(),
                    on_cpu: 0,
                    off_cpu: 0,
                    switched_out: None,
                    ended_before: None,
                });
                calls.len() - 1
            }
        };
        &mut calls[index]
    }

    /// Takes the samples of a call that got a record into the graph.
    pub(super) fn keep(&mut self, call: CallId) {
        let Some(calls) = self.waiting.get_mut(&call.tid) else {
            return;
        };
        let Some(index) = calls
            .iter()
            .position(|waiting| waiting.start_ns == call.start_ns)
        else {
            return;
        };
        let waiting = calls.swap_remove(index);
        if calls.is_empty() {
            self.waiting.remove(&call.tid);
        }
        self.entries -= waiting.times.len();
        self.on_cpu += waiting.on_cpu;
        self.account.in_graph += waiting.on_cpu + waiting.off_cpu;
        self.account.unpaired += u64::from(waiting.switched_out.is_some());
        for (node, ns) in waiting.times {
            self.tree.add(node, ns);
        }
    }

    /// Forgets the calls that ended without a record: those of which a later call of their thread was seen before the
    /// last reading. To be called after each reading that found all records.
    pub(super) fn forget_ended(&mut self) {
        let readings = self.readings;
        for tid in mem::take(&mut self.ended) {
            let Some(calls) = self.waiting.get_mut(&tid) else {
                continue;
            };
            let is_over = |call: &Waiting| call.ended_before.is_some_and(|at| at < readings);
            for call in calls.extract_if(.., |call| is_over(call)) {
                self.entries -= call.times.len();
                self.account.without_record += call.all();
            }
            if calls.iter().any(|call| call.ended_before.is_some()) {
                self.ended.push(tid);
            } else if calls.is_empty() {
                self.waiting.remove(&tid);
            }
        }
        self.readings += 1;
    }

    /// Returns true if an address had no name since the last call: code may have been generated since the names were
    /// read.
    pub(super) fn found_unknown(&mut self) -> bool {
        mem::take(&mut self.unknown)
    }

    /// Takes other names for the samples to come.
    pub(super) fn rename(&mut self, text: KernelText) {
        self.text = text;
        self.addresses.clear();
    }

    /// Forgets all calls that got no record: no more records come.
    pub(super) fn forget_all(&mut self) {
        for (_, calls) in self.waiting.drain() {
            let all = calls.iter().map(Waiting::all);
            self.account.without_record += all.sum::<u64>();
        }
        self.entries = 0;
    }

    /// Returns the node of a stack.
    fn node(&mut self, header: &Header, addresses: &[u8]) -> NodeId {
        let kind = header.kind;
        let (addresses, _) = addresses.as_chunks();
        let mut names = Vec::with_capacity(addresses.len());
        for (index, address) in addresses.iter().enumerate() {
            let address = u64::from_ne_bytes(*address);
            // All but an interrupted instruction are return addresses, which may lie behind the end of their function.
            let is_return = index > 0 || kind != SampleKind::RUNNING;
            let is_replaced = self
                .text
                .name(address)
                .is_some_and(|name| RETURNS.contains(&name));
            let is_behind = is_return && !is_replaced && address > 0;
            names.push(self.function(address - u64::from(is_behind)));
        }
        let mut node = Tree::ROOT;
        if kind != SampleKind::RUNNING {
            let ours = names.iter().take_while(|&&name| {
                let name = self.tree.name(name);
                OF_TRACEPOINT.iter().any(|start| name.starts_with(start))
            });
            names.drain(..ours.count());
            let root = match kind {
                SampleKind::BLOCKED => BLOCKED,
                _ if self.has_any(&names, &YIELDS) => YIELDED,
                _ => PREEMPTED,
            };
            let root = self.tree.number(root);
            node = self.tree.child(node, root);
        }
        names.reverse();
        self.complete(&mut names, header.flags);
        self.lift_probes(&mut names);
        self.restore_search(&mut names, header.flags);
        for name in names {
            node = self.tree.child(node, name);
        }
        node
    }

    /// Puts a stack that does not reach down to connect() on the functions that its call is in. The kernel cannot unwind
    /// some stacks: of a thread that was interrupted in a thunk of a retpoline, and on the way through a kretprobe on
    /// older kernels.
    fn complete(&mut self, outermost_first: &mut Vec<Name>, header_flags: u64) {
        let flags = Flags(header_flags as u16);
        let [v4, v6, search] = CONNECT.map(|function| function.symbol);
        let [dgram, autobind, search_of_udp] = UDP.map(|function| function.symbol);
        let is_tcp = flags.masked(Flags::PROTOCOL) == Flags(0);
        let operation = flags.masked(Flags::OPERATION);
        let outermost: &[&str] = match operation {
            _ if is_tcp => &[v4, v6],
            Flags::SEND => &[autobind],
            Flags::BIND => &[search_of_udp],
            _ => &[dgram],
        };
        // inet_dgram_connect is in no stack if it ends with the jump to the next function.
        let search = if is_tcp { search } else { search_of_udp };
        let is_in_search = flags.has(Flags::SEARCH_ENTERED) && !flags.has(Flags::SEARCH_TIMED);
        let entry = outermost_first.first().map(|&name| self.tree.name(name));
        let is_whole =
            entry.is_some_and(|name| ENTRIES.iter().any(|entry| name.starts_with(entry)));
        let is_reached = self.has_any(outermost_first, outermost);
        if is_whole || is_reached {
            return;
        }
        let mut known = vec![NOT_UNWOUND];
        match operation {
            _ if is_tcp && header_flags & StackSample::IN_V6 != 0 => known.push(v6),
            _ if is_tcp => known.push(v4),
            Flags::SEND => known.push(autobind),
            // A bind() shows only its search.
            Flags::BIND => {}
            _ => known.push(dgram),
        }
        if is_in_search && !self.has_any(outermost_first, &[search, autobind]) {
            known.push(search);
        }
        let known: Vec<Name> = known
            .into_iter()
            .map(|name| self.tree.number(name))
            .collect();
        outermost_first.splice(..0, known);
    }

    /// Puts the port search of TCP back that called the innermost function: arm64's stacks lack the caller of a function
    /// without a frame of its own.
    fn restore_search(&mut self, outermost_first: &mut Vec<Name>, header_flags: u64) {
        let flags = Flags(header_flags as u16);
        let [v4, v6, search] = CONNECT.map(|function| function.symbol);
        let is_in_search = flags.has(Flags::SEARCH_ENTERED) && !flags.has(Flags::SEARCH_TIMED);
        let entry = outermost_first.first().map(|&name| self.tree.name(name));
        let is_of_arm64 = entry.is_some_and(|name| name.starts_with(ENTRY_OF_ARM64));
        let is_of_probe = outermost_first.iter().any(|&name| {
            let name = self.tree.name(name);
            OF_PROGRAMS.iter().any(|start| name.starts_with(start))
        });
        if is_of_arm64
            && is_in_search
            && !is_of_probe
            && self.has_any(outermost_first, &[v4, v6])
            && !self.has_any(outermost_first, &[search])
        {
            let search = self.tree.number(search);
            outermost_first.insert(outermost_first.len() - 1, search);
        }
    }

    /// Puts our own probes beside the functions that they are attached to, and not on them. A probe is called by the first
    /// instruction of its function, and a trampoline calls the rest of the function in turn.
    fn lift_probes(&self, outermost_first: &mut Vec<Name>) {
        let mut at = 0;
        while let [function, probe, ..] = outermost_first[at..] {
            let is_probed = PROBED.contains(&self.tree.name(function));
            let name = self.tree.name(probe);
            if is_probed && OF_PROBES.iter().any(|start| name.starts_with(start)) {
                let calls_function = outermost_first.get(at + 2) == Some(&function);
                outermost_first.drain(at..at + 1 + usize::from(calls_function));
            }
            at += 1;
        }
    }

    fn has_any(&self, frames: &[Name], wanted: &[&str]) -> bool {
        let mut names = frames.iter().map(|&name| self.tree.name(name));
        names.any(|name| wanted.contains(&name))
    }

    /// Returns the name of the function at an address.
    fn function(&mut self, address: u64) -> Name {
        if let Some(&name) = self.addresses.get(&address) {
            return name;
        }
        if self.addresses.len() >= MOST_ADDRESSES {
            self.addresses.clear();
        }
        let name = self.text.name(address).unwrap_or_else(|| {
            self.unknown = true;
            UNKNOWN
        });
        let name = self.tree.number(name);
        self.addresses.insert(address, name);
        name
    }
}

impl Waiting {
    /// Adds a time, and returns true if it is an entry of its own.
    fn push(&mut self, node: NodeId, ns: u64) -> bool {
        match self.times.last_mut() {
            Some((last, sum)) if *last == node => {
                *sum += ns;
                false
            }
            _ => {
                self.times.push((node, ns));
                true
            }
        }
    }

    /// Returns the number of its samples.
    fn all(&self) -> u64 {
        self.on_cpu + self.off_cpu + u64::from(self.switched_out.is_some())
    }
}

/// Returns the fields of a sample, and the bytes of its frames.
fn parsed(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (header, frames) = bytes.split_at_checked(StackSample::HEADER)?;
    // Any alignment is sufficient.
    bytemuck::try_pod_read_unaligned(header)
        .ok()
        .map(|header| (header, frames))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses of the functions of [`samples`], the size of each.
    const SIZE: u64 = 0x100;
    const FUNCTIONS: [&str; 11] = [
        "entry_SYSCALL_64",
        "tcp_v4_connect",
        "__inet_hash_connect",
        "__inet_check_established",
        "bpf_trampoline_1",
        "bpf_prog_1_fentry_inet",
        "__schedule",
        "__cond_resched",
        "__traceiter_sched_switch",
        "el0t_64_sync",
        "el1h_64_sync",
    ];
    const PERIOD_NS: u64 = 1_000;

    fn samples() -> Samples {
        let lines = FUNCTIONS.iter().enumerate();
        let lines: String = lines
            .map(|(number, name)| format!("{:x} t {name}\n", (number as u64 + 1) * SIZE))
            .collect();
        Samples::new(KernelText::read(lines.as_bytes()).unwrap(), PERIOD_NS)
    }

    /// Returns a sample of the thread 7 with these functions, the outermost first.
    fn sample(kind: SampleKind, call_ns: u64, at_ns: u64, functions: &[&str]) -> Vec<u8> {
        sample_of(Flags::SEARCH_ENTERED.0, kind, call_ns, at_ns, functions)
    }

    /// Returns a sample of a call with these flags.
    fn sample_of(
        flags: u16,
        kind: SampleKind,
        call_ns: u64,
        at_ns: u64,
        functions: &[&str],
    ) -> Vec<u8> {
        let header = Header {
            pid_tgid: 3 << 32 | 7,
            call_ns,
            at_ns,
            elapsed_ns: 0,
            kind,
            flags: flags.into(),
        };
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        for name in functions.iter().rev() {
            let number = FUNCTIONS.iter().position(|known| known == name);
            let address = number.map_or(0, |number| (number as u64 + 1) * SIZE + 5);
            bytes.extend(address.to_ne_bytes());
        }
        bytes
    }

    fn call(start_ns: u64) -> CallId {
        CallId { tid: 7, start_ns }
    }

    fn stacks(samples: &Samples) -> Vec<(String, u64)> {
        let stacks = samples.tree.stacks();
        stacks.map(|(names, ns)| (names.join(";"), ns)).collect()
    }

    #[track_caller]
    fn one_stack(functions: &[&str], kind: SampleKind) -> String {
        let mut samples = samples();
        samples.add(&sample(kind, 100, 200, functions));
        samples.add(&sample(SampleKind::RESUMED, 100, 250, &[]));
        samples.keep(call(100));
        let [(stack, _)] = &stacks(&samples)[..] else {
            panic!("one stack");
        };
        stack.clone()
    }

    #[test]
    fn samples_are_in_the_graph_once_their_call_has_a_record() {
        let mut samples = samples();
        let stack = ["entry_SYSCALL_64", "tcp_v4_connect"];
        samples.add(&sample(SampleKind::RUNNING, 100, 200, &stack));
        let mut later = sample(SampleKind::RUNNING, 100, 900, &stack);
        later[24..32].copy_from_slice(&700_u64.to_ne_bytes());
        samples.add(&later);
        assert_eq!(stacks(&samples), []);
        samples.keep(call(100));
        let expected = [(
            "entry_SYSCALL_64;tcp_v4_connect".to_owned(),
            PERIOD_NS + 700,
        )];
        assert_eq!(stacks(&samples), expected);
        assert_eq!((samples.on_cpu, samples.account.in_graph), (2, 2));
        assert!(samples.account.adds_up(), "{:?}", samples.account);
        assert!(samples.waiting.is_empty() && samples.entries == 0);
    }

    #[test]
    fn a_time_without_a_cpu_lies_below_its_reason() {
        let mut samples = samples();
        let tracepoint = ["bpf_trampoline_1", "__traceiter_sched_switch"];
        let stack = ["tcp_v4_connect", "__schedule"];
        let traced = [&stack[..], &tracepoint[1..]].concat();
        samples.add(&sample(SampleKind::BLOCKED, 100, 200, &traced));
        samples.add(&sample(SampleKind::RESUMED, 100, 260, &[]));
        samples.add(&sample(SampleKind::PREEMPTED, 100, 300, &stack));
        samples.add(&sample(SampleKind::RESUMED, 100, 301, &[]));
        let yielded = ["tcp_v4_connect", "__cond_resched", "__schedule"];
        samples.add(&sample(SampleKind::PREEMPTED, 100, 400, &yielded));
        samples.add(&sample(SampleKind::RESUMED, 100, 402, &[]));
        // Its end is not known.
        samples.add(&sample(SampleKind::BLOCKED, 100, 500, &stack));
        samples.keep(call(100));
        let expected = [
            (format!("{BLOCKED};tcp_v4_connect;__schedule"), 60),
            (format!("{PREEMPTED};tcp_v4_connect;__schedule"), 1),
            (
                format!("{YIELDED};tcp_v4_connect;__cond_resched;__schedule"),
                2,
            ),
        ];
        assert_eq!(stacks(&samples), expected);
        let account = samples.account;
        assert_eq!(
            (account.in_graph, account.resumed, account.unpaired),
            (3, 3, 1)
        );
        assert!(account.adds_up(), "{account:?}");
    }

    #[test]
    fn calls_without_a_record_leave_the_graph() {
        let mut samples = samples();
        let stack = ["tcp_v4_connect"];
        samples.add(&sample(SampleKind::RUNNING, 100, 200, &stack));
        // The record of a call can come with the reading after that of its successor's first sample.
        samples.add(&sample(SampleKind::RUNNING, 300, 400, &stack));
        samples.forget_ended();
        samples.add(&sample(SampleKind::RUNNING, 500, 600, &stack));
        samples.keep(call(100));
        samples.forget_ended();
        samples.forget_ended();
        assert_eq!(samples.account.without_record, 1, "the call of 300");
        samples.keep(call(300));
        samples.forget_all();
        let account = samples.account;
        assert_eq!((account.in_graph, account.without_record), (1, 2));
        assert!(account.adds_up(), "{account:?}");
        assert!(samples.waiting.is_empty() && samples.entries == 0);
    }

    #[test]
    fn a_probe_lies_beside_its_function_and_the_rest_of_the_function_in_its_place() {
        let probe = [
            "tcp_v4_connect",
            "__inet_hash_connect",
            "bpf_trampoline_1",
            "bpf_prog_1_fentry_inet",
        ];
        assert_eq!(
            one_stack(&probe, SampleKind::RUNNING),
            "tcp_v4_connect;bpf_trampoline;bpf_prog_1_fentry_inet"
        );
        let breakpoint = ["tcp_v4_connect", "__inet_hash_connect", "el1h_64_sync"];
        assert_eq!(
            one_stack(&breakpoint, SampleKind::RUNNING),
            "tcp_v4_connect;el1h_64_sync"
        );
        let rest = [
            "entry_SYSCALL_64",
            "tcp_v4_connect",
            "bpf_trampoline_1",
            "tcp_v4_connect",
            "__inet_hash_connect",
            "bpf_trampoline_1",
            "__inet_hash_connect",
            "__inet_check_established",
        ];
        assert_eq!(
            one_stack(&rest, SampleKind::RUNNING),
            "entry_SYSCALL_64;tcp_v4_connect;__inet_hash_connect;__inet_check_established"
        );
    }

    #[test]
    fn the_search_is_put_back_that_arm64_leaves_out_of_a_stack() {
        let leaf = ["el0t_64_sync", "tcp_v4_connect", "__inet_check_established"];
        assert_eq!(
            one_stack(&leaf, SampleKind::RUNNING),
            "el0t_64_sync;tcp_v4_connect;__inet_hash_connect;__inet_check_established"
        );
        let probe = [
            "el0t_64_sync",
            "tcp_v4_connect",
            "bpf_trampoline_1",
            "bpf_prog_1_fentry_inet",
        ];
        assert_eq!(
            one_stack(&probe, SampleKind::RUNNING),
            "el0t_64_sync;bpf_trampoline;bpf_prog_1_fentry_inet"
        );
        let of_x86_64 = [
            "entry_SYSCALL_64",
            "tcp_v4_connect",
            "__inet_check_established",
        ];
        assert_eq!(
            one_stack(&of_x86_64, SampleKind::RUNNING),
            "entry_SYSCALL_64;tcp_v4_connect;__inet_check_established"
        );
    }

    #[test]
    fn a_stack_that_was_not_unwound_lies_on_the_functions_of_its_call() {
        let known = "[not unwound];tcp_v4_connect;__inet_hash_connect";
        let thunk = one_stack(&["no such function"], SampleKind::RUNNING);
        assert_eq!(thunk, format!("{known};{UNKNOWN}"));
        assert_eq!(one_stack(&[], SampleKind::RUNNING), known);
        let cut = ["__inet_hash_connect", "__inet_check_established"];
        assert_eq!(
            one_stack(&cut, SampleKind::RUNNING),
            format!("{known};__inet_check_established")
        );
    }

    #[test]
    fn a_stack_of_udp_that_was_not_unwound_lies_on_the_functions_of_udp() {
        let stack = |flags: Flags| {
            let mut samples = samples();
            let flags = flags.0 | Flags::SEARCH_ENTERED.0;
            samples.add(&sample_of(flags, SampleKind::RUNNING, 100, 200, &[]));
            samples.keep(call(100));
            stacks(&samples).remove(0).0
        };
        let search = "udp_lib_get_port";
        assert_eq!(
            stack(Flags::UDP),
            format!("{NOT_UNWOUND};inet_dgram_connect;{search}")
        );
        let send = Flags(Flags::UDP_LITE.0 | Flags::SEND.0);
        assert_eq!(stack(send), format!("{NOT_UNWOUND};inet_autobind;{search}"));
        let bind = Flags(Flags::UDP.0 | Flags::BIND.0);
        assert_eq!(stack(bind), format!("{NOT_UNWOUND};{search}"));
        // A function that jumps to the next one leaves no frame.
        for entry in ["entry_SYSCALL_64", "el0t_64_sync"] {
            let whole = one_stack(&[entry, "no such function"], SampleKind::RUNNING);
            assert_eq!(whole, format!("{entry};{UNKNOWN}"));
        }
    }

    #[test]
    fn a_sample_that_cannot_be_read_is_counted() {
        let mut samples = samples();
        samples.add(&[0; 7]);
        assert_eq!(samples.account.dropped, 1);
        assert!(samples.account.adds_up());
    }
}
