//! The way in which the programs would be attached, and the result of loading them.

use anyhow::{Error, Result, anyhow};

use super::{
    finding::{Finding, Group, State},
    privileges, types,
};
use crate::{
    kernel::{
        layout::Layout,
        limits,
        preemption::{self, Model},
        requirement::MissingRequirement,
    },
    probes::{
        ProbeConfig,
        attach::{
            AttachMode,
            choice::{Way, choose, with_types_or_without},
            functions::Functions,
            return_events::{self, ReturnEvents},
        },
        trial::{self, Loaded},
    },
};

/// The facts behind this group of findings.
pub(super) struct Reading {
    pub(super) preemption: Model,
    /// Results of the trials; or the reason why nothing was tried.
    pub(super) trials: Result<Trials, MissingRequirement>,
}

/// Results of the trials.
pub(super) struct Trials {
    pub(super) fentry: Result<Loaded>,
    pub(super) kprobe: Result<Loaded>,
    pub(super) return_events: Result<Slots>,
    pub(super) stacks: Result<()>,
}

/// The list of events, through which kretprobes get slots of their own.
pub(super) struct Slots {
    /// Name of the kernel's list of events, for people.
    pub(super) list: String,
    /// Events in the list that were left over by traces that were killed.
    pub(super) left_over: Vec<String>,
}

impl Reading {
    /// Loads the programs, in each way, if that is allowed.
    pub(super) fn of_running_kernel(
        config: &ProbeConfig,
        privileges: &privileges::Reading,
        types: &types::Reading,
    ) -> Self {
        let tried = privileges
            .allow()
            .map_err(|lack| not_tried("privileges are missing", lack.remedy))
            .and_then(|()| kernel(types));
        Self {
            preemption: Model::of_running_kernel(),
            trials: tried.map(|(functions, layout)| {
                let load = |way: Way| {
                    functions.offer(way)?;
                    with_types_or_without(layout, |layout| {
                        trial::load_all(way.mode(), config, layout, functions)
                            .map_err(limits::named)
                    })
                };
                Trials {
                    fentry: load(Way::Fentry),
                    kprobe: load(Way::Kprobe),
                    return_events: return_events::offered().map(|offered| Slots {
                        list: return_events::list_of(&offered.tracefs),
                        left_over: offered.left_over(),
                    }),
                    stacks: with_types_or_without(layout, |layout| {
                        trial::load_stacks(config, layout, functions).map_err(limits::named)
                    }),
                }
            }),
        }
    }
}

/// Returns the properties of the kernel that loading needs; else the requirement that is missing.
fn kernel(types: &types::Reading) -> Result<(&Functions, &Layout), MissingRequirement> {
    let because = |what, error: &Error| {
        let remedy = error
            .downcast_ref::<MissingRequirement>()
            .map(|lack| lack.remedy);
        not_tried(what, remedy.unwrap_or(PREREQUISITES))
    };
    let btf = types.btf.as_ref();
    let btf = btf.map_err(|error| because("BTF is missing", error))?;
    let layout = btf.layout.as_ref();
    let layout = layout.map_err(|error| because("the offsets are missing", error))?;
    let functions = types.functions.as_ref();
    let functions = functions.map_err(|error| because("a function is missing", error))?;
    let prototypes = btf.prototypes.as_ref();
    prototypes
        .map_err(|error| because("a function differs from what the programs assume", error))?;
    btf.limits.clone()?;
    Ok((functions, layout))
}

fn not_tried(why: &str, remedy: &'static str) -> MissingRequirement {
    MissingRequirement::new(format!("not tried: {why}"), remedy)
}

const GROUP: Group = Group::Attach;
/// The first version of Linux that attaches programs by fentry/fexit.
const FENTRY_SINCE: &str = if cfg!(target_arch = "aarch64") {
    "6.4"
} else {
    "5.5"
};
/// Remedy for a finding that was not tried, if nothing better is known.
const PREREQUISITES: &str = "see what is missing above";

/// Returns the findings, and the mode in which a trace would attach.
pub(super) fn findings(reading: &Reading) -> (Vec<Finding>, Option<AttachMode>) {
    let trials = reading.trials.as_ref();
    let (mode, chosen) = mode(reading);
    let findings = vec![
        preemption(&reading.preemption),
        fentry(reading).since(FENTRY_SINCE),
        loaded("kprobe", trials.map(|trials| &trials.kprobe)),
        mode.required(),
        return_slots(trials.map(|trials| &trials.return_events)).since("4.12"),
        skip_counter(trials).since("5.12"),
        flame_graph(trials.map(|trials| &trials.stacks)),
    ];
    (findings, chosen)
}

fn preemption(model: &Model) -> Finding {
    const NAME: &str = "preemption";
    match &model.name {
        Some(name) if model.preempts => {
            Finding::ok(GROUP, NAME, name).note("fentry/fexit may lose calls here")
        }
        Some(name) => Finding::ok(GROUP, NAME, name),
        None => Finding::unknown(
            GROUP,
            NAME,
            "assumed to preempt, because fentry/fexit would then lose calls",
            format!(
                "run as root with CAP_SYS_ADMIN and without lockdown, to read {} in debugfs",
                preemption::MODEL
            ),
        ),
    }
    .data(model.name.as_deref().into())
}

fn fentry(reading: &Reading) -> Finding {
    let trials = reading.trials.as_ref();
    let finding = loaded("fentry", trials.map(|trials| &trials.fentry));
    match reading.preemption.preempting() {
        Some(preempting) if finding.state == State::Ok => Finding {
            state: State::Limited,
            ..finding
        }
        .note(format!("may lose calls: {preempting}"))
        .remedy(
            "none needed: kprobe/kretprobe is used if it loses no calls; --attach fentry uses fentry/fexit anyway",
        ),
        _ => finding,
    }
}

fn loaded(name: &'static str, trial: Result<&Result<Loaded>, &MissingRequirement>) -> Finding {
    match trial {
        Ok(Ok(loaded)) => Finding::ok(
            GROUP,
            name,
            format!("the kernel accepts all {} programs", loaded.programs),
        )
        .data(serde_json::json!({ "programs": loaded.programs })),
        Ok(Err(error)) => {
            let finding = Finding::missing(GROUP, name, error);
            match &finding.remedy {
                Some(_) => finding,
                None => {
                    finding.remedy("RUST_LOG=debug prints the verifier's log; please report it")
                }
            }
        }
        Err(lack) => untried(name, lack),
    }
}

/// Decides on the attach mode with the same function as a trace.
fn mode(reading: &Reading) -> (Finding, Option<AttachMode>) {
    const NAME: &str = "attach_mode";
    let trials = match &reading.trials {
        Ok(trials) => trials,
        Err(lack) => return (untried(NAME, lack), None),
    };
    let preempting = reading.preemption.preempting();
    let chosen = choose(None, preempting.as_deref(), |way| match way {
        Way::Fentry => copy(&trials.fentry),
        Way::KprobeWithSlots => {
            trials.return_events.as_ref().map_err(again)?;
            copy(&trials.kprobe)
        }
        Way::Kprobe => copy(&trials.kprobe),
    });
    match chosen {
        Ok(chosen) => (
            Finding::ok(GROUP, NAME, chosen.mode.to_string()).note(chosen.reason),
            Some(chosen.mode),
        ),
        Err(error) if limits::is_named(&error) => (Finding::missing(GROUP, NAME, &error), None),
        Err(_) => {
            // The reasons and remedies are in the findings above.
            let finding = Finding {
                state: State::Missing,
                ..Finding::ok(GROUP, NAME, "")
            };
            let finding = finding
                .note("neither fentry/fexit nor kprobe/kretprobe is available on this kernel")
                .remedy("see fentry and kprobe above");
            (finding, None)
        }
    }
}

fn return_slots(events: Result<&Result<Slots>, &MissingRequirement>) -> Finding {
    const NAME: &str = "return_slots";
    let slots = match events {
        Ok(Ok(slots)) => slots,
        Ok(Err(error)) => {
            return Finding::limited(GROUP, NAME, "the kernel's default for a kretprobe", "")
                .because(error);
        }
        Err(lack) => return untried(NAME, lack),
    };
    let finding = Finding::ok(
        GROUP,
        NAME,
        format!(
            "{} calls in flight, by {}",
            ReturnEvents::MAX_ACTIVE,
            slots.list
        ),
    )
    .data(ReturnEvents::MAX_ACTIVE.into());
    if slots.left_over.is_empty() {
        return finding;
    }
    finding
        .note(format!(
            "left over from a trace that was killed together with the process that removes them: {}",
            slots.left_over.join(", ")
        ))
        .remedy("none needed: the next trace by kprobe/kretprobe removes them")
}

/// Reports whether the kernel counts the runs that it skips.
fn skip_counter(trials: Result<&Trials, &MissingRequirement>) -> Finding {
    const NAME: &str = "skip_counter";
    let any = match trials {
        Ok(trials) => [&trials.fentry, &trials.kprobe],
        Err(lack) => return untried(NAME, lack),
    };
    let loaded = any.into_iter().find_map(|trial| trial.as_ref().ok());
    match loaded {
        Some(loaded) if loaded.counts_skipped => {
            Finding::ok(GROUP, NAME, "bpf_prog_info.recursion_misses")
        }
        Some(_) => Finding {
            state: State::Missing,
            ..Finding::ok(GROUP, NAME, "")
        }
        .note("program runs that the kernel skips are not counted")
        .remedy("none needed: skipped returns are noticed anyway"),
        None => Finding::unknown(GROUP, NAME, "no program was loaded", PREREQUISITES),
    }
}

/// Reports whether flame graphs can be made.
fn flame_graph(stacks: Result<&Result<()>, &MissingRequirement>) -> Finding {
    const NAME: &str = "flame_graph";
    match stacks {
        Ok(Ok(())) => Finding::ok(GROUP, NAME, "perf events, and the addresses of functions"),
        Ok(Err(error)) => {
            let finding = Finding::missing(GROUP, NAME, error);
            match &finding.remedy {
                Some(_) => finding,
                None => finding.remedy("RUST_LOG=debug prints the verifier's log"),
            }
        }
        Err(lack) => untried(NAME, lack),
    }
}

fn untried(name: &'static str, lack: &MissingRequirement) -> Finding {
    Finding::unknown(GROUP, name, &lack.what, lack.remedy)
}

/// Returns the same result, by value.
fn copy<T: Copy>(result: &Result<T>) -> Result<T> {
    result.as_ref().copied().map_err(again)
}

/// Returns the same error: with its remedy if it has one, else as text.
fn again(error: &Error) -> Error {
    match error.downcast_ref::<MissingRequirement>() {
        Some(lack) => lack.clone().into(),
        None => anyhow!("{error:#}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const LOADED: Loaded = Loaded {
        programs: 11,
        counts_skipped: true,
    };

    /// Returns the reading of a kernel that accepts everything.
    pub(in crate::check) fn complete() -> Reading {
        Reading {
            preemption: Model {
                name: Some("voluntary".to_owned()),
                preempts: false,
            },
            trials: Ok(Trials {
                fentry: Ok(LOADED),
                kprobe: Ok(LOADED),
                return_events: Ok(Slots {
                    list: "/sys/kernel/tracing/kprobe_events".to_owned(),
                    left_over: vec![],
                }),
                stacks: Ok(()),
            }),
        }
    }

    fn lack<T>(what: &str) -> Result<T> {
        Err(MissingRequirement::new(what, "its remedy").into())
    }

    fn found(reading: &Reading, name: &str) -> Finding {
        let (findings, _) = findings(reading);
        findings
            .into_iter()
            .find(|finding| finding.name == name)
            .unwrap()
    }

    fn chosen(reading: &Reading) -> Option<AttachMode> {
        findings(reading).1
    }

    #[test]
    fn fentry_is_used_where_everything_is_there() {
        let reading = complete();
        assert_eq!(chosen(&reading), Some(AttachMode::Fentry));
        for finding in findings(&reading).0 {
            assert_eq!(finding.state, State::Ok, "{finding:?}");
        }
    }

    #[test]
    fn a_kernel_that_preempts_is_traced_by_kprobes_and_that_is_explained() {
        for name in [Some("lazy".to_owned()), None] {
            let reading = Reading {
                preemption: Model {
                    name,
                    preempts: true,
                },
                ..complete()
            };
            assert_eq!(chosen(&reading), Some(AttachMode::Kprobe));
            assert_eq!(found(&reading, "fentry").state, State::Limited);
            let mode = found(&reading, "attach_mode");
            assert!(mode.note.unwrap().contains("preempts"));
        }
    }

    #[test]
    fn a_kernel_that_preempts_is_traced_by_fentry_without_slots_for_returns() {
        let mut reading = Reading {
            preemption: Model {
                name: Some("lazy".to_owned()),
                preempts: true,
            },
            ..complete()
        };
        reading.trials.as_mut().unwrap().return_events = lack("not mounted");
        assert_eq!(chosen(&reading), Some(AttachMode::Fentry));
        let note = found(&reading, "attach_mode").note.unwrap();
        for part in ["may lose calls", "model lazy", "not mounted", "its remedy"] {
            assert!(note.contains(part), "{part}: {note}");
        }
    }

    #[test]
    fn events_that_a_killed_trace_left_are_told() {
        let mut reading = complete();
        let slots = &mut reading.trials.as_mut().unwrap().return_events;
        slots.as_mut().unwrap().left_over = vec!["connect_trace/f_1_2".to_owned()];
        let finding = found(&reading, "return_slots");
        assert_eq!(finding.state, State::Ok);
        assert!(finding.note.unwrap().contains("connect_trace/f_1_2"));
    }

    #[test]
    fn a_limit_of_the_process_is_told_as_the_reason_that_there_is_no_way() {
        let mut reading = complete();
        let trials = reading.trials.as_mut().unwrap();
        trials.fentry = Err(MissingRequirement::limit("too few files", "raise it").into());
        trials.kprobe = Err(MissingRequirement::limit("too few files", "raise it").into());
        let mode = found(&reading, "attach_mode");
        assert!(mode.blocks());
        assert_eq!(mode.note.as_deref(), Some("too few files"));
        assert_eq!(mode.remedy.as_deref(), Some("raise it"));
    }

    #[test]
    fn what_is_refused_has_its_reason_and_the_other_way_is_taken() {
        let mut reading = complete();
        reading.trials.as_mut().unwrap().fentry = lack("no trampoline");
        assert_eq!(chosen(&reading), Some(AttachMode::Kprobe));
        let fentry = found(&reading, "fentry");
        assert_eq!(
            (fentry.note.as_deref(), fentry.remedy.as_deref()),
            (Some("no trampoline"), Some("its remedy"))
        );
        reading.trials.as_mut().unwrap().kprobe = lack("no kprobes");
        assert_eq!(chosen(&reading), None);
        assert!(found(&reading, "attach_mode").blocks());
    }

    #[test]
    fn what_was_not_tried_is_unknown_and_never_ok() {
        let reading = Reading {
            trials: Err(not_tried("privileges are missing", "sudo")),
            ..complete()
        };
        assert_eq!(chosen(&reading), None);
        for finding in findings(&reading).0 {
            if finding.name != "preemption" {
                assert_eq!(finding.state, State::Unknown, "{finding:?}");
                assert!(finding.remedy.is_some(), "{finding:?}");
            }
        }
    }

    #[test]
    fn without_tracefs_returns_are_limited_and_nothing_is_blocked() {
        let mut reading = complete();
        reading.trials.as_mut().unwrap().return_events = lack("not mounted");
        let slots = found(&reading, "return_slots");
        assert_eq!(slots.state, State::Limited);
        assert_eq!(slots.remedy.as_deref(), Some("its remedy"));
        assert_eq!(chosen(&reading), Some(AttachMode::Fentry));
    }
}
