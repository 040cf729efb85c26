//! The settings of a mitigation.

use std::{fmt, net::IpAddr};

use connect_trace_common::mitigation::{WHOLE, is_in_share};

use crate::{
    connect::Connect,
    filter::Filters,
    probes::mitigation::{Method, MitigationConfig, ShareBy},
    stats::arms::Arm,
    term::numbers::plain,
};

/// The settings of a mitigation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How the source is chosen.
    pub method: Method,
    /// The cgroups (v2) whose connections are mitigated, with those below them: paths or ids, as typed.
    pub cgroups: Vec<String>,
    /// Share of a route's ports in percent that a search must have found taken; 0 for none.
    pub when_above: u32,
    /// Share of the threads or cgroups, in parts of [`WHOLE`].
    pub share: u32,
    /// The property by which the share is divided.
    pub share_by: ShareBy,
}

impl Settings {
    /// Returns the arm of a connection: the same as the programs in the kernel decide.
    #[must_use]
    pub fn arm(&self, connect: &Connect) -> Arm {
        let id = match self.share_by {
            ShareBy::Thread => connect.tid.into(),
            ShareBy::Cgroup => connect.cgroup_id,
        };
        match is_in_share(id, self.share) {
            true => Arm::Mitigated,
            false => Arm::Unmitigated,
        }
    }

    /// Returns the settings of the programs, for the cgroups that the filters have.
    #[must_use]
    pub fn config(&self, filters: &Filters) -> MitigationConfig {
        let cgroups = filters.cgroups.iter();
        MitigationConfig {
            cgroups: cgroups.map(|cgroup| cgroup.folder.clone()).collect(),
            method: self.method.clone(),
            share: self.share,
            share_by: self.share_by,
        }
    }

    /// Returns true if some connections are left to the kernel for comparison.
    #[must_use]
    pub fn compares(&self) -> bool {
        self.share < WHOLE
    }
}

/// Returns the name of a strategy, with its addresses.
fn name(method: &Method) -> String {
    match method {
        Method::SelectTestRepeat => "select-test-repeat".to_owned(),
        Method::Addresses(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            format!("addresses {}", addresses.join(","))
        }
        Method::FullRange => "full-range".to_owned(),
    }
}

impl fmt::Display for Settings {
    /// Writes the settings in words that follow "mitigation".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} in {}",
            name(&self.method),
            self.cgroups.join(", ")
        )?;
        match self.when_above {
            0 => write!(formatter, ", on every route")?,
            percent => write!(
                formatter,
                ", on routes with {percent} % of their ports in use"
            )?,
        }
        if self.compares() {
            let percent = plain(f64::from(self.share) / f64::from(WHOLE) * 100.0);
            let whose = match self.share_by {
                ShareBy::Thread => "threads",
                ShareBy::Cgroup => "cgroups",
            };
            write!(formatter, ", for {percent} % of the {whose}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    fn settings() -> Settings {
        Settings {
            method: Method::SelectTestRepeat,
            cgroups: vec!["/x".to_owned()],
            when_above: 50,
            share: WHOLE / 2,
            share_by: ShareBy::Thread,
        }
    }

    #[test]
    fn settings_are_told_in_words() {
        assert_eq!(
            settings().to_string(),
            "select-test-repeat in /x, on routes with 50 % of their ports in use, for 50 % of the threads"
        );
        let others = Settings {
            method: Method::Addresses(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]),
            when_above: 0,
            share: WHOLE,
            ..settings()
        };
        assert_eq!(
            others.to_string(),
            "addresses 10.0.0.1,10.0.0.2 in /x, on every route"
        );
    }

    #[test]
    fn the_arm_depends_on_the_thread_or_the_cgroup_alone() {
        let settings = settings();
        let arm = |tid, cgroup_id| {
            settings.arm(&Connect {
                tid,
                cgroup_id,
                ..connect_from(20_000)
            })
        };
        assert!((1..100).all(|tid| arm(tid, 1) == arm(tid, 2)));
        let mitigated = (1..1_001)
            .filter(|&tid| arm(tid, 1) == Arm::Mitigated)
            .count();
        assert!((400..600).contains(&mitigated), "{mitigated}");
    }
}
