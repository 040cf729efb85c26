//! The calls in flight, by thread: a connect() can be preempted and migrate to another CPU, but its thread stays the
//! same.
//!
//! A thread owns a place for its calls from its first connect() until it ends. The hash of the address of its
//! `struct task_struct` selects the place: finding it takes a few instructions, but inserting and removing an entry of
//! a hash map with each call takes a thousand. [`THREADS`] has one word for each place: the thread that owns it, with
//! [`IDLE`] set while no call is in flight, or 0 if the place is free. The words are apart from the places, because
//! the daemon reads all of them. If the hashes of two threads select the same place, the second thread takes a second
//! place; if that is taken too, its calls are in the hash map `IN_FLIGHT`. A thread takes a place by inserting into the
//! hash map `OWNERS`, because programs have no compare-and-swap on Linux 5.10 (they have it since 5.12).

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

/// The places. A variable instead of a map of its own, so that its address is a constant of the programs.
#[unsafe(link_section = ".bss.places")]
static mut ALL: [InFlight; PLACES] = [InFlight::EMPTY; PLACES];

/// Number of threads in their second place plus number of calls in the hash map. If it is 0, lookups skip both.
static mut DISPLACED: u64 = 0;

/// Initial state of a call in the hash map.
static EMPTY: InFlight = InFlight::EMPTY;

/// The running thread, identified by the address of its `struct task_struct`.
#[derive(Clone, Copy)]
pub struct Thread(u64);

/// The number of a call in the hash map: no index of an array. An `Option` would do, but the compiler reads the number
/// that it has not got, which the verifier refuses.
const NO_PLACE: u32 = u32::MAX;

/// A call in flight.
pub struct Call {
    /// The stored state of the call.
    pub kept: &'static mut InFlight,
    /// The word in [`THREADS`]; `None` if the call is in the hash map.
    owner: Option<Owner>,
    /// Number of the place; [`NO_PLACE`] if the call is in the hash map.
    pub place: u32,
}

impl Call {
    /// Ends the call. Must run in the thread that made the call.
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

/// The result of entering connect().
pub struct Entered {
    /// The call.
    pub call: Call,
    /// True if the thread's last call was still in flight: its return was never seen.
    pub return_missed: bool,
}

impl Thread {
    /// Returns the running thread, the kernel's `current`.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: a helper without preconditions.
        Self(unsafe { bpf_get_current_task() })
    }

    /// Returns the thread with this `struct task_struct *`.
    #[inline(always)]
    pub fn of(task: u64) -> Self {
        Self(task)
    }

    /// Returns the address, which is unique among the threads that exist.
    #[inline(always)]
    pub fn id(self) -> u64 {
        self.0
    }

    /// Returns a number below [`PLACES`] that few other threads have.
    #[inline(always)]
    pub fn number(self) -> u32 {
        self.place().number()
    }

    /// Begins a call of the thread, which enters connect(); returns `None` if both places are taken and
    /// the hash map is full.
    #[inline(always)]
    pub fn enter(self) -> Option<Entered> {
        let first = self.place();
        let before = first.owner().load();
        if self.owns(before) {
            return Some(self.enter_place(first, before & IDLE == 0));
        }
        self.enter_displaced(first)
    }

    /// Returns true if `owner`, the word of a place, has this thread.
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

    /// Begins a call of a thread that does not own its first place: it is the thread's first call, or it is displaced.
    #[inline(always)]
    fn enter_displaced(self, first: Place) -> Option<Entered> {
        let second = self.second_place();
        let before = second.owner().load();
        if self.owns(before) {
            return Some(self.enter_place(second, before & IDLE == 0));
        }
        let is_first = first.owner().load() == 0 && self.takes(first);
        if is_first || before == 0 && self.takes(second) {
            // The thread's last call may be in the hash map, from a time when no place was free.
            let return_missed = self.leave_map();
            if is_first {
                return Some(self.enter_place(first, return_missed));
            }
            add(&raw mut DISPLACED, 1);
            return Some(self.enter_place(second, return_missed));
        }
        self.enter_map()
    }

    /// Takes a free place; returns false if another thread has taken it first.
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
                place: NO_PLACE,
            },
            return_missed: !is_new,
        })
    }

    /// Returns the thread's call in flight. Returns `None` for a call that the filters reject, that began before the
    /// probes were attached, or that found no place and was counted then.
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
            place: NO_PLACE,
        })
    }

    /// Removes the thread's call from the hash map; returns true if it was there.
    #[inline(always)]
    fn leave_map(self) -> bool {
        let was_there = any_displaced() && IN_FLIGHT.remove(&self.0).is_ok();
        if was_there {
            add(&raw mut DISPLACED, 1_u64.wrapping_neg());
        }
        was_there
    }

    /// Frees the place of a thread that ends. Returns true if the thread was in a call, which will never return.
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

    /// Returns the first place of the thread, by a multiplicative hash (Knuth, TAOCP volume 3, section 6.4): the
    /// addresses lie at a few fixed distances from each other, so that plain bits of them select only a few places.
    #[inline(always)]
    fn place(self) -> Place {
        self.place_by(u64::BITS - Place::BITS)
    }

    /// Returns the place to try if another thread owns the first, by other bits of the same hash: threads that collide
    /// in one place would collide in the next one too.
    #[inline(always)]
    fn second_place(self) -> Place {
        self.place_by(u64::BITS - 2 * Place::BITS)
    }

    /// Returns the place selected by the bits of the hash from `bit` on.
    #[inline(always)]
    fn place_by(self, bit: u32) -> Place {
        /// 2^64 divided by the golden ratio.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        Place((self.0.wrapping_mul(FACTOR) >> bit) & Place::MASK)
    }
}

/// Returns true if any thread is displaced. A displaced thread always sees its own addition.
#[inline(always)]
fn any_displaced() -> bool {
    // SAFETY: an aligned word of our own.
    unsafe { (&raw const DISPLACED).read_volatile() != 0 }
}

/// The word in [`THREADS`] with the owner of a place. A pointer and never a reference, because other threads read the
/// word, and take the place if it is free.
#[derive(Clone, Copy)]
struct Owner(NonNull<u64>);

impl Owner {
    #[inline(always)]
    fn load(self) -> u64 {
        // SAFETY: an aligned word of a live map value; every writer writes the whole word.
        unsafe { self.0.as_ptr().read_volatile() }
    }

    #[inline(always)]
    fn store(self, thread: u64) {
        // SAFETY: as in `load`; only the thread that took the place writes, until it gives it up.
        unsafe { self.0.as_ptr().write_volatile(thread) };
    }
}

/// A place, identified by the offset of its owner's word: its number times the bytes of a word.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    /// Number of bits of an offset.
    const BITS: u32 = PLACES.trailing_zeros() + size_of::<u64>().trailing_zeros();

    /// Mask of the bits that a valid offset can have.
    const MASK: u64 = ((PLACES - 1) * size_of::<u64>()) as u64;

    /// Returns the number of the place, below [`PLACES`].
    #[inline(always)]
    fn number(self) -> u32 {
        (self.0 / size_of::<u64>() as u64) as u32
    }

    /// Frees the place.
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
            // SAFETY: as above; only the thread that owns the place uses it.
            kept: unsafe { &mut *places.byte_add(self.0 as usize * WORDS) },
            owner: Some(self.owner()),
            place: self.number(),
        }
    }
}
