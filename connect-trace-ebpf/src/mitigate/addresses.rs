//! The method addresses: the source addresses of the mitigation in turn, each of which has all ports of its own.

use connect_trace_common::{RouteKey, mitigation::Sources};

use super::{Call, Outcome, member};
use crate::{
    maps::{SOURCES4, SOURCES6},
    params::param,
    sock::AF_INET,
};

impl Call {
    /// Binds the next address of this CPU, without a port.
    #[inline(always)]
    pub(super) fn bind_address(self, key: &RouteKey) -> Outcome {
        let is_v4 = key.family == AF_INET;
        let (first, number) = Sources::of(param!(mitigation_sources), is_v4, is_loopback(key));
        if number == 0 {
            return Outcome::Unfit;
        }
        // Also after an address that was refused the next one has its turn.
        let turn = member!(self.counters, applied) + member!(self.counters, refused);
        let place = first + turn as u32 % number;
        let address = if is_v4 {
            SOURCES4.get(place).map(|&address| [address, 0, 0, 0])
        } else {
            SOURCES6.get(place).copied()
        };
        let Some(address) = address else {
            return Outcome::Unfit;
        };
        match self.bind(key.family, address, 0) {
            Ok(()) => Outcome::Applied,
            Err(error) => Outcome::Refused(error),
        }
    }
}

/// Returns true if the destination is a loopback address.
#[inline(always)]
fn is_loopback(key: &RouteKey) -> bool {
    const V6_LOOPBACK: [u32; 4] = [0, 0, 0, 1_u32.to_be()];
    if key.family == AF_INET {
        key.destination[0].to_ne_bytes()[0] == 127
    } else {
        key.destination == V6_LOOPBACK
    }
}
