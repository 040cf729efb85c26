//! Cuts single connects, and the work for single candidate ports, out of all that a guest executes. Of each
//! the shortest is kept, which is one that no interrupt came into.

use std::collections::VecDeque;
use std::ops::Range;

use anyhow::{Context as _, Result};

use super::symbols::Symbols;

/// How far back the caller of a function is looked for: it may come by a thunk.
const MEMORY: usize = 8;

/// The shortest of some sequences of instructions.
#[derive(Debug, Default)]
pub(super) struct Shortest {
    pub(super) instructions: Vec<u64>,
    /// Of how many.
    pub(super) count: u32,
}

impl Shortest {
    fn add(&mut self, instructions: Vec<u64>) {
        if self.count == 0 || instructions.len() < self.instructions.len() {
            self.instructions = instructions;
        }
        self.count += 1;
    }
}

/// What connects and candidate ports are cut out of.
pub(super) trait Cut {
    fn executed(&mut self, pc: u64);

    fn taken_back(&mut self, pc: u64);

    fn shortest(self) -> Shortest;
}

/// Calls of tcp_v4_connect, from its first instruction to the one before its caller goes on.
pub(super) struct Connects<'a> {
    symbols: &'a Symbols,
    entry: u64,
    /// What was executed last.
    before: VecDeque<u64>,
    call: Option<Call>,
    shortest: Shortest,
}

struct Call {
    caller: Range<u64>,
    instructions: Vec<u64>,
}

impl<'a> Connects<'a> {
    /// An error if the kernel does not have the function.
    pub(super) fn new(symbols: &'a Symbols) -> Result<Self> {
        Ok(Self {
            symbols,
            entry: address(symbols, "tcp_v4_connect")?,
            before: VecDeque::new(),
            call: None,
            shortest: Shortest::default(),
        })
    }

    fn caller(&self) -> Option<Range<u64>> {
        let before = self.before.iter().rev();
        let thunk = |pc: u64| self.symbols.function(pc).starts_with("__x86_");
        let call = before.copied().find(|pc| !thunk(*pc))?;
        self.symbols.range(call)
    }
}

impl Cut for Connects<'_> {
    fn executed(&mut self, pc: u64) {
        match &mut self.call {
            Some(call) if call.caller.contains(&pc) => {
                if let Some(call) = self.call.take() {
                    self.shortest.add(call.instructions);
                }
            }
            Some(call) => call.instructions.push(pc),
            None if pc == self.entry => {
                self.call = self.caller().map(|caller| Call {
                    caller,
                    instructions: vec![pc],
                });
            }
            None => {}
        }
        if self.before.len() == MEMORY {
            self.before.pop_front();
        }
        self.before.push_back(pc);
    }

    fn taken_back(&mut self, pc: u64) {
        if self.before.back() == Some(&pc) {
            self.before.pop_back();
        }
        let Some(call) = &mut self.call else {
            return;
        };
        if call.instructions.last() == Some(&pc) {
            call.instructions.pop();
        }
        if call.instructions.is_empty() {
            self.call = None;
        }
    }

    fn shortest(self) -> Shortest {
        self.shortest
    }
}

/// From one call of __inet_check_established to the next within a connect(). The last of a connect() does
/// not count: a kernel may look at the port that it finds twice, and that is not what a candidate costs.
pub(super) struct Candidates {
    connect: u64,
    check: u64,
    /// Since the last check.
    instructions: Option<Vec<u64>>,
    /// Between the last two checks.
    between: Option<Vec<u64>>,
    shortest: Shortest,
}

impl Candidates {
    /// An error if the kernel does not have the functions.
    pub(super) fn new(symbols: &Symbols) -> Result<Self> {
        Ok(Self {
            connect: address(symbols, "tcp_v4_connect")?,
            check: address(symbols, "__inet_check_established")?,
            instructions: None,
            between: None,
            shortest: Shortest::default(),
        })
    }
}

impl Cut for Candidates {
    fn executed(&mut self, pc: u64) {
        if pc == self.connect {
            self.instructions = None;
            self.between = None;
        } else if pc == self.check {
            if let Some(between) = self.between.take() {
                self.shortest.add(between);
            }
            self.between = self.instructions.replace(vec![pc]);
        } else if let Some(instructions) = &mut self.instructions {
            instructions.push(pc);
        }
    }

    fn taken_back(&mut self, pc: u64) {
        let Some(instructions) = &mut self.instructions else {
            return;
        };
        if instructions.last() == Some(&pc) {
            instructions.pop();
        }
        if instructions.is_empty() {
            // The check has not begun, so what is before it goes on.
            self.instructions = self.between.take();
        }
    }

    fn shortest(self) -> Shortest {
        self.shortest
    }
}

fn address(symbols: &Symbols, name: &str) -> Result<u64> {
    symbols
        .address(name)
        .with_context(|| format!("the kernel has no function {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: u64 = 0xffff_ffff_8100_0000;
    const CONNECT: u64 = CALLER + 0x100;
    const CHECK: u64 = CALLER + 0x200;
    const OTHER: u64 = CALLER + 0x300;
    const THUNK: u64 = CALLER + 0x400;

    fn symbols() -> Symbols {
        Symbols::parse(
            "ffffffff81000000 t __inet_stream_connect\nffffffff81000100 t tcp_v4_connect\n\
             ffffffff81000200 t __inet_check_established\nffffffff81000300 t other\n\
             ffffffff81000400 t __x86_indirect_thunk_rax\n",
        )
    }

    fn of(mut cut: impl Cut, instructions: &[u64]) -> Shortest {
        for pc in instructions {
            cut.executed(*pc);
        }
        cut.shortest()
    }

    #[test]
    fn a_connect_goes_on_until_its_caller_does() {
        let symbols = symbols();
        let long = [
            CALLER + 8,
            THUNK,
            CONNECT,
            CONNECT + 4,
            OTHER,
            OTHER + 1,
            CONNECT + 8,
        ];
        let short = [CALLER + 12, CALLER, CONNECT, CONNECT + 4, CONNECT + 8];
        let end = [CALLER + 12, OTHER];
        let all = [&long[..], &short, &end, &[CONNECT, CONNECT + 4]].concat();
        let shortest = of(Connects::new(&symbols).unwrap(), &all);
        assert_eq!(shortest.count, 2, "the last one has no end");
        assert_eq!(shortest.instructions, [CONNECT, CONNECT + 4, CONNECT + 8]);
    }

    #[test]
    fn a_connect_whose_begin_is_not_in_the_log_is_none() {
        let symbols = symbols();
        let all = [CONNECT, CONNECT + 4, CALLER + 12];
        assert_eq!(of(Connects::new(&symbols).unwrap(), &all).count, 0);
    }

    #[test]
    fn what_is_taken_back_was_not_executed() {
        let symbols = symbols();
        let mut cut = Connects::new(&symbols).unwrap();
        for pc in [CALLER, CONNECT] {
            cut.executed(pc);
        }
        cut.taken_back(CONNECT);
        for pc in [OTHER, CALLER + 4, CONNECT, CONNECT + 4] {
            cut.executed(pc);
        }
        cut.taken_back(CONNECT + 4);
        cut.taken_back(OTHER); // It was not the last.
        for pc in [CONNECT + 4, CALLER + 8] {
            cut.executed(pc);
        }
        let shortest = cut.shortest();
        assert_eq!(shortest.count, 1);
        assert_eq!(shortest.instructions, [CONNECT, CONNECT + 4]);
    }

    #[test]
    fn a_candidate_goes_on_until_the_next_check_of_the_same_connect() {
        let candidate = [CHECK, OTHER, CONNECT + 8];
        let found = [CHECK, CHECK, OTHER, CALLER + 12];
        let all = [&[CONNECT][..], &candidate, &candidate, &candidate, &found].concat();
        let shortest = of(
            Candidates::new(&symbols()).unwrap(),
            &[&all[..], &all].concat(),
        );
        assert_eq!(shortest.count, 6, "three of each connect");
        assert_eq!(shortest.instructions, candidate);
    }

    #[test]
    fn a_check_that_is_taken_back_does_not_end_a_candidate() {
        let mut cut = Candidates::new(&symbols()).unwrap();
        for pc in [CHECK, OTHER, CHECK] {
            cut.executed(pc);
        }
        cut.taken_back(CHECK);
        for pc in [THUNK, CHECK, OTHER, CHECK] {
            cut.executed(pc);
        }
        let shortest = cut.shortest();
        assert_eq!(
            (shortest.count, &shortest.instructions[..]),
            (1, &[CHECK, OTHER, THUNK][..])
        );
    }

    #[test]
    fn a_kernel_without_the_function_is_an_error() {
        let symbols = Symbols::parse("ffffffff81000000 t other\n");
        let error = Connects::new(&symbols).err().unwrap().to_string();
        assert!(error.contains("tcp_v4_connect"), "{error}");
        assert!(Candidates::new(&symbols).is_err());
    }
}
