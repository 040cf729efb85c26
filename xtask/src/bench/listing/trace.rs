//! QEMU's log of what a guest executes, line by line.

use std::io::BufRead;

use anyhow::{Context as _, Result};

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// The instruction at this address, as text; told once, when it is first met.
    Disassembled(u64, &'a str),
    /// The instruction at this address is executed.
    Executed(u64),
    /// It was not, after all: an interrupt came before.
    TakenBack(u64),
}

/// Tells each entry of a log. What a line does not tell is passed over, as is a last line that is cut.
pub(super) fn read(log: &mut dyn BufRead, mut each: impl FnMut(Entry<'_>)) -> Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        log.read_until(b'\n', &mut line)
            .context("cannot read the log of what the guest executes")?;
        let Some(whole) = line.strip_suffix(b"\n") else {
            return Ok(());
        };
        if let Some(entry) = entry(whole) {
            each(entry);
        }
    }
}

fn entry(line: &[u8]) -> Option<Entry<'_>> {
    let line = str::from_utf8(line).ok()?;
    if line.starts_with("Trace ") {
        // Trace 0: 0x7fb9605e5dc0 [0000000000000000/ffffffff9d474cd3/0040c2b0/ff020201]
        let pc = line.split('/').nth(1)?;
        Some(Entry::Executed(u64::from_str_radix(pc, 16).ok()?))
    } else if line.starts_with("Stopped ") {
        // Stopped execution of TB chain before 0x7fb9605e5dc0 [ffffffff9d474cd3]
        let (_, rest) = line.split_once('[')?;
        let (pc, _) = rest.split_once(']')?;
        Some(Entry::TakenBack(u64::from_str_radix(pc, 16).ok()?))
    } else if let Some(rest) = line.strip_prefix("0x") {
        // 0xffffffff9d474cd7:  44 89 4c 24 2c           movl     %r9d, 0x2c(%rsp)
        let (address, rest) = rest.split_once(':')?;
        let text = without_bytes(rest);
        // A long instruction's last bytes have a line of their own.
        (!text.is_empty()).then_some(())?;
        Some(Entry::Disassembled(
            u64::from_str_radix(address, 16).ok()?,
            text,
        ))
    } else {
        None
    }
}

/// An instruction without the bytes before it.
fn without_bytes(mut text: &str) -> &str {
    let is_byte =
        |word: &str| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
    loop {
        text = text.trim();
        // Between bytes there is one space; behind them are more, or nothing.
        match text.split_once(' ') {
            Some((word, rest)) if is_byte(word) => {
                text = rest;
                if rest.starts_with(' ') {
                    return rest.trim();
                }
            }
            None if is_byte(text) => return "",
            _ => return text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
----------------
IN: 
0xffffffff9d474cd7:  44 89 4c 24 2c           movl     %r9d, 0x2c(%rsp)
0xffffffffc03af000:  48 bf 00 c0 2c 05 81 88  movabsq  $0xffff8881052cc000, %rdi
0xffffffffc03af008:  ff ff
0xffffffff9d474cdc:  c3                       retq     

Trace 0: 0x7fb9605e5dc0 [0000000000000000/ffffffff9d474cd3/0040c2b0/ff020201] 
Stopped execution of TB chain before 0x7fb9605e5dc0 [ffffffff9d474cd3] 
Trace 0: 0x7fb9605e5dc0 [0000000000000000/ffffffff9d4";

    #[test]
    fn each_line_is_an_instruction_or_its_text_or_takes_one_back() {
        let mut seen = Vec::new();
        read(&mut LOG.as_bytes(), |entry| {
            seen.push(format!("{entry:x?}"))
        })
        .unwrap();
        assert_eq!(
            seen,
            [
                "Disassembled(ffffffff9d474cd7, \"movl     %r9d, 0x2c(%rsp)\")",
                "Disassembled(ffffffffc03af000, \"movabsq  $0xffff8881052cc000, %rdi\")",
                "Disassembled(ffffffff9d474cdc, \"retq\")",
                "Executed(ffffffff9d474cd3)",
                "TakenBack(ffffffff9d474cd3)",
            ]
        );
    }

    #[test]
    fn what_is_no_line_of_the_log_says_nothing() {
        for line in [
            "",
            "Trace",
            "Trace 0: /",
            "Stopped before [x]",
            "0x:",
            "0x12: 00",
            "\u{e4}",
        ] {
            assert_eq!(entry(line.as_bytes()), None, "{line}");
        }
        assert_eq!(entry(b"\xff\xfe"), None);
    }
}
