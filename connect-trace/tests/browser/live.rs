//! The live page of `connect-trace serve`, on invented connections that go through the service's own code.

use std::{
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use connect_trace::serve::rehearsal::rehearse;
use serde_json::{Value, json};

use crate::{
    Test,
    chromium::{DESKTOP, Visit, Window, fetched, visit_service},
    folder::Folder,
    scene::{FULL, scene},
};

pub const TESTS: &[Test] = crate::tests![
    the_page_refreshes_itself_and_shows_a_range_that_runs_out_as_it_happens,
    the_page_asks_nobody_but_the_service,
    a_service_that_is_silent_is_told_with_the_time_of_the_figures,
    a_pause_holds_the_figures_until_it_ends,
    the_page_fits_every_width_and_its_text_can_be_read_light_and_dark,
    everything_that_can_be_used_can_be_reached_by_keyboard,
    without_scripts_the_page_is_whole_and_loads_itself_again,
];

/// Intervals in which nothing happens. The page loads at the last but one of them.
const CALM: usize = 40;

/// Helpers of the scripts.
const HELPERS: &str = r#"
  const later = (ms) => new Promise((done) => setTimeout(done, ms));
  const one = (selector) => document.querySelector(selector);
  const headline = () => one("h1").textContent;
"#;

/// Starts a service that has these many intervals behind it, and all others before it.
fn service(before: usize, rising: usize) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let intervals = scene(CALM, rising);
    // The thread ends with the tests.
    thread::spawn(move || rehearse(listener, Duration::from_secs(1), before, intervals));
    Ok(address)
}

fn visited(name: &str, service: SocketAddr, window: Window, script: &str) -> Result<Visit> {
    let script = format!("{HELPERS}{script}");
    visit_service(&Folder::new(name), service, window, &script)
}

/// Returns the result of a script on a page that logs no complaint.
fn found(name: &str, service: SocketAddr, window: Window, script: &str) -> Result<Value> {
    let visit = visited(name, service, window, script)?;
    ensure!(visit.complaints.is_empty(), "{:#?}", visit.complaints);
    Ok(visit.found)
}

fn the_page_refreshes_itself_and_shows_a_range_that_runs_out_as_it_happens() -> Result<()> {
    let script = r##"
      const summary = one("#routes summary");
      const scroll = one("[data-part=latency-table]");
      one("#latency details").open = true;
      summary.parentElement.open = true;
      summary.focus();
      scroll.scrollTop = 150;
      const state = () => [headline(), one("h1").className, one("#routes .step") !== null,
        one("[data-part=routes-table]").textContent];
      const before = state();
      const rows = one("[data-part=latency-table] tbody").rows.length;
      let after = before;
      for (let wait = 0; wait < 40 && after[0] === before[0]; wait++) { await later(100); after = state(); }
      return { before, after, rows, title: document.title, focus: document.activeElement === summary,
        open: one("#latency details").open && summary.parentElement.open, scrollTop: scroll.scrollTop };"##;
    let service = service(CALM - 2, 4)?;
    let seen = found("live-refresh", service, DESKTOP, script)?;
    let (before, after) = (&seen["before"], &seen["after"]);
    ensure!(before[0] == "All is well" && before[1] == "fine", "{seen}");
    ensure!(before[2] == false, "there is no line yet: {seen}");
    let running_out = format!("Ports are running out from 10.0.0.5 to {FULL}");
    ensure!(
        after[0] == running_out.as_str() && after[1] == "wrong",
        "{seen}"
    );
    ensure!(after[2] == true, "a line of the route: {seen}");
    let table = after[3].as_str().unwrap_or_default();
    ensure!(table.contains(FULL), "{table}");
    let title = seen["title"].as_str().unwrap_or_default();
    ensure!(title.starts_with(&running_out), "{title}");
    // Whoever reads the page is not disturbed.
    ensure!(seen["focus"] == true && seen["open"] == true, "{seen}");
    ensure!(seen["rows"] == 4, "a row for each ten seconds: {seen}");
    Ok(())
}

fn the_page_asks_nobody_but_the_service() -> Result<()> {
    let script = "await later(2500);
        return performance.getEntriesByType('resource').map((entry) => new URL(entry.name).pathname);";
    let visit = visited("live-requests", service(CALM - 4, 4)?, DESKTOP, script)?;
    ensure!(visit.complaints.is_empty(), "{:#?}", visit.complaints);
    ensure!(visit.requests.is_empty(), "{:#?}", visit.requests);
    let paths = visit.found.as_array().map_or(&[][..], Vec::as_slice);
    ensure!(
        paths.len() >= 2 && paths.iter().all(|path| path == "/"),
        "{paths:?}"
    );
    let (head, _) = fetched(service(CALM - 4, 0)?, "/")?;
    ensure!(
        head.contains("default-src 'none'") && !head.contains("unsafe"),
        "{head}"
    );
    Ok(())
}

fn a_service_that_is_silent_is_told_with_the_time_of_the_figures() -> Result<()> {
    let script = "
        const old = one('#old');
        const before = old.hidden;
        for (let wait = 0; wait < 40 && old.hidden; wait++) await later(100);
        return [before, old.hidden, old.textContent.includes(one('#at').textContent), headline(), document.title];";
    // The page is that of the last interval: the next request is refused.
    let visit = visited("live-silent", service(CALM - 1, 0)?, DESKTOP, script)?;
    let seen = &visit.found;
    ensure!(
        seen[0] == true && seen[1] == false && seen[2] == true,
        "{seen}"
    );
    ensure!(seen[3] == "All is well", "{seen}");
    let title = seen[4].as_str().unwrap_or_default();
    ensure!(title.starts_with("No answer: All is well"), "{title}");
    let is_of_the_answer = |complaint: &String| complaint.contains("503");
    ensure!(
        visit.complaints.iter().all(is_of_the_answer),
        "{:#?}",
        visit.complaints
    );
    Ok(())
}

fn a_pause_holds_the_figures_until_it_ends() -> Result<()> {
    let script = "
        const pause = one('#pause');
        const at = () => one('#at').textContent;
        const labels = [pause.hidden, pause.textContent];
        const begun = at();
        pause.click();
        labels.push(pause.textContent);
        await later(2500);
        const paused = at();
        pause.click();
        for (let wait = 0; wait < 20 && at() === paused; wait++) await later(100);
        labels.push(pause.textContent);
        return [labels, begun === paused, at() === paused];";
    let seen = found("live-pause", service(CALM - 8, 4)?, DESKTOP, script)?;
    let labels = json!([false, "Pause", "Resume", "Pause"]);
    ensure!(seen == json!([labels, true, false]), "{seen}");
    Ok(())
}

fn the_page_fits_every_width_and_its_text_can_be_read_light_and_dark() -> Result<()> {
    let script = r#"
      for (const details of document.querySelectorAll("details")) details.open = true;
      const { scrollWidth, clientWidth } = document.documentElement;
      const faults = [];
      for (const svg of document.querySelectorAll("svg.chart")) {
        const { left, right, top, bottom } = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
        texts.forEach(([name, box], number) => {
          if (box.left < left - 1 || box.right > right + 1 || box.top < top - 1 || box.bottom > bottom + 1) {
            faults.push(`cut: ${name}`);
          }
          for (const [other, its] of texts.slice(number + 1)) {
            if (box.left < its.right && its.left < box.right && box.top < its.bottom - 3 && its.top < box.bottom - 3) {
              faults.push(`on each other: ${name} and ${other}`);
            }
          }
        });
      }
      const parse = (color) => color.match(/[\d.]+/g).map(Number);
      const light = (color) => {
        const [r, g, b] = parse(color).map((part) => part / 255)
          .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = (element) => {
        for (let at = element; at; at = at.parentElement) {
          const color = getComputedStyle(at).backgroundColor;
          if (parse(color)[3] !== 0) return color;
        }
        return "rgb(255, 255, 255)";
      };
      let checked = 0;
      for (const element of document.body.querySelectorAll("*")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || ["SCRIPT", "STYLE", "title"].includes(element.tagName) || !element.checkVisibility()) continue;
        const style = getComputedStyle(element);
        const [one, two] = [light(element instanceof SVGElement ? style.fill : style.color), light(paper(element))];
        const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(1)}: ${element.textContent.slice(0, 40)}`);
        checked++;
      }
      return [scrollWidth - clientWidth, faults, checked > 100, getComputedStyle(document.body).backgroundColor];"#;
    for (dark, paper) in [(false, "rgb(255, 255, 255)"), (true, "rgb(13, 17, 23)")] {
        for width in [360, 800, 1280] {
            let window = Window {
                width,
                height: 740,
                dark,
            };
            // Ports have run out in the first, and all is well in the second.
            for (before, rising) in [(CALM + 18, 20), (CALM - 4, 0)] {
                let service = service(before, rising)?;
                let seen = found(&format!("live-{width}-{dark}"), service, window, script)?;
                ensure!(seen == json!([0, [], true, paper]), "{width}: {seen}");
            }
        }
    }
    Ok(())
}

fn everything_that_can_be_used_can_be_reached_by_keyboard() -> Result<()> {
    let script = r#"
      for (const details of document.querySelectorAll("details")) details.open = true;
      const all = [...document.querySelectorAll("a[href], button, summary, [tabindex='0']")];
      const names = all.map((element) => element.getAttribute("aria-label") || element.textContent.trim());
      const faults = [];
      all.forEach((element, number) => {
        element.focus({ focusVisible: true });
        if (document.activeElement !== element || element.tabIndex !== 0) faults.push(`no focus: ${names[number]}`);
        if (getComputedStyle(element).outlineStyle === "none") faults.push(`focus is not seen: ${names[number]}`);
        if (element.getBoundingClientRect().right < 0) faults.push(`beside the page: ${names[number]}`);
        if (!names[number]) faults.push(`without a name: ${element.outerHTML}`);
      });
      for (const scroll of document.querySelectorAll(".scroll")) {
        if (scroll.tabIndex !== 0) faults.push("a part scrolls without the keyboard");
      }
      for (const svg of document.querySelectorAll("svg")) {
        if (svg.getAttribute("role") !== "img" || !svg.querySelector("title")) faults.push("a chart without a name");
      }
      const levels = [...document.querySelectorAll("h1, h2")].map((heading) => heading.tagName).join(" ");
      return [faults, names, levels];"#;
    let seen = found("live-keys", service(CALM + 8, 10)?, DESKTOP, script)?;
    ensure!(seen[0] == json!([]), "{seen}");
    let names = [
        "Skip to the figures",
        "Pause",
        "Latency as a table",
        "Latency as a table",
        "Routes as a table",
        "Routes as a table",
        "Strategies as a table",
        "Strategies as a table",
        "Holders as a table",
        "Holders as a table",
        "metrics",
        "the last interval as JSON",
        "health",
    ];
    ensure!(seen[1] == json!(names), "{seen}");
    ensure!(seen[2] == "H1 H2 H2 H2 H2 H2 H2", "{seen}");
    Ok(())
}

fn without_scripts_the_page_is_whole_and_loads_itself_again() -> Result<()> {
    let (head, html) = fetched(service(CALM + 9, 10)?, "/")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let refresh = r#"<noscript><meta http-equiv="refresh" content="1"></noscript>"#;
    ensure!(html.contains(refresh), "{html}");
    ensure!(
        html.contains("Ports have run out from 10.0.0.5 to "),
        "{html}"
    );
    ensure!(
        html.contains(r#"id="pause" hidden"#),
        "what needs a script is hidden: {html}"
    );
    Ok(())
}
