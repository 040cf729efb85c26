//! Escapes texts from the data, which may contain anything, for HTML, SVG and scripts.

use super::printable::is_harmful;

/// Escapes a text or the value of an attribute, for HTML and XML alike. Characters that XML does not allow,
/// or that change the direction of the text around them, become U+FFFD.
pub(crate) fn markup(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character if is_harmful(character) => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Escapes JSON that is placed between `<script>` and `</script>`, so that it cannot end the script or begin
/// another element.
pub(crate) fn json(text: &str) -> String {
    // All of these characters have at most four digits.
    let escape = |character: char| format!("\\u{:04x}", u32::from(character));
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&escape(character)),
            character if is_harmful(character) => escaped.push_str(&escape(character)),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Returns a name for a legend: `most` characters at most.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut characters = text.chars();
    let beginning: String = characters.by_ref().take(most.saturating_sub(1)).collect();
    match (characters.next(), characters.next()) {
        (None, _) => beginning,
        (Some(last), None) => format!("{beginning}{last}"),
        _ => format!("{beginning}\u{2026}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_begins_a_tag_or_ends_an_attribute() {
        let text = markup("</script><img src=x onerror='alert(1)'>\"&amp;\0\u{202e}\u{1b}");
        assert_eq!(
            text,
            "&lt;/script&gt;&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&quot;&amp;amp;\
             \u{fffd}\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn json_in_a_script_is_the_same_value_without_a_tag() {
        let value = "</script><!--\u{2028}&\u{202e}\u{9b}";
        let text = json(&serde_json::to_string(value).unwrap());
        assert!(!text.contains(['<', '>', '&', '\u{2028}']), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn a_name_is_cut_only_where_it_is_longer() {
        assert_eq!(shortened("abcd", 4), "abcd");
        assert_eq!(shortened("abcde", 4), "abc\u{2026}");
        assert_eq!(shortened("", 4), "");
    }
}

#[cfg(test)]
mod fuzz {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;
    use crate::{fixtures::fuzz::fuzz, term::printable::printable};

    #[test]
    fn any_text_stays_a_text_wherever_it_is_shown() {
        fuzz("text", |bytes| {
            let line = printable(std::ffi::OsStr::from_bytes(bytes)).to_string();
            assert!(!line.chars().any(is_harmful), "{line:?}");
            let text = String::from_utf8_lossy(bytes);
            let expected: String = text
                .chars()
                .map(|c| if is_harmful(c) { '\u{fffd}' } else { c })
                .collect();
            let escaped = markup(&text);
            assert!(!escaped.contains(['<', '>', '"', '\'']), "{escaped}");
            let references = [
                ("&lt;", "<"),
                ("&gt;", ">"),
                ("&quot;", "\""),
                ("&#39;", "'"),
                ("&amp;", "&"),
            ];
            let read = references
                .iter()
                .fold(escaped, |text, (name, is)| text.replace(name, is));
            assert_eq!(read, expected);
            let script = json(&serde_json::to_string(&*text).unwrap());
            let breaks = |c: char| matches!(c, '<' | '>' | '&') || is_harmful(c);
            assert!(!script.contains(breaks), "{script}");
            assert_eq!(serde_json::from_str::<String>(&script).unwrap(), text);
            let name = shortened(&text, 24);
            assert!(name.chars().count() <= 24, "{name}");
        });
    }
}
