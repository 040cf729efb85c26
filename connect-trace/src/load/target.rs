//! Runs in the present network, which need confirmation because they can use up its ports.

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    plan::{Plan, Protocol},
    socket::Socket,
};
use crate::term::message::{self, say};

/// Maximum time until the target answers the first connection.
const LONGEST_ANSWER: Duration = Duration::from_secs(3);

/// Checks that the target accepts a connection.
///
/// # Errors
/// If the target does not answer; the message says why.
pub(crate) fn check(target: SocketAddr, protocol: Protocol) -> Result<()> {
    let connect = || {
        let socket = Socket::open(protocol, target.is_ipv6())?;
        socket.never_block()?;
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                socket.answer(LONGEST_ANSWER)
            }
            result => result,
        }
    };
    connect().with_context(|| {
        format!("cannot connect to --target {target}: a server must accept connections there")
    })
}

/// Returns true if there is a terminal to ask on.
#[must_use]
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for confirmation on the terminal.
///
/// # Errors
/// If the terminal cannot be read.
pub(crate) fn confirm(target: SocketAddr, plans: &[Plan]) -> Result<bool> {
    let most = plans
        .iter()
        .map(|plan| plan.close_above.unwrap_or(plan.connections));
    message::question(&question(target, most.max().unwrap_or(0)));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
    if !agreed {
        say!("Nothing was done.");
    }
    Ok(agreed)
}

fn question(target: SocketAddr, most: u32) -> String {
    format!(
        "This opens up to {most} connections from this machine's own network to\n\
         {target}. It can use up the\n\
         source ports to it, so that other programs cannot connect. Continue? [y/N] "
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_fits_a_terminal() {
        let longest = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        for line in question(longest.parse().unwrap(), u32::MAX).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
