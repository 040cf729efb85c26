//! The method full-range: the socket gets a range of its own, which is that of its namespace.

use super::{Call, Outcome};

/// `IPPROTO_IP`
const IPPROTO_IP: i32 = 0;
/// `IP_LOCAL_PORT_RANGE`, since 6.3.
const IP_LOCAL_PORT_RANGE: i32 = 51;
/// Ports 1 to 65,535, `high << 16 | low`: the kernel searches those that are also in the range of the namespace.
const ALL_PORTS: u32 = 0xffff_0001;

impl Call {
    /// Sets the range.
    #[inline(always)]
    pub(super) fn set_full_range(self) -> Outcome {
        match self.set_option(IPPROTO_IP, IP_LOCAL_PORT_RANGE, ALL_PORTS) {
            Ok(()) => Outcome::Applied,
            Err(error) => Outcome::Refused(error),
        }
    }
}
