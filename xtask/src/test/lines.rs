//! Splits the output of a guest into lines.

/// Splitter of a stream into lines.
#[derive(Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Returns the lines that these bytes complete.
    pub(super) fn complete(&mut self, bytes: &[u8]) -> Vec<String> {
        self.pending.extend_from_slice(bytes);
        let Some(end) = self.pending.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.pending.split_off(end + 1);
        let lines = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&lines)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Returns the text after the end of the last line.
    pub(super) fn rest(self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_into_lines_however_it_arrives() {
        let mut lines = Lines::default();
        assert_eq!(lines.complete(b"test a ... "), Vec::<String>::new());
        assert_eq!(
            lines.complete(b"ok\ntest b ... ok\ntest"),
            ["test a ... ok", "test b ... ok"]
        );
        assert_eq!(lines.rest().as_deref(), Some("test"));
    }
}
