//! A connect() as a line of CSV, and back. No value needs quotes.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use crate::event::{Comm, Connect, Family, PortRange, SourcePort};

/// The first line: the names of the columns.
pub const HEADER: &str = "start_ns,connect_ns,search_ns,family,source,source_port,port_origin,\
destination,destination_port,errno,pid,tid,comm,uid,netns,cgroup_id,range_low,range_high,\
range_by_parity,checks,checks_watched\n";

/// No line is longer: four numbers of 20 digits, eleven of 10, two addresses of 39 characters, a name
/// with all of its 16 bytes escaped, words and commas.
pub(super) const LONGEST_LINE: usize = 420;

/// Adds the line of a connect.
pub(super) fn write(line: &mut Vec<u8>, connect: &Connect) {
    let Connect {
        start_ns,
        connect_ns,
        search_ns,
        family,
        source,
        port,
        destination,
        errno,
        pid,
        tid,
        comm,
        uid,
        netns,
        cgroup_id,
        range,
        checks,
        checks_watched,
    } = connect;
    number(line, *start_ns);
    number(line, *connect_ns);
    optional(line, *search_ns);
    word(line, family_word(*family));
    address(line, *source);
    optional(line, port.number());
    word(
        line,
        match port {
            SourcePort::None => NONE,
            SourcePort::Bound(_) => BOUND,
            SourcePort::Searched(_) => SEARCHED,
        },
    );
    address(line, destination.map(|to| to.ip()));
    optional(line, destination.map(|to| to.port()));
    if *errno < 0 {
        line.push(b'-');
    }
    number(line, errno.unsigned_abs());
    number(line, *pid);
    number(line, *tid);
    name(line, comm);
    number(line, *uid);
    optional(line, *netns);
    number(line, *cgroup_id);
    optional(line, range.map(|range| range.low));
    optional(line, range.map(|range| range.high));
    word(line, range.map_or(b"", |range| truth_word(range.by_parity)));
    optional(line, *checks);
    line.extend_from_slice(truth_word(*checks_watched));
    line.push(b'\n');
}

/// The connect of a line without its end; `None` where it is not as [`write`] writes it.
pub(super) fn parse(line: &[u8]) -> Option<Connect> {
    let mut fields = line.split(|&byte| byte == b',');
    let mut next = || fields.next();
    let start_ns = digits(next()?)?;
    let connect_ns = digits(next()?)?;
    let search_ns = or_empty(next()?, digits)?;
    let family = family_of(next()?)?;
    let source = or_empty(next()?, address_of)?;
    let port = or_empty(next()?, small)?;
    let port = match (next()?, port) {
        (NONE, None) => SourcePort::None,
        (BOUND, Some(port)) => SourcePort::Bound(port),
        (SEARCHED, Some(port)) => SourcePort::Searched(port),
        _ => return None,
    };
    let destination = match (or_empty(next()?, address_of)?, or_empty(next()?, small)?) {
        (Some(address), Some(port)) => Some(SocketAddr::new(address, port)),
        (None, None) => None,
        _ => return None,
    };
    let errno = signed(next()?)?;
    let pid = small(next()?)?;
    let tid = small(next()?)?;
    let comm = name_of(next()?)?;
    let uid = small(next()?)?;
    let netns = or_empty(next()?, small)?;
    let cgroup_id = digits(next()?)?;
    let low = or_empty(next()?, small)?;
    let high = or_empty(next()?, small)?;
    let range = match (low, high, or_empty(next()?, truth_of)?) {
        (Some(low), Some(high), Some(by_parity)) => Some(PortRange {
            low,
            high,
            by_parity,
        }),
        (None, None, None) => None,
        _ => return None,
    };
    let checks = or_empty(next()?, small)?;
    let checks_watched = truth_of(next()?)?;
    next().is_none().then_some(Connect {
        start_ns,
        connect_ns,
        search_ns,
        family,
        source,
        port,
        destination,
        errno,
        pid,
        tid,
        comm,
        uid,
        netns,
        cgroup_id,
        range,
        checks,
        checks_watched,
    })
}

const NONE: &[u8] = b"none";
const BOUND: &[u8] = b"bound";
const SEARCHED: &[u8] = b"searched";

fn family_word(family: Family) -> &'static [u8] {
    match family {
        Family::V4 => b"v4",
        Family::V6 => b"v6",
        Family::Mapped => b"mapped",
    }
}

fn family_of(field: &[u8]) -> Option<Family> {
    [Family::V4, Family::V6, Family::Mapped]
        .into_iter()
        .find(|&family| family_word(family) == field)
}

fn truth_word(truth: bool) -> &'static [u8] {
    if truth { b"true" } else { b"false" }
}

fn truth_of(field: &[u8]) -> Option<bool> {
    [true, false]
        .into_iter()
        .find(|&truth| truth_word(truth) == field)
}

fn word(line: &mut Vec<u8>, word: &[u8]) {
    line.extend_from_slice(word);
    line.push(b',');
}

/// By hand: the formatting of the standard library takes three times as long, a third of all that a
/// recording costs.
fn number(line: &mut Vec<u8>, number: impl Into<u64>) {
    let mut rest = number.into();
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    word(line, &digits[first..]);
}

fn optional(line: &mut Vec<u8>, value: Option<impl Into<u64>>) {
    match value {
        Some(value) => number(line, value),
        None => line.push(b','),
    }
}

fn address(line: &mut Vec<u8>, address: Option<IpAddr>) {
    if let Some(address) = address {
        // Writing to a Vec cannot fail.
        let _ = write!(line, "{address}");
    }
    line.push(b',');
}

/// Up to the first zero; bytes that CSV, or a terminal, gives a meaning to become `\xNN`.
fn name(line: &mut Vec<u8>, comm: &Comm) {
    for &byte in comm.0.iter().take_while(|&&byte| byte != 0) {
        match byte {
            b',' | b'"' | b'\\' | 0..b' ' | 127.. => {
                // Writing to a Vec cannot fail.
                let _ = write!(line, "\\x{byte:02x}");
            }
            _ => line.push(byte),
        }
    }
    line.push(b',');
}

fn name_of(field: &[u8]) -> Option<Comm> {
    let mut comm = [0; 16];
    let mut rest = field;
    for slot in &mut comm {
        match rest {
            [] => break,
            [b'\\', b'x', high, low, after @ ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                *slot = u8::try_from(digit(high)? << 4 | digit(low)?).ok()?;
                rest = after;
            }
            [byte, after @ ..] => {
                *slot = *byte;
                rest = after;
            }
        }
    }
    rest.is_empty().then_some(Comm(comm))
}

fn or_empty<T>(field: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if field.is_empty() {
        return Some(None);
    }
    parse(field).map(Some)
}

fn digits(field: &[u8]) -> Option<u64> {
    if field.is_empty() {
        return None;
    }
    field.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

fn small<T: TryFrom<u64>>(field: &[u8]) -> Option<T> {
    T::try_from(digits(field)?).ok()
}

fn signed(field: &[u8]) -> Option<i32> {
    let number = match field.strip_prefix(b"-") {
        Some(field) => -i64::try_from(digits(field)?).ok()?,
        None => i64::try_from(digits(field)?).ok()?,
    };
    i32::try_from(number).ok()
}

fn address_of(field: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::aggregate::summary::tests::example;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ]
    }

    prop_compose! {
        fn when()(start_ns: u64, connect_ns: u64, search_ns: Option<u64>, errno: i32)
            -> (u64, u64, Option<u64>, i32) {
            (start_ns, connect_ns, search_ns, errno)
        }
    }

    prop_compose! {
        fn who()(pid: u32, tid: u32, uid: u32, netns: Option<u32>, cgroup_id: u64,
            name in proptest::collection::vec(1..=u8::MAX, 0..=16))
            -> (u32, u32, u32, Option<u32>, u64, Comm) {
            let mut comm = [0; 16];
            comm[..name.len()].copy_from_slice(&name);
            (pid, tid, uid, netns, cgroup_id, Comm(comm))
        }
    }

    fn port() -> impl Strategy<Value = SourcePort> {
        prop_oneof![
            Just(SourcePort::None),
            any::<u16>().prop_map(SourcePort::Bound),
            any::<u16>().prop_map(SourcePort::Searched),
        ]
    }

    prop_compose! {
        fn wherefrom()(family in prop_oneof![Just(Family::V4), Just(Family::V6), Just(Family::Mapped)],
            source in option::of(address()), port in port(),
            destination in option::of((address(), any::<u16>())),
            range in option::of(any::<(u16, u16, bool)>()))
            -> (Family, Option<IpAddr>, SourcePort, Option<SocketAddr>, Option<PortRange>) {
            let range = range.map(|(low, high, by_parity)| PortRange { low, high, by_parity });
            (family, source, port, destination.map(SocketAddr::from), range)
        }
    }

    prop_compose! {
        /// Any connect that there can be.
        pub fn connect()((start_ns, connect_ns, search_ns, errno) in when(),
            (family, source, port, destination, range) in wherefrom(),
            (pid, tid, uid, netns, cgroup_id, comm) in who(),
            checks: Option<u32>, checks_watched: bool) -> Connect {
            Connect { start_ns, connect_ns, search_ns, family, source, port, destination, errno,
                pid, tid, comm, uid, netns, cgroup_id, range, checks, checks_watched }
        }
    }

    proptest! {
        #[test]
        fn a_line_that_was_written_is_read_as_the_same_connect(connect in connect()) {
            let mut line = Vec::new();
            write(&mut line, &connect);
            prop_assert!(line.len() <= LONGEST_LINE);
            prop_assert!(line.iter().all(|byte| byte.is_ascii()));
            let (&end, line) = line.split_last().unwrap();
            prop_assert_eq!(end, b'\n');
            prop_assert_eq!(parse(line), Some(connect));
        }

        #[test]
        fn no_line_makes_the_parser_panic(line: Vec<u8>) {
            parse(&line);
        }

        #[test]
        fn a_line_with_a_byte_changed_is_another_connect_or_none(
            connect in connect(), at: proptest::sample::Index, byte: u8,
        ) {
            let mut line = Vec::new();
            write(&mut line, &connect);
            line.pop();
            let at = at.index(line.len());
            prop_assume!(line[at] != byte);
            line[at] = byte;
            if let Some(read) = parse(&line) {
                // What reads as the same has another spelling: a capital in an address, say.
                prop_assert!(read != connect || byte.is_ascii_alphanumeric());
            }
        }
    }

    #[test]
    fn a_line_is_as_the_documentation_says() {
        let mut line = Vec::new();
        write(&mut line, &example(20_000));
        let columns = HEADER.trim_end().split(',').count();
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line.trim_end().split(',').count(), columns, "{line}");
        let document = include_str!("../../../docs/recording.md");
        for column in HEADER.trim_end().split(',') {
            let row = format!("\n| `{column}` |");
            assert!(document.contains(&row), "{column} is not in the table");
        }
    }

    #[test]
    fn a_name_cannot_break_the_line() {
        let mut line = Vec::new();
        name(&mut line, &Comm::of("a,b\"c\\d\n\u{e9}"));
        assert_eq!(line, b"a\\x2cb\\x22c\\x5cd\\x0a\\xc3\\xa9,");
    }
}
