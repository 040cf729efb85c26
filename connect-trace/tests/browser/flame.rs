//! The flame graph in a browser, opened as a file.

use anyhow::{Result, ensure};
use connect_trace::flame::svg_of_folded;
use serde_json::{Value, json};

use crate::{
    Test,
    chromium::{DESKTOP, Visit, Window, visit_svg},
    folder::Folder,
};

pub const TESTS: &[Test] = crate::tests![
    a_flame_graph_loads_without_a_complaint_and_asks_the_network_for_nothing,
    a_click_and_enter_zoom_and_escape_undoes_it,
    a_search_marks_frames_and_tells_their_share,
    the_keyboard_goes_from_frame_to_frame,
    names_and_shares_are_told_to_screen_readers,
    names_that_are_markup_are_text,
    frames_can_be_read_light_and_dark,
];

/// Stacks whose shares are round: of 1,000,000 ns.
const STACKS: &str = "\
entry;tcp_v4_connect 50000
entry;tcp_v4_connect;__inet_hash_connect 200000
entry;tcp_v4_connect;__inet_hash_connect;__inet_check_established 450000
entry;tcp_v4_connect;__inet_hash_connect;__inet_check_established;_raw_spin_lock 50000
entry;tcp_v4_connect;bpf_trampoline 50000
entry;tcp_v4_connect;tcp_connect;_raw_spin_lock 100000
off-CPU (preempted);__inet_hash_connect;_raw_spin_lock 100000
";

/// Helpers of the scripts.
const HELPERS: &str = r#"
  const all = [...document.querySelectorAll(".frame")];
  const named = (name) => all.find((frame) => frame.dataset.name === name);
  const shown = () => all.filter((frame) => getComputedStyle(frame).display !== "none").map((f) => f.dataset.name);
  const press = (target, key, more) =>
    target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
  const click = (target) => target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  const width = (frame) => Math.round(frame.querySelector("rect").getBoundingClientRect().width);
  const search = document.getElementById("search");
  const look = (text) => { search.value = text; search.dispatchEvent(new Event("input", { bubbles: true })); };
  const focused = () => document.activeElement.dataset.name;
"#;

/// Returns the result of a script on a drawing that logs no complaint.
fn found(name: &str, stacks: &str, window: Window, script: &str) -> Result<Value> {
    let folder = Folder::new(name);
    let svg = svg_of_folded(stacks, "a title")?;
    let script = format!("{HELPERS}{script}");
    let Visit {
        found, complaints, ..
    } = visit_svg(&folder, &svg, window, &script)?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(found)
}

fn a_flame_graph_loads_without_a_complaint_and_asks_the_network_for_nothing() -> Result<()> {
    let folder = Folder::new("flame-load");
    let svg = svg_of_folded(STACKS, "a title")?;
    let script = "return [document.title, document.querySelectorAll('.frame').length]";
    let visit = visit_svg(&folder, &svg, DESKTOP, script)?;
    ensure!(visit.complaints.is_empty(), "{:#?}", visit.complaints);
    ensure!(visit.requests.is_empty(), "{:#?}", visit.requests);
    ensure!(visit.found == json!(["a title", 12]), "{}", visit.found);
    Ok(())
}

fn a_click_and_enter_zoom_and_escape_undoes_it() -> Result<()> {
    let script = r#"
      const check = named("__inet_check_established");
      const before = [shown().length, width(check)];
      click(check.querySelector("rect"));
      const zoomed = [shown(), width(check), width(named("entry"))];
      press(document.documentElement, "Escape");
      const after = [shown().length, width(check)];
      const off = named("off-CPU (preempted)");
      off.focus();
      press(off, "Enter");
      const entered = [shown(), width(off)];
      press(off, "Escape");
      click(document.getElementById("reset"));
      return { before, zoomed, after, entered, end: shown().length };"#;
    let found = found("flame-zoom", STACKS, DESKTOP, script)?;
    let (before, after) = (&found["before"], &found["after"]);
    ensure!(
        before == after && before[0] == 12 && before[1] == 590,
        "{found}"
    );
    let stack = [
        "connect()",
        "entry",
        "tcp_v4_connect",
        "__inet_hash_connect",
        "__inet_check_established",
        "_raw_spin_lock",
    ];
    ensure!(found["zoomed"][0] == json!(stack), "{found}");
    ensure!(
        found["zoomed"][1] == 1180 && found["zoomed"][2] == 1180,
        "{found}"
    );
    let off = [
        "connect()",
        "off-CPU (preempted)",
        "__inet_hash_connect",
        "_raw_spin_lock",
    ];
    ensure!(found["entered"] == json!([off, 1180]), "{found}");
    ensure!(found["end"] == 12, "{found}");
    Ok(())
}

fn a_search_marks_frames_and_tells_their_share() -> Result<()> {
    let script = r#"
      const told = () => [document.querySelectorAll(".hit").length, document.getElementById("found").textContent];
      press(document.documentElement, "/");
      const bySlash = document.activeElement === search;
      search.blur();
      press(document.documentElement, "f", { ctrlKey: true });
      const byFind = document.activeElement === search;
      look("SPIN_lock"); const locks = told();
      // Functions on a hit count with it, and once.
      look("inet_"); const nested = told();
      look("nothing like it"); const none = told();
      press(search, "/");
      look("("); const brackets = told();
      press(search, "Escape");
      return { bySlash, byFind, locks, nested, none, brackets, end: [search.value, ...told()] };"#;
    let found = found("flame-search", STACKS, DESKTOP, script)?;
    ensure!(
        found["bySlash"] == true && found["byFind"] == true,
        "{found}"
    );
    ensure!(
        found["locks"] == json!([3, "3 frames, 25.0 % of the time"]),
        "{found}"
    );
    ensure!(
        found["nested"] == json!([3, "3 frames, 80.0 % of the time"]),
        "{found}"
    );
    ensure!(
        found["none"] == json!([0, "0 frames, 0.0 % of the time"]),
        "{found}"
    );
    ensure!(
        found["brackets"][0] == 2,
        "connect() and off-CPU (…): {found}"
    );
    ensure!(found["end"] == json!(["", 0, ""]), "{found}");
    Ok(())
}

fn the_keyboard_goes_from_frame_to_frame() -> Result<()> {
    let script = r#"
      const way = [];
      const go = (key) => { press(document.activeElement, key); way.push(focused()); };
      named("connect()").focus();
      for (const key of ["ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp"]) go(key);
      for (const key of ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowLeft"]) go(key);
      const canBeReached = all.every((frame) => frame.tabIndex === 0);
      const order = all.map((frame) => frame.dataset.name).slice(0, 3);
      return { way, canBeReached, order };"#;
    let found = found("flame-keys", STACKS, DESKTOP, script)?;
    let way = [
        "entry",
        "tcp_v4_connect",
        "__inet_hash_connect",
        "__inet_check_established",
        "_raw_spin_lock",
        // There is nothing on it.
        "_raw_spin_lock",
        // Nothing is beside it in its row.
        "_raw_spin_lock",
        "__inet_check_established",
        "__inet_check_established",
        "__inet_check_established",
        "__inet_check_established",
    ];
    ensure!(found["way"] == json!(way), "{found}");
    ensure!(found["canBeReached"] == true, "{found}");
    ensure!(
        found["order"] == json!(["connect()", "entry", "tcp_v4_connect"]),
        "{found}"
    );
    Ok(())
}

fn names_and_shares_are_told_to_screen_readers() -> Result<()> {
    let script = r#"
      const check = named("__inet_check_established");
      return [check.getAttribute("role"), check.getAttribute("aria-label"),
        check.querySelector("title").textContent, search.getAttribute("aria-label")];"#;
    let found = found("flame-aria", STACKS, DESKTOP, script)?;
    let label = "__inet_check_established: 50.0 % of the time, 500 \u{b5}s";
    ensure!(
        found == json!(["button", label, label, "Search functions"]),
        "{found}"
    );
    Ok(())
}

fn names_that_are_markup_are_text() -> Result<()> {
    let name = "]]></script><script>complaints.push('it_ran')</script><b>&amp";
    let script = "return all.map((frame) => frame.dataset.name)";
    let found = found("flame-names", &format!("{name} 5\n"), DESKTOP, script)?;
    ensure!(found == json!(["connect()", name]), "{found}");
    Ok(())
}

fn frames_can_be_read_light_and_dark() -> Result<()> {
    // The contrast of text that WCAG asks for is 4.5.
    let script = r#"
      const channels = (color) => color.match(/[\d.]+/g).slice(0, 3).map(Number);
      const luminance = (color) => {
        const [r, g, b] = channels(color).map((value) => {
          const share = value / 255;
          return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const contrast = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
      };
      const fill = (element) => getComputedStyle(element).fill;
      const kinds = new Set(all.map((frame) => frame.classList[1]));
      const least = () => Math.min(...all.map((frame) =>
        contrast(fill(frame.querySelector("rect")), fill(frame.querySelector("text")))));
      const paper = fill(document.querySelector(".paper"));
      const plain = least();
      look("_");
      return [kinds.size, plain, least(), luminance(paper)];"#;
    for dark in [false, true] {
        let window = Window { dark, ..DESKTOP };
        let found = found("flame-colours", STACKS, window, script)?;
        ensure!(
            found[0] == 5,
            "root, search, rest, probe, without a CPU: {found}"
        );
        for contrast in [&found[1], &found[2]] {
            ensure!(contrast.as_f64() > Some(4.5), "dark {dark}: {found}");
        }
        let is_dark = found[3].as_f64() < Some(0.1);
        ensure!(is_dark == dark, "dark {dark}: {found}");
    }
    Ok(())
}
