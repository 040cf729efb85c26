//! The calls in flight, by thread: a connect() is preempted and migrates, its thread stays.
//!
//! A thread has a place for its calls, which the hash of its `struct task_struct`'s address leads to, from its first
//! connect() to its end: finding it is a few instructions, but an entry of a hash map that comes and goes with each
//! call costs a thousand. [`THREADS`] has for each place the thread that owns it until the thread ends, with [`IDLE`]
//! while no call is in flight; 0 if it is nobody's. It is apart from the places, because the daemon looks at all of it.
//! If the hashes of two threads lead to one place, the second thread has another one; if that is taken too, its calls are
//! in the hash map `IN_FLIGHT`. A place is taken by inserting into the hash map `OWNERS`, because Linux 5.10 has no compare-and-swap for programs (5.12).

use core::ptr::NonNull;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_current_task};
use connect_trace_common::{
    InFlight,
    record::{IDLE, PLACES},
};

use crate::{
    maps::{IN_FLIGHT, OWNERS},
    shared::{THREADS, add},
};

/// The places, as a variable and no map of its own: the address is a constant of the programs then.
#[unsafe(link_section = ".bss.places")]
static mut ALL: [InFlight; PLACES] = [InFlight::EMPTY; PLACES];

/// Number of threads that have their second place, and of calls in the hash map: if there are none, nobody looks there.
static mut DISPLACED: u64 = 0;

/// The state in which a call in the hash map begins.
static EMPTY: InFlight = InFlight::EMPTY;

/// The thread that runs, by the address of its `struct task_struct`.
#[derive(Clone, Copy)]
pub struct Thread(u64);

/// A call in flight.
pub struct Call {
    /// Where it is kept.
    pub kept: &'static mut InFlight,
    /// The word in [`THREADS`]; `None` in the hash map.
    owner: Option<Owner>,
}

impl Call {
    /// Ends it. The calling thread is the one that is in it.
    #[inline(always)]
    pub fn leave(self) {
        match self.owner {
            Some(owner) => owner.store(owner.load() | IDLE),
            None => {
                Thread::current().leave_map();
            }
        }
    }
}

/// A call that may begin.
pub struct Entered {
    /// The call.
    pub call: Call,
    /// Whether the thread's last call was still in its place: its return was never seen.
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

    /// Its call, now that it enters connect(); `None` if all places are taken.
    #[inline(always)]
    pub fn enter(self) -> Option<Entered> {
        let first = self.place();
        let before = first.owner().load();
        if self.owns(before) {
            return Some(self.enter_place(first, before & IDLE == 0));
        }
        self.enter_displaced(first)
    }

    /// Returns whether it is the thread in the word of a place.
    #[inline(always)]
    fn owns(self, owner: u64) -> bool {
        owner & !IDLE == self.0
    }

    #[inline(always)]
    fn enter_place(self, place: Place, return_missed: bool) -> Entered {
        place.owner().store(self.0);
        Entered {
            call: place.call(),
            return_missed,
        }
    }

    /// Enters without being the owner of the first place: it connects for the first time, or is displaced.
    #[inline(always)]
    fn enter_displaced(self, first: Place) -> Option<Entered> {
        let second = self.second_place();
        let before = second.owner().load();
        if self.owns(before) {
            return Some(self.enter_place(second, before & IDLE == 0));
        }
        let is_first = first.owner().load() == 0 && self.takes(first);
        if is_first || before == 0 && self.takes(second) {
            // Before the place was free, it was in the hash map.
            let return_missed = self.leave_map();
            if is_first {
                return Some(self.enter_place(first, return_missed));
            }
            add(&raw mut DISPLACED, 1);
            return Some(self.enter_place(second, return_missed));
        }
        self.enter_map()
    }

    /// Takes a place that is nobody's, unless another thread was faster.
    #[inline(always)]
    fn takes(self, place: Place) -> bool {
        OWNERS
            .insert(&(place.0 as u32), &self.0, u64::from(BPF_NOEXIST))
            .is_ok()
    }

    #[inline(always)]
    fn enter_map(self) -> Option<Entered> {
        let is_new = IN_FLIGHT
            .insert(&self.0, &EMPTY, u64::from(BPF_NOEXIST))
            .is_ok();
        if is_new {
            add(&raw mut DISPLACED, 1);
        }
        let kept = IN_FLIGHT.get_ptr_mut(&self.0)?;
        Some(Entered {
            call: Call {
                // SAFETY: a live map value, and only its own thread uses it, until it removes it.
                kept: unsafe { &mut *kept },
                owner: None,
            },
            return_missed: !is_new,
        })
    }

    /// The call that it is in. There is none for a call that the filters do not want, that began before
    /// the probes, or that found no place and is counted there.
    #[inline(always)]
    pub fn call(self) -> Option<Call> {
        let first = self.place();
        let owner = first.owner().load();
        if owner == self.0 {
            return Some(first.call());
        }
        if owner == self.0 | IDLE {
            return None;
        }
        self.displaced()
    }

    #[inline(always)]
    fn displaced(self) -> Option<Call> {
        if !any_displaced() {
            return None;
        }
        let second = self.second_place();
        let owner = second.owner().load();
        if owner == self.0 {
            return Some(second.call());
        }
        if owner == self.0 | IDLE {
            return None;
        }
        let kept = IN_FLIGHT.get_ptr_mut(&self.0)?;
        Some(Call {
            // SAFETY: a live map value, and only its own thread uses it, until it removes it.
            kept: unsafe { &mut *kept },
            owner: None,
        })
    }

    /// Removes its call from the hash map, and returns whether it was there.
    #[inline(always)]
    fn leave_map(self) -> bool {
        let was_there = any_displaced() && IN_FLIGHT.remove(&self.0).is_ok();
        if was_there {
            add(&raw mut DISPLACED, 1_u64.wrapping_neg());
        }
        was_there
    }

    /// Gives its place to others, now that it ends. Returns whether it was in a call, which will never return.
    #[inline(always)]
    pub fn exit(self) -> bool {
        let first = self.place();
        let before = first.owner().load();
        if self.owns(before) {
            first.give_up();
            return before & IDLE == 0;
        }
        if !any_displaced() {
            return false;
        }
        let second = self.second_place();
        let before = second.owner().load();
        if self.owns(before) {
            second.give_up();
            add(&raw mut DISPLACED, 1_u64.wrapping_neg());
            return before & IDLE == 0;
        }
        self.leave_map()
    }

    /// Its first place, by a multiplicative hash (Knuth, TAOCP volume 3, section 6.4): the addresses lie at a few fixed
    /// distances from each other, so that bits of theirs lead to the same few places.
    #[inline(always)]
    fn place(self) -> Place {
        self.place_by(u64::BITS - Place::BITS)
    }

    /// The place that it tries if another thread has its first, by other bits of the same hash: threads that meet in one
    /// place would meet in the next one too.
    #[inline(always)]
    fn second_place(self) -> Place {
        self.place_by(u64::BITS - 2 * Place::BITS)
    }

    /// The place that is led to by the bits of the hash from this one on.
    #[inline(always)]
    fn place_by(self, bit: u32) -> Place {
        /// 2^64 divided by the golden ratio.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        Place((self.0.wrapping_mul(FACTOR) >> bit) & Place::MASK)
    }
}

/// Returns whether any thread is displaced. A thread sees what it has added itself.
#[inline(always)]
fn any_displaced() -> bool {
    // SAFETY: an aligned word of our own.
    unsafe { (&raw const DISPLACED).read_volatile() != 0 }
}

/// The word in [`THREADS`] that says whose a place is. Other threads read it, and take it when it is nobody's, so that
/// there is never a reference to it.
#[derive(Clone, Copy)]
struct Owner(NonNull<u64>);

impl Owner {
    #[inline(always)]
    fn load(self) -> u64 {
        // SAFETY: an aligned word of a live map value, which everybody writes whole.
        unsafe { self.0.as_ptr().read_volatile() }
    }

    #[inline(always)]
    fn store(self, thread: u64) {
        // SAFETY: as in `load`; only the thread that took the place writes, until it gives it up.
        unsafe { self.0.as_ptr().write_volatile(thread) };
    }
}

/// A place, by the offset of its owner's word: its number times the bytes of a word.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    /// Bits of an offset.
    const BITS: u32 = PLACES.trailing_zeros() + size_of::<u64>().trailing_zeros();

    /// All offsets there are.
    const MASK: u64 = ((PLACES - 1) * size_of::<u64>()) as u64;

    /// Gives it to others.
    #[inline(always)]
    fn give_up(self) {
        self.owner().store(0);
        let _ = OWNERS.remove(&(self.0 as u32));
    }

    #[inline(always)]
    fn owner(self) -> Owner {
        // SAFETY: the mask is below the number of places, which the verifier checks, and ends in zeros, so that the
        // word is aligned.
        Owner(unsafe {
            let threads = NonNull::new_unchecked(&raw mut THREADS);
            threads.cast::<u64>().byte_add(self.0 as usize)
        })
    }

    #[inline(always)]
    fn call(self) -> Call {
        const WORDS: usize = size_of::<InFlight>() / size_of::<u64>();
        let places = (&raw mut ALL).cast::<InFlight>();
        Call {
            // SAFETY: as above; and only the thread that owns the place uses it.
            kept: unsafe { &mut *places.byte_add(self.0 as usize * WORDS) },
            owner: Some(self.owner()),
        }
    }
}
