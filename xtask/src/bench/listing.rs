//! `cargo xtask listing`: what a connect() executes beside a tracer, as the emulated machine executed it: the
//! programs, the trampolines that lead to them, and what of the kernel they call.

mod alignment;
mod cut;
mod difference;
mod stack;
mod symbols;
mod text;
mod trace;

use std::fmt::Write as _;
use std::io::BufRead;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};

use self::alignment::{Step, align};
use self::cut::{Candidates, Connects, Cut, Shortest};
use self::difference::{Difference, parts};
use self::symbols::Symbols;
use self::text::{Texts, listing as listing_of};
use self::trace::Entry;
use super::tracers::{self, UNTRACED};
use crate::guest::{ExecutionLog, Hardware, Kit, Task};
use crate::stdout;
use crate::tools;
use crate::tools::kernels::Kernel;
use crate::vm::{KernelChoice, get_kernels};

/// What the guest does.
const SCRIPT: &str = concat!(include_str!("tracer.sh"), include_str!("listing.sh"));

/// How much is logged: of connects that are some thirty, of candidate ports hundreds.
const CONNECTS_BYTES: u64 = 100_000_000;
const CANDIDATES_BYTES: u64 = 50_000_000;

/// All are compared with the untraced, whose shortest is therefore looked for longer: how many times.
const UNTRACED_TIMES: u64 = 3;

/// Fewer than these, and the shortest may not be one that nothing came into.
const FEWEST: u32 = 5;

/// Widest line.
const COLUMNS: usize = 100;

/// List what tracers add to a connect(), by function and instruction by instruction
///
/// Each kernel boots in a virtual machine that logs what it executes. Of some thirty connects that find a
/// port at once, the shortest beside a tracer is compared with the shortest untraced: the difference is what
/// `cargo xtask bench` measures. For tracers that watch candidate ports, the same of one such port. Takes two
/// or three minutes for each kernel.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kernel to boot: a series such as 6.12, `all` or a file; repeatable
    #[arg(long = "kernel", value_name = "KERNEL", default_value = "6.1")]
    kernels: Vec<KernelChoice>,
    /// List only tracers with this in their names; repeatable
    ///
    /// By default those that targets are missed by, and the peers that they are compared with.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Also print each added instruction, in the order of execution
    #[arg(long)]
    instructions: bool,
}

pub(crate) fn listing(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernels = get_kernels(&options.kernels)?;
    let kit = Kit::prepare(true)?.with_peers()?;
    let mut all_well = true;
    for kernel in &kernels {
        eprintln!("listing on {}", kernel.release());
        let guest =
            run(&kit, kernel, options).with_context(|| format!("on kernel {}", kernel.name))?;
        stdout::write(guest.text(&kernel.name, options.instructions)?.as_bytes())?;
        all_well &= guest.failed.is_empty();
    }
    Ok(if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(kit: &Kit, kernel: &Kernel, options: &Options) -> Result<Guest> {
    let tracers = tracers::listing_lines(|name| {
        if options.only.is_empty() {
            tracers::LISTED.contains(&name)
        } else {
            tracers::is_named(name, &options.only)
        }
    });
    let log = Rc::new(ExecutionLog::create()?);
    let task = Task {
        command: ["sh", "-c", SCRIPT, "sh", &tracers]
            .map(str::to_owned)
            .to_vec(),
        hardware: Hardware {
            cpus: 1,
            deterministic: true,
            execution_log: Some(Rc::clone(&log)),
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

/// What was seen of a guest.
#[derive(Default)]
struct Guest {
    /// Lines of /proc/kallsyms that stay.
    functions: String,
    /// What each instruction was when it was last translated.
    texts: Texts,
    tracers: Vec<Tracer>,
    /// Those that did not work, and what they said.
    failed: Vec<(String, String)>,
}

/// What was executed beside one tracer.
struct Tracer {
    name: String,
    /// Lines of /proc/kallsyms that are there as long as it is.
    functions: String,
    connect: Option<Run>,
    candidate: Option<Run>,
}

/// The instructions of one run, and what they mean.
struct Run {
    instructions: Vec<u64>,
    symbols: Symbols,
    texts: Texts,
}

impl Guest {
    /// Takes in a line that `listing.sh` prints.
    fn line(&mut self, line: &str, log: &ExecutionLog) -> Result<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        match (&fields[..], self.tracers.last_mut()) {
            (["tracer", name], _) => {
                eprintln!("  {name}");
                self.tracers.push(Tracer {
                    name: (*name).to_owned(),
                    functions: String::new(),
                    connect: None,
                    candidate: None,
                });
            }
            (["failed", name, said], _) => {
                self.tracers.retain(|tracer| tracer.name != *name);
                self.failed.push(((*name).to_owned(), (*said).to_owned()));
            }
            (["connects"], Some(tracer)) => {
                let symbols = Symbols::parse(&format!("{}{}", self.functions, tracer.functions));
                let times = if tracer.name == UNTRACED {
                    UNTRACED_TIMES
                } else {
                    1
                };
                let shortest = log.record(CONNECTS_BYTES * times, |log| {
                    shortest(log, Connects::new(&symbols)?, &mut self.texts)
                })?;
                tracer.connect = Some(Run::new(shortest, symbols, &self.texts)?);
            }
            (["candidates"], Some(tracer)) => {
                let symbols = Symbols::parse(&format!("{}{}", self.functions, tracer.functions));
                let shortest = log.record(CANDIDATES_BYTES, |log| {
                    shortest(log, Candidates::new(&symbols)?, &mut self.texts)
                })?;
                tracer.candidate = Some(Run::new(shortest, symbols, &self.texts)?);
            }
            ([line] | [line, _], tracer) if symbols::is_symbol(line) => {
                let functions = tracer.map_or(&mut self.functions, |tracer| &mut tracer.functions);
                functions.push_str(line);
                functions.push('\n');
            }
            _ => bail!("the guest printed an unknown line: {line}"),
        }
        Ok(())
    }

    /// What each tracer adds.
    fn text(&self, kernel: &str, instructions: bool) -> Result<String> {
        let untraced = self
            .tracers
            .iter()
            .find(|tracer| tracer.name == UNTRACED)
            .context("connects without a tracer were not logged")?;
        let mut text = String::new();
        for tracer in &self.tracers {
            if tracer.name == UNTRACED {
                continue;
            }
            let title = format!("Linux {kernel}, {}", tracer.name);
            for (what, before, after) in [
                ("tcp_v4_connect", &untraced.connect, &tracer.connect),
                ("a candidate port", &untraced.candidate, &tracer.candidate),
            ] {
                if let (Some(before), Some(after)) = (before, after) {
                    text.push_str(&compared(&title, what, before, after, instructions));
                    text.push('\n');
                }
            }
        }
        for (name, said) in &self.failed {
            let _ = writeln!(text, "Linux {kernel}, {name}: not listed: {said}\n");
        }
        Ok(text)
    }
}

impl Run {
    /// An error where too few were seen.
    fn new(shortest: Shortest, mut symbols: Symbols, texts: &Texts) -> Result<Self> {
        if shortest.count < FEWEST {
            bail!(
                "only {} complete runs are in the log of what the guest executed, not {FEWEST}",
                shortest.count
            );
        }
        let instructions = shortest.instructions;
        symbols.name_trampolines(&instructions);
        let texts = instructions
            .iter()
            .filter_map(|pc| Some((*pc, texts.get(pc)?.clone())))
            .collect();
        Ok(Self {
            instructions,
            symbols,
            texts,
        })
    }
}

/// The shortest of what is cut out of a log; keeps the texts of all instructions.
fn shortest(log: &mut dyn BufRead, mut cut: impl Cut, texts: &mut Texts) -> Result<Shortest> {
    trace::read(log, |entry| match entry {
        Entry::Disassembled(pc, text) => {
            texts.insert(pc, text.to_owned());
        }
        Entry::Executed(pc) => cut.executed(pc),
        Entry::TakenBack(pc) => cut.taken_back(pc),
    })?;
    Ok(cut.shortest())
}

/// A head line with the total, the tables, and perhaps all instructions.
fn compared(title: &str, what: &str, before: &Run, after: &Run, instructions: bool) -> String {
    let difference = Difference::of(
        (&before.instructions, &before.symbols),
        (&after.instructions, &after.symbols),
    );
    let mut text = format!(
        "{title}: {} instructions added to {} of {what}\n",
        difference.total,
        before.instructions.len()
    );
    let steps = align(&before.instructions, &after.instructions);
    if steps.iter().any(|step| !matches!(step, Step::Both(_))) {
        let _ = write!(text, "{}\n{difference}", parts(&steps, &after.symbols));
    }
    if instructions {
        text.push('\n');
        text.push_str(&listing_of(&steps, &after.symbols, &after.texts));
    }
    text
}

/// A line whose end is left out where it is too long.
fn within_columns(line: &str) -> String {
    if line.chars().count() <= COLUMNS {
        return line.to_owned();
    }
    let mut text: String = line.chars().take(COLUMNS - 3).collect();
    text.push_str("...");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTIONS: &str = "\
ffffffff81000000 t __inet_stream_connect
ffffffff81000100 T tcp_v4_connect
ffffffffc0000000 t bpf_trampoline_1\t[bpf]
ffffffffc0001000 t bpf_prog_9a2e60ca6d5bfb6e_fentry_tcp_v4_connect\t[bpf]";

    fn connect(name: &str, functions: &str, log: &str) -> Tracer {
        let symbols = Symbols::parse(functions);
        let mut texts = Texts::new();
        let cut = Connects::new(&symbols).unwrap();
        let shortest = shortest(&mut log.repeat(5).as_bytes(), cut, &mut texts).unwrap();
        Tracer {
            name: name.to_owned(),
            functions: functions.to_owned(),
            connect: Some(Run::new(shortest, symbols, &texts).unwrap()),
            candidate: None,
        }
    }

    fn executed(pcs: &[u64]) -> String {
        let line = |pc: &u64| format!("Trace 0: 0x7f [0/{pc:016x}/0/0] \n");
        pcs.iter().map(line).collect()
    }

    #[test]
    fn what_is_added_is_named_and_makes_the_total() {
        let kernel = 0xffff_ffff_8100_0000;
        let bpf = 0xffff_ffff_c000_0000;
        let untraced = [kernel, kernel + 0x100, kernel + 0x105, kernel + 5];
        let traced = [
            &untraced[..2],
            &[bpf, bpf + 0x1000, bpf + 0x1001, bpf + 1],
            &untraced[2..],
        ];
        let texts = "0xffffffffc0001001:  c3                       retq     \n";
        let guest = Guest {
            tracers: vec![
                connect(UNTRACED, FUNCTIONS, &executed(&untraced)),
                connect(
                    "fentry",
                    FUNCTIONS,
                    &format!("{texts}{}", executed(&traced.concat())),
                ),
            ],
            failed: vec![("tcpconnlat".to_owned(), "no luck".to_owned())],
            ..Guest::default()
        };
        assert_eq!(
            guest.text("6.1", true).unwrap(),
            "\
Linux 6.1, fentry: 4 instructions added to 2 of tcp_v4_connect
  added   share  part
      2  50.0 %  to the programs and back
      2  50.0 %  the programs themselves

  added   share  entered  function
      2  50.0 %        1  fentry_tcp_v4_connect
      2  50.0 %        1  trampoline of tcp_v4_connect
      4 100.0 %           all

tcp_v4_connect+0:
  trampoline of tcp_v4_connect
      +0  ?
    fentry_tcp_v4_connect
        +0  ?
        +1  retq
  trampoline of tcp_v4_connect
      +1  ?

Linux 6.1, tcpconnlat: not listed: no luck

"
        );
    }

    #[test]
    fn what_the_guest_prints_is_a_function_or_a_tracer_or_an_error() {
        let log = ExecutionLog::create().unwrap();
        let mut guest = Guest::default();
        let lines: Vec<&str> = FUNCTIONS.lines().collect();
        for line in [lines[0], "tracer\tfentry", lines[2]] {
            guest.line(line, &log).unwrap();
        }
        assert_eq!(guest.functions.lines().collect::<Vec<_>>(), lines[..1]);
        assert!(guest.tracers[0].functions.contains("bpf_trampoline_1"));
        guest.line("failed\tfentry\tno luck", &log).unwrap();
        assert!(guest.tracers.is_empty() && guest.failed[0].1 == "no luck");
        assert!(guest.line("sh: not found", &log).is_err());
        assert!(guest.text("6.1", false).is_err(), "without the untraced");
    }

    #[test]
    fn too_few_runs_are_an_error() {
        let few = Shortest {
            instructions: vec![1],
            count: FEWEST - 1,
        };
        let error = Run::new(few, Symbols::default(), &Texts::new());
        assert!(error.err().unwrap().to_string().contains("only 4"));
    }
}
