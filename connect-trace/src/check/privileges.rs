//! Privileges of this process, and restrictions of the kernel for all processes.

use std::io;

use anyhow::{Error, Result};

use super::finding::{Finding, Group};
use crate::kernel::{
    access::{self, LOCKDOWN, Privileges},
    requirement::MissingRequirement,
    sandbox, sysctls,
};

/// The facts behind this group of findings.
pub(super) struct Reading {
    pub(super) privileges: Privileges,
    pub(super) lockdown: io::Result<String>,
    /// An error if process ids differ between this process and the kernel's helpers.
    pub(super) process_ids: Result<()>,
    /// True if the kernel takes privileges for reading maps and programs after they were made.
    pub(super) reading_takes_privileges: Result<bool>,
    /// Version of Landlock.
    pub(super) landlock: io::Result<i64>,
    /// True if the kernel counts the runs of all programs, whoever asks for it.
    pub(super) counts_runs: bool,
}

impl Reading {
    pub(super) fn of_this_process() -> Self {
        Self {
            privileges: Privileges::of_this_process(),
            lockdown: access::lockdown(),
            process_ids: access::check_pid_namespace(),
            reading_takes_privileges: sandbox::reading_takes_privileges(),
            landlock: sandbox::landlock_version(),
            counts_runs: sysctls::counts_runs(),
        }
    }

    /// Checks that a trace may be tried; an error names the missing privilege or the restriction.
    pub(super) fn allow(&self) -> Result<(), MissingRequirement> {
        self.privileges.check()?;
        if let Ok(mode) = &self.lockdown {
            access::check_lockdown(mode)?;
        }
        Ok(())
    }
}

const GROUP: Group = Group::Privileges;

pub(super) fn findings(reading: &Reading) -> Vec<Finding> {
    vec![
        capabilities(reading.privileges),
        lockdown(&reading.lockdown),
        process_ids(&reading.process_ids),
        run_statistics(reading.privileges, reading.counts_runs),
        kept_privileges(&reading.reading_takes_privileges),
        landlock(&reading.landlock),
    ]
}

fn capabilities(privileges: Privileges) -> Finding {
    const NAME: &str = "capabilities";
    let finding = match privileges.check() {
        Ok(()) => Finding::ok(GROUP, NAME, ""),
        Err(lack) => Finding::missing(GROUP, NAME, &lack.into()),
    };
    let value = privileges.to_string();
    Finding { value, ..finding }
        .data(serde_json::json!({
            "uid": privileges.uid,
            "effective": privileges.capabilities,
            "of_host": privileges.of_host,
        }))
        .required()
}

fn lockdown(lockdown: &io::Result<String>) -> Finding {
    const NAME: &str = "lockdown";
    let finding = match lockdown {
        Ok(mode) => match access::check_lockdown(mode) {
            Ok(()) if mode == "integrity" => Finding::limited(
                GROUP,
                NAME,
                mode,
                "debugfs, which shows how the kernel preempts, is closed",
            ),
            Ok(()) => Finding::ok(GROUP, NAME, mode),
            Err(lack) => Finding {
                value: mode.clone(),
                ..Finding::missing(GROUP, NAME, &lack.into())
            },
        }
        .data(mode.as_str().into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A kernel without lockdown and one that does not show it make no difference to the verdict: the programs
            // are loaded, and the kernel refuses them if it is locked down.
            Finding::ok(GROUP, NAME, "none shown").note(format!("no {LOCKDOWN}"))
        }
        Err(error) => Finding::unknown(
            GROUP,
            NAME,
            format!("{LOCKDOWN} cannot be read: {error}"),
            "run as root",
        ),
    };
    // If the mode cannot be read, loading the programs shows the answer.
    Finding {
        required: lockdown.is_ok(),
        ..finding
    }
    .since("5.4")
}

fn process_ids(process_ids: &Result<(), Error>) -> Finding {
    const NAME: &str = "process_ids";
    match process_ids {
        Ok(()) => Finding::ok(GROUP, NAME, "those of the host, as --pid needs them"),
        Err(error) => Finding::limited(GROUP, NAME, "those of a PID namespace", "").because(error),
    }
}

fn run_statistics(privileges: Privileges, counts_runs: bool) -> Finding {
    const NAME: &str = "run_statistics";
    let finding = match (counts_runs, privileges.is_admin()) {
        (true, _) => Finding::ok(GROUP, NAME, "on for all programs"),
        (false, true) => Finding::ok(GROUP, NAME, "turned on if --overhead asks for them"),
        (false, false) => Finding::missing(
            GROUP,
            NAME,
            &Error::msg(
                "without CAP_SYS_ADMIN they cannot be turned on, for --overhead and --max-overhead",
            ),
        )
        .remedy(
            "run with CAP_SYS_ADMIN, or turn them on for all (sysctl kernel.bpf_stats_enabled=1)",
        ),
    };
    finding.since("5.8")
}

fn kept_privileges(reading_takes_privileges: &Result<bool>) -> Finding {
    const NAME: &str = "kept_privileges";
    let finding = match reading_takes_privileges {
        Ok(false) => Finding::ok(GROUP, NAME, "none").data(serde_json::json!([])),
        Ok(true) => Finding::limited(
            GROUP,
            NAME,
            "CAP_BPF",
            "the service keeps it, because this kernel lets nobody else read eBPF maps",
        )
        .data(serde_json::json!(["CAP_BPF"])),
        Err(error) => Finding::unknown(
            GROUP,
            NAME,
            format!("{error:#}"),
            "run it without a sandbox",
        ),
    };
    finding.since("5.19")
}

fn landlock(version: &io::Result<i64>) -> Finding {
    const NAME: &str = "landlock";
    let finding = match version {
        Ok(version) => Finding::ok(GROUP, NAME, format!("version {version}")).data((*version).into()),
        Err(error) => Finding::missing(
            GROUP,
            NAME,
            &Error::msg(format!(
                "the service can open any file that its user may open: no Landlock ({error})"
            )),
        )
        .remedy("boot a kernel that has it on (lsm=landlock,...), or start the service as a user of its own"),
    };
    finding.since("5.13")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::check::State;

    pub(in crate::check) fn root() -> Reading {
        Reading {
            privileges: Privileges {
                capabilities: u64::MAX,
                of_host: true,
                uid: 0,
            },
            lockdown: Ok("none".to_owned()),
            process_ids: Ok(()),
            reading_takes_privileges: Ok(false),
            landlock: Ok(6),
            counts_runs: false,
        }
    }

    fn states(reading: &Reading) -> Vec<State> {
        findings(reading)
            .into_iter()
            .map(|finding| finding.state)
            .collect()
    }

    #[test]
    fn root_without_lockdown_may_do_everything() {
        assert_eq!(states(&root()), [State::Ok; 6]);
        assert!(root().allow().is_ok());
    }

    #[test]
    fn without_capabilities_the_remedy_is_said() {
        let reading = Reading {
            privileges: Privileges {
                capabilities: 0,
                of_host: true,
                uid: 65_534,
            },
            ..root()
        };
        assert!(reading.allow().is_err());
        let [capabilities, ..] = &findings(&reading)[..] else {
            panic!()
        };
        assert!(capabilities.blocks());
        assert_eq!(
            capabilities.value,
            "uid 65534: none of CAP_SYS_ADMIN, CAP_BPF, CAP_PERFMON"
        );
        assert_eq!(capabilities.remedy.as_deref(), Some("run it with sudo"));
    }

    #[test]
    fn only_confidentiality_forbids_a_trace() {
        for (mode, state) in [
            ("none", State::Ok),
            ("integrity", State::Limited),
            ("confidentiality", State::Missing),
        ] {
            let reading = Reading {
                lockdown: Ok(mode.to_owned()),
                ..root()
            };
            assert_eq!(states(&reading)[1], state, "{mode}");
            assert_eq!(reading.allow().is_err(), state == State::Missing, "{mode}");
        }
        let hidden = |kind: io::ErrorKind| Reading {
            lockdown: Err(kind.into()),
            ..root()
        };
        assert_eq!(states(&hidden(io::ErrorKind::NotFound))[1], State::Ok);
        let denied = hidden(io::ErrorKind::PermissionDenied);
        assert_eq!(states(&denied)[1], State::Unknown);
        assert!(
            !findings(&denied)[1].blocks(),
            "known once the programs are loaded"
        );
    }

    #[test]
    fn a_process_id_namespace_limits_the_filter_by_process() {
        let reading = Reading {
            process_ids: Err(anyhow::anyhow!("a namespace of its own")),
            ..root()
        };
        let finding = &findings(&reading)[2];
        assert_eq!(finding.state, State::Limited);
        assert_eq!(finding.note.as_deref(), Some("a namespace of its own"));
    }

    #[test]
    fn a_privilege_that_is_kept_or_missing_is_named() {
        let reading = Reading {
            privileges: Privileges {
                capabilities: 0b11 << 38,
                of_host: true,
                uid: 65_534,
            },
            reading_takes_privileges: Ok(true),
            landlock: Err(io::ErrorKind::Unsupported.into()),
            ..root()
        };
        let [.., statistics, kept, landlock] = &findings(&reading)[..] else {
            panic!()
        };
        assert_eq!(statistics.state, State::Missing);
        let remedy = statistics.remedy.as_deref();
        assert!(remedy.is_some_and(|remedy| remedy.contains("bpf_stats_enabled")));
        assert_eq!(
            (kept.state, kept.value.as_str()),
            (State::Limited, "CAP_BPF")
        );
        assert_eq!(kept.data, serde_json::json!(["CAP_BPF"]));
        assert_eq!(landlock.state, State::Missing);
        assert!(!findings(&reading).iter().any(Finding::blocks));
        let counts_runs = Reading {
            counts_runs: true,
            ..reading
        };
        assert_eq!(states(&counts_runs)[3], State::Ok);
    }
}
