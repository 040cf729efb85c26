//! The section of the routes that fill up, in the text of a report.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

use super::route_ports;
use crate::{
    stats::{
        filling::FillingRoute,
        forecast::{Forecast, Outlook},
        report::Report,
    },
    term::{
        characters::Characters,
        numbers::{counted, tenths, wrapped},
        paint::Paint,
    },
};

/// Writes the section, with `--ports`.
pub(super) fn write(text: &mut String, paint: Paint, report: &Report) -> fmt::Result {
    let Some(filling) = &report.filling else {
        return Ok(());
    };
    text.push('\n');
    if filling.routes.is_empty() {
        writeln!(text, "no route holds a tenth of its ports")?;
    }
    for route in &filling.routes {
        of_route(text, paint, route, &filling.cgroups)?;
    }
    if filling.more > 0 {
        let more = counted(filling.more, "more route fills", "more routes fill");
        writeln!(text, "{more} up")?;
    }
    if filling.dropped > 0 {
        let dropped = counted(filling.dropped, "port was", "ports were");
        writeln!(text, "{dropped} dropped for lack of room")?;
    }
    Ok(())
}

fn of_route(
    text: &mut String,
    paint: Paint,
    filling: &FillingRoute,
    cgroups: &HashMap<u64, String>,
) -> fmt::Result {
    route_ports::write(
        text,
        paint,
        Characters::of_locale(),
        &filling.ports,
        cgroups,
    )?;
    if let Some(why) = &filling.records_alone {
        let words = format!("only connections since the start: {why}");
        wrapped(text, " ", "    ", &words)?;
    }
    wrapped(text, " ", "    ", &forecast_words(&filling.forecast))
}

/// Returns a forecast in words.
pub(crate) fn forecast_words(forecast: &Forecast) -> String {
    let mut words = format!(
        "{} opens/s, {} closes/s; ",
        tenths(forecast.opens_per_s),
        tenths(forecast.closes_per_s)
    );
    if let Some(second_pass) = forecast.second_pass {
        let _ = write!(words, "second pass {}, ", outlook_words(second_pass));
    }
    words + "EADDRNOTAVAIL " + &outlook_words(forecast.exhausted)
}

/// Returns an outlook in words.
pub(crate) fn outlook_words(outlook: Outlook) -> String {
    match outlook {
        Outlook::Reached => "now".to_owned(),
        Outlook::In(predicted) => format!(
            "in {:.0} s ({:.0} to {:.0})",
            predicted.seconds, predicted.at_least, predicted.at_most
        ),
        Outlook::Unpredicted(reason) => format!("not predicted: {}", reason.words()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        report::{example::parity, route_ports::tests::example as ports_example, text},
        stats::{
            filling::Filling,
            forecast::{Prediction, Reason},
        },
    };

    /// Returns a report with a route that fills up.
    pub(crate) fn example() -> Report {
        let (ports, cgroups) = ports_example();
        let filling = FillingRoute {
            ports,
            forecast: Forecast {
                seen_s: 60,
                opens_per_s: 10.04,
                closes_per_s: 0.5,
                second_pass: Some(Outlook::In(Prediction {
                    seconds: 20.4,
                    at_least: 18.9,
                    at_most: 22.2,
                })),
                exhausted: Outlook::Unpredicted(Reason::Varies),
            },
            records_alone: None,
        };
        Report {
            filling: Some(Filling {
                routes: vec![filling],
                cgroups,
                more: 0,
                dropped: 0,
            }),
            ..parity()
        }
    }

    fn section(report: &Report) -> String {
        let mut text = String::new();
        write(&mut text, Paint(false), report).unwrap();
        text
    }

    #[test]
    fn the_section_has_the_ports_and_their_end() {
        let text = section(&example());
        let begin = "\n10.0.0.1 -> 10.0.0.7:5432: 435 of the 1,000 ports 20000-20999 in use";
        let end = "
  10 opens/s, 0.5 closes/s; second pass in 20 s (19 to 22), EADDRNOTAVAIL not
    predicted: the rate varies
";
        assert!(text.starts_with(begin) && text.ends_with(end), "{text}");
        let mut whole = Vec::new();
        text::write(&mut whole, &example(), Paint(false)).unwrap();
        assert!(String::from_utf8(whole).unwrap().contains(&text));
        assert_eq!(section(&parity()), "");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let mut report = example();
        let filling = report.filling.as_mut().unwrap();
        filling.more = 1;
        filling.dropped = 2;
        let route = &mut filling.routes[0];
        route.forecast.exhausted = Outlook::Reached;
        route.records_alone = Some("it is in another network namespace".to_owned());
        let text = section(&report);
        for expected in [
            "  only connections since the start: it is in another network namespace\n",
            "EADDRNOTAVAIL now\n",
            "1 more route fills up\n",
            "2 ports were dropped for lack of room\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        report.filling.as_mut().unwrap().routes.clear();
        assert!(section(&report).contains("no route holds a tenth of its ports\n"));
    }
}
