//! Fuzzes the reports of recordings.

use std::{cell::RefCell, io, rc::Rc};

use clap::{Args as _, FromArgMatches as _};

use super::*;
use crate::{
    fixtures::fuzz::fuzz, recording::fuzz::framed, report::OutputArgs, term::paint::Paint,
    term::printable::is_harmful,
};

#[test]
fn any_recording_has_reports_of_plain_text_and_of_json() {
    fuzz("report", |text| {
        let file = framed(text);
        let json = printed(&file, "--format json --events -i 1h");
        for line in json.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        for options in ["--events --by comm", "--oneline -i 1h"] {
            let text = printed(&file, options);
            let is_plain = |c: char| c == '\n' || !is_harmful(c);
            assert!(text.chars().all(is_plain), "{text:?}");
        }
    });
}

/// Returns the reports of a recording.
fn printed(file: &[u8], options: &str) -> String {
    let Ok(recording) = Recording::new(file) else {
        return String::new();
    };
    let words = ["connect-trace"].into_iter().chain(options.split(' '));
    let command = OutputArgs::augment_args(clap::Command::new("connect-trace"));
    let args = OutputArgs::from_arg_matches(&command.get_matches_from(words)).unwrap();
    let printed = Printed::default();
    let out = Box::new(printed.clone());
    let output = |traced| Output::to(out, Paint(false), &args, traced);
    // The inner error describes the damage.
    let _damage = replay(
        recording,
        &Filters::default(),
        output,
        args.interval,
        None,
        |_| {},
    )
    .unwrap();
    String::from_utf8(printed.0.take()).unwrap()
}

#[derive(Clone, Default)]
struct Printed(Rc<RefCell<Vec<u8>>>);

impl io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
