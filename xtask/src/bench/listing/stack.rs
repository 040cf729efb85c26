//! Which functions are being executed, told from the order in which their instructions come.

use super::symbols::Symbols;

/// Functions that have been entered and not left, from the outermost one in.
#[derive(Debug, Default)]
pub(super) struct Stack<'a> {
    functions: Vec<(&'a str, bool)>,
}

impl<'a> Stack<'a> {
    /// Nothing is being executed.
    pub(super) fn clear(&mut self) {
        self.functions.clear();
    }

    /// Goes to an instruction. Whether it is of another function than the one before: of one that has called
    /// that, to which it returns, or else of one that it calls.
    pub(super) fn go_to(&mut self, pc: u64, symbols: &'a Symbols) -> bool {
        let function = symbols.function(pc);
        if self
            .functions
            .last()
            .is_some_and(|(last, _)| *last == function)
        {
            return false;
        }
        match self
            .functions
            .iter()
            .position(|(known, _)| *known == function)
        {
            Some(depth) => self.functions.truncate(depth + 1),
            None => self.functions.push((function, symbols.is_program(pc))),
        }
        true
    }

    pub(super) fn depth(&self) -> usize {
        self.functions.len()
    }

    /// The function that the innermost program calls; nothing while that is executed itself. None outside of
    /// programs.
    pub(super) fn called_by_program(&self) -> Option<Option<&'a str>> {
        let program = self.functions.iter().rposition(|(_, program)| *program)?;
        Some(self.functions.get(program + 1).map(|(name, _)| *name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_is_known_is_returned_to_and_another_is_called() {
        let symbols = Symbols::parse(
            "ffffffff81000000 t trampoline\nffffffff81000100 t helper\nffffffff81000200 t \
             deeper\nffffffff81000300 t bpf_prog_9a2e60ca6d5bfb6e_program\n",
        );
        let [trampoline, helper, deeper, program] =
            [0, 0x100, 0x200, 0x300].map(|offset| 0xffff_ffff_8100_0000 + offset);
        let mut stack = Stack::default();
        let mut seen = Vec::new();
        for pc in [
            trampoline,
            helper,
            trampoline,
            program,
            program + 1,
            helper,
            deeper,
            program,
        ] {
            let other = stack.go_to(pc, &symbols);
            seen.push((other, stack.depth(), stack.called_by_program()));
        }
        assert_eq!(
            seen,
            [
                (true, 1, None),
                (true, 2, None),
                (true, 1, None),
                (true, 2, Some(None)),
                (false, 2, Some(None)),
                (true, 3, Some(Some("helper"))),
                (true, 4, Some(Some("helper"))),
                (true, 2, Some(None)),
            ]
        );
        stack.clear();
        assert_eq!(stack.depth(), 0);
    }
}
