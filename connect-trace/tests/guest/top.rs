//! `connect-trace top` on a terminal, with connections of this process. Its keys and sizes are tested in `tests/top/`.

use std::{
    net::{TcpListener, TcpStream},
    process,
};

use anyhow::{Context as _, Result};

use crate::{
    Test,
    process::program,
    program::nothing_is_left,
    tmux::Tmux,
    truth::{Range, Sysctl, truth},
};

pub const TESTS: &[Test<()>] = crate::tests![
    OldestAndNewest: [top_shows_what_happens_and_who_holds_the_ports],
];

/// A range of ports above the kernel's own.
const LOW: u16 = 62_400;
const PORTS: u16 = 60;

fn top_shows_what_happens_and_who_holds_the_ports((): ()) -> Result<()> {
    let run = ["connect-trace", "top", "--interval", "0.5"];
    let tmux = Tmux::with_status(program("tmux")?, (80, 24), &run);
    tmux.wait_for("All is well");
    // All panes are seen.
    tmux.resize(120, 40);
    truth("v4 --count 12")?;
    let shown = tmux.wait_for("Calls since the start: 12");
    for part in ["Lost: none", "every call is accounted for"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let to = listener.local_addr()?;
    let _refusing = Sysctl::set("tcp_tw_reuse", "0")?;
    let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
    let mut held = Vec::new();
    for _ in 0..PORTS {
        let client = TcpStream::connect(to)?;
        held.push((client, listener.accept()?.0));
    }
    for _ in 0..3 {
        let refused = TcpStream::connect(to).err().context("a port is left")?;
        assert_eq!(refused.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }
    // The figures of the whole time.
    tmux.keys(&["w"]);
    let shown = tmux.wait_for("Failed, EADDRNOTAVAIL: 3");
    let title = format!("Ports have run out from 127.0.0.1 to {to}");
    assert!(shown.contains(&title), "{shown}");
    let shown = tmux.wait_for("60 of 60 in use; even 100 %, odd 100 %");
    assert!(
        shown.contains(&format!("127.0.0.1 \u{2192} {to}")),
        "{shown}"
    );
    tmux.wait_for("Calls since the start: 75");

    // The side that closes first keeps the port in TIME_WAIT; its owner is known.
    for (client, server) in held.drain(..20) {
        drop(client);
        drop(server);
    }
    let holder = format!("\u{2502}{} guest-tests ", process::id());
    let shown = tmux.wait_until("the holder has 20 ports in TIME_WAIT", |shown| {
        let mut lines = shown.lines().filter_map(|line| line.split_once(&holder));
        lines.any(|(_, rest)| {
            let row = rest.split('\u{2502}').next().unwrap_or_default();
            let mut numbers = row.split_whitespace().rev();
            (numbers.next(), numbers.next()) == (Some("20"), Some("40"))
        })
    });
    for missing in ["INCOMPLETE", "not known", "dropped"] {
        assert!(!shown.contains(missing), "{missing}: {shown}");
    }

    tmux.keys(&["q"]);
    assert_eq!(tmux.ended(), "0", "{}", tmux.shown());
    assert_eq!(
        tmux.value("alternate_on"),
        "0",
        "the terminal is given back"
    );
    nothing_is_left()
}
