//! The calls in flight, by thread: a connect() is preempted and migrates, its thread stays.
//!
//! A thread has a place for its calls, which the address of its `struct task_struct` leads to, from its first
//! connect() to its end: finding it is a few instructions, where an entry of a hash map that comes and goes
//! with each call is a thousand. Where two threads' addresses lead to one place, the calls of the second are
//! in a hash map.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_current_task};
use connect_trace_common::{InFlight, record::PLACES};

use crate::{
    layout::PLACE_MASK,
    maps::{IN_FLIGHT, OWNERS, add},
};

/// The places, as a variable and no map of its own: the address is a constant of the programs then.
#[unsafe(link_section = ".bss.places")]
static mut ALL: [InFlight; PLACES] = [InFlight::EMPTY; PLACES];

/// Number of calls in the hash map: where there is none, nobody looks into it.
static mut DISPLACED: u64 = 0;

/// What a call in the hash map begins as.
static EMPTY: InFlight = InFlight::EMPTY;

const INSIDE: u64 = InFlight::INSIDE;

/// The thread that runs, by the address of its `struct task_struct`.
#[derive(Clone, Copy)]
pub struct Thread(u64);

/// A call that may begin.
pub struct Place {
    /// Where it is kept.
    pub call: &'static mut InFlight,
    /// Whether the thread's last call was still in it: its return was never seen.
    pub return_missed: bool,
}

impl Thread {
    /// `current`
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: a helper without preconditions.
        Self(unsafe { bpf_get_current_task() })
    }

    /// The address, which no two threads have at once.
    #[inline(always)]
    pub fn id(self) -> u64 {
        self.0
    }

    /// Its place, now that it enters connect(); `None` where all are taken.
    #[inline(always)]
    pub fn enter(self) -> Option<Place> {
        let place = self.place();
        let owner = place.owner;
        if owner & !INSIDE == self.0 || owner == 0 && self.owns() {
            place.owner = self.0 | INSIDE;
            return Some(Place {
                call: place,
                return_missed: owner & INSIDE != 0,
            });
        }
        self.enter_displaced()
    }

    /// Makes the thread the owner of its place, unless another one was faster.
    #[inline(always)]
    fn owns(self) -> bool {
        OWNERS
            .insert(&(self.number() as u32), &self.0, u64::from(BPF_NOEXIST))
            .is_ok()
    }

    #[inline(always)]
    fn enter_displaced(self) -> Option<Place> {
        let is_new = IN_FLIGHT
            .insert(&self.0, &EMPTY, u64::from(BPF_NOEXIST))
            .is_ok();
        if is_new {
            add(&raw mut DISPLACED, 1);
        }
        Some(Place {
            // SAFETY: a live map value, and only its own thread uses it, until it removes it.
            call: unsafe { &mut *IN_FLIGHT.get_ptr_mut(&self.0)? },
            return_missed: !is_new,
        })
    }

    /// The call that it is in. There is none for a call that the filters do not want, that began before
    /// the probes, or that found no place and is counted there.
    #[inline(always)]
    pub fn call(self) -> Option<&'static mut InFlight> {
        let place = self.place();
        if place.owner == self.0 | INSIDE {
            return Some(place);
        }
        if place.owner == self.0 {
            return None;
        }
        self.displaced()
    }

    #[inline(always)]
    fn displaced(self) -> Option<&'static mut InFlight> {
        // SAFETY: an aligned word of our own. What a thread has added, it sees itself.
        if unsafe { (&raw const DISPLACED).read_volatile() } == 0 {
            return None;
        }
        let call = IN_FLIGHT.get_ptr_mut(&self.0)?;
        // SAFETY: a live map value, and only its own thread uses it, until it removes it.
        Some(unsafe { &mut *call })
    }

    /// Ends the call that it is in.
    #[inline(always)]
    pub fn leave(self, call: &mut InFlight) {
        if call.owner == 0 {
            self.remove_displaced();
        } else {
            call.owner = self.0;
        }
    }

    #[inline(always)]
    fn remove_displaced(self) {
        if IN_FLIGHT.remove(&self.0).is_ok() {
            add(&raw mut DISPLACED, 1_u64.wrapping_neg());
        }
    }

    /// Gives its place to others, now that it ends. Whether a call was in it, which will never return.
    #[inline(always)]
    pub fn exit(self) -> bool {
        let place = self.place();
        let owner = place.owner;
        if owner & !INSIDE != self.0 {
            let is_inside = self.displaced().is_some();
            if is_inside {
                self.remove_displaced();
            }
            return is_inside;
        }
        place.owner = 0;
        let _ = OWNERS.remove(&(self.number() as u32));
        owner & INSIDE != 0
    }

    #[inline(always)]
    fn place(self) -> &'static mut InFlight {
        let places = (&raw mut ALL).cast::<InFlight>();
        // SAFETY: the number is within the mask, which is below the number of places; the verifier checks it. Only
        // its owner changes a place; a word that another thread reads is whole.
        unsafe { &mut *places.add(self.number() as usize) }
    }

    /// The number of its place: by cache line, which is what the kernel aligns a `struct task_struct` to.
    #[inline(always)]
    fn number(self) -> u64 {
        const CACHE_LINE: u32 = 6;
        (self.0 >> CACHE_LINE) & PLACE_MASK.load()
    }
}
