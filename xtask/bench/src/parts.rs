//! `cargo xtask bench-parts`: divides the instructions that a tracer adds to a connect() into parts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufRead;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use xtask::arch::Arch;
use xtask::guest::{Hardware, Kit, Task};
use xtask::tools::kernels::Kernel;
use xtask::vm::{KernelChoice, get_kernels};
use xtask::{stdout, tools};

use crate::execution::ExecutionLog;
use crate::symbols::{Symbols, is_program, is_symbol};
use crate::tracers::{self, UNTRACED};

/// The scripts that run in the guest.
const SCRIPT: &str = concat!(include_str!("tracer.sh"), include_str!("parts.sh"));

/// Size of a log, enough for some thirty connect() calls.
const LOG_BYTES: u64 = 100_000_000;

/// Factor for the size of the untraced log, with which all others are compared.
const UNTRACED_TIMES: u64 = 3;

/// Fewest connect() calls whose shortest can be assumed to have no interrupt.
const FEWEST: usize = 5;

/// The function whose instructions are counted, and its caller.
const FUNCTION: &str = "tcp_v4_connect";
const CALLER: &str = "__inet_stream_connect";

/// Break the instructions that a tracer adds to a connect() down by part
///
/// Each kernel boots in a virtual machine that logs the executed instructions. The shortest of some thirty connect()
/// calls that find a port at once is compared with the shortest untraced one: `cargo xtask bench` measures the same
/// difference. Takes about two minutes for each kernel.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kernel to boot: a series such as 6.12, `all` or a file; repeatable
    #[arg(long = "kernel", value_name = "KERNEL", default_value = "6.1")]
    kernels: Vec<KernelChoice>,
    /// Break down only tracers with this text in their names; repeatable [default: the record by fentry and by kprobe,
    /// `--pid` of another process, and funclatency]
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
}

pub(crate) fn parts(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernels = get_kernels(&options.kernels, Arch::HOST)?;
    let kit = Kit::prepare(Arch::HOST, true)?.with_peers()?;
    let mut status = ExitCode::SUCCESS;
    for kernel in &kernels {
        eprintln!("breaking down on {}", kernel.release());
        let guest =
            run(&kit, kernel, options).with_context(|| format!("on kernel {}", kernel.name))?;
        stdout::write(guest.text(&kernel.name)?.as_bytes())?;
        if !guest.failed.is_empty() {
            status = ExitCode::FAILURE;
        }
    }
    Ok(status)
}

fn run(kit: &Kit, kernel: &Kernel, options: &Options) -> Result<Guest> {
    let tracers = tracers::lines_of_parts(&options.only);
    let log = ExecutionLog::create()?;
    let task = Task {
        command: ["sh", "-c", SCRIPT, "sh", &tracers]
            .map(str::to_owned)
            .to_vec(),
        hardware: Hardware {
            cpus: 1,
            deterministic: true,
            qemu_arguments: log.arguments(),
            ..Hardware::default()
        },
        ..Task::default()
    };
    let mut guest = Guest::default();
    let mut unfinished = Vec::new();
    kit.run_well(kernel, &task, |bytes| {
        unfinished.extend_from_slice(bytes);
        while let Some(end) = unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unfinished.drain(..=end).collect();
            guest.line(String::from_utf8_lossy(&line).trim_end(), &log)?;
        }
        Ok(())
    })?;
    Ok(guest)
}

/// Output of a guest.
#[derive(Default)]
struct Guest {
    /// Lines of /proc/kallsyms for the kernel itself.
    functions: String,
    tracers: Vec<Tracer>,
    /// Tracers that failed, and the last line of each.
    failed: Vec<(String, String)>,
}

/// A tracer, and the call measured beside it.
struct Tracer {
    name: String,
    /// Lines of /proc/kallsyms that exist only while the tracer runs.
    functions: String,
    parts: Parts,
}

impl Guest {
    /// Reads a line of the output of `parts.sh`.
    fn line(&mut self, line: &str, log: &ExecutionLog) -> Result<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        match (&fields[..], self.tracers.last_mut()) {
            (["tracer", name], _) => {
                eprintln!("  {name}");
                self.tracers.push(Tracer {
                    name: (*name).to_owned(),
                    functions: String::new(),
                    parts: Parts::default(),
                });
            }
            (["failed", name, said], _) => {
                self.tracers.retain(|tracer| tracer.name != *name);
                self.failed.push(((*name).to_owned(), (*said).to_owned()));
            }
            (["connects"], Some(tracer)) => {
                let symbols = Symbols::parse(&format!("{}{}", self.functions, tracer.functions));
                let times = match tracer.name.as_str() {
                    UNTRACED => UNTRACED_TIMES,
                    _ => 1,
                };
                let call = log.record(LOG_BYTES * times, |log| shortest_call(log, &symbols))?;
                tracer.parts = Parts::of(&call, &symbols);
            }
            ([line] | [line, _], tracer) if is_symbol(line) => {
                let functions = tracer.map_or(&mut self.functions, |tracer| &mut tracer.functions);
                functions.push_str(line);
                functions.push('\n');
            }
            _ => bail!("the guest printed an unknown line: {line}"),
        }
        Ok(())
    }

    /// Returns a table for each tracer.
    fn text(&self, kernel: &str) -> Result<String> {
        let (untraced, traced): (Vec<_>, Vec<_>) = self
            .tracers
            .iter()
            .partition(|tracer| tracer.name == UNTRACED);
        let untraced = untraced
            .first()
            .context("connect() calls without a tracer were not logged")?;
        let mut text = String::new();
        for tracer in traced {
            let table = tracer.parts.table(untraced.parts.all);
            let _ = writeln!(text, "Linux {kernel}, {}: {table}", tracer.name);
        }
        for (name, said) in &self.failed {
            let _ = writeln!(text, "Linux {kernel}, {name}: not measured: {said}\n");
        }
        Ok(text)
    }
}

/// Returns the instructions of the shortest call of [`FUNCTION`] in a log: a call without an interrupt.
fn shortest_call(log: &mut dyn BufRead, symbols: &Symbols) -> Result<Vec<u64>> {
    let entry = symbols.range(FUNCTION)?.start;
    let caller = symbols.range(CALLER)?;
    let mut call: Option<Vec<u64>> = None;
    let (mut shortest, mut count) = (Vec::new(), 0);
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line)? > 0 {
        match (entry_of(&String::from_utf8_lossy(&line)), &mut call) {
            (Some(Entry::Executed(pc)), Some(_)) if caller.contains(&pc) => {
                let call = call.take().unwrap_or_default();
                if count == 0 || call.len() < shortest.len() {
                    shortest = call;
                }
                count += 1;
            }
            (Some(Entry::Executed(pc)), Some(call)) => call.push(pc),
            (Some(Entry::Executed(pc)), None) if pc == entry => call = Some(vec![pc]),
            (Some(Entry::TakenBack(pc)), Some(call)) if call.last() == Some(&pc) => {
                call.pop();
            }
            _ => {}
        }
        line.clear();
    }
    if count < FEWEST {
        bail!("only {count} whole calls of {FUNCTION} are in the log of the guest, not {FEWEST}");
    }
    Ok(shortest)
}

/// A line of QEMU's log: the instruction at an address was executed or not.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Executed(u64),
    /// Not executed: an interrupt came before.
    TakenBack(u64),
}

fn entry_of(line: &str) -> Option<Entry> {
    let address = |digits| u64::from_str_radix(digits, 16).ok();
    if line.starts_with("Trace ") {
        // Example: Trace 0: 0x7fb9605e5dc0 [0000000000000000/ffffffff9d474cd3/0040c2b0/ff020201]
        let mut fields = line.split('/').skip(1);
        let pc = address(fields.next()?)?;
        fields.next().map(|_| Entry::Executed(pc))
    } else if line.starts_with("Stopped ") {
        // Example: Stopped execution of TB chain before 0x7fb9605e5dc0 [ffffffff9d474cd3]
        let (_, rest) = line.split_once('[')?;
        let (pc, _) = rest.split_once(']')?;
        address(pc).map(Entry::TakenBack)
    } else {
        None
    }
}

/// Instructions of one call, by part.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    all: usize,
    /// Instructions of the programs.
    programs: usize,
    /// Instructions of each function that a program calls, including the functions called in turn.
    called: BTreeMap<String, usize>,
}

impl Parts {
    fn of(call: &[u64], symbols: &Symbols) -> Self {
        let mut parts = Self {
            all: call.len(),
            ..Self::default()
        };
        // True after an instruction of a program; the function that it calls then counts until the next such
        // instruction.
        let mut in_program = false;
        let mut callee: Option<&str> = None;
        for &pc in call {
            let (function, offset) = symbols.place(pc).unwrap_or_default();
            if is_program(function) {
                parts.programs += 1;
                in_program = true;
                callee = None;
                continue;
            }
            // The first instruction of a function follows if the program called it; one further inside follows if the
            // program returned.
            if in_program && offset == 0 {
                callee = Some(function);
            }
            in_program = false;
            if let Some(callee) = callee {
                *parts.called.entry(callee.to_owned()).or_default() += 1;
            }
        }
        parts
    }

    /// Compares with a call without a tracer, which has `untraced` instructions.
    fn table(&self, untraced: usize) -> String {
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let total = signed(self.all) - signed(untraced);
        let called: usize = self.called.values().sum();
        let way = total - signed(self.programs + called);
        let mut rows = vec![
            (way, "to the programs and back".to_owned()),
            (signed(self.programs), "the programs themselves".to_owned()),
        ];
        let mut called: Vec<_> = self.called.iter().collect();
        called.sort_by_key(|&(name, &count)| (std::cmp::Reverse(count), name));
        rows.extend(
            called
                .into_iter()
                .map(|(name, &count)| (signed(count), format!("{name}, called by them"))),
        );
        let mut text = format!(
            "{total} instructions added to {untraced} of {FUNCTION}\n  added   share  part\n"
        );
        for (count, name) in rows.iter().filter(|(count, _)| *count != 0) {
            let share = *count as f64 / total as f64 * 100.0;
            let _ = writeln!(text, "{count:>7} {share:>5.1} %  {name}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTIONS: &str = "\
ffffffff81000000 t __inet_stream_connect
ffffffff81000100 T tcp_v4_connect
ffffffff81000200 T helper
ffffffff81000300 T deeper
ffffffffc0000000 t bpf_trampoline_1\t[bpf]
ffffffffc0001000 t bpf_prog_9a2e60ca6d5bfb6e_fentry_tcp_v4_connect\t[bpf]
ffffffffc0002000 t end\t[bpf]";

    const CALLER: u64 = 0xffff_ffff_8100_0000;
    const CONNECT: u64 = CALLER + 0x100;
    const HELPER: u64 = CALLER + 0x200;
    const DEEPER: u64 = CALLER + 0x300;
    const TRAMPOLINE: u64 = 0xffff_ffff_c000_0000;
    const PROGRAM: u64 = TRAMPOLINE + 0x1000;

    fn executed(pcs: &[u64]) -> String {
        let line = |pc: &u64| format!("Trace 0: 0x7f [0/{pc:016x}/0/0] \n");
        pcs.iter().map(line).collect()
    }

    fn shortest(log: &str) -> Result<Vec<u64>> {
        shortest_call(&mut log.as_bytes(), &Symbols::parse(FUNCTIONS))
    }

    #[test]
    fn the_shortest_call_is_the_one_that_nothing_came_into() {
        let interrupted = [CONNECT, DEEPER, CONNECT + 4, CALLER + 8];
        let call = [CONNECT, CONNECT + 4, CALLER + 8];
        let log = executed(&interrupted).repeat(2) + &executed(&call).repeat(3);
        let cut = "Trace 0: 0x7f [0/ffffffff8100";
        let found = shortest(&format!(
            "{}{log}{}{cut}",
            executed(&[CONNECT + 8]),
            executed(&call[..1])
        ));
        assert_eq!(found.unwrap(), call[..2]);
        let few = shortest(&executed(&call).repeat(FEWEST - 1)).unwrap_err();
        assert!(few.to_string().starts_with("only 4 whole calls"), "{few}");
    }

    #[test]
    fn an_instruction_that_is_taken_back_was_not_executed() {
        let begin = executed(&[CALLER, CONNECT]);
        let stopped = |pc: u64| format!("Stopped execution of TB chain before 0x7f [{pc:016x}] \n");
        let end =
            executed(&[CONNECT, CONNECT + 4]) + &stopped(CONNECT + 4) + &executed(&[CALLER + 8]);
        let log = begin + &stopped(CONNECT) + &stopped(HELPER) + &end;
        assert_eq!(shortest(&log.repeat(FEWEST)).unwrap(), [CONNECT]);
    }

    #[test]
    fn a_line_that_is_none_of_the_log_says_nothing() {
        for line in [
            "",
            "Trace",
            "Trace 0: /",
            "Trace 0: 0x7f [0/ff",
            "Stopped before [x]",
        ] {
            assert_eq!(entry_of(line), None, "{line}");
        }
    }

    #[test]
    fn each_part_is_named_and_all_make_the_total() {
        let symbols = Symbols::parse(FUNCTIONS);
        let call = [
            CONNECT,
            TRAMPOLINE,
            HELPER,
            TRAMPOLINE + 1,
            PROGRAM,
            PROGRAM + 1,
            HELPER,
            DEEPER,
            HELPER + 1,
            PROGRAM + 2,
            TRAMPOLINE + 2,
            DEEPER,
            CONNECT + 4,
        ];
        let tracer = |name: &str, parts| Tracer {
            name: name.to_owned(),
            functions: String::new(),
            parts,
        };
        let guest = Guest {
            tracers: vec![
                tracer(
                    UNTRACED,
                    Parts::of(&[CONNECT, CONNECT + 4, CONNECT + 8], &symbols),
                ),
                tracer("fentry", Parts::of(&call, &symbols)),
            ],
            failed: vec![("tcpconnlat".to_owned(), "no luck".to_owned())],
            ..Guest::default()
        };
        assert_eq!(
            guest.text("6.1").unwrap(),
            "\
Linux 6.1, fentry: 10 instructions added to 3 of tcp_v4_connect
  added   share  part
      4  40.0 %  to the programs and back
      3  30.0 %  the programs themselves
      3  30.0 %  helper, called by them

Linux 6.1, tcpconnlat: not measured: no luck

"
        );
    }

    #[test]
    fn the_guest_prints_functions_and_tracers_and_all_else_is_an_error() {
        let log = ExecutionLog::create().unwrap();
        let mut guest = Guest::default();
        let lines: Vec<&str> = FUNCTIONS.lines().collect();
        for line in [lines[0], "tracer\tfentry", lines[4]] {
            guest.line(line, &log).unwrap();
        }
        assert_eq!(guest.functions.lines().collect::<Vec<_>>(), lines[..1]);
        assert!(guest.tracers[0].functions.contains("bpf_trampoline_1"));
        guest.line("failed\tfentry\tno luck", &log).unwrap();
        assert!(guest.tracers.is_empty() && guest.failed[0].1 == "no luck");
        assert!(guest.line("sh: not found", &log).is_err());
        assert!(guest.text("6.1").is_err(), "without the untraced");
    }
}
