//! The method select-test-repeat: random ports of the namespace's range are tested, and the first one that is free for
//! this destination is bound.
//!
//! The kernel's own search skips each port that is bound, for all destinations and until its last TIME_WAIT has ended
//! (`fastreuse` of a bucket). So a port in TIME_WAIT, which the search might have reused, is reused here if no tested port
//! is free.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_CURRENT_NETNS, BPF_NOEXIST, bpf_sock, bpf_sock_tuple},
    helpers::{
        bpf_ktime_get_ns, bpf_probe_read_kernel,
        generated::{
            bpf_get_prandom_u32, bpf_getsockopt, bpf_sk_release, bpf_skc_lookup_tcp,
            bpf_skc_to_tcp_timewait_sock,
        },
    },
};
use connect_trace_common::{
    RouteKey, RouteState,
    mitigation::{CLAIM_NS, Claim, MOST_TRIES},
};

use super::{Call, Outcome, counter, member, steps::Errno};
use crate::{
    maps::{CLAIMS, ROUTE_COUNTS},
    params::param,
    shared::{add, count},
    sock::AF_INET,
};

/// `SOL_SOCKET`
const SOL_SOCKET: i32 = 1;
/// `SO_REUSEADDR`
const SO_REUSEADDR: i32 = 2;
/// `EOPNOTSUPP`
const NOT_SUPPORTED: Errno = Errno(95);
/// States of a socket, include/net/tcp_states.h.
const TCP_TIME_WAIT: u32 = 6;
const TCP_LISTEN: u32 = 10;

/// No connection has the port.
const FREE: u32 = 0;
/// A connection has the port.
const TAKEN: u32 = 1;
/// A connection in TIME_WAIT has the port, and the kernel lets a bound socket take it over.
const REUSABLE: u32 = 2;

/// The ports to choose from.
#[derive(Clone, Copy)]
struct Ports {
    low: u16,
    number: u32,
    /// Address of the bitmap of those that are reserved, 0 if there is none.
    reserved: u64,
}

impl Ports {
    /// Returns a random port.
    #[inline(always)]
    fn random(self) -> u16 {
        // SAFETY: a helper without preconditions.
        let random = unsafe { bpf_get_prandom_u32() };
        let at = (u64::from(random) * u64::from(self.number)) >> 32;
        self.low.wrapping_add(at as u16)
    }

    /// Returns true if a port is reserved.
    #[inline(always)]
    fn reserves(self, port: u16) -> bool {
        if self.reserved == 0 {
            return false;
        }
        let word = self.reserved + u64::from(port / 64) * 8;
        // SAFETY: the helper checks the address.
        let word = unsafe { bpf_probe_read_kernel(word as *const u64) }.unwrap_or(0);
        word >> (port % 64) & 1 != 0
    }
}

impl Call {
    /// Binds a free port.
    #[inline(always)]
    pub(super) fn select_test_repeat(self, key: &RouteKey, route: *const RouteState) -> Outcome {
        let net = self.tcp.net();
        let [low, high] = net.port_range();
        if low == 0 || high < low {
            return Outcome::Refused(NOT_SUPPORTED);
        }
        let ports = Ports {
            low,
            number: u32::from(high - low) + 1,
            reserved: net.reserved_ports(),
        };
        let own = self.address(key.family);
        let has_own = own[0] | own[1] | own[2] | own[3] != 0;
        let source = if has_own {
            own
        } else {
            // SAFETY: a live entry of the map.
            unsafe { (&raw const (*route).source).read_volatile() }
        };
        let could_share = match self.reuses_address() {
            Ok(could_share) => could_share,
            Err(error) => return Outcome::Refused(error),
        };
        if !could_share && let Err(error) = self.reuse_address(true) {
            return Outcome::Refused(error);
        }
        let mut outcome = self.bind_first_free(key, source, ports);
        if matches!(outcome, Outcome::Applied) {
            return outcome;
        }
        if !could_share && let Err(error) = self.reuse_address(false) {
            outcome = Outcome::Refused(error);
        }
        // The kernel forgets the address of a socket that it has refused a port.
        if has_own && let Err(error) = self.bind(key.family, own, 0) {
            outcome = Outcome::Refused(error);
        }
        outcome
    }

    /// Binds the first free port of some random ones.
    #[inline(always)]
    fn bind_first_free(self, key: &RouteKey, source: [u32; 4], ports: Ports) -> Outcome {
        let mut tested = 0;
        let mut taken = 0;
        let mut waiting = 0;
        let mut outcome = Outcome::Exhausted;
        for _ in 0..MOST_TRIES {
            let port = ports.random();
            if ports.reserves(port) {
                count(counter!(self.counters, reserved));
                continue;
            }
            tested += 1;
            let found = self.look_up(key, source, port);
            if found != FREE {
                taken += 1;
                if found == REUSABLE {
                    waiting = port;
                }
                continue;
            }
            if !claim(key, port) {
                count(counter!(self.counters, busy));
                continue;
            }
            match self.bind(key.family, source, port) {
                Ok(()) => outcome = Outcome::Applied,
                Err(Errno::ADDRESS_IN_USE) => {
                    count(counter!(self.counters, busy));
                    continue;
                }
                Err(error) => outcome = Outcome::Refused(error),
            }
            break;
        }
        if matches!(outcome, Outcome::Exhausted) && waiting != 0 && claim(key, waiting) {
            match self.bind(key.family, source, waiting) {
                Ok(()) => {
                    count(counter!(self.counters, reused));
                    outcome = Outcome::Applied;
                }
                Err(Errno::ADDRESS_IN_USE) => count(counter!(self.counters, busy)),
                Err(error) => outcome = Outcome::Refused(error),
            }
        }
        add(counter!(self.counters, tested), tested);
        add(counter!(self.counters, taken), taken);
        if let Some(counts) = ROUTE_COUNTS.get_ptr_mut(key) {
            add(counter!(counts, tested), tested);
            add(counter!(counts, taken), taken);
        }
        outcome
    }

    /// Looks up the connection from this source to the destination: [`FREE`], [`TAKEN`] or [`REUSABLE`].
    #[inline(always)]
    fn look_up(self, key: &RouteKey, source: [u32; 4], port: u16) -> u32 {
        /// The connection as the destination's packets name it.
        #[repr(C)]
        struct Reply<Address> {
            source: Address,
            destination: Address,
            source_port: u16,
            destination_port: u16,
        }
        let source_port = key.destination_port.to_be();
        let destination_port = port.to_be();
        if key.family == AF_INET {
            return self.find(&mut Reply {
                source: key.destination[0],
                destination: source[0],
                source_port,
                destination_port,
            });
        }
        self.find(&mut Reply {
            source: key.destination,
            destination: source,
            source_port,
            destination_port,
        })
    }

    /// Looks up the socket of the same namespace that takes packets with these addresses and ports.
    #[inline(always)]
    fn find<Tuple>(self, tuple: &mut Tuple) -> u32 {
        let tuple: *mut Tuple = tuple;
        // The namespace is the socket's: see `bpf_sock_addr_skc_lookup_tcp`.
        // SAFETY: the addresses and ports of one of the families, whole and initialized, which the helper reads.
        let found = unsafe {
            bpf_skc_lookup_tcp(
                self.ctx.cast(),
                tuple.cast::<bpf_sock_tuple>(),
                size_of::<Tuple>() as u32,
                BPF_F_CURRENT_NETNS as i64 as u64,
                0,
            )
        };
        if found.is_null() {
            return FREE;
        }
        let result = match member!(found, state) {
            TCP_LISTEN => FREE,
            TCP_TIME_WAIT if is_reusable(found) => REUSABLE,
            _ => TAKEN,
        };
        // SAFETY: the socket that the helper returned, which is not used any more.
        unsafe { bpf_sk_release(found.cast()) };
        result
    }

    /// Returns true if the socket has `SO_REUSEADDR`.
    #[inline(always)]
    fn reuses_address(self) -> Result<bool, Errno> {
        let mut value = 0_u32;
        let size = size_of_val(&value) as i32;
        // SAFETY: the helper writes the number.
        let result = unsafe {
            bpf_getsockopt(
                self.ctx.cast(),
                SOL_SOCKET,
                SO_REUSEADDR,
                (&raw mut value).cast(),
                size,
            )
        };
        Errno::check(result)?;
        Ok(value != 0)
    }

    /// Sets or clears `SO_REUSEADDR`.
    #[inline(always)]
    fn reuse_address(self, reuse: bool) -> Result<(), Errno> {
        self.set_option(SOL_SOCKET, SO_REUSEADDR, reuse.into())
    }
}

/// Returns true if a bound socket may take over a connection in TIME_WAIT: one with timestamps (`tcp_twsk_unique`), of which
/// the last came a second ago, so that the peer sees a later one (as `net.ipv4.tcp_tw_reuse` has it).
#[inline(always)]
fn is_reusable(found: *mut bpf_sock) -> bool {
    const SECOND_NS: u64 = 1_000_000_000;
    // SAFETY: the verifier knows that this is a socket.
    let waiting = unsafe { bpf_skc_to_tcp_timewait_sock(found.cast()) };
    if waiting.is_null() {
        return false;
    }
    let stamp = waiting
        .cast::<u8>()
        .wrapping_add(param!(time_wait_stamp) as usize);
    // SAFETY: the verifier checks the load against the type of the socket.
    let seconds = u64::from(unsafe { stamp.cast::<u32>().read_volatile() });
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() } / SECOND_NS;
    seconds != 0 && now > seconds + 1
}

/// Claims a port for the running call; returns false if another call has claimed it just now. Sockets with `SO_REUSEADDR`
/// may all bind the same port, and of two that connect from it to the same destination one fails.
#[inline(always)]
fn claim(route: &RouteKey, port: u16) -> bool {
    let claim = Claim {
        route: *route,
        port: port.into(),
    };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if CLAIMS.insert(&claim, &now, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    if let Some(since) = CLAIMS.get_ptr(&claim) {
        // SAFETY: a live entry of the map, whose word is written whole.
        let since = unsafe { since.read_volatile() };
        if now.saturating_sub(since) < CLAIM_NS {
            return false;
        }
    }
    // Claimed long ago, or dropped meanwhile.
    CLAIMS.insert(&claim, &now, u64::from(BPF_ANY)).is_ok()
}
