//! Performance targets of connect-trace, and the distance of the worst measured kernel from them.

use std::fmt::Write as _;

use crate::figures::Figures;
use crate::tracers::{
    BPFTRACE, DEFAULT, FENTRY, FENTRY_COUNT, FENTRY_CROWD, FENTRY_OTHER, FENTRY_SERVE, FENTRY_TIME,
    FUNCLATENCY, FUNCLATENCY_CHECKS, KPROBE, KPROBE_CROWD,
};

/// A ratio of figures, and its upper limit.
struct Target {
    what: &'static str,
    of: fn(&Figures) -> Option<f64>,
    most: f64,
    stretch: f64,
}

const TARGETS: [Target; 9] = [
    Target {
        what: "fentry, of funclatency's connect",
        of: |figures| Some(figures.per_connect(FENTRY)? / figures.per_connect(FUNCLATENCY)?),
        most: 1.0,
        stretch: 0.7,
    },
    Target {
        what: "kprobe, of bpftrace's connect",
        of: |figures| Some(figures.per_connect(KPROBE)? / figures.per_connect(BPFTRACE)?),
        most: 1.6,
        stretch: 1.2,
    },
    Target {
        what: "--pid of another, of funclatency's",
        of: |figures| Some(figures.per_connect(FENTRY_OTHER)? / figures.per_connect(FUNCLATENCY)?),
        most: 0.25,
        stretch: 0.15,
    },
    Target {
        what: "fentry, 512 threads, of one thread's",
        of: |figures| {
            Some(figures.per_connect_of_crowd(FENTRY_CROWD)? / figures.per_connect(FENTRY)?)
        },
        most: 1.03,
        stretch: 1.01,
    },
    Target {
        what: "kprobe, 512 threads, of one thread's",
        of: |figures| {
            Some(figures.per_connect_of_crowd(KPROBE_CROWD)? / figures.per_connect(KPROBE)?)
        },
        most: 1.03,
        stretch: 1.01,
    },
    Target {
        what: "serve by fentry, summed, of a record's",
        of: |figures| Some(figures.per_connect(FENTRY_SERVE)? / figures.per_connect(FENTRY)?),
        most: 0.85,
        stretch: 0.7,
    },
    Target {
        what: "default, odd connect, of untraced",
        of: |figures| figures.odd_ratio(DEFAULT),
        most: 1.02,
        stretch: 1.005,
    },
    Target {
        what: "checks time, of funclatency's, a port",
        of: |figures| of_checks(figures, FENTRY_TIME),
        most: 0.5,
        stretch: 0.35,
    },
    Target {
        what: "checks count, of funclatency's, a port",
        of: |figures| of_checks(figures, FENTRY_COUNT),
        most: 0.12,
        stretch: 0.09,
    },
];

fn of_checks(figures: &Figures, name: &str) -> Option<f64> {
    Some(figures.per_candidate(name)? / figures.per_candidate(FUNCLATENCY_CHECKS)?)
}

/// Returns a line for each target with a column for each kernel, and the verdict on the worst kernel.
pub(crate) fn table(kernels: &[Figures]) -> String {
    let mut text = format!("{:<39} {:>6} {:>7}", "targets", "at most", "stretch");
    for figures in kernels {
        let _ = write!(text, " {:>6}", figures.kernel);
    }
    text.push('\n');
    for target in &TARGETS {
        let values: Vec<Option<f64>> = kernels.iter().map(target.of).collect();
        let _ = write!(
            text,
            "{:<39} {:>7} {:>7}",
            target.what, target.most, target.stretch
        );
        for value in &values {
            let cell = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
            let _ = write!(text, " {cell:>6}");
        }
        let worst = values.iter().flatten().copied().reduce(f64::max);
        text.push_str(match worst {
            None => "  -",
            Some(worst) if worst <= target.stretch => "  stretch",
            Some(worst) if worst <= target.most => "  met",
            Some(_) => "  missed",
        });
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_kernel_decides() {
        let figures = |kernel: &str, fentry: f64| {
            let lines = format!(
                "figures\tuntraced\t10\t1\t100\nfigures\t{FUNCLATENCY}\t11\t1\t101\n\
                 figures\t{FENTRY}\t{}\t1\t1\n",
                10.0 + fentry
            );
            Figures::parse(kernel, &lines).unwrap()
        };
        let verdict = |others: &[f64]| {
            let kernels: Vec<Figures> = others.iter().map(|value| figures("6.1", *value)).collect();
            let text = table(&kernels);
            let line = text.lines().nth(1).unwrap().to_owned();
            line.split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(verdict(&[0.6, 0.65]), "stretch");
        assert_eq!(verdict(&[0.6, 0.9]), "met");
        assert_eq!(verdict(&[1.1, 0.9]), "missed");
        let text = table(&[figures("6.1", 0.5)]);
        assert!(
            text.lines().nth(2).unwrap().ends_with("      -  -"),
            "{text}"
        );
    }
}
