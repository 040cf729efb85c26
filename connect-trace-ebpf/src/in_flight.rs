//! The calls in flight, by thread: a connect() is preempted and migrates, its thread stays.
//!
//! A thread has a place for its calls, which the address of its `struct task_struct` leads to, from its first
//! connect() to its end: finding it is a few instructions, where an entry of a hash map that comes and goes
//! with each call is a thousand. [`THREADS`] has for each place the thread that has it for itself until it ends, with
//! [`INSIDE`] while a call is in flight; 0 where it is nobody's. That is apart from the places, because the daemon
//! looks at all of it. Where two threads' addresses lead to one place, the calls of the second are in a hash map.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_current_task};
use connect_trace_common::{
    InFlight,
    record::{INSIDE, PLACES},
};

use crate::{
    layout::PLACE_MASK,
    maps::{IN_FLIGHT, OWNERS},
    shared::{THREADS, add},
};

/// The places, as a variable and no map of its own: the address is a constant of the programs then.
#[unsafe(link_section = ".bss.places")]
static mut ALL: [InFlight; PLACES] = [InFlight::EMPTY; PLACES];

/// Number of calls in the hash map: where there is none, nobody looks into it.
static mut DISPLACED: u64 = 0;

/// What a call in the hash map begins as.
static EMPTY: InFlight = InFlight::EMPTY;

/// The thread that runs, by the address of its `struct task_struct`.
#[derive(Clone, Copy)]
pub struct Thread(u64);

/// A call in flight.
pub struct Call {
    /// Where it is kept.
    pub kept: &'static mut InFlight,
    /// The word in [`THREADS`]; `None` in the hash map.
    thread: Option<&'static mut u64>,
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

    /// Its call, now that it enters connect(); `None` where all places are taken.
    #[inline(always)]
    pub fn enter(self) -> Option<Entered> {
        let place = self.place();
        let thread = place.thread();
        let before = *thread;
        if before & !INSIDE == self.0 || before == 0 && self.takes(place) {
            *thread = self.0 | INSIDE;
            return Some(Entered {
                call: place.call(),
                return_missed: before & INSIDE != 0,
            });
        }
        self.enter_displaced()
    }

    /// Takes a place that is nobody's, unless another thread was faster.
    #[inline(always)]
    fn takes(self, place: Place) -> bool {
        OWNERS
            .insert(&(place.0 as u32), &self.0, u64::from(BPF_NOEXIST))
            .is_ok()
    }

    #[inline(always)]
    fn enter_displaced(self) -> Option<Entered> {
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
                thread: None,
            },
            return_missed: !is_new,
        })
    }

    /// The call that it is in. There is none for a call that the filters do not want, that began before
    /// the probes, or that found no place and is counted there.
    #[inline(always)]
    pub fn call(self) -> Option<Call> {
        let place = self.place();
        let thread = *place.thread();
        if thread == self.0 | INSIDE {
            return Some(place.call());
        }
        if thread == self.0 {
            return None;
        }
        self.displaced()
    }

    #[inline(always)]
    fn displaced(self) -> Option<Call> {
        // SAFETY: an aligned word of our own. What a thread has added, it sees itself.
        if unsafe { (&raw const DISPLACED).read_volatile() } == 0 {
            return None;
        }
        let kept = IN_FLIGHT.get_ptr_mut(&self.0)?;
        Some(Call {
            // SAFETY: a live map value, and only its own thread uses it, until it removes it.
            kept: unsafe { &mut *kept },
            thread: None,
        })
    }

    /// Ends the call that it is in.
    #[inline(always)]
    pub fn leave(self, call: Call) {
        match call.thread {
            Some(thread) => *thread = self.0,
            None => self.remove_displaced(),
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
        let thread = place.thread();
        let before = *thread;
        if before & !INSIDE != self.0 {
            let is_inside = self.displaced().is_some();
            if is_inside {
                self.remove_displaced();
            }
            return is_inside;
        }
        *thread = 0;
        let _ = OWNERS.remove(&(place.0 as u32));
        before & INSIDE != 0
    }

    /// Its place: by cache line, which is what the kernel aligns a `struct task_struct` to.
    #[inline(always)]
    fn place(self) -> Place {
        const CACHE_LINE: u32 = 6;
        Place((self.0 >> (CACHE_LINE - Place::SHIFT)) & PLACE_MASK.load())
    }
}

/// A place, by where its thread's word lies: its number times the bytes of a word.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    /// Of the number, to the left.
    const SHIFT: u32 = size_of::<u64>().trailing_zeros();

    #[inline(always)]
    fn thread(self) -> &'static mut u64 {
        // SAFETY: the mask is below the number of places, which the verifier checks, and ends in zeros, so that
        // the word is aligned. Only the thread changes it once it is its own, and another one reads it whole.
        unsafe { &mut *(&raw mut THREADS).cast::<u64>().byte_add(self.0 as usize) }
    }

    #[inline(always)]
    fn call(self) -> Call {
        const WORDS: usize = size_of::<InFlight>() / size_of::<u64>();
        let places = (&raw mut ALL).cast::<InFlight>();
        Call {
            // SAFETY: as above; and only the thread whose place it is uses it.
            kept: unsafe { &mut *places.byte_add(self.0 as usize * WORDS) },
            thread: Some(self.thread()),
        }
    }
}
