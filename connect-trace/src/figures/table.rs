//! The table: a row for each dataset.

use std::fmt::Write as _;

use super::{
    charts::axis::{count, time},
    dataset::Dataset,
    escape::markup,
    point::Kind,
};
use crate::term::errno;

/// Returns the table as HTML. `whole` adds the time of everything that the strategies do besides connect(),
/// which is known only for a workload.
pub(super) fn table(sets: &[Dataset], whole: bool) -> String {
    let bound = sets.iter().any(|set| set.count_of(Kind::Other) > 0);
    let mut heads = vec!["run", "even", "odd"];
    heads.extend(bound.then_some("bound"));
    heads.extend([
        "errors",
        "even mean",
        "odd mean",
        "mean",
        "p50",
        "p90",
        "p99",
        "max",
    ]);
    heads.extend(whole.then_some("mean with setup"));
    heads.extend(["total", "connects/s"]);
    let heads: String = heads
        .iter()
        .map(|head| format!(r#"<th scope="col">{head}</th>"#))
        .collect();
    let rows: String = sets.iter().map(|set| row(set, bound, whole)).collect();
    format!("<table><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>")
}

fn row(set: &Dataset, bound: bool, whole: bool) -> String {
    let successes = set.successes();
    let mean = |kind: Kind| set.by_kind[kind.index()].mean_ns();
    let quantile = |share| successes.quantile_ns(share).map(|ns| ns as f64);
    let mut cells = vec![
        count(set.count_of(Kind::Even)),
        count(set.count_of(Kind::Odd)),
    ];
    cells.extend(bound.then(|| count(set.count_of(Kind::Other))));
    cells.push(errors(set));
    let times = [
        mean(Kind::Even),
        mean(Kind::Odd),
        successes.mean_ns(),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        successes.max_ns().map(|ns| ns as f64),
    ];
    cells.extend(times.map(or_dash));
    cells.extend(whole.then(|| or_dash(set.whole.mean_ns())));
    cells.push(or_dash(set.total_ns.map(|ns| ns as f64)));
    let rate = set
        .total_ns
        .filter(|&ns| ns > 0)
        .map(|ns| successes.count() as f64 / (ns as f64 / 1e9));
    cells.push(rate.map_or_else(|| "-".to_owned(), |rate| count(rate.round() as u64)));
    let mut row = format!(r#"<tr><th scope="row">{}</th>"#, markup(&set.name));
    for cell in cells {
        let _ = write!(row, "<td>{cell}</td>");
    }
    row.push_str("</tr>\n");
    row
}

/// Returns the number of failures, and their errnos.
fn errors(set: &Dataset) -> String {
    let mut cell = count(set.count_of(Kind::Failed));
    for (&errno, &failures) in &set.errnos {
        let name = markup(&errno::name(errno));
        match set.errnos.len() {
            1 => {
                let _ = write!(cell, "<small>{name}</small>");
            }
            _ => {
                let _ = write!(cell, "<small>{name} {}</small>", count(failures));
            }
        }
    }
    cell
}

fn or_dash(ns: Option<f64>) -> String {
    ns.map_or_else(|| "-".to_owned(), time)
}
