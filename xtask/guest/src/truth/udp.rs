//! The case of UDP: every way in which a socket of UDP or UDP-Lite gets a source port from the kernel, or does not, and
//! sockets of other protocols that call the same functions of the kernel.

use std::{
    fmt::{self, Display, Formatter},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    os::unix::fs::MetadataExt as _,
    str::FromStr,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use libc::c_int;

use super::{
    namespace::in_fresh,
    range::PortRange,
    record::Family,
    socket::{RawAddress, check, loopback, monotonic_ns},
};

/// `IP_LOCAL_PORT_RANGE` of linux/in.h, which the libc crate lacks.
const IP_LOCAL_PORT_RANGE: c_int = 51;
const SETTINGS: &str = "/proc/sys/net/ipv4";
/// Port of the destinations. connect() of UDP needs no listener.
const PORT: u16 = 2_000;

/// One call on a socket, as known to its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpRecord {
    /// Name of the scenario that made it.
    pub case: String,
    /// Thread id.
    pub tid: u32,
    /// The inode of the thread's network namespace.
    pub netns: u64,
    /// `udp`, `udplite`, or another protocol, of which no trace is expected.
    pub protocol: String,
    /// `connect`, `bind` or `send`.
    pub operation: String,
    /// Family of the socket, and of its destination.
    pub family: Family,
    /// CLOCK_MONOTONIC just before the call.
    pub start_ns: u64,
    /// CLOCK_MONOTONIC just after the call.
    pub end_ns: u64,
    /// 0 or the errno.
    pub errno: i32,
    /// Local address by getsockname() after the call. The port is 0 if there is none.
    pub local: SocketAddr,
    /// Destination by getpeername() after a connect(), or the passed one if it failed; none of a bind() or send().
    pub remote: Option<SocketAddr>,
    /// Origin of the port, which decides if a trace is expected.
    pub port: Port,
    /// Choice of the port by the calls before, if the kernel's socket shows it; the tracer's name of it.
    pub strategy: String,
    /// Range of the search, as LO-HI.
    pub range: String,
}

/// Origin of the port of a socket after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The call makes the kernel search for a port.
    Searched,
    /// A connect() of a socket that has a port.
    Bound,
    /// The call has nothing to do with ports, or is one of another protocol: no trace is expected.
    Untraced,
}

impl UdpRecord {
    /// Names of the columns, in the order of [`Display`].
    pub const HEADER: &'static str = "case\ttid\tnetns\tprotocol\toperation\tfamily\tstart_ns\tend_ns\terrno\tlocal\
        \tremote\tport\tstrategy\trange";

    /// Parses the records of a whole report.
    pub fn parse_report(report: &str) -> Result<Vec<Self>> {
        let mut lines = report.lines().skip_while(|line| *line != Self::HEADER);
        ensure!(
            lines.next().is_some(),
            "a report of truth has no line with the header"
        );
        lines.map(str::parse).collect()
    }
}

impl Display for UdpRecord {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let remote = self
            .remote
            .map_or("none".to_owned(), |remote| remote.to_string());
        write!(
            f,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{remote}\t{:?}\t{}\t{}",
            self.case,
            self.tid,
            self.netns,
            self.protocol,
            self.operation,
            self.family,
            self.start_ns,
            self.end_ns,
            self.errno,
            self.local,
            self.port,
            self.strategy,
            self.range,
        )
    }
}

impl FromStr for UdpRecord {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [
            case,
            tid,
            netns,
            protocol,
            operation,
            family,
            start,
            end,
            errno,
            local,
            remote,
            port,
            strategy,
            range,
        ] = fields[..]
        else {
            anyhow::bail!("{line:?} does not have the columns of a UDP call");
        };
        Ok(Self {
            case: case.to_owned(),
            tid: tid.parse()?,
            netns: netns.parse()?,
            protocol: protocol.to_owned(),
            operation: operation.to_owned(),
            family: family.parse()?,
            start_ns: start.parse()?,
            end_ns: end.parse()?,
            errno: errno.parse()?,
            local: local.parse()?,
            remote: (remote != "none").then(|| remote.parse()).transpose()?,
            port: [Port::Searched, Port::Bound, Port::Untraced]
                .into_iter()
                .find(|known| format!("{known:?}") == port)
                .with_context(|| format!("{port:?} is no origin of a port"))?,
            strategy: strategy.to_owned(),
            range: range.to_owned(),
        })
    }
}

/// A socket, and what was done to its port.
struct Socket {
    fd: UdpSocket,
    protocol: &'static str,
    family: Family,
    /// Origin of its port, if it has one: the tracer's name of the choice.
    bound: &'static str,
    address_bound: bool,
    own_range: Option<PortRange>,
}

impl Socket {
    fn new(protocol: &'static str, family: Family) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 | Family::Mapped => libc::AF_INET6,
        };
        let (kind, number) = match protocol {
            "udp" => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            "udplite" => (libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
            "ping" => (libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
            // A raw socket of UDP's number.
            _ => (libc::SOCK_RAW, libc::IPPROTO_UDP),
        };
        let kind = kind | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(domain, kind, number) };
        check(fd)?;
        // SAFETY: the descriptor was just opened and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd: fd.into(),
            protocol,
            family,
            bound: "bind",
            address_bound: false,
            own_range: None,
        })
    }

    fn set(&self, option: c_int, value: u32) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of `value`, which outlives the call.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::IPPROTO_IP,
                option,
                (&raw const value).cast(),
                size_of::<u32>() as libc::socklen_t,
            )
        })
    }

    fn is_traced(&self) -> bool {
        matches!(self.protocol, "udp" | "udplite")
    }
}

/// The calls of a thread.
struct Witness {
    tid: u32,
    netns: u64,
    range: PortRange,
    records: Vec<UdpRecord>,
    held: Vec<Socket>,
}

impl Witness {
    fn new() -> Result<Self> {
        let netns = "/proc/thread-self/ns/net";
        let mut witness = Self {
            // SAFETY: the call has no arguments and cannot fail.
            tid: unsafe { libc::gettid() } as u32,
            netns: fs::metadata(netns)
                .with_context(|| format!("reading the thread's network namespace, {netns}"))?
                .ino(),
            range: PortRange::new(1, 1)?,
            records: Vec::new(),
            held: Vec::new(),
        };
        witness.set_range(20_000, 20_999)?;
        Ok(witness)
    }

    fn set_range(&mut self, low: u16, high: u16) -> Result<()> {
        self.range = PortRange::new(low, high)?;
        self.range.set()
    }

    /// Makes a call, and keeps its record. `port` is the origin of the port after the call, if it is not that of the
    /// state of the socket.
    fn call(
        &mut self,
        case: &str,
        operation: &str,
        socket: &mut Socket,
        passed: Option<SocketAddr>,
        port: Option<Port>,
        call: impl FnOnce(RawFd) -> io::Result<()>,
    ) -> Result<i32> {
        let has_port = socket.fd.local_addr()?.port() != 0;
        let start_ns = monotonic_ns();
        let result = call(socket.fd.as_raw_fd());
        let end_ns = monotonic_ns();
        let error = result.err().and_then(|error| error.raw_os_error());
        let errno = error.unwrap_or(0);
        let of_state = match (has_port, operation) {
            _ if !socket.is_traced() => Port::Untraced,
            (false, _) => Port::Searched,
            (true, "connect") => Port::Bound,
            (true, _) => Port::Untraced,
        };
        let port = port.unwrap_or(of_state);
        let strategy = match port {
            Port::Bound => socket.bound,
            _ if socket.own_range.is_some() => "range",
            _ if operation == "bind" => "bind",
            _ if socket.address_bound => "address",
            _ => "default",
        };
        let remote = match errno {
            0 if operation == "connect" => socket.fd.peer_addr().ok(),
            _ => passed,
        };
        self.records.push(UdpRecord {
            case: case.to_owned(),
            tid: self.tid,
            netns: self.netns,
            protocol: socket.protocol.to_owned(),
            operation: operation.to_owned(),
            family: socket.family,
            start_ns,
            end_ns,
            errno,
            local: socket.fd.local_addr()?,
            remote,
            port,
            strategy: strategy.to_owned(),
            range: socket.own_range.unwrap_or(self.range).to_string(),
        });
        Ok(errno)
    }

    fn connect(&mut self, case: &str, socket: &mut Socket, to: SocketAddr) -> Result<i32> {
        let raw = RawAddress::from(to);
        self.call(case, "connect", socket, Some(to), None, |fd| {
            // SAFETY: `raw` is a socket address of the length given, and outlives the call.
            check(unsafe { libc::connect(fd, raw.as_ptr(), raw.len()) })
        })
    }

    fn bind(&mut self, case: &str, socket: &mut Socket, to: SocketAddr) -> Result<i32> {
        let raw = RawAddress::from(to);
        let explicit = to.port() != 0;
        let port = explicit.then_some(Port::Untraced);
        let errno = self.call(case, "bind", socket, None, port, |fd| {
            // SAFETY: as in `connect`.
            check(unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) })
        })?;
        if explicit {
            socket.bound = "explicit-port";
        }
        socket.address_bound = !to.ip().is_unspecified();
        Ok(errno)
    }

    fn send(&mut self, case: &str, socket: &mut Socket, to: SocketAddr) -> Result<i32> {
        let raw = RawAddress::from(to);
        self.call(case, "send", socket, None, None, |fd| {
            // An echo request, the only message that a ping socket takes.
            let message = [8_u8, 0, 0, 0, 0, 0, 0, 0];
            // SAFETY: `raw` and `message` are of the lengths given, and outlive the call.
            let sent = unsafe {
                libc::sendto(
                    fd,
                    message.as_ptr().cast(),
                    message.len(),
                    0,
                    raw.as_ptr(),
                    raw.len(),
                )
            };
            check(sent as c_int)
        })
    }

    /// Dissolves the connection, by the family AF_UNSPEC.
    fn dissolve(&mut self, case: &str, socket: &mut Socket) -> Result<i32> {
        self.call(case, "connect", socket, None, Some(Port::Untraced), |fd| {
            // SAFETY: all of a sockaddr's fields are plain numbers, for which zero is a value.
            let unspecified: libc::sockaddr = unsafe { std::mem::zeroed() };
            let length = size_of_val(&unspecified) as libc::socklen_t;
            // SAFETY: the pointer and the length are those of `unspecified`, which outlives the call.
            check(unsafe { libc::connect(fd, &raw const unspecified, length) })
        })
    }

    fn hold(&mut self, socket: Socket) {
        self.held.push(socket);
    }
}

/// Makes the calls of every scenario, in each of so many threads at the same time.
pub(super) fn udp(threads: usize) -> Result<Vec<UdpRecord>> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| in_fresh(scenarios)))
            .collect();
        let mut records = Vec::new();
        for thread in running {
            records.extend(
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
        }
        Ok(records)
    })
}

/// Returns the least time of a connect() of a new socket on loopback, in nanoseconds.
pub(super) fn least_ns(count: usize) -> Result<u64> {
    let raw = RawAddress::from(to(Family::V4));
    let mut least = None;
    for _ in 0..count {
        let socket = Socket::new("udp", Family::V4)?;
        let start_ns = monotonic_ns();
        // SAFETY: `raw` is a socket address of the length given, and outlives the call.
        let result = unsafe { libc::connect(socket.fd.as_raw_fd(), raw.as_ptr(), raw.len()) };
        let ns = monotonic_ns() - start_ns;
        check(result)?;
        least = Some(least.map_or(ns, |least: u64| least.min(ns)));
    }
    least.context("not one connect() was asked for")
}

fn scenarios() -> Result<Vec<UdpRecord>> {
    let mut witness = Witness::new()?;
    let at = &mut witness;
    for protocol in ["udp", "udplite"] {
        match Socket::new(protocol, Family::V4) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => continue,
            opened => opened?,
        };
        for family in Family::ALL {
            of_family(at, protocol, family)?;
        }
        of_ipv4(at, protocol)?;
        exhausted(at, protocol)?;
        reserved(at, protocol)?;
        own_range(at, protocol)?;
    }
    others(at)?;
    Ok(witness.records)
}

fn to(family: Family) -> SocketAddr {
    SocketAddr::new(loopback(family), PORT)
}

fn of_family(at: &mut Witness, protocol: &'static str, family: Family) -> Result<()> {
    let mut socket = Socket::new(protocol, family)?;
    at.connect("connect", &mut socket, to(family))?;
    at.connect("second-connect", &mut socket, to(family))?;
    at.dissolve("dissolve", &mut socket)?;
    at.connect("after-dissolve", &mut socket, to(family))?;

    let mut socket = Socket::new(protocol, family)?;
    at.bind("bind", &mut socket, SocketAddr::new(loopback(family), 0))?;
    at.connect("connect-bound", &mut socket, to(family))?;
    at.send("send-bound", &mut socket, to(family))?;

    let mut socket = Socket::new(protocol, family)?;
    let explicit = SocketAddr::new(loopback(family), 10_000);
    at.bind("bind-port", &mut socket, explicit)?;
    at.connect("connect-port", &mut socket, to(family))?;
    // A taken port is no search.
    let mut second = Socket::new(protocol, family)?;
    let errno = at.bind("bind-taken", &mut second, explicit)?;
    ensure!(
        errno == libc::EADDRINUSE,
        "bind() to a taken port gave {errno}"
    );

    let mut socket = Socket::new(protocol, family)?;
    socket.set(libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    let address = SocketAddr::new(loopback(family), 0);
    let raw = RawAddress::from(address);
    at.call(
        "bind-address",
        "bind",
        &mut socket,
        None,
        Some(Port::Untraced),
        |fd| {
            // SAFETY: `raw` is a socket address of the length given, and outlives the call.
            check(unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) })
        },
    )?;
    socket.address_bound = true;
    at.connect("connect-address", &mut socket, to(family))?;

    // The kernel sees no destination in the search of a send(): an IPv6 socket is one of IPv6.
    let of_socket = if family == Family::V4 {
        Family::V4
    } else {
        Family::V6
    };
    let mut socket = Socket::new(protocol, of_socket)?;
    at.send("send", &mut socket, to(family))?;
    at.send("second-send", &mut socket, to(family))?;
    socket.family = family;
    at.connect("connect-after-send", &mut socket, to(family))?;
    Ok(())
}

fn of_ipv4(at: &mut Witness, protocol: &'static str) -> Result<()> {
    let mut socket = Socket::new(protocol, Family::V4)?;
    at.bind("bind-any", &mut socket, (Ipv4Addr::UNSPECIFIED, 0).into())?;
    let mut socket = Socket::new(protocol, Family::V6)?;
    at.bind("bind-any", &mut socket, (Ipv6Addr::UNSPECIFIED, 0).into())?;
    let mut socket = Socket::new(protocol, Family::V4)?;
    at.connect(
        "connect-any",
        &mut socket,
        (Ipv4Addr::UNSPECIFIED, PORT).into(),
    )?;

    // An address reserved for documentation: the namespace has no route to it. The port was chosen before that showed.
    let mut socket = Socket::new(protocol, Family::V4)?;
    for case in ["unreachable", "unreachable-bound"] {
        let to = (Ipv4Addr::new(192, 0, 2, 1), PORT).into();
        let errno = at.connect(case, &mut socket, to)?;
        ensure!(
            errno == libc::ENETUNREACH,
            "an unreachable destination gave {errno}"
        );
    }

    // An IPv6 socket takes an IPv4 address; the kernel shows it as v4-mapped.
    let mut socket = Socket::new(protocol, Family::Mapped)?;
    at.connect("ipv4-address", &mut socket, to(Family::V4))?;

    // An IPv4 socket takes no IPv6 address, but chooses a port first.
    let mut socket = Socket::new(protocol, Family::V4)?;
    let raw = RawAddress::from(to(Family::V6));
    let errno = at.call("ipv6-address", "connect", &mut socket, None, None, |fd| {
        // SAFETY: `raw` is a socket address of the length given, and outlives the call.
        check(unsafe { libc::connect(fd, raw.as_ptr(), raw.len()) })
    })?;
    ensure!(errno == libc::EAFNOSUPPORT, "an IPv6 address gave {errno}");
    Ok(())
}

/// Takes every port of a range, and then asks for one more in each way.
fn exhausted(at: &mut Witness, protocol: &'static str) -> Result<()> {
    at.set_range(21_000, 21_007)?;
    for _ in 0..at.range.ports() {
        let mut socket = Socket::new(protocol, Family::V4)?;
        let errno = at.connect("exhaust", &mut socket, to(Family::V4))?;
        ensure!(
            errno == 0,
            "connect() on a range with free ports gave {errno}"
        );
        at.hold(socket);
    }
    let mut socket = Socket::new(protocol, Family::V4)?;
    let errno = at.connect("exhausted-connect", &mut socket, to(Family::V4))?;
    ensure!(
        errno == libc::EAGAIN,
        "connect() without a free port gave {errno}"
    );
    let errno = at.send("exhausted-send", &mut socket, to(Family::V4))?;
    ensure!(
        errno == libc::EAGAIN,
        "send() without a free port gave {errno}"
    );
    let address = SocketAddr::new(IpAddr::from(Ipv4Addr::LOCALHOST), 0);
    let errno = at.bind("exhausted-bind", &mut socket, address)?;
    ensure!(
        errno == libc::EADDRINUSE,
        "bind() without a free port gave {errno}"
    );
    at.held.clear();
    at.set_range(20_000, 20_999)
}

/// Leaves a search two ports of eight.
fn reserved(at: &mut Witness, protocol: &'static str) -> Result<()> {
    at.set_range(22_000, 22_007)?;
    let setting = format!("{SETTINGS}/ip_local_reserved_ports");
    let reserve = |ports: &str| {
        fs::write(&setting, ports).with_context(|| format!("writing {ports:?} to {setting}"))
    };
    reserve("22001-22006")?;
    for errno in [0, 0, libc::EAGAIN] {
        let mut socket = Socket::new(protocol, Family::V4)?;
        let got = at.connect("reserved", &mut socket, to(Family::V4))?;
        ensure!(
            got == errno,
            "connect() beside reserved ports gave {got}, not {errno}"
        );
        at.hold(socket);
    }
    at.held.clear();
    reserve("\n")?;
    at.set_range(20_000, 20_999)
}

/// Gives sockets a range of their own, where the kernel has that, and takes all of it.
fn own_range(at: &mut Witness, protocol: &'static str) -> Result<()> {
    let range = PortRange::new(20_500, 20_501)?;
    for (operation, errno) in [("connect", 0), ("bind", 0), ("connect", libc::EAGAIN)] {
        let mut socket = Socket::new(protocol, Family::V4)?;
        match socket.set(IP_LOCAL_PORT_RANGE, 20_501 << 16 | 20_500) {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => return Ok(()),
            set => set.context("setting IP_LOCAL_PORT_RANGE")?,
        }
        socket.own_range = Some(range);
        let got = match operation {
            "bind" => {
                let address = SocketAddr::new(loopback(Family::V4), 0);
                at.bind("own-range", &mut socket, address)?
            }
            _ => at.connect("own-range", &mut socket, to(Family::V4))?,
        };
        ensure!(
            got == errno,
            "{operation}() on an own range gave {got}, not {errno}"
        );
        at.hold(socket);
    }
    at.held.clear();
    Ok(())
}

/// Calls the same functions of the kernel with sockets of other protocols.
fn others(at: &mut Witness) -> Result<()> {
    let setting = format!("{SETTINGS}/ping_group_range");
    fs::write(&setting, "0 0").with_context(|| format!("writing {setting}"))?;
    for protocol in ["ping", "raw"] {
        let mut socket = Socket::new(protocol, Family::V4)?;
        let errno = at.connect("other", &mut socket, to(Family::V4))?;
        ensure!(errno == 0, "connect() of a {protocol} socket gave {errno}");
        let mut socket = Socket::new(protocol, Family::V4)?;
        let errno = at.send("other", &mut socket, to(Family::V4))?;
        ensure!(errno == 0, "send() of a {protocol} socket gave {errno}");
    }
    // The thread's next call of UDP is not taken for one of theirs.
    let mut socket = Socket::new("udp", Family::V4)?;
    at.connect("after-others", &mut socket, to(Family::V4))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let record = UdpRecord {
            case: "connect".to_owned(),
            tid: 1,
            netns: 2,
            protocol: "udp".to_owned(),
            operation: "connect".to_owned(),
            family: Family::Mapped,
            start_ns: 3,
            end_ns: 4,
            errno: 11,
            local: "[::]:0".parse().unwrap(),
            remote: None,
            port: Port::Searched,
            strategy: "default".to_owned(),
            range: "20000-20999".to_owned(),
        };
        assert_eq!(record.to_string().parse::<UdpRecord>().unwrap(), record);
        let report = format!("text\n{}\n{record}\n", UdpRecord::HEADER);
        assert_eq!(UdpRecord::parse_report(&report).unwrap(), [record]);
    }
}
