//! The flame graph as a drawing of its own: a browser zooms and searches it by the script in it, without the network.

use std::fmt::Write as _;

use super::{
    samples::{BLOCKED, PREEMPTED, YIELDED},
    text::{is_search, share},
    tree::{Frame, Tree},
};
use crate::term::{escape::markup, numbers::time};

const STYLE: &str = include_str!("assets/flame.css");
const SCRIPT: &str = include_str!("assets/flame.js");

/// Width of the drawing and of its margins, and height of a frame.
const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 10.0;
const ROW: f64 = 17.0;
/// Height above the frames: title, search and legend; and that of a line of the summary.
const HEAD: f64 = 76.0;
const LINE: f64 = 16.0;
/// Width of a character in the font of the frames.
const CHARACTER: f64 = 7.0;

/// Smallest share of the time that gets a frame; others cannot be seen before the graph is zoomed in a lot.
const SMALLEST: f64 = 0.0002;

/// The kind of a frame, by its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Root,
    Search,
    Probe,
    OffCpu,
    Other,
}

impl Kind {
    /// Class and name in the legend.
    const LEGEND: [(Self, &'static str, &'static str); 4] = [
        (Self::Search, "search", "port search"),
        (Self::Other, "other", "rest of connect()"),
        (Self::OffCpu, "off", "without a CPU"),
        (Self::Probe, "probe", "connect-trace itself"),
    ];

    /// Returns the kind of a frame on a caller of kind `caller`.
    fn of(frame: &Frame<'_>, caller: Self) -> Self {
        let is_probe = ["bpf_", "ftrace_", "kprobe_", "kretprobe_", "arch_rethook"];
        match caller {
            _ if frame.depth == 0 => Self::Root,
            Self::OffCpu | Self::Probe => caller,
            _ if [BLOCKED, PREEMPTED, YIELDED].contains(&frame.name) => Self::OffCpu,
            _ if is_probe.iter().any(|start| frame.name.starts_with(start)) => Self::Probe,
            Self::Search => caller,
            _ if is_search(frame.name) => Self::Search,
            _ => Self::Other,
        }
    }

    fn class(self) -> &'static str {
        let mut all = Self::LEGEND.iter();
        all.find(|(kind, ..)| *kind == self)
            .map_or("root", |(_, class, _)| class)
    }
}

/// Returns the drawing of a tree, with a title and lines of text below it.
pub(super) fn draw(tree: &Tree, title: &str, summary: &str) -> String {
    let frames = tree.frames();
    let all_ns = tree.total_ns();
    let is_large =
        |frame: &&Frame<'_>| frame.depth == 0 || frame.total_ns as f64 >= all_ns as f64 * SMALLEST;
    let deepest = frames.iter().filter(is_large).map(|frame| frame.depth);
    let rows = deepest.max().unwrap_or(0) + 1;
    let lines: Vec<&str> = summary.lines().collect();
    let bottom = HEAD + rows as f64 * ROW;
    let height = bottom + 12.0 + LINE * (lines.len() + 1) as f64;

    let mut svg = head(title, height);
    let mut kinds: Vec<Kind> = Vec::with_capacity(frames.len());
    let mut left_out = 0;
    for frame in &frames {
        // A caller comes before the functions that it called, and the root is its own caller.
        let caller = kinds.get(frame.caller).copied().unwrap_or(Kind::Root);
        let kind = Kind::of(frame, caller);
        kinds.push(kind);
        if is_large(&frame) {
            draw_frame(&mut svg, frame, kind, all_ns, bottom);
        } else {
            left_out += 1;
        }
    }
    svg.push_str("</g>\n");
    let mut y = bottom + 18.0;
    let note = match left_out {
        0 => String::new(),
        _ => format!(
            "{left_out} frames below {} % of the time are not drawn",
            SMALLEST * 100.0
        ),
    };
    for line in lines.into_iter().chain([note.as_str()]) {
        text(&mut svg, MARGIN, y, "faint", line);
        y += LINE;
    }
    let _ = write!(svg, "<script><![CDATA[\n{SCRIPT}]]></script>\n</svg>\n");
    svg
}

/// Returns the beginning of the drawing: style, title, search and legend.
fn head(title: &str, height: f64) -> String {
    let title = markup(title);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} \
         {height}\" class=\"flame\" data-width=\"{WIDTH}\" data-margin=\"{MARGIN}\" \
         data-character=\"{CHARACTER}\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"24\">{title}</text>\n"
    );
    // Without a script there is nothing to search with.
    let _ = write!(
        svg,
        "<foreignObject id=\"controls\" x=\"760\" y=\"6\" width=\"430\" height=\"30\" visibility=\"hidden\">\
         <div xmlns=\"http://www.w3.org/1999/xhtml\" class=\"controls\">\
         <input id=\"search\" type=\"search\" aria-label=\"Search functions\" placeholder=\"Search: / or Ctrl-F\"/>\
         <button id=\"reset\" type=\"button\">Reset (Esc)</button></div></foreignObject>\n\
         <text id=\"found\" class=\"faint\" x=\"{}\" y=\"56\" text-anchor=\"end\" role=\"status\"/>\n",
        WIDTH - MARGIN
    );
    let mut x = MARGIN;
    for (_, class, name) in Kind::LEGEND {
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"45\" width=\"14\" height=\"13\"/>"
        );
        text(&mut svg, x + 20.0, 56.0, "faint", name);
        x += 36.0 + CHARACTER * name.len() as f64;
    }
    svg.push_str("<g id=\"frames\">\n");
    svg
}

/// Draws a frame, with its time and its share for pointers and screen readers.
fn draw_frame(svg: &mut String, frame: &Frame<'_>, kind: Kind, all_ns: u64, bottom: f64) {
    let all = (all_ns.max(1)) as f64;
    let (start, width) = match frame.depth {
        0 => (0.0, 1.0),
        _ => (frame.start_ns as f64 / all, frame.total_ns as f64 / all),
    };
    let scale = WIDTH - 2.0 * MARGIN;
    let x = MARGIN + start * scale;
    let y = bottom - (frame.depth + 1) as f64 * ROW;
    let drawn = width * scale;
    let name = markup(frame.name);
    let label = format!(
        "{name}: {} of the time, {}",
        share(frame.total_ns, all_ns),
        time(frame.total_ns as f64)
    );
    let class = kind.class();
    let _ = write!(
        svg,
        "<g class=\"frame {class}\" tabindex=\"0\" role=\"button\" aria-label=\"{label}\" data-start=\"{start:.6}\" \
         data-width=\"{width:.6}\" data-depth=\"{}\" data-name=\"{name}\"><title>{label}</title>\
         <rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{drawn:.2}\" height=\"{:.1}\"/>",
        frame.depth,
        ROW - 1.0,
    );
    let _ = writeln!(
        svg,
        "<text x=\"{:.2}\" y=\"{:.1}\">{}</text></g>",
        x + 3.0,
        y + 12.0,
        markup(&fitting(frame.name, drawn)),
    );
}

/// Returns the part of a name that fits a frame. The script does the same after a zoom.
fn fitting(name: &str, width: f64) -> String {
    let room = ((width - 6.0) / CHARACTER).floor().max(0.0) as usize;
    if name.chars().count() <= room {
        return name.to_owned();
    }
    if room < 3 {
        return String::new();
    }
    let part: String = name.chars().take(room - 1).collect();
    format!("{part}\u{2026}")
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let text = markup(text);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flame::tree::tests::tree;

    const HOSTILE: &str = "</script>]]><img src=x onerror=\"a('b')\">&\u{202e}\u{1b}";

    #[test]
    fn a_frame_has_its_share_and_its_time() {
        let tree = tree(&[
            (&["a", "__inet_hash_connect", "b"], 750_000),
            (&["a"], 250_000),
        ]);
        let svg = draw(&tree, "title", "a line\nanother");
        assert!(
            svg.contains(r#"aria-label="b: 75.0 % of the time, 750 µs""#),
            "{svg}"
        );
        assert!(
            svg.contains("<title>a: 100.0 % of the time, 1 ms</title>"),
            "{svg}"
        );
        assert_eq!(svg.matches("class=\"frame search\"").count(), 2, "{svg}");
        assert_eq!(svg.matches("class=\"frame root\"").count(), 1, "{svg}");
        assert!(svg.contains(">another</text>"), "{svg}");
    }

    #[test]
    fn time_without_a_cpu_and_our_own_probes_have_colours_of_their_own() {
        let tree = tree(&[
            (&[BLOCKED, "__inet_hash_connect"], 1),
            (&["tcp_v4_connect", "bpf_trampoline", "x"], 1),
        ]);
        let svg = draw(&tree, "", "");
        for (class, number) in [("off", 2), ("probe", 2), ("search", 0), ("other", 1)] {
            let drawn = svg.matches(&format!("class=\"frame {class}\"")).count();
            assert_eq!(drawn, number, "{class}: {svg}");
        }
    }

    #[test]
    fn names_of_any_characters_are_text() {
        let tree = tree(&[(&[HOSTILE], 1)]);
        let svg = draw(&tree, HOSTILE, HOSTILE);
        assert!(!svg.contains("<img"), "{svg}");
        assert_eq!(svg.matches("<script>").count(), 1);
        assert_eq!(svg.matches("</script>").count(), 1);
        assert_eq!(svg.matches("]]>").count(), 1, "only the end of the script");
        assert!(!svg.contains(['\u{202e}', '\u{1b}']));
    }

    #[test]
    fn a_graph_without_samples_has_its_root() {
        let svg = draw(&tree(&[]), "title", "");
        assert_eq!(svg.matches("class=\"frame ").count(), 1, "{svg}");
        assert!(svg.contains("all: - of the time, 0"), "{svg}");
    }

    #[test]
    fn frames_too_narrow_to_be_seen_are_counted() {
        let tree = tree(&[(&["a"], 1_000_000), (&["b"], 1), (&["c"], 1)]);
        let svg = draw(&tree, "", "");
        assert!(
            svg.contains("2 frames below 0.02 % of the time are not drawn"),
            "{svg}"
        );
    }

    #[test]
    fn a_name_is_cut_to_the_room_of_its_frame() {
        assert_eq!(fitting("abcdef", 6.0 + 6.0 * CHARACTER), "abcdef");
        assert_eq!(fitting("abcdef", 6.0 + 5.0 * CHARACTER), "abcd\u{2026}");
        assert_eq!(fitting("abcdef", 6.0 + 2.0 * CHARACTER), "");
        assert_eq!(fitting("abcdef", 0.0), "");
    }
}
