//! A comparison for tests.

use super::{Comparison, StrategyResult};
use crate::load::{
    Done,
    features::Features,
    figures::tests::{attempt, figures},
    runner::Outcome,
    strategy::Strategy,
    workload::tests::workload,
};

/// Three strategies on 200 ports, with two runs each: the default, whose second half is slow; a window, of
/// which one connection in ten fails; and the full range.
pub(crate) fn comparison() -> Comparison {
    let strategies = [
        Strategy::Default,
        Strategy::Window(100),
        Strategy::FullRange,
    ];
    let plan = workload()
        .plan(Strategy::Default, 1)
        .expect("it goes together");
    Comparison {
        kernel: "6.12.107".to_owned(),
        how: "from user space only, without a trace".to_owned(),
        range: plan.range,
        protocol: plan.protocol,
        v6: false,
        connections: 200,
        threads: 1,
        repeats: 2,
        seed: 1,
        features: Features {
            port_range: true,
            mixed: true,
            udplite: true,
            step_width: true,
        },
        left_out: Vec::new(),
        rows: strategies.map(row).into(),
        language: None,
    }
}

fn row(strategy: Strategy) -> StrategyResult {
    let mut row = StrategyResult::new(strategy);
    for repeat in 1..=2 {
        let plan = workload().plan(strategy, repeat).expect("it goes together");
        let attempts: Vec<_> = (0..200)
            .map(|number| {
                let mut attempt = attempt(number, Some(port(strategy, number as u16)));
                if strategy == Strategy::Default && number >= 100 {
                    attempt.connect_ns = 2_000_000 * u64::from(repeat);
                }
                if matches!(strategy, Strategy::Window(_)) && number >= 180 {
                    attempt.port = None;
                    attempt.errno = libc::EADDRNOTAVAIL;
                }
                attempt
            })
            .collect();
        let done = Done {
            figures: figures(&attempts, plan.range),
            plan,
            outcome: Outcome {
                total_ns: 200_000_000 * u64::from(repeat),
                listener_drops: Some(0),
                held_back: false,
            },
            caveat: None,
        };
        row.add(&done, None);
    }
    row
}

/// Returns even ports first for the default strategy, and ascending ports for the others.
fn port(strategy: Strategy, number: u16) -> u16 {
    if strategy == Strategy::Default {
        20_000 + number % 100 * 2 + number / 100
    } else {
        20_000 + number
    }
}
