//! Figures of one kernel, and the cost of each tracer derived from them.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::tracers::{
    FUNCLATENCY, FUNCLATENCY_CHECKS, UNTRACED, UNTRACED_LIFETIME, UNTRACED_WAITING, WAITING,
};

/// Candidate ports that the shortest connect() with an odd port checks in vain: the even ports of the range.
const CANDIDATES: f64 = 1_000.0;

/// Largest relative difference of a figure between two runs.
const AGREEMENT: f64 = 0.01;

/// Times measured on one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) kernel: String,
    pub(crate) tracers: Vec<Tracer>,
    /// Times with many threads, and of UDP.
    #[serde(default)]
    pub(crate) crowds: Vec<Crowd>,
    /// Times of whole connections.
    #[serde(default)]
    pub(crate) lifetimes: Vec<Lifetime>,
    /// Tracers that could not be measured, and the last line of each.
    pub(crate) failed: Vec<(String, String)>,
}

/// Times of a connect() beside one tracer, in nanoseconds, which equal instructions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tracer {
    pub(crate) name: String,
    pub(crate) even_least: f64,
    pub(crate) odd_mean: f64,
    pub(crate) odd_least: f64,
}

/// Time of a connect() beside one tracer while many threads are alive, or of UDP, in nanoseconds, which equal
/// instructions. The load is the part of the name after its last comma.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pub(crate) name: String,
    pub(crate) mean_of_least: f64,
}

/// Time of a connection from open to close beside one tracer, in nanoseconds, which equal instructions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lifetime {
    pub(crate) name: String,
    pub(crate) least: f64,
}

impl Figures {
    /// Reads the output of `guest.sh`.
    pub(crate) fn parse(kernel: &str, lines: &str) -> Result<Self> {
        let mut figures = Self {
            kernel: kernel.to_owned(),
            tracers: Vec::new(),
            crowds: Vec::new(),
            lifetimes: Vec::new(),
            failed: Vec::new(),
        };
        for line in lines.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["figures", name, even_least, odd_mean, odd_least] => {
                    let [even_least, odd_mean, odd_least] = [even_least, odd_mean, odd_least]
                        .map(|us| us.parse::<f64>().map(|us| us * 1e3));
                    figures.tracers.push(Tracer {
                        name: name.to_owned(),
                        even_least: even_least?,
                        odd_mean: odd_mean?,
                        odd_least: odd_least?,
                    });
                }
                ["crowd", name, us] => figures.crowds.push(Crowd {
                    name: name.to_owned(),
                    mean_of_least: us.parse::<f64>()? * 1e3,
                }),
                ["lifetime", name, us] => figures.lifetimes.push(Lifetime {
                    name: name.to_owned(),
                    least: us.parse::<f64>()? * 1e3,
                }),
                ["failed", name, said] => {
                    figures.tracers.retain(|tracer| tracer.name != name);
                    figures.crowds.retain(|crowd| crowd.name != name);
                    figures.lifetimes.retain(|lifetime| lifetime.name != name);
                    figures.failed.push((name.to_owned(), said.to_owned()));
                }
                _ => bail!("the guest printed an unknown line: {line}"),
            }
        }
        figures
            .tracer(UNTRACED)
            .context("connects without a tracer were not measured")?;
        Ok(figures)
    }

    fn tracer(&self, name: &str) -> Option<&Tracer> {
        self.tracers.iter().find(|tracer| tracer.name == name)
    }

    /// Returns the connections without a tracer, under the same load.
    fn untraced(&self, name: &str) -> Option<&Tracer> {
        self.tracer(match name.ends_with(WAITING) {
            true => UNTRACED_WAITING,
            false => UNTRACED,
        })
    }

    /// Returns the instructions that a tracer adds to a connect() that finds a port at once.
    pub(crate) fn per_connect(&self, name: &str) -> Option<f64> {
        Some(self.tracer(name)?.even_least - self.untraced(name)?.even_least)
    }

    /// Returns the instructions that a tracer adds to such a connect() on average, while many threads are alive, or to
    /// one of UDP.
    pub(crate) fn per_connect_of_crowd(&self, name: &str) -> Option<f64> {
        let of = |name: &str| self.crowds.iter().find(|crowd| crowd.name == name);
        let (_, load) = name.rsplit_once(',')?;
        let untraced = format!("{UNTRACED},{load}");
        Some(of(name)?.mean_of_least - of(&untraced)?.mean_of_least)
    }

    /// Returns the instructions that a tracer adds to a connection from open to close.
    pub(crate) fn per_lifetime(&self, name: &str) -> Option<f64> {
        let of = |name| self.lifetimes.iter().find(|lifetime| lifetime.name == name);
        Some(of(name)?.least - of(UNTRACED_LIFETIME)?.least)
    }

    /// Returns the instructions that a tracer adds for each candidate port, beyond those per connect().
    pub(crate) fn per_candidate(&self, name: &str) -> Option<f64> {
        let added = self.tracer(name)?.odd_least - self.untraced(name)?.odd_least;
        Some((added - self.per_connect(name)?) / CANDIDATES)
    }

    /// Returns the factor by which the average connect() with an odd port takes longer beside a tracer.
    pub(crate) fn odd_ratio(&self, name: &str) -> Option<f64> {
        Some(self.tracer(name)?.odd_mean / self.untraced(name)?.odd_mean)
    }
}

/// Formats the ratio of the instructions that two tracers add, or `-` if one is unknown or the first adds less than
/// one.
fn ratio(value: Option<f64>, of: Option<f64>) -> String {
    match (value, of) {
        (Some(value), Some(of)) if value >= 1.0 => format!("{:.2}", value / of),
        _ => "-".to_owned(),
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<38} {:>8} {:>6}  {:>8} {:>6}  {:>8} {:>6}",
            format!("Linux {}", self.kernel),
            "connect",
            "ratio",
            "per port",
            "ratio",
            "odd, us",
            "ratio"
        )?;
        for Tracer { name, odd_mean, .. } in &self.tracers {
            let (connect, candidate) = (self.per_connect(name), self.per_candidate(name));
            writeln!(
                formatter,
                "{name:<38} {:>8.0} {:>6}  {:>8.1} {:>6}  {:>8.1} {:>6.3}",
                connect.unwrap_or_default(),
                ratio(connect, self.per_connect(FUNCLATENCY)),
                // Removes the sign of a negative zero.
                (candidate.unwrap_or_default() * 10.0).round() / 10.0 + 0.0,
                ratio(candidate, self.per_candidate(FUNCLATENCY_CHECKS)),
                odd_mean / 1e3,
                self.odd_ratio(name).unwrap_or_default(),
            )?;
        }
        for Crowd { name, .. } in &self.crowds {
            let connect = self.per_connect_of_crowd(name);
            writeln!(
                formatter,
                "{name:<38} {:>8.0} {:>6}",
                connect.unwrap_or_default(),
                ratio(connect, self.per_connect(FUNCLATENCY)),
            )?;
        }
        for Lifetime { name, .. } in &self.lifetimes {
            let connection = self.per_lifetime(name).unwrap_or_default();
            writeln!(formatter, "{name:<38} {connection:>8.0}")?;
        }
        for (name, said) in &self.failed {
            writeln!(formatter, "{name:<38} not measured: {said}")?;
        }
        writeln!(formatter)
    }
}

/// Returns a line with the largest difference between two runs, and true if they agree.
pub(crate) fn compare(now: &[Figures], earlier: &[Figures]) -> (String, bool) {
    let mut most = (0.0, String::new());
    let mut compared = 0;
    for figures in now {
        let Some(before) = earlier.iter().find(|other| other.kernel == figures.kernel) else {
            continue;
        };
        let mut compare = |name: &str, what: &str, value: f64, other: f64| {
            compared += 1;
            let difference = (value / other - 1.0).abs();
            if difference >= most.0 {
                most = (difference, format!("{}, {name}, {what}", figures.kernel));
            }
        };
        for crowd in &figures.crowds {
            let mut others = before.crowds.iter();
            if let Some(other) = others.find(|other| other.name == crowd.name) {
                compare(
                    &crowd.name,
                    "mean",
                    crowd.mean_of_least,
                    other.mean_of_least,
                );
            }
        }
        for lifetime in &figures.lifetimes {
            let mut others = before.lifetimes.iter();
            if let Some(other) = others.find(|other| other.name == lifetime.name) {
                compare(&lifetime.name, "least", lifetime.least, other.least);
            }
        }
        for tracer in &figures.tracers {
            let Some(other) = before.tracer(&tracer.name) else {
                continue;
            };
            let pairs = [
                ("even, least", tracer.even_least, other.even_least),
                ("odd, mean", tracer.odd_mean, other.odd_mean),
                ("odd, least", tracer.odd_least, other.odd_least),
            ];
            for (what, value, other) in pairs {
                compare(&tracer.name, what, value, other);
            }
        }
    }
    let (difference, place) = most;
    let line = format!(
        "{compared} figures compared; they differ by up to {:.2} % ({place})",
        difference * 100.0
    );
    (line, compared > 0 && difference <= AGREEMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracers::FENTRY_CROWD;

    const LINES: &str = "\
figures\tuntraced\t30\t310\t300
figures\tfunclatency tcp_v4_connect\t31.5\t312\t301.5
figures\tfunclatency __inet_check_established\t30\t1900\t1800
figures\tfentry, checks count\t32\t500\t452
failed\ttcpconnlat\tno luck
crowd\tuntraced, 512 threads\t31
crowd\tfentry, 512 threads\t33.5
crowd\tuntraced, UDP\t3
crowd\tfentry --pid, UDP\t3.25
lifetime\tuntraced, open to close\t100
lifetime\ttcplife\t104.5
";

    #[test]
    fn what_is_added_is_told_by_connect_and_by_candidate() {
        let figures = Figures::parse("6.1", LINES).unwrap();
        assert_eq!(figures.per_connect(FUNCLATENCY), Some(1_500.0));
        assert_eq!(figures.per_candidate(FUNCLATENCY_CHECKS), Some(1_500.0));
        assert_eq!(figures.per_candidate("fentry, checks count"), Some(150.0));
        assert_eq!(figures.per_connect("tcpconnlat"), None);
        let text = figures.to_string();
        let line = text
            .lines()
            .find(|line| line.starts_with("fentry"))
            .unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words[3..],
            ["2000", "1.33", "150.0", "0.10", "500.0", "1.613"]
        );
        assert_eq!(figures.per_connect_of_crowd(FENTRY_CROWD), Some(2_500.0));
        let of_udp = figures.per_connect_of_crowd("fentry --pid, UDP");
        assert_eq!(of_udp, Some(250.0));
        assert_eq!(figures.per_lifetime("tcplife"), Some(4_500.0));
        assert!(text.contains("not measured: no luck"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 90), "{text}");
    }

    #[test]
    fn what_the_guest_does_not_print_is_an_error() {
        assert!(Figures::parse("6.1", "sh: not found\n").is_err());
        assert!(
            Figures::parse("6.1", "").is_err(),
            "without connects untraced"
        );
        assert!(Figures::parse("6.1", "figures\tuntraced\t\t\t\n").is_err());
    }

    #[test]
    fn two_runs_agree_within_a_hundredth() {
        let figures = Figures::parse("6.1", LINES).unwrap();
        let mut other = figures.clone();
        let all = std::slice::from_ref(&figures);
        assert!(compare(all, all).1);
        other.tracers[3].odd_least *= 1.009;
        assert!(compare(all, std::slice::from_ref(&other)).1);
        other.tracers[3].odd_least *= 1.009;
        let (line, agree) = compare(all, &[other]);
        assert!(
            !agree && line.contains("checks count, odd, least"),
            "{line}"
        );
        assert!(!compare(all, &[]).1, "nothing to compare with");
    }
}
