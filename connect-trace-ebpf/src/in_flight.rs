//! The calls in flight, by thread: a connect() is preempted and migrates, its thread stays.
//!
//! A thread has a place for its calls, which its id leads to, from its first connect() to its end: finding
//! it is a few instructions, where an entry of a hash map that comes and goes with each call is a thousand.
//! Where two threads' ids lead to one place, the calls of the second are in a hash map.

use core::mem;

use aya_ebpf::bindings::BPF_NOEXIST;
use connect_trace_common::InFlight;

use crate::{
    layout::PLACE_MASK,
    maps::{IN_FLIGHT, OWNERS, PLACES, add},
};

/// Number of calls in the hash map: where there is none, nobody looks into it.
static mut DISPLACED: u64 = 0;

/// What a call in the hash map begins as.
static EMPTY: InFlight = InFlight::EMPTY;

/// A call that may begin.
pub struct Place {
    /// Where it is kept.
    pub call: &'static mut InFlight,
    /// Whether the thread's last call was still in it: its return was never seen.
    pub return_missed: bool,
}

/// The place of a thread that enters connect(); `None` where all are taken.
#[inline(always)]
pub fn enter(pid_tgid: u64) -> Option<Place> {
    let place = of_thread(pid_tgid)?;
    if place.owner != pid_tgid && !(place.owner == 0 && owns(pid_tgid)) {
        return enter_displaced(pid_tgid);
    }
    place.owner = pid_tgid;
    let return_missed = mem::replace(&mut place.inside, 1) != 0;
    Some(Place {
        call: place,
        return_missed,
    })
}

/// Makes the thread the owner of its place, unless another one was faster.
#[inline(always)]
fn owns(pid_tgid: u64) -> bool {
    OWNERS
        .insert(&number(pid_tgid), &pid_tgid, u64::from(BPF_NOEXIST))
        .is_ok()
}

#[inline(always)]
fn enter_displaced(pid_tgid: u64) -> Option<Place> {
    let is_new = IN_FLIGHT
        .insert(&pid_tgid, &EMPTY, u64::from(BPF_NOEXIST))
        .is_ok();
    if is_new {
        add(&raw mut DISPLACED, 1);
    }
    Some(Place {
        // SAFETY: a live map value, and only its own thread uses it, until it removes it.
        call: unsafe { &mut *IN_FLIGHT.get_ptr_mut(&pid_tgid)? },
        return_missed: !is_new,
    })
}

/// The call that the thread is in. There is none for a call that the filters do not want, that began
/// before the probes, or that found no place and is counted there.
#[inline(always)]
pub fn current(pid_tgid: u64) -> Option<&'static mut InFlight> {
    let place = of_thread(pid_tgid)?;
    if place.owner == pid_tgid {
        return (place.inside != 0).then_some(place);
    }
    displaced(pid_tgid)
}

#[inline(always)]
fn displaced(pid_tgid: u64) -> Option<&'static mut InFlight> {
    // SAFETY: an aligned word of our own. What a thread has added, it sees itself.
    if unsafe { (&raw const DISPLACED).read_volatile() } == 0 {
        return None;
    }
    let call = IN_FLIGHT.get_ptr_mut(&pid_tgid)?;
    // SAFETY: a live map value, and only its own thread uses it, until it removes it.
    Some(unsafe { &mut *call })
}

/// Ends the call that the thread is in.
#[inline(always)]
pub fn leave(pid_tgid: u64, call: &mut InFlight) {
    if call.owner == 0 {
        remove_displaced(pid_tgid);
    } else {
        call.inside = 0;
    }
}

#[inline(always)]
fn remove_displaced(pid_tgid: u64) {
    if IN_FLIGHT.remove(&pid_tgid).is_ok() {
        add(&raw mut DISPLACED, 1_u64.wrapping_neg());
    }
}

/// Gives the place of a thread that ends to others. Whether a call was in it, which will never return.
#[inline(always)]
pub fn thread_exited(pid_tgid: u64) -> bool {
    let Some(place) = of_thread(pid_tgid) else {
        return false;
    };
    if place.owner != pid_tgid {
        let is_inside = displaced(pid_tgid).is_some();
        if is_inside {
            remove_displaced(pid_tgid);
        }
        return is_inside;
    }
    let is_inside = mem::replace(&mut place.inside, 0) != 0;
    place.owner = 0;
    let _ = OWNERS.remove(&number(pid_tgid));
    is_inside
}

#[inline(always)]
fn of_thread(pid_tgid: u64) -> Option<&'static mut InFlight> {
    let place = PLACES.get_ptr_mut(number(pid_tgid))?;
    // SAFETY: a live map value. Only its owner changes it; a word that another thread reads is whole.
    Some(unsafe { &mut *place })
}

/// The number of a thread's place: threads that are started one after the other have different ones.
#[inline(always)]
fn number(pid_tgid: u64) -> u32 {
    pid_tgid as u32 & PLACE_MASK.load()
}
