//! Connections after their connect(): put into a map when it returns, and looked up at each change of a socket's state
//! (tracepoint `inet_sock_set_state`), until they end. Loaded only if asked for.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel},
};
use connect_trace_common::{
    ConnectRecord, EndRecord,
    end::{CLOSE, ESTABLISHED, SYN_RECV, SYN_SENT},
};

use crate::{
    maps::{CONNECTIONS, ENDS},
    params::param,
    shared::{count, per_cpu},
};

/// This CPU's counter, by its name in [`connect_trace_common::EndCounters`].
macro_rules! counter {
    ($name:ident) => {
        // SAFETY: within the variable.
        unsafe { &raw mut (*per_cpu()).ends.$name }
    };
}

/// Follows the connection of a socket from now on, at the successful return of connect(). That is in time: the thread
/// holds the lock of the socket until after the function has returned, and what the peer answers waits for it in the
/// socket's backlog.
///
/// A function of its own, so that its caller has no more to keep in registers than without this option.
#[inline(never)]
pub fn follow(sock: u64, connect: &ConnectRecord) {
    let connection = EndRecord {
        connect: *connect,
        established_ns: 0,
        ended_ns: 0,
        state: 0,
        error: 0,
        syn_retransmits: 0,
        unused: 0,
    };
    if CONNECTIONS
        .insert(&sock, &connection, u64::from(BPF_NOEXIST))
        .is_err()
    {
        // Either the socket is in the map, so that the end of its earlier connection was not seen, or the map is full.
        if CONNECTIONS.get_ptr(&sock).is_none()
            || CONNECTIONS
                .insert(&sock, &connection, u64::from(BPF_ANY))
                .is_err()
        {
            count(counter!(map_full));
            return;
        }
        count(counter!(replaced));
    }
    count(counter!(followed));
}

/// Handles a change of a socket's state. Only two changes matter: the state before the end tells how it ended.
#[inline(always)]
pub fn state_changed(sock: *const u8, old: u32, new: u32) {
    let is_handshake = old == SYN_SENT || old == SYN_RECV;
    let is_established = new == ESTABLISHED && is_handshake;
    if new != CLOSE && !is_established {
        return;
    }
    let key = sock as u64;
    let Some(connection) = CONNECTIONS.get_ptr_mut(&key) else {
        // A connect() that fails closes its socket without an error, before it could be followed.
        if old == SYN_SENT && is_tcp(sock) && (is_established || error(sock) != 0) {
            count(counter!(others));
        }
        return;
    };
    // SAFETY: an entry of the map. The kernel changes the state of a socket under the socket's lock, so that no other
    // CPU uses this entry now.
    let connection = unsafe { &mut *connection };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if is_handshake {
        connection.syn_retransmits = read(sock, param!(total_retransmits));
    }
    if is_established {
        if connection.established_ns != 0 {
            // Established before: the end of that connection was not seen, and its socket has become one that was accepted.
            count(counter!(replaced));
            let _ = CONNECTIONS.remove(&key);
            return;
        }
        connection.established_ns = now;
        count(counter!(established));
        if !is_written(connection) {
            count(counter!(established_lost));
        }
        return;
    }
    connection.ended_ns = now;
    connection.state = old;
    connection.error = error(sock);
    count(counter!(ended));
    if !is_written(connection) {
        count(counter!(ended_lost));
    }
    // The entry is in the map, and no one else removes it.
    let _ = CONNECTIONS.remove(&key);
}

/// Writes a record; returns false if the ring buffer is full.
#[inline(always)]
fn is_written(connection: &EndRecord) -> bool {
    ENDS.output(connection, u64::from(BPF_RB_NO_WAKEUP)).is_ok()
}

/// Returns true if the socket is one of TCP: the tracepoint is also that of DCCP, SCTP and MPTCP.
#[inline(always)]
fn is_tcp(sock: *const u8) -> bool {
    const IPPROTO_TCP: u16 = 6;
    read::<u16>(sock, param!(sock_protocol)) == IPPROTO_TCP
}

/// Returns `sk_err`.
#[inline(always)]
fn error(sock: *const u8) -> u32 {
    read(sock, param!(sock_error))
}

/// Reads the value at an offset; returns zeros if the read fails.
#[inline(always)]
fn read<T: Copy>(sock: *const u8, offset: u64) -> T {
    // SAFETY: the helper checks the address; T is plain data for which all zeros is valid.
    unsafe {
        bpf_probe_read_kernel(sock.wrapping_add(offset as usize).cast::<T>())
            .unwrap_or(core::mem::zeroed())
    }
}
