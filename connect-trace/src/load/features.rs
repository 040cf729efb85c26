//! Features of this kernel that the strategies need, found by trying them in a private namespace.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    namespace,
    plan::{Protocol, loopback},
    socket::{Socket, raw},
    strategy::Strategy,
};
use crate::connect::PortRange;
use crate::kernel;

/// A small range, so that half of it is soon used up, but with enough ports that a random order is unlikely
/// to keep the parities apart.
const TINY: PortRange = PortRange {
    low: 40_000,
    high: 40_063,
};

/// A port outside of the range.
const LISTENER: u16 = 39_999;

/// Features of this kernel.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Features {
    /// `IP_LOCAL_PORT_RANGE` can be set.
    pub port_range: bool,
    /// A socket with `IP_LOCAL_PORT_RANGE` searches even and odd ports alike: the change of Linux 6.8.
    pub mixed: bool,
    /// UDP-Lite sockets can be opened.
    pub udplite: bool,
    /// A namespace has net.ipv4.ip_local_port_step_width.
    pub step_width: bool,
}

impl Features {
    /// Checks that the strategy can be used.
    ///
    /// # Errors
    /// Names the option that the kernel refuses, and the kernels that support it.
    pub fn check(self, strategy: Strategy, protocol: Protocol) -> Result<()> {
        let release = kernel::release();
        ensure!(
            self.port_range || !strategy.needs_port_range(),
            "the strategy {strategy} sets IP_LOCAL_PORT_RANGE, which this kernel ({release}) refuses: it is \
             available from Linux 6.3, and from 6.1.32 in 6.1"
        );
        ensure!(
            self.step_width || strategy.step_width().is_none(),
            "the strategy {strategy} sets net.ipv4.ip_local_port_step_width, which this kernel ({release}) lacks: it is \
             available from Linux 7.1"
        );
        ensure!(
            self.udplite || protocol != Protocol::UdpLite,
            "this kernel ({release}) has no UDP-Lite, which Linux had up to 7.0"
        );
        Ok(())
    }

    /// A note for a strategy that can be used on this kernel but does not help there.
    #[must_use]
    pub fn caveat(self, strategy: Strategy, protocol: Protocol) -> Option<&'static str> {
        if strategy.step_width().is_some() && protocol != Protocol::Tcp {
            return Some("step-width changes nothing here: the setting is for TCP");
        }
        (strategy == Strategy::FullRange && protocol == Protocol::Tcp && !self.mixed).then_some(
            "full-range cannot help on this kernel: even with IP_LOCAL_PORT_RANGE, it searches all ports of one \
             parity before the others; Linux 6.8 and later do not",
        )
    }
}

/// Tries the features. Moves this process to a private namespace.
pub(super) fn of_this_kernel() -> Result<Features> {
    namespace::enter()?;
    namespace::set_port_range(TINY)?;
    let port_range = Socket::open(Protocol::Tcp, false)?
        .set_port_range(TINY.low, TINY.high)
        .is_ok();
    Ok(Features {
        port_range,
        mixed: port_range
            && is_mixed().context("trying how a search with IP_LOCAL_PORT_RANGE goes")?,
        udplite: Socket::open(Protocol::UdpLite, false).is_ok(),
        step_width: Path::new(namespace::STEP_WIDTH).exists(),
    })
}

/// Returns true if ports of both parities are chosen before half of all ports are used up.
fn is_mixed() -> Result<bool> {
    let listener = Socket::open(Protocol::Tcp, false)?;
    let at = raw(loopback(false), LISTENER);
    listener.bind(&at)?;
    listener.listen(128)?;
    let mut open = Vec::new();
    let mut odd = 0;
    for _ in 0..TINY.ports() / 2 {
        let socket = Socket::open(Protocol::Tcp, false)?;
        socket.set_port_range(TINY.low, TINY.high)?;
        socket.connect(&at)?;
        let local = socket.local()?.context("a socket of IPv4 has an address")?;
        odd += u32::from(local.port() % 2);
        open.push(socket);
    }
    Ok(odd > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_refuses_is_told_with_the_kernel_that_has_it() {
        let old = Features {
            port_range: false,
            mixed: false,
            udplite: true,
            step_width: false,
        };
        let why = old
            .check(Strategy::StepWidth(8), Protocol::Tcp)
            .unwrap_err();
        assert!(why.to_string().contains("7.1"), "{why}");
        for strategy in [
            Strategy::Window(500),
            Strategy::WindowRetry(500),
            Strategy::WindowCursor(16),
            Strategy::FullRange,
        ] {
            let why = old.check(strategy, Protocol::Tcp).unwrap_err().to_string();
            assert!(why.contains("6.3") && why.contains("6.1.32"), "{why}");
        }
        for strategy in [Strategy::SelectTestRepeat, Strategy::Cursor] {
            old.check(strategy, Protocol::UdpLite).unwrap();
        }
        let new = Features {
            udplite: false,
            ..old
        };
        let why = new.check(Strategy::Default, Protocol::UdpLite).unwrap_err();
        assert!(why.to_string().contains("7.0"), "{why}");
    }

    #[test]
    fn full_range_is_said_to_be_of_no_help_only_where_it_is_not() {
        let between = Features {
            port_range: true,
            mixed: false,
            udplite: true,
            step_width: true,
        };
        let step_width = |protocol| between.caveat(Strategy::StepWidth(8), protocol);
        assert_eq!(step_width(Protocol::Tcp), None);
        assert!(step_width(Protocol::Udp).is_some());
        let caveat = between.caveat(Strategy::FullRange, Protocol::Tcp);
        assert!(caveat.unwrap().contains("6.8"));
        assert_eq!(between.caveat(Strategy::Window(500), Protocol::Tcp), None);
        assert_eq!(between.caveat(Strategy::FullRange, Protocol::Udp), None);
        let new = Features {
            mixed: true,
            ..between
        };
        assert_eq!(new.caveat(Strategy::FullRange, Protocol::Tcp), None);
    }
}
