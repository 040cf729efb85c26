//! The number of series of a host, and their size.

use anyhow::{Result, ensure};
use connect_trace::metrics::{Format, totals::MOST_LABEL_SETS};

use crate::{
    Test,
    exposition::families,
    reading::{everything, failed, ordinary, text_of},
};

pub const TESTS: &[Test] = crate::tests![
    an_ordinary_host_has_200_to_260_series,
    no_host_has_more_than_a_thousand_series,
    label_sets_without_room_are_counted_as_others,
    the_documented_numbers_are_those_of_an_ordinary_host,
];

fn count(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

fn an_ordinary_host_has_200_to_260_series() -> Result<()> {
    let series = count(&text_of(ordinary(), Format::Prometheus));
    ensure!((200..=260).contains(&series), "{series} series");
    Ok(())
}

fn no_host_has_more_than_a_thousand_series() -> Result<()> {
    let families = families(everything())?;
    let series: usize = families.values().map(|family| family.samples.len()).sum();
    ensure!((600..=1_000).contains(&series), "{series} series");
    Ok(())
}

fn label_sets_without_room_are_counted_as_others() -> Result<()> {
    let mut reading = ordinary();
    let before: f64 = connects(&families(reading.clone())?).iter().sum();
    for errno in 1..=1_000 {
        reading.totals.record(&failed(errno));
    }
    let families = families(reading)?;
    let counts = connects(&families);
    ensure!(
        counts.len() == MOST_LABEL_SETS + 1,
        "{} label sets",
        counts.len()
    );
    ensure!(
        counts.iter().sum::<f64>() == before + 1_000.0,
        "no call is left out"
    );
    let samples = families["connect_trace_connects_total"].samples.iter();
    let mut others = samples.filter(|sample| sample.labels["error_type"] == "other");
    let other = others.next().map(|sample| sample.value);
    let overflow = &families["connect_trace_label_overflow_total"].samples[0];
    ensure!(overflow.labels["metric"] == "connects", "{overflow:?}");
    ensure!(
        other == Some(overflow.value) && overflow.value > 800.0,
        "{other:?}"
    );
    Ok(())
}

fn connects(families: &std::collections::BTreeMap<String, crate::exposition::Family>) -> Vec<f64> {
    let samples = families["connect_trace_connects_total"].samples.iter();
    samples.map(|sample| sample.value).collect()
}

/// Prints the figures of docs/fleet.md: `cargo test --test metrics documented -- --nocapture`.
fn the_documented_numbers_are_those_of_an_ordinary_host() -> Result<()> {
    let fleet = include_str!("../../../docs/fleet.md");
    let most = count(&text_of(everything(), Format::Prometheus));
    let text = text_of(ordinary(), Format::Prometheus);
    let line = format!(
        "{} series, {:.0} KiB a scrape; {most} series at most",
        count(&text),
        text.len() as f64 / 1024.0
    );
    println!("{line}");
    ensure!(fleet.contains(&line), "docs/fleet.md does not say: {line}");
    Ok(())
}
