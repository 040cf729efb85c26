//! Folded stacks: a line for each stack, its functions separated by semicolons, and its time in nanoseconds.

use std::io::{self, Write};

use super::tree::Tree;

/// Writes the stacks, sorted.
pub(super) fn write(tree: &Tree, to: &mut impl Write) -> io::Result<()> {
    let stacks = tree.stacks();
    let mut lines: Vec<String> = stacks
        .map(|(names, ns)| {
            let names: Vec<String> = names.into_iter().map(plain).collect();
            format!("{} {ns}\n", names.join(";"))
        })
        .collect();
    lines.sort();
    lines
        .iter()
        .try_for_each(|line| to.write_all(line.as_bytes()))
}

/// Returns a name without the characters that separate names and lines.
fn plain(name: &str) -> String {
    let is_separator = |character: char| character == ';' || character.is_control();
    name.replace(is_separator, "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flame::tree::tests::tree;

    #[test]
    fn each_stack_is_a_line_whatever_the_names_are() {
        let tree = tree(&[(&["b", "a;\n"], 7), (&["b"], 1), (&["a b"], 2)]);
        let mut text = Vec::new();
        write(&tree, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "a b 2\nb 1\nb;a__ 7\n");
    }
}
