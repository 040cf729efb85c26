//! Which way to attach is taken, and why: one decision for tracing, which attaches, and for
//! `connect-trace check`, which only loads.

use anyhow::{Context as _, Result, anyhow};

use super::AttachMode;
use crate::kernel::{cast, layout::Layout};

/// The way that was taken.
#[derive(Debug)]
pub(crate) struct Chosen<T> {
    /// Which one.
    pub(crate) mode: AttachMode,
    /// What taking it gave.
    pub(crate) taken: T,
    /// Why this one, for people.
    pub(crate) reason: String,
}

/// Takes the way that was asked for, or else the best one that the kernel lets itself be taken by.
///
/// `offered` is whether the kernel's types allow fentry, `preempting` the name of the model if the
/// kernel preempts threads within itself; `take` tries a way.
///
/// # Errors
/// Says why neither way could be taken, or not the one that was asked for.
pub(crate) fn choose<T>(
    asked: Option<AttachMode>,
    offered: Result<()>,
    preempting: Option<&str>,
    mut take: impl FnMut(AttachMode) -> Result<T>,
) -> Result<Chosen<T>> {
    let fentry = offered.and_then(|()| {
        if asked == Some(AttachMode::Kprobe) {
            return Err(anyhow!("not asked for"));
        }
        if let (None, Some(model)) = (asked, preempting) {
            return Err(anyhow!(
                "it would lose calls: this kernel preempts, model {model}"
            ));
        }
        take(AttachMode::Fentry)
    });
    let kprobe = |taken, reason| Chosen {
        mode: AttachMode::Kprobe,
        taken,
        reason,
    };
    match (asked, fentry) {
        (_, Ok(taken)) => Ok(Chosen {
            mode: AttachMode::Fentry,
            taken,
            reason: match preempting {
                None => "cheapest, and loses no returns".to_owned(),
                Some(model) => {
                    format!("as asked; may lose calls: this kernel preempts, model {model}")
                }
            },
        }),
        (Some(AttachMode::Fentry), Err(error)) => Err(error).context(
            "fentry/fexit is not to be had on this kernel; --attach kprobe works on any kernel with \
             CONFIG_KPROBES",
        ),
        (Some(AttachMode::Kprobe), Err(_)) => {
            Ok(kprobe(take(AttachMode::Kprobe)?, "as asked".to_owned()))
        }
        (None, Err(fentry)) => {
            log::info!("fentry/fexit cannot be used: {fentry:#}");
            let taken = take(AttachMode::Kprobe).map_err(|kprobe| {
                anyhow!(
                    "this kernel takes neither fentry/fexit ({fentry:#}) nor kprobe/kretprobe \
                     ({kprobe:#})"
                )
            })?;
            Ok(kprobe(taken, format!("no fentry/fexit here, {fentry:#}")))
        }
    }
}

/// Takes a way with the programs giving types to addresses, where the kernel has the function for it, or else
/// without: that costs more and records the same.
///
/// # Errors
/// Says why it could not be taken without either.
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
    use super::*;
    use crate::kernel::cast::Cast;

    /// Takes those of these ways that are tried.
    fn choose_among(
        ways: &[AttachMode],
        asked: Option<AttachMode>,
        offered: bool,
        preempting: Option<&str>,
    ) -> Result<Chosen<()>> {
        let offered = if offered {
            Ok(())
        } else {
            Err(anyhow!("no such prototype"))
        };
        choose(asked, offered, preempting, |mode| {
            ways.contains(&mode)
                .then_some(())
                .ok_or_else(|| anyhow!("{mode} refused"))
        })
    }

    use AttachMode::{Fentry, Kprobe};

    #[test]
    fn fentry_is_taken_where_nothing_speaks_against_it() {
        let chosen = choose_among(&[Fentry, Kprobe], None, true, None).unwrap();
        assert_eq!(chosen.mode, Fentry);
        assert_eq!(chosen.reason, "cheapest, and loses no returns");
    }

    #[test]
    fn kprobes_are_taken_for_each_reason_against_fentry_and_the_reason_is_said() {
        for (ways, offered, preempting, reason) in [
            (&[Fentry, Kprobe][..], true, Some("lazy"), "model lazy"),
            (&[Fentry, Kprobe], false, None, "no such prototype"),
            (&[Kprobe], true, None, "fentry/fexit refused"),
        ] {
            let chosen = choose_among(ways, None, offered, preempting).unwrap();
            assert_eq!(chosen.mode, Kprobe);
            assert!(chosen.reason.contains(reason), "{}", chosen.reason);
        }
    }

    #[test]
    fn what_is_asked_for_is_taken_or_refused() {
        let both = &[Fentry, Kprobe];
        let chosen = choose_among(both, Some(Fentry), true, Some("full")).unwrap();
        assert_eq!(chosen.mode, Fentry);
        assert!(chosen.reason.contains("may lose calls"));
        let chosen = choose_among(both, Some(Kprobe), true, None).unwrap();
        assert_eq!((chosen.mode, chosen.reason.as_str()), (Kprobe, "as asked"));
        let error = choose_among(&[Kprobe], Some(Fentry), true, None).unwrap_err();
        assert!(format!("{error:#}").contains("--attach kprobe"));
        assert!(choose_among(&[Fentry], Some(Kprobe), true, None).is_err());
    }

    #[test]
    fn where_neither_can_be_taken_both_reasons_are_said() {
        let error = choose_among(&[], None, true, None).unwrap_err().to_string();
        for part in ["fentry/fexit refused", "kprobe/kretprobe refused"] {
            assert!(error.contains(part), "{error}");
        }
    }

    /// What each attempt was made with, and what came of it, where such attempts fail.
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
