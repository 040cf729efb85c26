//! The choice between the ways to attach, and its reason: one decision for a trace, which attaches, and for
//! `connect-trace check`, which tries both.

use anyhow::{Error, Result, anyhow};

use super::AttachMode;
use crate::kernel::{cast, layout::Layout, limits};

/// The way that was chosen.
#[derive(Debug)]
pub(crate) struct Chosen<T> {
    /// Attach mode of the way.
    pub(crate) mode: AttachMode,
    /// Value that the trial of the way returned.
    pub(crate) taken: T,
    /// Reason for the choice, for people.
    pub(crate) reason: String,
}

/// A way to attach, with its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// fentry and fexit.
    Fentry,
    /// kprobe, and kretprobes with slots of their own for the calls in flight.
    KprobeWithSlots,
    /// kprobe and kretprobe, if need be with the few slots that the kernel gives each kretprobe.
    Kprobe,
}

impl Way {
    /// Returns the ways to try, the best first. A kernel that preempts within itself skips fentry programs at times;
    /// kretprobes without slots of their own lose most returns if more threads search than there are CPUs.
    fn ranked(asked: Option<AttachMode>, preempts: bool) -> &'static [Self] {
        match (asked, preempts) {
            (Some(AttachMode::Fentry), _) => &[Self::Fentry],
            (Some(AttachMode::Kprobe), _) => &[Self::Kprobe],
            (None, false) => &[Self::Fentry, Self::Kprobe],
            (None, true) => &[Self::KprobeWithSlots, Self::Fentry, Self::Kprobe],
        }
    }

    /// Returns the attach mode of this way.
    pub(crate) fn mode(self) -> AttachMode {
        match self {
            Self::Fentry => AttachMode::Fentry,
            Self::KprobeWithSlots | Self::Kprobe => AttachMode::Kprobe,
        }
    }
}

/// Attaches with the requested mode, or in the first way that succeeds.
///
/// `preempting` says that the kernel preempts threads within itself, if it does or that is not known; `take` tries a
/// way.
///
/// # Errors
/// States why every way failed, or why the requested one did.
pub(crate) fn choose<T>(
    asked: Option<AttachMode>,
    preempting: Option<&str>,
    mut take: impl FnMut(Way) -> Result<T>,
) -> Result<Chosen<T>> {
    let mut refused = Vec::new();
    for &way in Way::ranked(asked, preempting.is_some()) {
        match take(way) {
            Ok(taken) => {
                return Ok(Chosen {
                    mode: way.mode(),
                    taken,
                    reason: reason(asked, way, preempting, &refused),
                });
            }
            // A limit would stop the other ways too.
            Err(error) if limits::is_named(&error) => return Err(error),
            Err(error) => {
                log::info!("{way:?} is not available: {error:#}");
                refused.push(error);
            }
        }
    }
    Err(match (asked, &refused[..]) {
        (None, [.., fentry, kprobe]) => anyhow!(
            "neither fentry/fexit ({fentry:#}) nor kprobe/kretprobe ({kprobe:#}) is available on this kernel"
        ),
        (Some(AttachMode::Fentry), _) => refused.remove(0).context(
            "fentry/fexit is not available on this kernel; --attach kprobe works on any kernel with \
             CONFIG_KPROBES",
        ),
        _ => refused.remove(0),
    })
}

/// Returns the reason for a way, and its drawback. `refused` holds the errors of the ways before it.
fn reason(
    asked: Option<AttachMode>,
    way: Way,
    preempting: Option<&str>,
    refused: &[Error],
) -> String {
    match (asked, way, preempting, refused) {
        (_, Way::Fentry, None, _) => {
            "lowest overhead; loses returns only when another tracer attaches or detaches"
                .to_owned()
        }
        (Some(_), Way::Fentry, Some(preempting), _) => {
            format!("as requested; may lose calls: {preempting}")
        }
        (None, Way::Fentry, Some(preempting), [slots, ..]) => format!(
            "may lose calls, which are counted: {preempting}; kprobe/kretprobe would lose more: {slots:#}"
        ),
        (None, Way::KprobeWithSlots, Some(preempting), _) => {
            format!("fentry/fexit would lose calls: {preempting}")
        }
        (None, _, _, [.., fentry]) => format!("fentry/fexit is not available: {fentry:#}"),
        _ => "as requested".to_owned(),
    }
}

/// Tries a way with programs that give types to addresses, if the kernel has the function for it, then without. Without
/// types the programs cost more and record the same.
///
/// # Errors
/// If the way fails without types too; the error says why.
pub(crate) fn with_types_or_without<T>(
    layout: &Layout,
    mut take: impl FnMut(&Layout) -> Result<T>,
) -> Result<T> {
    if layout.cast.is_some() {
        match take(layout) {
            Ok(taken) => return Ok(taken),
            Err(error) => log::info!("without {}: {error:#}", cast::FUNCTION),
        }
    }
    take(&Layout {
        cast: None,
        ..layout.clone()
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::kernel::cast::Cast;

    /// Chooses the first of these ways that is tried.
    fn choose_among(
        ways: &[Way],
        asked: Option<AttachMode>,
        preempting: Option<&str>,
    ) -> Result<Chosen<()>> {
        choose(asked, preempting, |way| {
            ways.contains(&way)
                .then_some(())
                .ok_or_else(|| anyhow!("{way:?} refused"))
        })
    }

    use Way::{Fentry, Kprobe, KprobeWithSlots};

    const ALL: [Way; 3] = [Fentry, KprobeWithSlots, Kprobe];
    const PREEMPTS: Option<&str> = Some("this kernel preempts, model lazy");

    #[test]
    fn fentry_is_taken_where_the_kernel_does_not_preempt() {
        let chosen = choose_among(&ALL, None, None).unwrap();
        assert_eq!(chosen.mode, AttachMode::Fentry);
        assert_eq!(
            chosen.reason,
            "lowest overhead; loses returns only when another tracer attaches or detaches"
        );
        let chosen = choose_among(&[Kprobe], None, None).unwrap();
        assert_eq!(chosen.mode, AttachMode::Kprobe);
        assert_eq!(
            chosen.reason,
            "fentry/fexit is not available: Fentry refused"
        );
    }

    #[test]
    fn where_the_kernel_preempts_the_way_that_loses_least_is_taken_and_the_reason_is_said() {
        for (ways, mode, reasons) in [
            (&ALL[..], AttachMode::Kprobe, &["model lazy"][..]),
            (
                &[Fentry, Kprobe],
                AttachMode::Fentry,
                &["may lose calls", "model lazy", "KprobeWithSlots refused"],
            ),
            (&[Kprobe], AttachMode::Kprobe, &["Fentry refused"]),
        ] {
            let chosen = choose_among(ways, None, PREEMPTS).unwrap();
            assert_eq!(chosen.mode, mode, "{}", chosen.reason);
            for reason in reasons {
                assert!(chosen.reason.contains(reason), "{}", chosen.reason);
            }
        }
    }

    #[test]
    fn what_is_asked_for_is_taken_or_refused() {
        let chosen = choose_among(&ALL, Some(AttachMode::Fentry), PREEMPTS).unwrap();
        assert_eq!(chosen.mode, AttachMode::Fentry);
        assert!(chosen.reason.contains("may lose calls"));
        let chosen = choose_among(&ALL, Some(AttachMode::Kprobe), None).unwrap();
        assert_eq!(
            (chosen.mode, chosen.reason.as_str()),
            (AttachMode::Kprobe, "as requested")
        );
        let error = choose_among(&[Kprobe], Some(AttachMode::Fentry), None).unwrap_err();
        assert!(format!("{error:#}").contains("--attach kprobe"));
        assert!(choose_among(&[Fentry], Some(AttachMode::Kprobe), None).is_err());
    }

    #[test]
    fn where_neither_can_be_taken_both_reasons_are_said() {
        for preempting in [None, PREEMPTS] {
            let error = choose_among(&[], None, preempting).unwrap_err().to_string();
            for part in ["(Fentry refused)", "(Kprobe refused)"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn a_limit_of_the_process_ends_the_search_for_a_way() {
        let mut tried = 0;
        let error = choose(None, None, |_| -> Result<()> {
            tried += 1;
            Err(limits::named(
                io::Error::from_raw_os_error(libc::EMFILE).into(),
            ))
        });
        assert_eq!(tried, 1);
        assert!(error.unwrap_err().to_string().contains("ulimit -n"));
    }

    /// Returns the `cast` of each attempt, and the outcome, when the attempts for which `fails` holds fail.
    fn attempts(cast: Option<Cast>, fails: impl Fn(&Layout) -> bool) -> (Vec<Option<Cast>>, bool) {
        let mut attempts = Vec::new();
        let layout = Layout {
            cast,
            ..Layout::default()
        };
        let result = with_types_or_without(&layout, |layout| {
            attempts.push(layout.cast);
            if fails(layout) {
                return Err(anyhow!("refused"));
            }
            Ok(())
        });
        (attempts, result.is_ok())
    }

    #[test]
    fn without_types_is_tried_where_there_are_none_or_they_are_refused() {
        let cast = Some(Cast {
            function: 1,
            sock: 2,
            inet_sock: 3,
            word: 4,
        });
        assert_eq!(attempts(cast, |_| false), (vec![cast], true));
        assert_eq!(attempts(None, |_| false), (vec![None], true));
        let of_types = |layout: &Layout| layout.cast.is_some();
        assert_eq!(attempts(cast, of_types), (vec![cast, None], true));
        assert_eq!(attempts(cast, |_| true), (vec![cast, None], false));
    }
}
