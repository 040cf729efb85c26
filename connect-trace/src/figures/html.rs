//! The page as HTML: the template and the parts that fill it.

use std::fmt::Write as _;

use super::{
    charts::{
        self, Across, Curve, Place,
        axis::{self, Span},
    },
    data,
    dataset::Dataset,
    escape::{self, markup},
    table,
};

const TEMPLATE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/page.js");

/// Contents of a page.
pub(super) struct Page {
    /// Recordings or runs.
    pub sets: Vec<Dataset>,
    /// The occupancy curves; `None` for recordings.
    pub curves: Option<Vec<Curve>>,
    /// The command that made the page.
    pub command: String,
    /// Date and time at which the page was made.
    pub made: String,
}

impl Page {
    /// Number of connections of all datasets.
    pub(super) fn connects(&self) -> u64 {
        self.sets.iter().map(Dataset::connects).sum()
    }

    /// The latency axis, shared by all scatters so that they can be compared.
    pub(super) fn span(&self) -> Span {
        let points = self.sets.iter().flat_map(|set| &set.points);
        Span::of_times(points.map(|point| point.latency_ns as f64))
    }

    /// Returns the page.
    pub(super) fn html(&self) -> String {
        let span = self.span();
        let name = match &self.sets[..] {
            [set] => set.name.clone(),
            sets => format!("{} runs", sets.len()),
        };
        filled(TEMPLATE, |part| {
            match part {
            "title" => markup(&escape::shortened(&name, 80)),
            "style" => format!("{}\n{STYLE}", charts::svg::STYLE),
            "script" => SCRIPT.to_owned(),
            "connects" => axis::count(self.connects()),
            "command" => markup(&self.command),
            "made" => markup(&self.made),
            "version" => env!("CARGO_PKG_VERSION").to_owned(),
            "options" => self.options(),
            "empty" if self.connects() == 0 => {
                let why = "nothing was recorded, or the filters exclude everything";
                format!(r#"<p class="note">It has no connect() call: {why}.</p>"#)
            }
            "about" => self.about(span),
            "buckets" => self.buckets(),
            "causes" => self.causes(),
            "occupancy" => self.occupancy(),
            "table" => table::table(&self.sets, self.curves.is_some()),
            "setup" if self.curves.is_some() => {
                " Setup is everything that a strategy does before the successful connect(): socket options, \
                 bind(), failed tries."
                    .to_owned()
            }
            "data" => data::json(&self.sets, span),
            _ => String::new(),
        }
        })
    }

    fn options(&self) -> String {
        let option = |(number, set): (usize, &Dataset)| {
            let name = markup(&escape::shortened(&set.name, 60));
            format!(r#"<option value="{number}">{name}</option>"#)
        };
        self.sets.iter().enumerate().map(option).collect()
    }

    /// Returns the facts about each run, and its scatter for print.
    fn about(&self, span: Span) -> String {
        self.articles(|html, set| {
            html.push_str("<dl>");
            for (label, value) in &set.facts {
                let value = markup(value);
                let _ = write!(html, "<div><dt>{label}</dt><dd>{value}</dd></div>");
            }
            html.push_str("</dl>\n");
            let thinning = set.thinning.map(|thinning| super::words(&thinning));
            for note in set.notes.iter().chain(&thinning) {
                let _ = writeln!(html, r#"<p class="note">{}</p>"#, markup(note));
            }
            let scatter = charts::scatter(Place::Page, set, Across::Time, span);
            let _ = write!(html, r#"<figure class="still">{scatter}</figure>"#);
        })
    }

    fn buckets(&self) -> String {
        self.articles(|html, set| html.push_str(&charts::buckets(Place::Page, set)))
    }

    /// Returns the section with the causes of the time; empty if no run has them.
    fn causes(&self) -> String {
        if self.sets.iter().all(|set| set.causes_ns.is_none()) {
            return String::new();
        }
        let articles = self.articles(|html, set| {
            let chart = charts::causes(Place::Page, set);
            html.push_str(
                &chart
                    .unwrap_or_else(|| "<p>Recorded without <code>--phases</code>.</p>".to_owned()),
            );
        });
        format!(
            "<section id=\"causes\"><h2>Where the time goes</h2>\n{articles}\
             <p>The time from the entry of connect() until the SYN is sent.</p></section>\n"
        )
    }

    /// Returns an article for each run; a script shows the selected one.
    fn articles(&self, contents: impl Fn(&mut String, &Dataset)) -> String {
        let mut html = String::new();
        for (number, set) in self.sets.iter().enumerate() {
            let name = markup(&set.name);
            let _ = write!(
                html,
                r#"<article class="run" data-run="{number}"><h3>{name}</h3>"#
            );
            contents(&mut html, set);
            html.push_str("</article>\n");
        }
        html
    }

    fn occupancy(&self) -> String {
        match &self.curves {
            None => "<p>Not available for a recording: a trace does not see which connections are closed, so it \
                     does not know which share of the range is in use when a connect() begins. A log of \
                     <code>connect-trace load</code> has this figure.</p>"
                .to_owned(),
            Some(curves) if curves.is_empty() => {
                "<p>No connection succeeded, so there is no curve.</p>".to_owned()
            }
            Some(curves) => {
                let mut html = charts::occupancy(Place::Page, curves);
                if curves.len() > charts::MOST_CURVES {
                    let _ = write!(
                        html,
                        "<p>The first {} of {} strategies.</p>",
                        charts::MOST_CURVES,
                        curves.len()
                    );
                }
                html
            }
        }
    }
}

/// Fills in the parts of a template, `{{…}}`. The contents of a part are not expanded again.
pub(crate) fn filled(template: &str, part: impl Fn(&str) -> String) -> String {
    let mut pieces = template.split("{{");
    let mut html = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or((piece, ""));
        html.push_str(&part(name));
        html.push_str(rest);
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::{HOSTILE, page_of, set_of};

    #[test]
    fn no_name_from_the_data_gets_into_the_markup() {
        let mut set = set_of(HOSTILE, 100);
        set.facts = vec![("Host", HOSTILE.to_owned())];
        set.notes = vec![HOSTILE.to_owned()];
        let mut page = page_of(vec![set]);
        page.command = HOSTILE.to_owned();
        page.made = HOSTILE.to_owned();
        if let Some(curves) = &mut page.curves {
            curves
                .iter_mut()
                .for_each(|curve| curve.name = HOSTILE.to_owned());
        }
        let html = page.html();
        assert!(!html.contains("<img"), "a tag of the name");
        assert!(!html.contains("\u{202e}") && !html.contains('\u{1b}'));
        // The page has its own script and data, and no other.
        assert_eq!(html.matches("<script").count(), 2);
        assert_eq!(html.matches("</script>").count(), 2);
    }

    #[test]
    fn every_part_of_the_template_is_known() {
        let html = page_of(vec![set_of("a", 10)]).html();
        assert!(!html.contains("{{"), "{html}");
        for part in [
            "<h3>a</h3>",
            "10 connect() calls.",
            "<table>",
            "share of the range",
        ] {
            assert!(html.contains(part), "{part}");
        }
    }

    #[test]
    fn a_page_without_a_connect_says_so() {
        let html = page_of(vec![set_of("a", 0)]).html();
        assert!(html.contains("It has no connect() call"), "{html}");
    }

    #[test]
    fn what_stands_in_a_part_is_no_template() {
        assert_eq!(
            filled("a{{x}}b{{y}}c", |name| format!("{{{{{name}}}}}")),
            "a{{x}}b{{y}}c"
        );
    }
}
