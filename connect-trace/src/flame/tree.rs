//! The tree of the functions that called each other, with the time spent in each.

use std::collections::HashMap;

/// Maximum number of nodes, some 20 MB. In a connect() there are a few thousand.
const MOST_NODES: usize = 1 << 18;

/// Name of the root: all time in connect().
pub(super) const ALL: &str = "connect()";

/// A name, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(u32);

/// A node, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeId(u32);

/// A function in the place where its callers called it.
#[derive(Debug)]
struct Node {
    name: Name,
    parent: NodeId,
    /// Time in the function itself and not in one that it called.
    own_ns: u64,
}

/// The tree. Its root is no function.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    children: HashMap<(NodeId, Name), NodeId>,
    names: Vec<String>,
    numbers: HashMap<String, Name>,
}

/// A function as it is drawn: its position from 0 to 1 is its share of the time, and it lies on its caller.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame<'a> {
    /// The name.
    pub name: &'a str,
    /// Number of callers; 0 for the root.
    pub depth: usize,
    /// Time at which it begins, if all times are laid side by side.
    pub start_ns: u64,
    /// Time in the function and in those that it called.
    pub total_ns: u64,
    /// Index of the caller among the frames; the root has its own.
    pub caller: usize,
}

impl Tree {
    /// The root.
    pub(super) const ROOT: NodeId = NodeId(0);

    /// Creates a tree that has only its root.
    pub(super) fn new(root: &str) -> Self {
        let mut tree = Self {
            nodes: Vec::new(),
            children: HashMap::new(),
            names: Vec::new(),
            numbers: HashMap::new(),
        };
        let name = tree.number(root);
        tree.nodes.push(Node {
            name,
            parent: Self::ROOT,
            own_ns: 0,
        });
        tree
    }

    /// Returns the number of a name.
    pub(super) fn number(&mut self, name: &str) -> Name {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = Name(self.names.len() as u32);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// Returns the name of a number.
    pub(super) fn name(&self, name: Name) -> &str {
        &self.names[name.0 as usize]
    }

    /// Returns the node of a function that `parent` called, which may be new. If the tree is full, returns `parent`: the
    /// time then belongs to the caller.
    pub(super) fn child(&mut self, parent: NodeId, name: Name) -> NodeId {
        if let Some(&child) = self.children.get(&(parent, name)) {
            return child;
        }
        if self.nodes.len() >= MOST_NODES {
            return parent;
        }
        let child = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node {
            name,
            parent,
            own_ns: 0,
        });
        self.children.insert((parent, name), child);
        child
    }

    /// Adds time that a function took itself.
    pub(super) fn add(&mut self, node: NodeId, ns: u64) {
        self.nodes[node.0 as usize].own_ns += ns;
    }

    /// Returns each stack in which time was spent, from the outermost function to the innermost, with this time. The
    /// root is no part of it.
    pub(super) fn stacks(&self) -> impl Iterator<Item = (Vec<&str>, u64)> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| node.own_ns > 0)
            .map(|(number, node)| {
                let mut names = Vec::new();
                let mut at = NodeId(number as u32);
                while at != Self::ROOT {
                    let node = &self.nodes[at.0 as usize];
                    names.push(self.name(node.name));
                    at = node.parent;
                }
                names.reverse();
                (names, node.own_ns)
            })
    }

    /// Returns the time of each node with those that it called. A caller has a lower number than the functions that it
    /// called.
    fn totals(&self) -> Vec<u64> {
        let mut totals: Vec<u64> = self.nodes.iter().map(|node| node.own_ns).collect();
        for (number, node) in self.nodes.iter().enumerate().skip(1).rev() {
            totals[node.parent.0 as usize] += totals[number];
        }
        totals
    }

    /// Returns all time.
    pub(super) fn total_ns(&self) -> u64 {
        self.nodes.iter().map(|node| node.own_ns).sum()
    }

    /// Returns the time of the stacks that contain a function whose name is wanted.
    pub(super) fn time_in(&self, is_wanted: impl Fn(&str) -> bool) -> u64 {
        let stacks = self.stacks();
        let with = stacks.filter(|(names, _)| names.iter().any(|name| is_wanted(name)));
        with.map(|(_, ns)| ns).sum()
    }

    /// Returns the functions in which time was spent, each caller before the functions that it called, and these in the
    /// order of their names.
    pub(super) fn frames(&self) -> Vec<Frame<'_>> {
        let totals = self.totals();
        let mut called: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (number, node) in self.nodes.iter().enumerate().skip(1) {
            if totals[number] > 0 {
                called[node.parent.0 as usize].push(number);
            }
        }
        for called in &mut called {
            called.sort_by_key(|&number| self.name(self.nodes[number].name));
        }
        let mut frames = Vec::new();
        // A stack of our own, because the depth of calls comes from the data.
        let mut open = vec![(0, 0, 0, 0)];
        while let Some((number, depth, start_ns, caller)) = open.pop() {
            let index = frames.len();
            frames.push(Frame {
                name: self.name(self.nodes[number].name),
                depth,
                start_ns,
                total_ns: totals[number],
                caller,
            });
            let mut end = start_ns;
            let starts = called[number].iter().map(|&inner| {
                let start = end;
                end += totals[inner];
                (inner, depth + 1, start, index)
            });
            let mut inner: Vec<_> = starts.collect();
            inner.reverse();
            open.extend(inner);
        }
        frames
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a tree of these stacks.
    pub(crate) fn tree(stacks: &[(&[&str], u64)]) -> Tree {
        let mut tree = Tree::new("all");
        for (names, ns) in stacks {
            let mut node = Tree::ROOT;
            for name in *names {
                let name = tree.number(name);
                node = tree.child(node, name);
            }
            tree.add(node, *ns);
        }
        tree
    }

    #[test]
    fn time_is_summed_by_stack_and_by_function() {
        let tree = tree(&[
            (&["a", "b"], 5),
            (&["a", "b"], 6),
            (&["a"], 1),
            (&["c", "b"], 7),
        ]);
        let stacks: Vec<_> = tree.stacks().collect();
        assert_eq!(
            stacks,
            [(vec!["a"], 1), (vec!["a", "b"], 11), (vec!["c", "b"], 7)]
        );
        assert_eq!(tree.total_ns(), 19);
        assert_eq!(tree.time_in(|name| name == "b"), 18);
        assert_eq!(tree.time_in(|name| name == "a"), 12);
    }

    #[test]
    fn frames_lie_on_their_callers_side_by_side() {
        let tree = tree(&[(&["z"], 4), (&["a", "c"], 2), (&["a", "b"], 3), (&["q"], 0)]);
        let frames = tree.frames();
        let drawn: Vec<_> = frames
            .iter()
            .map(|frame| (frame.name, frame.depth, frame.start_ns, frame.total_ns))
            .collect();
        assert_eq!(
            drawn,
            [
                ("all", 0, 0, 9),
                ("a", 1, 0, 5),
                ("b", 2, 0, 3),
                ("c", 2, 3, 2),
                ("z", 1, 5, 4)
            ]
        );
        let callers: Vec<_> = frames.iter().map(|frame| frame.caller).collect();
        assert_eq!(callers, [0, 0, 1, 1, 0]);
    }

    #[test]
    fn a_full_tree_gives_the_time_to_the_caller() {
        let mut tree = Tree::new("all");
        let name = tree.number("a");
        let caller = tree.child(Tree::ROOT, name);
        for number in 0..MOST_NODES {
            let name = tree.number(&number.to_string());
            tree.child(caller, name);
        }
        let name = tree.number("one more");
        assert_eq!(tree.child(caller, name), caller);
    }
}
