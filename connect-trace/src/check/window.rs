//! `--window LOW-HIGH`: a range that a program would set on its sockets, `IP_LOCAL_PORT_RANGE`. The kernel takes any
//! range, and silently ignores an end that lies outside its own.

use super::finding::{Finding, Group};
use crate::connect::PortRange;

/// Returns the finding about a window within the range of the namespace.
pub(super) fn window(window: PortRange, span: PortRange) -> Finding {
    const NAME: &str = "window";
    let effective = span.narrowed(window);
    let data = serde_json::json!({
        "first": effective.low,
        "last": effective.high,
        "ports": effective.ports(),
        "ignored": effective != window,
    });
    if effective == window {
        let value = format!("{window}: {} ports, within the range", window.ports());
        return Finding::ok(Group::Ports, NAME, value).data(data);
    }
    let note = if effective == span {
        format!("outside {span}: the kernel ignores it, and searches the whole range")
    } else {
        format!("not within {span}: the kernel searches {effective}")
    };
    Finding::limited(Group::Ports, NAME, window.to_string(), note)
        .remedy("use a window within the range, or sysctl net.ipv4.ip_local_port_range")
        .data(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn a_window_outside_of_the_range_is_told() {
        let span = PortRange {
            low: 32_768,
            high: 60_999,
        };
        let found = |low, high| window(PortRange { low, high }, span);
        for (low, high) in [(40_000, 40_999), (32_768, 60_999)] {
            let within = found(low, high);
            assert_eq!(
                (within.state, &within.data["ignored"]),
                (State::Ok, &false.into())
            );
        }
        for (low, high) in [(1_000, 2_000), (61_000, 65_535), (1_000, 65_535)] {
            let outside = found(low, high);
            assert_eq!(outside.state, State::Limited, "{outside:?}");
            assert_eq!(outside.data["ports"], 28_232, "{outside:?}");
            assert!(outside.note.unwrap().contains("the kernel ignores it"));
        }
        let across = found(60_000, 61_000);
        assert_eq!(across.data["ports"], 1_000, "{across:?}");
        assert!(across.note.unwrap().ends_with("searches 60000-60999"));
    }
}
