//! The file format of speedscope: <https://www.speedscope.app/file-format-schema.json>.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::tree::Tree;

/// Returns the profile. `name` says what it is of.
pub(super) fn profile(tree: &Tree, name: &str) -> Value {
    let mut numbers = HashMap::new();
    let mut frames = Vec::new();
    let mut samples = Vec::new();
    let mut weights = Vec::new();
    for (names, ns) in tree.stacks() {
        let stack: Vec<usize> = names
            .into_iter()
            .map(|name| {
                *numbers.entry(name).or_insert_with(|| {
                    frames.push(json!({ "name": name }));
                    frames.len() - 1
                })
            })
            .collect();
        samples.push(stack);
        weights.push(ns);
    }
    json!({
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": format!("connect-trace {}", env!("CARGO_PKG_VERSION")),
        "name": name,
        "activeProfileIndex": 0,
        "shared": { "frames": frames },
        "profiles": [{
            "type": "sampled",
            "name": name,
            "unit": "nanoseconds",
            "startValue": 0,
            "endValue": tree.total_ns(),
            "samples": samples,
            "weights": weights,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flame::tree::tests::tree;

    /// The published schema, from the npm package speedscope 1.25.0 (MIT License, Copyright (c) 2018 Jamie Wong).
    const SCHEMA: &str = include_str!("speedscope.schema.json");

    #[test]
    fn a_profile_fits_the_published_schema() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        for tree in [
            tree(&[]),
            tree(&[(&["a", "b"], 5), (&["a"], 6), (&["\"<\u{1}"], 1)]),
        ] {
            let profile = profile(&tree, "a name");
            let errors: Vec<String> = validator
                .iter_errors(&profile)
                .map(|error| error.to_string())
                .collect();
            assert_eq!(errors, Vec::<String>::new());
        }
        let mut wrong = profile(&tree(&[(&["a"], 5)]), "a name");
        wrong["profiles"][0]["unit"] = json!("hours");
        assert!(!validator.is_valid(&wrong), "the schema is looked at");
    }

    #[test]
    fn the_weights_are_those_of_the_stacks() {
        let tree = tree(&[(&["a", "b"], 5), (&["a"], 6)]);
        let profile = profile(&tree, "");
        let named = |index: &Value| {
            let index = usize::try_from(index.as_u64().unwrap()).unwrap();
            profile["shared"]["frames"][index]["name"].as_str().unwrap()
        };
        let profile = &profile["profiles"][0];
        let samples = profile["samples"].as_array().unwrap().iter();
        let stacks: Vec<Vec<&str>> = samples
            .map(|sample| sample.as_array().unwrap().iter().map(named).collect())
            .collect();
        assert_eq!(stacks, [vec!["a"], vec!["a", "b"]]);
        assert_eq!(profile["weights"], json!([6, 5]));
        assert_eq!(profile["endValue"], 11);
    }
}
