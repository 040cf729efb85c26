//! A terminal for a program.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Command, Stdio},
    ptr,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Test, program::connect_trace};

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [the_status_line_fits_a_terminal_of_20_columns],
];

/// Returns the output of a program on a terminal with this number of columns, until the program's end.
fn shown(mut command: Command, columns: u16) -> Result<String> {
    let size = libc::winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the two numbers are written, the size is read; the name and the settings may be null.
    let result = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            ptr::null_mut(),
            ptr::null(),
            &raw const size,
        )
    };
    ensure!(
        result == 0,
        "no terminal: {}",
        std::io::Error::last_os_error()
    );
    // SAFETY: openpty opened both descriptors, and they have no other owner.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(theirs.try_clone()?)
        .stderr(theirs)
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    // The command has the other end too.
    drop(command);
    let mut text = Vec::new();
    // After the last owner of the other end has gone, a read of a terminal fails with EIO.
    let ended = File::from(ours).read_to_end(&mut text);
    ensure!(
        ended.is_ok() || ended.is_err_and(|error| error.raw_os_error() == Some(libc::EIO)),
        "cannot read the terminal"
    );
    let status = child.wait()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(status.success(), "{status}: {text}");
    Ok(text)
}

fn the_status_line_fits_a_terminal_of_20_columns((): ()) -> Result<()> {
    let mut command = connect_trace("-d 3");
    command.env("TERM", "xterm");
    let text = shown(command, 20)?;
    let shown: Vec<&str> = text
        .split('\r')
        .filter_map(|line| line.strip_suffix("\x1b[K"))
        .collect();
    assert!(!shown.is_empty(), "{text}");
    for line in shown {
        assert!(line.contains(" s, 0 calls"), "{line:?}: {text}");
        assert!(line.len() < 20, "{line:?}: {text}");
    }
    // The line is erased, and the report begins in its place.
    assert!(text.contains("\r\x1b[K0 connect() calls in "), "{text}");
    Ok(())
}
