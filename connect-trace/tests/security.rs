//! docs/security.md: the tests that it names for its claims exist.

use std::{fs, path::Path};

/// Returns the sources of all tests.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let texts = entries.map(|entry| {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            return sources(&path);
        }
        match path.extension() {
            Some(extension) if extension == "rs" => fs::read_to_string(path).expect("it is text"),
            _ => String::new(),
        }
    });
    texts.collect()
}

#[test]
fn every_test_that_the_document_names_exists() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(package.join("../docs/security.md")).expect("it is there");
    let sources: String = ["src", "tests", "../xtask/src"]
        .map(|folder| sources(&package.join(folder)))
        .concat();
    let (_, threats) = document.split_once("## Threats").expect("a section");
    let (threats, _) = threats.split_once("## Fuzzing").expect("a section");
    // The last cell of a threat's row.
    let cells = threats.lines().filter_map(|line| {
        let cells: Vec<&str> = line
            .strip_prefix("| ")?
            .strip_suffix('|')?
            .split(" | ")
            .collect();
        (cells.len() == 3).then(|| cells[2])
    });
    let names: Vec<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('_') && !name.contains(['.', '/']))
        .collect();
    assert!(names.len() > 30, "{names:?}");
    let missing: Vec<&&str> = names
        .iter()
        .filter(|name| !sources.contains(&format!("fn {name}(")))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}
