//! The modules of the daemon that are folders of `src` ("rooms"): imports between them form no cycle, so that each can
//! be read with the rooms below it and without those above.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms that the files of each room import from.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_room_takes_part_in_a_circle() {
    let imports = imports();
    assert!(imports["trace"].contains("probes"), "{imports:#?}");
    assert_eq!(circle(&imports), None);
}

#[test]
fn files_lie_in_rooms() {
    let loose = entries(&source()).into_iter().filter(|path| {
        let named = ["main.rs", "lib.rs", "clock.rs"].map(|name| source().join(name));
        path.is_file() && !named.contains(path)
    });
    assert_eq!(loose.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn a_circle_is_found_however_long() {
    let found = |pairs: &[(&str, &str)]| {
        let mut imports = Imports::new();
        for &(from, to) in pairs {
            imports.entry(from.into()).or_default().insert(to.into());
        }
        circle(&imports)
    };
    assert_eq!(found(&[("a", "b"), ("b", "c"), ("a", "c")]), None);
    let circle = found(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")]);
    assert_eq!(circle.as_deref(), Some("a -> b -> c -> a"));
}

#[test]
fn the_rooms_that_code_names_are_read() {
    let code =
        "use crate::{\n    a::{self, x::Y},\n    b::Z,\n};\nfn g() { crate::c::h() } // crate::d\n";
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::e::W;\n}\n";
    let named = rooms_named(&format!("{code}{tests}"));
    assert_eq!(named, ["a", "b", "c"].map(str::to_owned).into());
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|entry| entry.expect("the folder can be read").path())
        .collect()
}

/// Reads the imports of all rooms except the one for tests.
fn imports() -> Imports {
    let folders = entries(&source()).into_iter().filter(|path| path.is_dir());
    let rooms: BTreeMap<_, _> = folders
        .map(|path| {
            (
                path.file_name()
                    .expect("an entry has a name")
                    .to_string_lossy()
                    .into_owned(),
                path,
            )
        })
        .filter(|(room, _)| room != "fixtures")
        .collect();
    let imports_of = |(room, path): (&String, &PathBuf)| {
        let named = files(path).into_iter().flat_map(|file| {
            let code = fs::read_to_string(file).expect("code is text");
            rooms_named(&code)
        });
        let others = named.filter(|other| other != room && rooms.contains_key(other));
        (room.clone(), others.collect())
    };
    rooms.iter().map(imports_of).collect()
}

/// Returns the source files of a room, except those for tests.
fn files(folder: &Path) -> Vec<PathBuf> {
    let all = entries(folder)
        .into_iter()
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        });
    let is_code = |path: &PathBuf| {
        let for_tests = path.ends_with("tests.rs") || path.ends_with("example.rs");
        path.extension().is_some_and(|extension| extension == "rs") && !for_tests
    };
    all.filter(is_code).collect()
}

/// Returns the first segment of each path that begins with `crate`, including each branch of a tree `crate::{a, b}`.
fn rooms_named(code: &str) -> BTreeSet<String> {
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    let first = |path: &str| {
        let name = path.trim().split(|character| !is_name(character)).next();
        name.filter(|name| !name.is_empty()).map(str::to_owned)
    };
    let mut named = BTreeSet::new();
    for (start, prefix) in code.match_indices("crate::") {
        let path = &code[start + prefix.len()..];
        let Some(tree) = path.strip_prefix('{') else {
            named.extend(first(path));
            continue;
        };
        let mut depth = 1;
        let branches = tree.split_inclusive(['{', ',', '}']).take_while(|branch| {
            let is_within = depth > 0;
            if depth == 1 {
                named.extend(first(branch));
            }
            depth += i32::from(branch.ends_with('{')) - i32::from(branch.ends_with('}'));
            is_within && depth > 0
        });
        branches.for_each(drop);
    }
    named
}

/// Returns a cycle of rooms, if there is one.
fn circle(imports: &Imports) -> Option<String> {
    fn visit<'a>(
        room: &'a str,
        imports: &'a Imports,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if let Some(start) = way.iter().position(|&other| other == room) {
            return Some(format!("{} -> {room}", way[start..].join(" -> ")));
        }
        if !done.insert(room) {
            return None;
        }
        way.push(room);
        let mut next = imports.get(room).into_iter().flatten();
        let found = next.find_map(|next| visit(next, imports, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    imports
        .keys()
        .find_map(|room| visit(room, imports, &mut Vec::new(), &mut done))
}
