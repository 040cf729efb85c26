//! Folded stacks: a line for each stack, its functions separated by semicolons, and its time in nanoseconds.

use std::io::{self, Write};

use anyhow::{Context as _, Result};

use super::tree::{ALL, Tree};

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

/// Reads the stacks that [`write`] has written.
pub(super) fn read(folded: &str) -> Result<Tree> {
    let mut tree = Tree::new(ALL);
    for line in folded.lines() {
        let parts = line
            .rsplit_once(' ')
            .and_then(|(stack, ns)| Some((stack, ns.parse().ok()?)));
        let (stack, ns) = parts.with_context(|| format!("no stack with a time: {line:?}"))?;
        let mut node = Tree::ROOT;
        for name in stack.split(';') {
            let name = tree.number(name);
            node = tree.child(node, name);
        }
        tree.add(node, ns);
    }
    Ok(tree)
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
        let mut again = Vec::new();
        write(&read(&text).unwrap(), &mut again).unwrap();
        assert_eq!(String::from_utf8(again).unwrap(), text);
        assert!(read("a b").is_err());
    }
}
