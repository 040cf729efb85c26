//! A run for tests.

use super::{
    Done,
    figures::tests::{attempt, figures},
    runner::Outcome,
    strategy::Strategy,
    workload::tests::workload,
};

/// A run of select-test-repeat on 200 ports, whose last attempt failed.
pub(crate) fn done() -> Done {
    let plan = workload()
        .plan(Strategy::SelectTestRepeat, 1)
        .expect("it goes together");
    let attempts: Vec<_> = (0..200)
        .map(|number| {
            let port = (number < 199).then_some(20_000 + number as u16);
            attempt(number, port)
        })
        .collect();
    Done {
        figures: figures(&attempts, plan.range),
        plan,
        outcome: Outcome {
            total_ns: 250_000_000,
            listener_drops: Some(1),
            held_back: false,
        },
        caveat: None,
    }
}
