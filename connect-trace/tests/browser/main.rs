//! The page of `connect-trace report --html`, the flame graph of `connect-trace flame`, the drawing of `connect-trace
//! explain` and the live page of `connect-trace serve`, in a browser.

mod chromium;
#[path = "../command/mod.rs"]
mod command;
#[path = "../fixtures/mod.rs"]
mod fixtures;
mod flame;
#[path = "../fixtures/folder.rs"]
mod folder;
mod live;
#[path = "../fixtures/scene.rs"]
mod scene;

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::ExitCode,
};

use anyhow::{Result, ensure};
use connect_trace::load::{attempt::Attempt, log::Run};
use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::{Value, json};

use self::{
    chromium::{DESKTOP, Visit, Window, page, visit},
    command::{connect_trace, text},
    fixtures::recording::write_recording,
    folder::Folder,
};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tests = TESTS.iter().chain(flame::TESTS).chain(live::TESTS);
    let trials = tests.map(|&(name, run)| {
        Trial::ignorable_test(name, move || match chromium::find() {
            Err(reason) => Ok(Completion::ignored_with(reason)),
            Ok(_) => match run() {
                Ok(()) => Ok(Completion::Completed),
                Err(error) => Err(format!("{error:#}").into()),
            },
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// A test and its name.
type Test = (&'static str, fn() -> Result<()>);

macro_rules! tests {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), $name)),+] };
}
use tests;

const TESTS: &[Test] = tests![
    a_page_loads_without_a_complaint_and_asks_the_network_for_nothing,
    a_request_would_be_seen,
    every_connect_of_the_run_is_drawn_in_its_colour,
    pointing_at_a_connect_shows_its_values,
    arrow_keys_go_from_connect_to_connect,
    a_box_zooms_and_a_double_click_shows_everything_again,
    the_wheel_zooms_only_where_the_figure_has_the_focus,
    a_phone_has_no_horizontal_scroll,
    names_of_any_characters_are_text_and_nothing_else,
    on_paper_every_run_has_its_charts,
    marks_are_those_of_the_legend_and_labels_do_not_collide,
    the_regression_line_stands_out_from_the_paper_light_and_dark,
    of_many_points_the_slowest_and_the_failed_are_all_there,
    a_recording_without_a_connect_is_a_page_without_a_complaint,
    a_search_is_drawn_for_light_and_dark_and_fits_a_phone,
];

/// Ports of the runs: for a multiple of 4,000 there are as many even as odd ones.
const PORTS: u32 = 4_000;

fn runs() -> Vec<Run> {
    ["default", "full-range", "window-500"]
        .map(|strategy| fixtures::run(strategy, 1, PORTS))
        .to_vec()
}

/// Returns the page of three runs of 4,000 attempts, and the attempts of the first run.
fn page_of_runs(folder: &Folder) -> Result<(String, Vec<Attempt>)> {
    let log = folder.path("log.csv");
    let (_, mut attempts) = fixtures::write_log(Path::new(&log), runs())?;
    attempts.retain(|attempt| attempt.run == 0);
    let html = page(&["--from-load", &log], &folder.path("page.html"))?;
    Ok((html, attempts))
}

/// Helpers of the scripts: the position of a connection on the screen, and the actions of a pointer.
const HELPERS: &str = r#"
  const canvas = document.getElementById("canvas");
  const tip = document.getElementById("tip");
  const view = () => JSON.parse(canvas.dataset.view);
  const inView = () => Number(canvas.dataset.inView);
  const margin = { left: 58, right: 10, top: 20, bottom: 38 };
  const at = (seconds, ns) => {
    const { x0, x1, y0, y1 } = view();
    const corner = canvas.getBoundingClientRect();
    const [width, height] = [corner.width - 68, corner.height - 58];
    return {
      clientX: corner.left + 58 + (seconds - x0) / (x1 - x0) * width,
      clientY: corner.top + 20 + (1 - (Math.log10(ns) - y0) / (y1 - y0)) * height,
    };
  };
  const pointer = (type, where) => canvas.dispatchEvent(
    new PointerEvent(type, { bubbles: true, pointerId: 1, pointerType: "mouse", button: 0, ...where }));
  const key = (name) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  const pick = (id, value) => {
    document.getElementById(id).value = value;
    document.getElementById(id).dispatchEvent(new Event("change"));
  };
"#;

/// Returns the result of a script on a page that logs no complaint.
fn found(folder: &Folder, html: &str, window: Window, script: &str) -> Result<Value> {
    let script = format!("{HELPERS}{script}");
    let Visit {
        found, complaints, ..
    } = visit(folder, html, window, &script)?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(found)
}

fn a_page_loads_without_a_complaint_and_asks_the_network_for_nothing() -> Result<()> {
    let folder = Folder::new("browser-load");
    let (html, _) = page_of_runs(&folder)?;
    let script = "return performance.getEntriesByType('resource').length";
    let visit = visit(&folder, &html, DESKTOP, script)?;
    ensure!(visit.complaints.is_empty(), "{:#?}", visit.complaints);
    ensure!(visit.requests.is_empty(), "{:#?}", visit.requests);
    ensure!(visit.found == 0, "{}", visit.found);
    // A policy in the page itself blocks requests that no test expects.
    ensure!(html.contains("default-src 'none'"));
    Ok(())
}

fn a_request_would_be_seen() -> Result<()> {
    let folder = Folder::new("browser-control");
    let html = "<html><head></head><body><img src=\"http://example.invalid/x.png\"></body></html>";
    let visit = visit(&folder, html, DESKTOP, "return 1")?;
    ensure!(
        visit
            .requests
            .iter()
            .any(|line| line.contains("example.invalid/x.png")),
        "{:?}",
        visit.requests
    );
    ensure!(
        !visit.complaints.is_empty(),
        "the picture is missing, which is an error"
    );
    Ok(())
}

fn every_connect_of_the_run_is_drawn_in_its_colour() -> Result<()> {
    let folder = Folder::new("browser-drawn");
    let (html, attempts) = page_of_runs(&folder)?;
    let script = r#"
      const pixels = () => {
        const counts = {};
        // Read a copy: the browser draws a canvas in another way after many reads.
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
        const style = getComputedStyle(document.documentElement);
        for (const name of ["even", "odd", "failed", "regression"]) {
          const color = parseInt(style.getPropertyValue(`--${name}`).trim().slice(1), 16);
          counts[name] = 0;
          for (let i = 0; i < data.length; i += 4) {
            counts[name] += (data[i] << 16 | data[i + 1] << 8 | data[i + 2]) === color;
          }
        }
        return counts;
      };
      const seen = [];
      for (const run of [0, 1, 2]) {
        for (const across of ["time", "number"]) {
          for (const scale of ["log", "linear"]) {
            pick("run", run); pick("across", across); pick("scale", scale);
            seen.push([run, canvas.dataset.points, inView(), pixels(),
              document.getElementById("legend").textContent]);
          }
        }
      }
      return seen;"#;
    for dark in [false, true] {
        let window = Window { dark, ..DESKTOP };
        let seen = found(&folder, &html, window, script)?;
        ensure!(seen.as_array().map(Vec::len) == Some(12), "{seen}");
        for run in seen.as_array().into_iter().flatten() {
            ensure!(
                run[1] == json!(format!("{PORTS}")) && run[2] == PORTS,
                "{run}"
            );
            for color in ["even", "odd", "regression"] {
                ensure!(run[3][color].as_u64() > Some(50), "{color}: {run}");
            }
        }
        let failed = seen[8][3]["failed"].as_u64();
        ensure!(failed > Some(9), "the failed of window-500: {}", seen[8]);
        let even = attempts
            .iter()
            .filter(|a| a.port.is_some_and(|port| port % 2 == 0))
            .count();
        let legend = seen[0][4].as_str().unwrap_or_default();
        ensure!(
            legend.contains(&format!("even port {},000", even / 1_000)),
            "{legend}"
        );
    }
    Ok(())
}

fn pointing_at_a_connect_shows_its_values() -> Result<()> {
    let folder = Folder::new("browser-hover");
    let (html, attempts) = page_of_runs(&folder)?;
    let slowest = attempts.iter().max_by_key(|attempt| attempt.connect_ns);
    let slowest = slowest.expect("there are attempts");
    let script = format!(
        "pointer('pointermove', at({}, {}));
         const shown = tip.textContent;
         const hidden = tip.hidden;
         pointer('pointermove', {{ clientX: canvas.getBoundingClientRect().left + 1, clientY: 0 }});
         return [shown, hidden, tip.hidden];",
        slowest.start_ns as f64 / 1e9,
        slowest.connect_ns
    );
    let seen = found(&folder, &html, DESKTOP, &script)?;
    let port = slowest
        .port
        .expect("the slowest is a long search that found one");
    let shown = seen[0].as_str().unwrap_or_default();
    for line in [
        format!("\nport {port}, odd\n"),
        format!("at {:.6} s, number ", slowest.start_ns as f64 / 1e9),
        "\nsuccess\n".to_owned(),
        "\nsource 127.0.0.1".to_owned(),
    ] {
        ensure!(shown.contains(&line), "{line:?} is not in {shown:?}");
    }
    let ms = shown
        .strip_prefix("connect() ")
        .and_then(|rest| rest.split_once(" ms\n"));
    let ms: f64 = ms.map_or("", |(ms, _)| ms).parse()?;
    ensure!(
        (ms * 1e6 / slowest.connect_ns as f64 - 1.0).abs() < 1e-4,
        "{shown}"
    );
    ensure!(seen[1] == false && seen[2] == true, "{seen}");
    Ok(())
}

fn arrow_keys_go_from_connect_to_connect() -> Result<()> {
    let folder = Folder::new("browser-keys");
    let (html, _) = page_of_runs(&folder)?;
    let script = "canvas.focus();
        const numbers = [];
        for (const name of ['ArrowRight', 'ArrowRight', 'ArrowRight', 'ArrowLeft']) {
          key(name);
          numbers.push(tip.textContent.match(/number ([0-9,]+)/)[1]);
        }
        const before = inView();
        key('+');
        const zoomed = inView();
        key('Escape');
        return [numbers, document.activeElement === canvas, zoomed < before, inView() === before];";
    let seen = found(&folder, &html, DESKTOP, script)?;
    ensure!(
        seen == json!([["0", "1", "2", "1"], true, true, true]),
        "{seen}"
    );
    Ok(())
}

fn a_box_zooms_and_a_double_click_shows_everything_again() -> Result<()> {
    let folder = Folder::new("browser-zoom");
    let (html, attempts) = page_of_runs(&folder)?;
    let last = attempts
        .iter()
        .map(|attempt| attempt.start_ns)
        .max()
        .unwrap_or(0) as f64;
    let within = attempts
        .iter()
        .filter(|attempt| (0.25..=0.5).contains(&(attempt.start_ns as f64 / last)))
        .count();
    let script = "
        const { x1 } = view();
        const corner = canvas.getBoundingClientRect();
        const from = { ...at(x1 * 0.25, 1), clientY: corner.top + 1 };
        const to = { ...at(x1 * 0.5, 1), clientY: corner.bottom - 1 };
        pointer('pointerdown', from); pointer('pointermove', to);
        const box = !document.getElementById('box').hidden;
        pointer('pointerup', to);
        const zoomed = [inView(), view().x0 / x1, view().x1 / x1, document.getElementById('reset').disabled];
        canvas.dispatchEvent(new MouseEvent('dblclick', { bubbles: true }));
        const whole = [inView(), document.getElementById('reset').disabled];
        pointer('pointerdown', from); pointer('pointermove', to); pointer('pointerup', to);
        document.getElementById('reset').click();
        return [box, zoomed, whole, inView()];";
    let seen = found(&folder, &html, DESKTOP, script)?;
    ensure!(seen[0] == true, "there is a box while it is drawn");
    let [in_view, x0, x1] = [0, 1, 2].map(|index| seen[1][index].as_f64().unwrap_or(-1.0));
    ensure!(
        (in_view - within as f64).abs() <= 2.0,
        "{within} within: {seen}"
    );
    ensure!(
        (x0 - 0.25).abs() < 1e-3 && (x1 - 0.5).abs() < 1e-3,
        "{seen}"
    );
    ensure!(seen[1][3] == false, "there is something to reset: {seen}");
    ensure!(
        seen[2] == json!([PORTS, true]) && seen[3] == PORTS,
        "{seen}"
    );
    Ok(())
}

fn the_wheel_zooms_only_where_the_figure_has_the_focus() -> Result<()> {
    let folder = Folder::new("browser-wheel");
    let (html, _) = page_of_runs(&folder)?;
    let script = "
        const { x1, y1 } = view();
        const turn = () => canvas.dispatchEvent(new WheelEvent('wheel',
          { deltaY: -100, bubbles: true, cancelable: true, ...at(x1 / 2, 10 ** ((view().y0 + y1) / 2)) }));
        const scrolls = turn();
        const before = view().x1 - view().x0;
        canvas.focus();
        const zooms = !turn();
        return [scrolls, before === x1, zooms, (view().x1 - view().x0) / x1];";
    let seen = found(&folder, &html, DESKTOP, script)?;
    ensure!(
        seen[0] == true && seen[1] == true && seen[2] == true,
        "{seen}"
    );
    let width = seen[3].as_f64().unwrap_or_default();
    ensure!((width - 0.8).abs() < 1e-9, "{seen}");
    Ok(())
}

fn a_phone_has_no_horizontal_scroll() -> Result<()> {
    let folder = Folder::new("browser-phone");
    let (html, _) = page_of_runs(&folder)?;
    let phone = Window {
        width: 360,
        height: 740,
        dark: false,
    };
    let script = "
        const { scrollWidth, clientWidth } = document.documentElement;
        const over = [...document.querySelectorAll('body *')].filter((part) =>
          !part.closest('.scroll') && part.getBoundingClientRect().right > clientWidth);
        const scroll = document.querySelector('.scroll');
        return [innerWidth, scrollWidth - clientWidth, over.map((part) => part.outerHTML),
          scroll.scrollWidth > scroll.clientWidth, inView()];";
    let seen = found(&folder, &html, phone, script)?;
    ensure!(seen == json!([360, 0, [], true, PORTS]), "{seen}");
    Ok(())
}

fn names_of_any_characters_are_text_and_nothing_else() -> Result<()> {
    let folder = Folder::new("browser-names");
    let name = "</script></title><img src=x onerror=\"complaints.push('ran')\">&amp;{{data}}\u{202e}\u{1b}";
    let mut run = fixtures::run("default", 1, 400);
    run.strategy = name.to_owned();
    run.protocol = name.to_owned();
    let log = folder.path("log.csv");
    fixtures::write_log(Path::new(&log), vec![run])?;
    let html = page(&["--from-load", &log], &folder.path("page.html"))?;
    let script = "
        key('ArrowRight');
        return [document.images.length, document.scripts.length,
          document.querySelector('table th[scope=row]').textContent, inView()];";
    let seen = found(&folder, &html, DESKTOP, script)?;
    // Two requests of the page and two of the test.
    ensure!(seen[0] == 0 && seen[1] == 4 && seen[3] == 400, "{seen}");
    let shown = name.replace(['\u{202e}', '\u{1b}'], "\u{fffd}");
    ensure!(seen[2] == format!("{shown}, {shown}"), "{seen}");
    Ok(())
}

/// Uses times of every power of ten, so that the axis of the buckets has all of them.
fn marks_are_those_of_the_legend_and_labels_do_not_collide() -> Result<()> {
    let folder = Folder::new("browser-marks");
    let recording = folder.path("wide.csv.zst");
    let connects = (0..12_u32).map(|power| {
        let port = 20_000 + power as u16;
        fixtures::recording::connect(u64::from(power), 5 * 10_u64.pow(power), port)
    });
    write_recording(Path::new(&recording), "", 1_000_000_000, connects)?;
    let html = page(&[&recording], &folder.path("page.html"))?;
    let script = "
        const parts = (what) => [...document.querySelectorAll(what)];
        const colliding = parts('svg').flatMap((svg) => {
          const boxes = [...svg.querySelectorAll('text')].map((text) => text.getBoundingClientRect())
            .filter((box) => box.width > 0);
          return boxes.filter((one, n) => boxes.slice(n + 1).some((other) =>
            one.left < other.right && other.left < one.right && one.top < other.bottom - 3
              && other.top < one.bottom - 3));
        });
        const cross = /l-?[0-9.]+ -?[0-9.]+m0-[0-9.]+l-/;
        return [colliding.length, parts('#buckets text').map((text) => text.textContent).includes('0 ns'),
          cross.test(document.querySelector('.still .marks.odd').getAttribute('d')),
          parts('#buckets svg .bar').every((bar) => bar.tagName === 'rect'),
          parts('#buckets svg .cross').length,
          parts('h2').map((heading) => getComputedStyle(heading).breakAfter)];";
    let paper = html.replace("@media print", "@media all");
    let seen = found(&folder, &paper, DESKTOP, script)?;
    let headings = json!(["avoid", "avoid", "avoid", "avoid"]);
    ensure!(seen == json!([0, false, true, true, 0, headings]), "{seen}");
    Ok(())
}

fn the_regression_line_stands_out_from_the_paper_light_and_dark() -> Result<()> {
    let folder = Folder::new("browser-contrast");
    let (html, _) = page_of_runs(&folder)?;
    // The contrast ratio as defined by WCAG 2.
    let script = "
        const style = getComputedStyle(document.documentElement);
        const luminance = (name) => {
          const hex = style.getPropertyValue(`--${name}`).trim();
          const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
          return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const [low, high] = [luminance('regression'), luminance('paper')].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);";
    for dark in [false, true] {
        let seen = found(&folder, &html, Window { dark, ..DESKTOP }, script)?;
        ensure!(
            seen.as_f64().is_some_and(|contrast| contrast >= 4.5),
            "{seen}"
        );
    }
    Ok(())
}

fn on_paper_every_run_has_its_charts() -> Result<()> {
    let folder = Folder::new("browser-print");
    let (html, _) = page_of_runs(&folder)?;
    let script = "
        const seen = (what) => [...document.querySelectorAll(what)]
          .filter((part) => part.getBoundingClientRect().height > 100).length;
        return [seen('canvas'), seen('.still > svg'), seen('#buckets svg'), seen('#occupancy svg')];";
    let screen = found(&folder, &html, DESKTOP, script)?;
    ensure!(screen == json!([1, 0, 1, 1]), "{screen}");
    let paper = html.replace("@media print", "@media all");
    ensure!(paper != html, "there is a style for paper");
    let paper = found(&folder, &paper, DESKTOP, script)?;
    ensure!(paper == json!([0, 3, 3, 1]), "{paper}");
    Ok(())
}

fn of_many_points_the_slowest_and_the_failed_are_all_there() -> Result<()> {
    const COUNT: u64 = 230_000;
    let folder = Folder::new("browser-many");
    let recording = folder.path("many.csv.zst");
    write_recording(
        Path::new(&recording),
        "",
        1_000_000_000,
        fixtures::many(COUNT),
    )?;
    let html = page(&[&recording], &folder.path("page.html"))?;
    let slowest = fixtures::many(COUNT).max_by_key(|connect| connect.connect_ns);
    let slowest = slowest.expect("there are connects");
    let failed = fixtures::many(COUNT)
        .filter(|connect| connect.errno != 0)
        .count();
    let script = format!(
        "pointer('pointermove', at({}, {}));
         return [canvas.dataset.points, tip.textContent, document.querySelector('.note').textContent,
           document.getElementById('legend').textContent];",
        (slowest.start_ns - 10_000_000_000) as f64 / 1e9,
        slowest.connect_ns
    );
    let seen = found(&folder, &html, DESKTOP, &script)?;
    let points: u64 = seen[0].as_str().unwrap_or_default().parse()?;
    ensure!((190_000..=200_000).contains(&points), "{seen}");
    let number = slowest.port.number().unwrap_or(0);
    let tip = seen[1].as_str().unwrap_or_default();
    ensure!(
        tip.contains(&format!("port {number}, ")),
        "{slowest:?}: {seen}"
    );
    let note = seen[2].as_str().unwrap_or_default();
    ensure!(
        note.contains(" of 230,000 points are drawn: every failure"),
        "{note}"
    );
    let legend = seen[3].as_str().unwrap_or_default();
    ensure!(
        legend.contains(&format!("failed {failed}")),
        "{failed}: {legend}"
    );
    Ok(())
}

fn a_recording_without_a_connect_is_a_page_without_a_complaint() -> Result<()> {
    let folder = Folder::new("browser-empty");
    let recording = folder.path("empty.csv.zst");
    write_recording(Path::new(&recording), "", 1_000_000_000, [])?;
    let html = page(&[&recording], &folder.path("page.html"))?;
    let script = "key('ArrowRight'); key('+'); key('Escape');
        pointer('pointermove', { clientX: 300, clientY: 300 });
        return [canvas.dataset.points, document.body.innerText.includes('It has no connect() call')];";
    let seen = found(&folder, &html, DESKTOP, script)?;
    ensure!(seen == json!(["0", true]), "{seen}");
    Ok(())
}

fn a_search_is_drawn_for_light_and_dark_and_fits_a_phone() -> Result<()> {
    let folder = Folder::new("browser-explain");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let held: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(address))
        .collect::<std::io::Result<_>>()?;
    let drawn = connect_trace(&["explain", &address.to_string(), "--svg", "-"]);
    drop(held);
    let svg = text(&drawn.stdout);
    ensure!(svg.starts_with("<svg"), "{drawn:?}");
    let html = format!(
        "<html><head><style>svg {{ max-width: 100%; height: auto; }}</style></head><body>{svg}</body></html>"
    );
    let script = "
        const svg = document.querySelector('svg');
        const { left, right, top, bottom } = svg.getBoundingClientRect();
        const boxes = [...svg.querySelectorAll('text')].map((text) => text.getBoundingClientRect());
        const out = boxes.filter((box) =>
          box.left < left || box.right > right || box.top < top || box.bottom > bottom);
        const colliding = boxes.filter((one, n) => boxes.slice(n + 1).some((other) =>
          one.left < other.right && other.left < one.right && one.top < other.bottom - 3
            && other.top < one.bottom - 3));
        const colour = (what) => getComputedStyle(svg.querySelector(what)).fill;
        const { scrollWidth, clientWidth } = document.documentElement;
        return [scrollWidth - clientWidth, out.length, colliding.length,
          svg.querySelectorAll('.taken').length > 1, svg.querySelectorAll('.end').length,
          colour('.paper'), colour('.ink')];";
    for (dark, paper, ink) in [
        (false, "rgb(255, 255, 255)", "rgb(31, 35, 40)"),
        (true, "rgb(13, 17, 23)", "rgb(230, 237, 243)"),
    ] {
        for width in [360, 1280] {
            let window = Window {
                width,
                height: 740,
                dark,
            };
            let seen = found(&folder, &html, window, script)?;
            ensure!(
                seen == json!([0, 0, 0, true, 1, paper, ink]),
                "{width}: {seen}"
            );
        }
    }
    Ok(())
}
