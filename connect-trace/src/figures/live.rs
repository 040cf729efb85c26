//! The parts of the service's live page that do not depend on its data: the template, the style and the script.

use super::charts;

/// The template: see [`super::html::filled`].
pub(crate) const TEMPLATE: &str = include_str!("assets/live.html");
/// The script, which refreshes the page.
pub(crate) const SCRIPT: &str = include_str!("assets/live.js");

/// Returns the style: that of the figures, and of what only the live page has.
pub(crate) fn style() -> String {
    let page = include_str!("assets/page.css");
    let live = include_str!("assets/live.css");
    format!("{}\n{page}\n{live}", charts::svg::STYLE)
}
