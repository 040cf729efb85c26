//! A mitigation: programs before each connect() of a cgroup, which choose the source of connections on the routes that
//! the daemon names, and count every decision. The kernel holds the lock of the socket meanwhile. Whatever the kernel
//! refuses, the call goes on as it would have without the mitigation.

mod addresses;
mod full_range;
mod select_test_repeat;
mod steps;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_ktime_get_ns, bpf_probe_read_kernel,
        generated::{bpf_get_current_cgroup_id, bpf_get_current_task},
    },
};
use connect_trace_common::{
    MitigationCounters, RouteKey, RouteState,
    mitigation::{is_in_share, method},
};

use self::steps::Errno;
use crate::{
    address::MAPPED,
    maps::ROUTES,
    params::param,
    shared::{add, count, per_cpu},
    sock::{AF_INET, AF_INET6, Memory as _, Sock, Typed},
};

/// Reads a member of a context or of a socket, by a load of its own.
macro_rules! member {
    ($pointer:expr, $($member:tt)+) => {
        // SAFETY: the verifier turns the load into one of the kernel's own structure.
        unsafe { (&raw const (*$pointer).$($member)+).read_volatile() }
    };
}
use member;

/// A counter of this CPU, by its name in [`MitigationCounters`].
macro_rules! counter {
    ($counters:expr, $name:ident) => {
        // SAFETY: within the variable.
        unsafe { &raw mut (*$counters).$name }
    };
}
use counter;

/// A connect() call that is about to begin.
#[derive(Clone, Copy)]
struct Call {
    ctx: *mut bpf_sock_addr,
    socket: *const bpf_sock,
    /// Family of the socket.
    family: u16,
    /// The same socket as the kernel's own structure.
    tcp: Sock<Typed>,
    counters: *mut MitigationCounters,
}

/// The result of a method.
enum Outcome {
    Applied,
    Exhausted,
    Refused(Errno),
    /// No address of the mitigation fits the destination.
    Unfit,
}

/// Handles a call of a socket of this family.
#[inline(always)]
pub fn connects(ctx: *mut bpf_sock_addr, family: u16) {
    // SAFETY: within the variable.
    let counters = unsafe { &raw mut (*per_cpu()).mitigation };
    // SAFETY: a pointer takes the whole of the union.
    let socket: *const bpf_sock =
        unsafe { (&raw const (*ctx).__bindgen_anon_1.sk).read_volatile() };
    let Some(tcp) = Typed(socket.cast()).as_tcp_sock() else {
        count(counter!(counters, not_tcp));
        return;
    };
    count(counter!(counters, calls));
    let call = Call {
        ctx,
        socket,
        family,
        tcp: Sock(tcp),
        counters,
    };
    count(call.decide());
}

impl Call {
    /// Decides on the call and returns the counter of the decision.
    #[inline(always)]
    fn decide(self) -> *mut u64 {
        let method = param!(mitigation);
        let is_bound = member!(self.socket, src_port) != 0
            || member!(self.socket, bound_dev_if) != 0
            || method == method::ADDRESSES && self.has_address();
        if is_bound {
            return counter!(self.counters, bound);
        }
        if method != method::ADDRESSES && self.tcp.local_port_range_of_tcp() != [0; 2] {
            return counter!(self.counters, own_range);
        }
        let key = self.key();
        let Some(route) = ROUTES.get_ptr(&key) else {
            return counter!(self.counters, no_route);
        };
        // SAFETY: a live entry of the map; the daemon may write it meanwhile, each word whole.
        let acts = unsafe { (&raw const (*route).acts).read_volatile() };
        if acts == 0 {
            return counter!(self.counters, idle);
        }
        if !belongs() {
            return counter!(self.counters, other_share);
        }
        self.act(method, &key, route)
    }

    /// Applies the method to the call and returns the counter of the outcome.
    #[inline(always)]
    fn act(self, method: u64, key: &RouteKey, route: *const RouteState) -> *mut u64 {
        // SAFETY: a helper without preconditions.
        let start_ns = unsafe { bpf_ktime_get_ns() };
        let outcome = match method {
            method::SELECT_TEST_REPEAT => self.select_test_repeat(key, route),
            method::ADDRESSES => self.bind_address(key),
            _ => self.set_full_range(),
        };
        // SAFETY: a helper without preconditions.
        let ns = unsafe { bpf_ktime_get_ns() } - start_ns;
        let counter = match outcome {
            Outcome::Applied => counter!(self.counters, applied),
            Outcome::Exhausted => counter!(self.counters, exhausted),
            Outcome::Refused(Errno(errno)) => {
                // SAFETY: an aligned word of the variable.
                unsafe { counter!(self.counters, last_errno).write_volatile(errno) };
                counter!(self.counters, refused)
            }
            Outcome::Unfit => return counter!(self.counters, idle),
        };
        add(counter!(self.counters, acting_ns), ns);
        counter
    }

    /// Returns the key of the call's route.
    #[inline(always)]
    fn key(self) -> RouteKey {
        let mut key = RouteKey {
            netns: self.tcp.net().inode(),
            family: AF_INET,
            // In network order.
            destination_port: u16::from_be(member!(self.ctx, user_port) as u16),
            destination: [0; 4],
        };
        if self.family == AF_INET {
            key.destination[0] = member!(self.ctx, user_ip4);
            return key;
        }
        let destination = [
            member!(self.ctx, user_ip6[0]),
            member!(self.ctx, user_ip6[1]),
            member!(self.ctx, user_ip6[2]),
            member!(self.ctx, user_ip6[3]),
        ];
        if destination[0] == 0 && destination[1] == 0 && destination[2] == MAPPED {
            key.destination[0] = destination[3];
        } else {
            key.family = AF_INET6;
            key.destination = destination;
        }
        key
    }

    /// Returns the address that the socket is bound to, unspecified if it is bound to none, in the form of a route of
    /// this family.
    #[inline(always)]
    fn address(self, family: u16) -> [u32; 4] {
        if self.family == AF_INET {
            return [member!(self.socket, src_ip4), 0, 0, 0];
        }
        let last = member!(self.socket, src_ip6[3]);
        if family == AF_INET {
            return [last, 0, 0, 0];
        }
        [
            member!(self.socket, src_ip6[0]),
            member!(self.socket, src_ip6[1]),
            member!(self.socket, src_ip6[2]),
            last,
        ]
    }

    /// Returns true if the socket is bound to an address.
    #[inline(always)]
    fn has_address(self) -> bool {
        let [a, b, c, d] = self.address(self.family);
        a | b | c | d != 0
    }
}

/// Returns true if the running thread or its cgroup belongs to the share.
#[inline(always)]
fn belongs() -> bool {
    let id = if param!(mitigation_by_cgroup) != 0 {
        // SAFETY: a helper without preconditions.
        unsafe { bpf_get_current_cgroup_id() }
    } else {
        // Not `bpf_get_current_pid_tgid`, which these programs have only since 6.1.
        // SAFETY: a helper without preconditions.
        let task = unsafe { bpf_get_current_task() };
        let pid = (task + param!(task_pid)) as *const u32;
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(pid) }.unwrap_or(0).into()
    };
    is_in_share(id, param!(mitigation_share) as u32)
}
