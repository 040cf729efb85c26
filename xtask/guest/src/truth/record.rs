//! One line of truth: a connect() call as known to its caller, and its expected result on the kernel's side. Written by
//! the cases, parsed by the tests.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// Stands for a value that the line does not have: for a connect() whose process died inside it, or for a cgroup if no
/// cgroup2 is mounted.
const UNKNOWN: &str = "unknown";

/// The kernel's answer if connect() never calls the kernel's function.
const NONE: &str = "none";

/// Family of the socket and of its destination, which decides the functions that the kernel calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Family {
    /// AF_INET: tcp_v4_connect.
    V4,
    /// AF_INET6: tcp_v6_connect.
    V6,
    /// AF_INET6 to ::ffff:a.b.c.d: tcp_v6_connect, which calls tcp_v4_connect.
    Mapped,
}

/// The caller's choice by bind() before connect().
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Explicit {
    /// No bind().
    None,
    /// The address and the port.
    Port,
    /// The address, and port 0 for "any port": bind() chooses at once, and connect() has no choice left.
    PortAny,
    /// The address alone (IP_BIND_ADDRESS_NO_PORT): connect() chooses the port.
    Address,
}

/// One connect() call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Name of the case that made it.
    pub case: String,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Family of the socket and of its destination.
    pub family: Family,
    /// CLOCK_MONOTONIC just before the call.
    pub start_ns: u64,
    /// Destination.
    pub remote: SocketAddr,
    /// The inode of the thread's network namespace.
    pub netns: u64,
    /// The id of the thread's cgroup, if cgroup2 is mounted at /sys/fs/cgroup.
    pub cgroup: Option<u64>,
    /// The process' real user id.
    pub uid: u32,
    /// The thread's name.
    pub comm: String,
    /// The choice by bind().
    pub explicit: Explicit,
    /// Outcome; none if the process died before it could report. The kernel may have finished such a call, or never
    /// have seen it.
    pub outcome: Option<Outcome>,
}

/// Outcome of a connect() call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// CLOCK_MONOTONIC just after the call.
    pub end_ns: u64,
    /// Answer to the caller: 0 or the errno.
    pub errno: i32,
    /// Expected answer of tcp_v4_connect or tcp_v6_connect, as a positive errno. 0 for a connection that is refused
    /// later; none if the call does not reach that function, so that no trace is expected.
    pub kernel_errno: Option<i32>,
    /// True if the call reaches __inet_hash_connect.
    pub enters_search: bool,
    /// Local address by getsockname() afterwards. The port is 0 if there is none.
    pub local: SocketAddr,
}

impl Record {
    /// Names of the columns, in the order of [`Display`]: the first line of every report.
    pub const HEADER: &'static str = "case\tpid\ttid\tfamily\tstart_ns\tend_ns\terrno\tkernel_errno\
        \tlocal_addr\tlocal_port\tremote_addr\tremote_port\tnetns\tcgroup\tuid\tcomm\
        \texplicit\tenters_search";

    /// Parses the records of a whole report. Lines before the header are skipped.
    pub fn parse_report(report: &str) -> Result<Vec<Record>> {
        let mut lines = report.lines().skip_while(|line| *line != Self::HEADER);
        ensure!(
            lines.next().is_some(),
            "a report of truth has no line with the header"
        );
        lines.map(str::parse).collect()
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            case,
            pid,
            tid,
            family,
            start_ns,
            remote,
            netns,
            uid,
            comm,
            explicit,
            ..
        } = self;
        write!(f, "{case}\t{pid}\t{tid}\t{family}\t{start_ns}\t")?;
        match &self.outcome {
            None => write!(f, "0\t{UNKNOWN}\t{UNKNOWN}\t{UNKNOWN}\t{UNKNOWN}")?,
            Some(Outcome {
                end_ns,
                errno,
                kernel_errno,
                local,
                ..
            }) => {
                let kernel_errno = kernel_errno.map_or(NONE.into(), |errno| errno.to_string());
                let (ip, port) = (local.ip(), local.port());
                write!(f, "{end_ns}\t{errno}\t{kernel_errno}\t{ip}\t{port}")?;
            }
        }
        let cgroup = self.cgroup.map_or(UNKNOWN.into(), |id| id.to_string());
        let enters_search = match &self.outcome {
            None => UNKNOWN,
            Some(outcome) if outcome.enters_search => "yes",
            Some(_) => "no",
        };
        let (ip, port) = (remote.ip(), remote.port());
        write!(
            f,
            "\t{ip}\t{port}\t{netns}\t{cgroup}\t{uid}\t{comm}\t{explicit}\t{enters_search}"
        )
    }
}

impl FromStr for Record {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        parse(line).with_context(|| format!("reading the line of truth {line:?}"))
    }
}

fn parse(line: &str) -> Result<Record> {
    let columns: Vec<&str> = line.split('\t').collect();
    let expected = Record::HEADER.split('\t').count();
    let Ok(
        [
            case,
            pid,
            tid,
            family,
            start_ns,
            end_ns,
            errno,
            kernel_errno,
            local_addr,
            local_port,
            remote_addr,
            remote_port,
            netns,
            cgroup,
            uid,
            comm,
            explicit,
            enters_search,
        ],
    ) = <[&str; 18]>::try_from(columns.as_slice())
    else {
        bail!("it has {} columns instead of {expected}", columns.len());
    };
    let outcome = match errno {
        UNKNOWN => None,
        _ => Some(Outcome {
            end_ns: value("end_ns", end_ns)?,
            errno: value("errno", errno)?,
            kernel_errno: match kernel_errno {
                NONE => None,
                _ => Some(value("kernel_errno", kernel_errno)?),
            },
            enters_search: match enters_search {
                "yes" => true,
                "no" => false,
                other => bail!("enters_search is {other:?}, neither yes nor no"),
            },
            local: SocketAddr::new(
                value::<IpAddr>("local_addr", local_addr)?,
                value("local_port", local_port)?,
            ),
        }),
    };
    Ok(Record {
        case: case.into(),
        pid: value("pid", pid)?,
        tid: value("tid", tid)?,
        family: family.parse()?,
        start_ns: value("start_ns", start_ns)?,
        remote: SocketAddr::new(
            value::<IpAddr>("remote_addr", remote_addr)?,
            value("remote_port", remote_port)?,
        ),
        netns: value("netns", netns)?,
        cgroup: match cgroup {
            UNKNOWN => None,
            _ => Some(value("cgroup", cgroup)?),
        },
        uid: value("uid", uid)?,
        comm: comm.into(),
        explicit: explicit.parse()?,
        outcome,
    })
}

/// Parses the value in a column that has a number or an address.
fn value<T>(column: &str, text: &str) -> Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse()
        .with_context(|| format!("{column} is {text:?}"))
}

impl Family {
    /// All families.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
            Self::Mapped => "mapped",
        }
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Family {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|family| family.name() == text);
        found.with_context(|| format!("the family {text:?} is none of 4, 6 and mapped"))
    }
}

impl Explicit {
    /// All choices.
    pub const ALL: [Self; 4] = [Self::None, Self::Port, Self::PortAny, Self::Address];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Port => "port",
            Self::PortAny => "port-any",
            Self::Address => "address",
        }
    }
}

impl Display for Explicit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Explicit {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|explicit| explicit.name() == text);
        found.with_context(|| {
            format!("what was bound is {text:?}, none of none, port, port-any and address")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished() -> Record {
        Record {
            case: "v4".into(),
            pid: 10,
            tid: 11,
            family: Family::V4,
            start_ns: 1_000,
            remote: "127.0.0.1:2000".parse().unwrap(),
            netns: 4_026_531_840,
            cgroup: Some(1),
            uid: 1000,
            comm: "truth".into(),
            explicit: Explicit::None,
            outcome: Some(Outcome {
                end_ns: 2_000,
                errno: 111,
                kernel_errno: Some(0),
                enters_search: true,
                local: "0.0.0.0:32768".parse().unwrap(),
            }),
        }
    }

    #[test]
    fn a_line_has_the_columns_of_the_header() {
        let line = "v4\t10\t11\t4\t1000\t2000\t111\t0\t0.0.0.0\t32768\t127.0.0.1\t2000\t4026531840\
            \t1\t1000\ttruth\tnone\tyes";
        assert_eq!(finished().to_string(), line);
        assert_eq!(line.split('\t').count(), Record::HEADER.split('\t').count());
    }

    #[test]
    fn every_kind_of_record_survives_the_round_trip() {
        let mut records = vec![
            finished(),
            Record {
                outcome: None,
                cgroup: None,
                ..finished()
            },
        ];
        for family in Family::ALL {
            let remote = match family {
                Family::V4 => "127.0.0.1:1",
                Family::V6 => "[::1]:65535",
                Family::Mapped => "[::ffff:127.0.0.1]:80",
            };
            let remote: SocketAddr = remote.parse().unwrap();
            for explicit in Explicit::ALL {
                for kernel_errno in [None, Some(0), Some(99)] {
                    let outcome = finished().outcome.map(|outcome| Outcome {
                        kernel_errno,
                        enters_search: kernel_errno.is_some(),
                        local: remote,
                        ..outcome
                    });
                    records.push(Record {
                        family,
                        explicit,
                        remote,
                        outcome,
                        ..finished()
                    });
                }
            }
        }
        let lines: Vec<String> = records.iter().map(Record::to_string).collect();
        let report = format!("noise\n{}\n{}\n", Record::HEADER, lines.join("\n"));
        assert_eq!(Record::parse_report(&report).unwrap(), records);
    }

    #[test]
    fn an_empty_report_has_a_header() {
        assert_eq!(Record::parse_report(Record::HEADER).unwrap(), []);
        assert!(Record::parse_report("").is_err());
    }

    #[test]
    fn a_bad_line_is_named_with_its_column() {
        let line = finished().to_string();
        let error = |line: &str| format!("{:#}", line.parse::<Record>().unwrap_err());
        assert!(error("v4\t1").contains("2 columns instead of 18"));
        assert!(error(&line.replace("\t2000\t111", "\tx\t111")).contains("end_ns is \"x\""));
        assert!(error(&line.replace("yes", "maybe")).contains("neither yes nor no"));
    }
}
