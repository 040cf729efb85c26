//! Writes a connect(), or what became of its connection, as a line of CSV, and reads it back. No value needs quotes.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use super::{Row, Start};
use crate::{
    connect::{
        CallKind, Comm, Connect, ConnectionEvent, Family, Fate, LockWaits, Operation, Owner,
        Phases, PortChoice, PortRange, Protocol, SearchRange, SourcePort, Split,
    },
    term::printable::printable,
};

/// The first line: the names of the columns.
pub const HEADER: &str = "event,host,start_unix_ns,connect_ns,search_ns,protocol,operation,family,source,source_port,\
port_origin,destination,destination_port,errno,pid,tid,comm,uid,netns,cgroup_id,owner,range_low,range_high,\
range_by_parity,strategy,address_bound,scanned,before_search_ns,preempted_search_ns,preempted_other_ns,\
blocked_search_ns,blocked_other_ns,bhash_ns,bhash2_ns,ehash_ns,lock_search_ns,lock_other_ns,checks,checks_watched,\
handshake_ns,syn_retransmits,outcome,end_unix_ns,end_errno\n";

/// Maximum length of a line: sixteen numbers of 20 digits, fourteen of 10, two addresses of 39 characters, a name
/// with all of its 16 bytes escaped, the name of a host with all of its [`LONGEST_HOST`] bytes escaped, words and commas.
pub(super) const LONGEST_LINE: usize = 800 + 4 * LONGEST_HOST;

/// Maximum length of the name of a host: the kernel's limit.
const LONGEST_HOST: usize = 64;

/// The host and the clock of a recording, which each of its lines has.
#[derive(Default)]
pub(super) struct Origin {
    /// The field of the host, with its comma.
    host: Vec<u8>,
    /// Time of day minus `CLOCK_MONOTONIC`, which is negative on a host whose clock is not set.
    offset_ns: u64,
}

impl Origin {
    /// Returns the origin of the lines after this start.
    pub(super) fn of(start: &Start) -> Self {
        let mut host = Vec::new();
        // The note has a printable name, and a reader knows the note only.
        let name = printable(&start.host).to_string();
        escaped(&mut host, name.bytes().take(LONGEST_HOST));
        Self {
            host,
            offset_ns: start.wall_ns.wrapping_sub(start.monotonic_ns),
        }
    }

    /// Returns the time of day of a `CLOCK_MONOTONIC`. Wraps around, so that `monotonic_ns` reverses it for any two values.
    fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.wrapping_add(self.offset_ns)
    }

    fn monotonic_ns(&self, unix_ns: u64) -> u64 {
        unix_ns.wrapping_sub(self.offset_ns)
    }
}

/// Adds the line of a connect().
pub(super) fn write(line: &mut Vec<u8>, origin: &Origin, connect: &Connect) {
    word(line, CONNECT);
    write_connect(line, origin, connect);
    line.extend_from_slice(b",,,,,\n");
}

/// Adds the line of an event of a connection.
pub(super) fn write_event(line: &mut Vec<u8>, origin: &Origin, event: &ConnectionEvent) {
    let ConnectionEvent {
        connect,
        handshake_ns,
        syn_retransmits,
        fate,
        end_ns,
        errno,
    } = event;
    word(
        line,
        match end_ns {
            None => ESTABLISHED,
            Some(_) => ENDED,
        },
    );
    write_connect(line, origin, connect);
    line.push(b',');
    optional(line, *handshake_ns);
    optional(line, *syn_retransmits);
    word(line, fate.name().as_bytes());
    optional(line, end_ns.map(|ns| origin.unix_ns(ns)));
    number(line, errno.unsigned_abs());
    // No column follows the last.
    line.pop();
    line.push(b'\n');
}

/// Adds the columns of a connect(), without a comma after the last.
fn write_connect(line: &mut Vec<u8>, origin: &Origin, connect: &Connect) {
    let Connect {
        kind,
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
        owner,
        range,
        port_choice,
        address_bound,
        scanned,
        checks,
        checks_watched,
        phases,
    } = connect;
    line.extend_from_slice(&origin.host);
    number(line, origin.unix_ns(*start_ns));
    number(line, *connect_ns);
    optional(line, *search_ns);
    word(line, kind.protocol.name().as_bytes());
    word(line, kind.operation.name().as_bytes());
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
    word(line, owner.map_or(b"", |owner| owner.name().as_bytes()));
    optional(line, range.map(|range| range.ports.low));
    optional(line, range.map(|range| range.ports.high));
    word(line, range.map_or(b"", |range| truth_word(range.by_parity)));
    word(
        line,
        port_choice.map_or(b"", |choice| choice.name().as_bytes()),
    );
    word(line, address_bound.map_or(b"", truth_word));
    optional(line, *scanned);
    parts(line, *phases);
    optional(line, *checks);
    line.extend_from_slice(truth_word(*checks_watched));
}

/// Removes the first line from the text, and returns it; `None` if the line is not in the format of [`write`] or
/// [`write_event`] with this origin, and then part of it may have been removed.
pub(super) fn take(text: &mut &[u8], origin: &Origin) -> Option<Row> {
    let event = field(text)?;
    let connect = take_connect(text, origin)?;
    if event == CONNECT {
        *text = text.strip_prefix(b",,,,\n")?;
        return Some(Row::Connect(connect));
    }
    let handshake_ns = integer(text)?;
    let syn_retransmits = integer(text)?;
    let fate = fate_of(field(text)?)?;
    let end_ns = integer(text)?.map(|unix_ns| origin.monotonic_ns(unix_ns));
    let errno = decimal(until(text, b'\n')?)?;
    let is_end = match event {
        ESTABLISHED => false,
        ENDED => true,
        _ => return None,
    };
    (is_end == end_ns.is_some()).then_some(Row::Event(ConnectionEvent {
        connect,
        handshake_ns,
        syn_retransmits,
        fate,
        end_ns,
        errno,
    }))
}

/// Removes and returns the columns of a connect().
fn take_connect(text: &mut &[u8], origin: &Origin) -> Option<Connect> {
    *text = text.strip_prefix(origin.host.as_slice())?;
    let start_ns = origin.monotonic_ns(required(text)?);
    let connect_ns = required(text)?;
    let search_ns = integer(text)?;
    let kind = kind_of(field(text)?, field(text)?)?;
    let family = family_of(field(text)?)?;
    let source = address_of(field(text)?)?;
    let port = integer(text)?;
    let port = match (field(text)?, port) {
        (NONE, None) => SourcePort::None,
        (BOUND, Some(port)) => SourcePort::Bound(port),
        (SEARCHED, Some(port)) => SourcePort::Searched(port),
        _ => return None,
    };
    let destination = match (address_of(field(text)?)?, integer(text)?) {
        (Some(address), Some(port)) => Some(SocketAddr::new(address, port)),
        (None, None) => None,
        _ => return None,
    };
    let errno = signed(text)?;
    let pid = required(text)?;
    let tid = required(text)?;
    let comm = name_of(field(text)?)?;
    let uid = required(text)?;
    let netns = integer(text)?;
    let cgroup_id = required(text)?;
    let owner = owner_of(field(text)?)?;
    let range = match (integer(text)?, integer(text)?, field(text)?) {
        (Some(low), Some(high), by_parity) => Some(SearchRange {
            ports: PortRange { low, high },
            by_parity: truth_of(by_parity)?,
        }),
        (None, None, b"") => None,
        _ => return None,
    };
    let port_choice = port_choice_of(field(text)?)?;
    let address_bound = match field(text)? {
        b"" => None,
        word => Some(truth_of(word)?),
    };
    let scanned = integer(text)?;
    let phases = take_parts(text)?;
    let checks = integer(text)?;
    let checks_watched = truth_of(field(text)?)?;
    Some(Connect {
        kind,
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
        owner,
        range,
        port_choice,
        address_bound,
        scanned,
        checks,
        checks_watched,
        phases,
    })
}

/// Number of columns of [`parts`].
const PARTS: usize = 10;

/// Writes the parts of a connect().
fn parts(line: &mut Vec<u8>, phases: Option<Phases>) {
    let Some(phases) = phases else {
        line.extend_from_slice(&[b','; PARTS]);
        return;
    };
    number(line, phases.before_search_ns);
    for wait in [phases.preempted, phases.blocked] {
        number(line, wait.in_search_ns);
        number(line, wait.elsewhere_ns);
    }
    let locks = phases.lock_waits;
    optional(line, locks.map(|locks| locks.bhash_ns));
    optional(line, locks.map(|locks| locks.bhash2_ns));
    optional(line, locks.map(|locks| locks.ehash_ns));
    optional(line, locks.map(|locks| locks.other.in_search_ns));
    optional(line, locks.map(|locks| locks.other.elsewhere_ns));
}

/// Removes and returns the parts of a connect(): all of them, all but the waits for locks, or none.
fn take_parts(text: &mut &[u8]) -> Option<Option<Phases>> {
    let mut values = [None; PARTS];
    for value in &mut values {
        *value = integer::<u64>(text)?;
    }
    let split = |in_search_ns, elsewhere_ns| Split {
        in_search_ns,
        elsewhere_ns,
    };
    let [before, a, b, c, d, locks @ ..] = values;
    let lock_waits = match locks {
        [
            Some(bhash_ns),
            Some(bhash2_ns),
            Some(ehash_ns),
            Some(e),
            Some(f),
        ] => Some(LockWaits {
            bhash_ns,
            bhash2_ns,
            ehash_ns,
            other: split(e, f),
        }),
        [None, None, None, None, None] => None,
        _ => return None,
    };
    match (before, a, b, c, d) {
        (Some(before_search_ns), Some(a), Some(b), Some(c), Some(d)) => Some(Some(Phases {
            before_search_ns,
            preempted: split(a, b),
            blocked: split(c, d),
            lock_waits,
        })),
        (None, None, None, None, None) if lock_waits.is_none() => Some(None),
        _ => None,
    }
}

fn kind_of(protocol: &[u8], operation: &[u8]) -> Option<CallKind> {
    let mut protocols = Protocol::ALL.into_iter();
    let mut operations = Operation::ALL.into_iter();
    Some(CallKind {
        protocol: protocols.find(|it| it.name().as_bytes() == protocol)?,
        operation: operations.find(|it| it.name().as_bytes() == operation)?,
    })
}

const CONNECT: &[u8] = b"connect";
const ESTABLISHED: &[u8] = b"established";
const ENDED: &[u8] = b"ended";

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

/// Reads an owner; an empty field is none.
fn owner_of(field: &[u8]) -> Option<Option<Owner>> {
    if field.is_empty() {
        return Some(None);
    }
    let mut all = Owner::ALL.into_iter();
    all.find(|owner| owner.name().as_bytes() == field).map(Some)
}

/// Reads a port choice; an empty field is none.
fn port_choice_of(field: &[u8]) -> Option<Option<PortChoice>> {
    if field.is_empty() {
        return Some(None);
    }
    PortChoice::ALL
        .into_iter()
        .find(|choice| choice.name().as_bytes() == field)
        .map(Some)
}

fn fate_of(field: &[u8]) -> Option<Fate> {
    let mut all = Fate::ALL.into_iter();
    all.find(|fate| fate.name().as_bytes() == field)
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

/// Formats a number. The formatter of the standard library takes three times as long, which is a third of the
/// cost of a recording.
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

/// Writes a name up to its first zero byte.
fn name(line: &mut Vec<u8>, comm: &Comm) {
    escaped(line, comm.0.iter().copied().take_while(|&byte| byte != 0));
}

/// Writes a text; bytes with a meaning in CSV or on a terminal become `\xNN`.
fn escaped(line: &mut Vec<u8>, text: impl Iterator<Item = u8>) {
    for byte in text {
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
            [0..b' ', ..] => return None,
            [byte, after @ ..] => {
                *slot = *byte;
                rest = after;
            }
        }
    }
    rest.is_empty().then_some(Comm(comm))
}

/// Removes and returns the text before this byte, and removes the byte.
fn until<'a>(text: &mut &'a [u8], end: u8) -> Option<&'a [u8]> {
    let at = text.iter().position(|&byte| byte == end)?;
    let (field, rest) = text.split_at(at);
    *text = &rest[1..];
    Some(field)
}

fn field<'a>(text: &mut &'a [u8]) -> Option<&'a [u8]> {
    until(text, b',')
}

/// Reads a field that is a number or empty. Looks at each byte once: most of a recording is numbers.
fn integer<T: TryFrom<u64>>(text: &mut &[u8]) -> Option<Option<T>> {
    let mut number = 0_u64;
    for (at, &byte) in text.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            number = number.checked_mul(10)?.checked_add(digit.into())?;
            continue;
        }
        *text = &text[at + 1..];
        return match (byte, at) {
            (b',', 0) => Some(None),
            (b',', _) => T::try_from(number).ok().map(Some),
            _ => None,
        };
    }
    None
}

fn required<T: TryFrom<u64>>(text: &mut &[u8]) -> Option<T> {
    integer(text)?
}

fn signed(text: &mut &[u8]) -> Option<i32> {
    let number = match text.strip_prefix(b"-") {
        Some(rest) => {
            *text = rest;
            -i64::from(required::<u32>(text)?)
        }
        None => i64::from(required::<u32>(text)?),
    };
    i32::try_from(number).ok()
}

/// Reads a whole field that is a number without a sign.
fn decimal(field: &[u8]) -> Option<i32> {
    if !field.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Reads an address; an empty field is none.
fn address_of(field: &[u8]) -> Option<Option<IpAddr>> {
    if field.is_empty() {
        return Some(None);
    }
    std::str::from_utf8(field).ok()?.parse().ok().map(Some)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*};

    use proptest::strategy::Strategy;

    use super::*;
    use crate::{fixtures::connect_from, recording::notes::tests::start};

    fn origin() -> Origin {
        Origin::of(&start())
    }

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
            -> (Family, Option<IpAddr>, SourcePort, Option<SocketAddr>, Option<SearchRange>) {
            let range = range.map(|(low, high, by_parity)| SearchRange { ports: PortRange { low, high }, by_parity });
            (family, source, port, destination.map(SocketAddr::from), range)
        }
    }

    fn split() -> impl Strategy<Value = Split> {
        any::<(u64, u64)>().prop_map(|(in_search_ns, elsewhere_ns)| Split {
            in_search_ns,
            elsewhere_ns,
        })
    }

    prop_compose! {
        fn lock_waits()(bhash_ns: u64, bhash2_ns: u64, ehash_ns: u64, other in split()) -> LockWaits {
            LockWaits { bhash_ns, bhash2_ns, ehash_ns, other }
        }
    }

    prop_compose! {
        fn phases()(before_search_ns: u64, preempted in split(), blocked in split(),
            lock_waits in option::of(lock_waits())) -> Phases {
            Phases { before_search_ns, preempted, blocked, lock_waits }
        }
    }

    prop_compose! {
        fn kind()(protocol in proptest::sample::select(Protocol::ALL.to_vec()),
            operation in proptest::sample::select(Operation::ALL.to_vec())) -> CallKind {
            CallKind { protocol, operation }
        }
    }

    prop_compose! {
        /// Any possible connection.
        pub fn connect()((start_ns, connect_ns, search_ns, errno) in when(),
            (family, source, port, destination, range) in wherefrom(),
            (pid, tid, uid, netns, cgroup_id, comm) in who(),
            kind in kind(),
            owner in option::of(proptest::sample::select(Owner::ALL.to_vec())),
            port_choice in option::of(proptest::sample::select(PortChoice::ALL.to_vec())),
            address_bound: Option<bool>, scanned: Option<u32>,
            checks: Option<u32>, checks_watched: bool, phases in option::of(phases())) -> Connect {
            Connect { kind, start_ns, connect_ns, search_ns, family, source, port, destination, errno,
                pid, tid, comm, uid, netns, cgroup_id, owner, range, port_choice, address_bound, scanned,
                checks, checks_watched, phases }
        }
    }

    prop_compose! {
        /// Any possible event of a connection.
        pub fn event()(connect in connect(), handshake_ns: Option<u64>, syn_retransmits: Option<u32>,
            fate in proptest::sample::select(Fate::ALL.to_vec()), end_ns: Option<u64>, errno in 0..=i32::MAX)
            -> ConnectionEvent {
            ConnectionEvent { connect, handshake_ns, syn_retransmits, fate, end_ns, errno }
        }
    }

    proptest! {
        #[test]
        fn a_line_that_was_written_is_read_as_the_same_connect(connect in connect()) {
            let mut line = Vec::new();
            write(&mut line, &origin(), &connect);
            prop_assert!(line.len() <= LONGEST_LINE);
            prop_assert!(line.iter().all(|byte| byte.is_ascii()));
            let mut rest = &line[..];
            prop_assert_eq!(take(&mut rest, &origin()), Some(Row::Connect(connect)));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn a_line_of_an_event_is_read_as_the_same_event(event in event()) {
            let mut line = Vec::new();
            write_event(&mut line, &origin(), &event);
            prop_assert!(line.len() <= LONGEST_LINE);
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b',').count(), HEADER.matches(',').count());
            let mut rest = &line[..];
            prop_assert_eq!(take(&mut rest, &origin()), Some(Row::Event(event)));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_line_makes_the_parser_panic(line: Vec<u8>) {
            take(&mut &line[..], &origin());
        }

        #[test]
        fn a_line_with_a_byte_changed_is_another_connect_or_none(
            connect in connect(), at: proptest::sample::Index, byte: u8,
        ) {
            let mut line = Vec::new();
            write(&mut line, &origin(), &connect);
            let at = at.index(line.len());
            prop_assume!(line[at] != byte);
            line[at] = byte;
            if let Some(read) = take(&mut &line[..], &origin()) {
                // A line that reads the same is spelled differently, for example with a capital letter in an address.
                prop_assert!(read != Row::Connect(connect) || byte.is_ascii_alphanumeric());
            }
        }
    }

    #[test]
    fn a_line_is_as_the_documentation_says() {
        let mut line = Vec::new();
        write(&mut line, &origin(), &connect_from(20_000));
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
    fn a_line_has_its_host_and_the_time_of_day_by_the_clock_of_its_file() {
        let of = |host: &str, wall_ns: u64, monotonic_ns: u64| {
            let start = Start {
                host: host.to_owned(),
                wall_ns,
                monotonic_ns,
                ..start()
            };
            let origin = Origin::of(&start);
            // The note's own reader escapes the name, too.
            let read = Start::parse(start.text().as_bytes()).unwrap();
            let mut line = Vec::new();
            write(&mut line, &origin, &connect_from(20_000));
            assert!(line.len() <= LONGEST_LINE);
            let mut rest = &line[..];
            let row = take(&mut rest, &Origin::of(&read));
            assert_eq!(row, Some(Row::Connect(connect_from(20_000))), "{host}");
            String::from_utf8(line).unwrap()
        };
        let start_ns = connect_from(20_000).start_ns;
        let wall_ns = 1_700_000_000_000_000_000;
        let line = of("web1", wall_ns, start_ns - 7);
        let beginning = format!("connect,web1,{},", wall_ns + 7);
        assert!(line.starts_with(&beginning), "{line}");
        // In flight when the file began.
        let line = of("web1", wall_ns, start_ns + 7);
        let beginning = format!("connect,web1,{},", wall_ns - 7);
        assert!(line.starts_with(&beginning), "{line}");
        of("", 0, 5);
        let mut line = Vec::new();
        write(&mut line, &origin(), &connect_from(20_000));
        let other = Origin::of(&Start {
            host: "web2".to_owned(),
            ..start()
        });
        assert_eq!(take(&mut &line[..], &other), None, "a line of another host");
        of("a,b\"\\\n\u{e9}", 1, 2);
        of(&"\u{e9}".repeat(100), 1, 2);
    }

    #[test]
    fn a_name_cannot_break_the_line() {
        let mut line = Vec::new();
        name(&mut line, &Comm::of("a,b\"c\\d\n\u{e9}"));
        assert_eq!(line, b"a\\x2cb\\x22c\\x5cd\\x0a\\xc3\\xa9,");
    }
}
