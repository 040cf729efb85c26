//! Every case at a size that suits a slow guest, one after the other in one process, so that one trace can be matched
//! with all of them.

use anyhow::Result;

use super::cases;
use super::dies::dies;
use super::exhaust::exhaust;
use super::namespace::in_fresh;
use super::range::PortRange;
use super::record::{Explicit, Family, Record};

/// Case `mixed`: connections that differ in every property that a filter tests, one after the other: if they were made
/// at once, a kernel that preempts might skip fentry programs.
pub(super) fn mixed() -> Result<Vec<Record>> {
    let mut parts = vec![
        cases::plain("v4", Family::V4, 2)?,
        cases::plain("v6", Family::V6, 2)?,
        cases::plain("mapped", Family::Mapped, 2)?,
        cases::refused(1)?,
        cases::taken(1)?,
    ];
    // SAFETY: the call has no arguments and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        parts.push(cases::unreachable(
            "unreachable",
            &[Family::V4, Family::Mapped],
            1,
        )?);
        parts.push(cases::unreachable("v6-unreachable", &[Family::V6], 1)?);
    }
    Ok(parts.concat())
}

/// Case `all`: every case except `idle` and `rate`, which have no records.
pub(super) fn all() -> Result<Vec<Record>> {
    let range = PortRange::new(20_000, 20_063)?;
    // The cases that use a range up do so in a namespace of their own.
    let exhausted = |family| {
        in_fresh(move || {
            range.set()?;
            exhaust(range, family, 4)
        })
    };
    let parts = [
        cases::plain("v4", Family::V4, 20)?,
        cases::plain("v6", Family::V6, 20)?,
        cases::plain("mapped", Family::Mapped, 20)?,
        cases::bound("bind-port", Explicit::Port, 4)?,
        cases::bound("bind-any", Explicit::PortAny, 4)?,
        cases::bound("bind-address", Explicit::Address, 4)?,
        cases::refused(4)?,
        cases::unreachable("unreachable", &[Family::V4, Family::Mapped], 4)?,
        cases::unreachable("v6-unreachable", &[Family::V6], 4)?,
        cases::taken(4)?,
        cases::nonblocking(4)?,
        cases::retry(4)?,
        cases::time_wait()?,
        cases::netns(8)?,
        exhausted(Family::V4)?,
        exhausted(Family::V6)?,
        exhausted(Family::Mapped)?,
        in_fresh(|| {
            range.set()?;
            cases::threads(32, 4, range)
        })?,
        dies(8, 2)?,
    ];
    Ok(parts.concat())
}
