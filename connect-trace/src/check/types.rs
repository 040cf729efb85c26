//! The kernel's types and functions, to which the programs are adapted.

use anyhow::{Result, anyhow};

use super::finding::{Finding, Group};
use crate::{
    connect::Protocols,
    kernel::{
        btf::{Btf, VMLINUX},
        layout::Layout,
        limits,
        requirement::MissingRequirement,
        symbols::{KALLSYMS, Pointer, TABLE_PERTURB},
    },
    probes::{RING_BUFFER_BYTES, attach::functions::Functions},
};

/// The facts behind this group of findings.
pub(super) struct Reading {
    pub(super) btf: Result<Types>,
    pub(super) functions: Result<Functions>,
}

/// Facts read from the BTF.
pub(super) struct Types {
    /// Size of the blob in bytes.
    pub(super) size: usize,
    pub(super) layout: Result<Layout>,
    /// An error if a function's prototype differs from what the programs assume.
    pub(super) prototypes: Result<()>,
    /// An error if a limit of this process leaves no room for a trace with the default options.
    pub(super) limits: Result<(), MissingRequirement>,
}

impl Reading {
    pub(super) fn of_running_kernel() -> Self {
        let mut functions = Functions::of_running_kernel(Protocols::TCP);
        let btf = Btf::of_running_kernel().map(|btf| Types {
            size: btf.size(),
            layout: Layout::of(&btf),
            limits: limits::files().and_then(|()| limits::memory(&btf, RING_BUFFER_BYTES.into())),
            prototypes: match &mut functions {
                Ok(functions) => functions.fit(&btf),
                Err(_) => Err(anyhow!("a function is missing")),
            },
        });
        Self { btf, functions }
    }

    /// Returns the offsets, if they were found.
    pub(super) fn layout(&self) -> Option<&Layout> {
        self.btf.as_ref().ok()?.layout.as_ref().ok()
    }
}

const GROUP: Group = Group::Types;

pub(super) fn findings(reading: &Reading) -> Vec<Finding> {
    vec![
        btf(&reading.btf).since("5.4").required(),
        offsets(&reading.btf).required(),
        functions(&reading.functions).required(),
        prototypes(reading).required(),
        search_start(reading).since("5.10.125"),
    ]
}

fn btf(btf: &Result<Types>) -> Finding {
    const NAME: &str = "btf";
    match btf {
        Ok(types) => Finding::ok(GROUP, NAME, format!("{} bytes in {VMLINUX}", types.size))
            .data(types.size.into()),
        Err(error) => Finding::missing(GROUP, NAME, error),
    }
}

fn offsets(btf: &Result<Types>) -> Finding {
    /// Fields that older kernels lack without a loss: they came with Linux 6.3 and 7.1.
    const NEWER: [(&str, &str); 2] = [
        ("inet_sock", "local_port_range"),
        ("net", "ipv4.sysctl_ip_local_port_step_width"),
    ];
    const NAME: &str = "offsets";
    let layout = match btf {
        Ok(types) => &types.layout,
        Err(_) => return without_btf(NAME),
    };
    let layout = match layout {
        Ok(layout) => layout,
        Err(error) => return Finding::missing(GROUP, NAME, error),
    };
    let list = |fields: &[(&str, &str)]| -> String {
        let names = fields
            .iter()
            .map(|(structure, member)| format!("{structure}.{member}"));
        names.collect::<Vec<_>>().join(", ")
    };
    let value = match &layout.absent[..] {
        [] => "all fields that are read".to_owned(),
        absent => format!("all except {}", list(absent)),
    };
    let absent: Vec<_> = layout
        .absent
        .iter()
        .copied()
        .filter(|field| !NEWER.contains(field))
        .collect();
    if absent.is_empty() {
        Finding::ok(GROUP, NAME, value)
    } else {
        Finding::limited(GROUP, NAME, value, "its values are absent from the records")
    }
    .data(serde_json::json!({
        "absent": layout.absent.iter().map(|field| list(&[*field])).collect::<Vec<_>>(),
    }))
}

fn functions(functions: &Result<Functions>) -> Finding {
    const NAME: &str = "functions";
    let functions = match functions {
        Ok(functions) => functions,
        Err(error) => return Finding::missing(GROUP, NAME, error),
    };
    let names: Vec<&str> = functions
        .connect()
        .into_iter()
        .chain(functions.checks())
        .map(|function| function.name)
        .collect();
    let value = names.join(", ");
    let finding = match &functions.notes[..] {
        [] => Finding::ok(GROUP, NAME, value),
        notes => Finding::limited(GROUP, NAME, value, notes.join("; ")),
    };
    let finding = if functions.ipv6 {
        finding
    } else {
        finding.remedy("load it before the trace starts (modprobe ipv6), if IPv6 is wanted")
    };
    finding.data(names.into())
}

fn prototypes(reading: &Reading) -> Finding {
    const NAME: &str = "prototypes";
    match &reading.btf {
        Ok(types) => match &types.prototypes {
            Ok(()) => Finding::ok(GROUP, NAME, "as the programs need them"),
            Err(error) => Finding::missing(GROUP, NAME, error),
        },
        Err(_) => without_btf(NAME),
    }
}

/// Reports whether the number of ports that a search went through can be known.
fn search_start(reading: &Reading) -> Finding {
    const NAME: &str = "search_start";
    const WITHOUT: &str = "the records do not have the number of ports that a search went through";
    let (Ok(functions), Some(layout)) = (&reading.functions, reading.layout()) else {
        return Finding::unknown(
            GROUP,
            NAME,
            "cannot be checked without the functions and BTF",
            "see functions and btf above",
        );
    };
    match functions.table_perturb {
        Pointer::At(_) if layout.port_offset_is_wide => {
            Finding::ok(GROUP, NAME, format!("{TABLE_PERTURB}, by {KALLSYMS}"))
        }
        Pointer::At(_) | Pointer::Array => Finding::missing(
            GROUP,
            NAME,
            &MissingRequirement::new(
                format!("this kernel chooses the start of a search in an older way; {WITHOUT}"),
                "boot a later kernel of this series, if that number is wanted",
            )
            .into(),
        ),
        Pointer::None => Finding::missing(
            GROUP,
            NAME,
            &MissingRequirement::new(
                format!("{KALLSYMS} has no {TABLE_PERTURB}; {WITHOUT}"),
                "boot a kernel built with CONFIG_KALLSYMS_ALL=y, if that number is wanted",
            )
            .into(),
        ),
        Pointer::Hidden => Finding::unknown(
            GROUP,
            NAME,
            format!("{KALLSYMS} shows no addresses; {WITHOUT}"),
            "run as root, with kernel.kptr_restrict below 2",
        ),
    }
}

fn without_btf(name: &'static str) -> Finding {
    Finding::unknown(
        GROUP,
        name,
        "cannot be checked without BTF",
        "see btf above",
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::check::State;

    /// Returns the reading of a kernel that has everything, or everything but IPv6.
    pub(in crate::check) fn complete(ipv6: bool) -> Reading {
        Reading {
            btf: Ok(Types {
                size: 5_000_000,
                layout: Ok(Layout {
                    offsets: vec![],
                    absent: vec![],
                    socket_range_is_pair: false,
                    socket_range_has_no_parity: true,
                    port_offset_is_wide: true,
                    has_namespaces: true,
                    port_range_is_pair: false,
                    shows_port_range: true,
                    user_locks_bit: Some(0),
                    kernel_sock: Some(2 << 8),
                    cast: None,
                    port_tables: None,
                }),
                prototypes: Ok(()),
                limits: Ok(()),
            }),
            functions: Ok(Functions::all(ipv6)),
        }
    }

    fn of_absent(absent: &[(&'static str, &'static str)]) -> Reading {
        let mut reading = complete(true);
        let layout = reading.btf.as_mut().unwrap().layout.as_mut().unwrap();
        layout.absent = absent.to_vec();
        reading
    }

    fn states(reading: &Reading) -> Vec<State> {
        findings(reading)
            .into_iter()
            .map(|finding| finding.state)
            .collect()
    }

    #[test]
    fn a_kernel_that_has_everything_is_ok() {
        assert_eq!(states(&complete(true)), [State::Ok; 5]);
    }

    #[test]
    fn without_btf_the_rest_of_it_is_unknown_and_a_trace_is_blocked() {
        let reading = Reading {
            btf: Err(MissingRequirement::new("no BTF", "boot another kernel").into()),
            ..complete(true)
        };
        assert_eq!(
            states(&reading),
            [
                State::Missing,
                State::Unknown,
                State::Ok,
                State::Unknown,
                State::Unknown,
            ]
        );
        assert!(findings(&reading)[0].blocks());
        assert!(reading.layout().is_none());
    }

    #[test]
    fn a_missing_function_blocks_and_missing_ipv6_limits() {
        let missing = Reading {
            functions: Err(MissingRequirement::new("no function f", "boot another build").into()),
            ..complete(true)
        };
        let finding = &findings(&missing)[2];
        assert!(finding.blocks());
        assert_eq!(finding.note.as_deref(), Some("no function f"));
        let finding = &findings(&complete(false))[2];
        assert_eq!(finding.state, State::Limited);
        assert!(!finding.value.contains("v6"), "{}", finding.value);
    }

    #[test]
    fn a_search_whose_start_cannot_be_read_blocks_nothing() {
        let finding = |pointer, wide| {
            let mut reading = complete(true);
            reading.functions.as_mut().unwrap().table_perturb = pointer;
            let layout = reading.btf.as_mut().unwrap().layout.as_mut().unwrap();
            layout.port_offset_is_wide = wide;
            let finding = findings(&reading).swap_remove(4);
            assert!(!finding.blocks());
            finding.state
        };
        assert_eq!(finding(Pointer::At(1), true), State::Ok);
        assert_eq!(finding(Pointer::At(1), false), State::Missing);
        assert_eq!(finding(Pointer::Array, true), State::Missing);
        assert_eq!(finding(Pointer::None, true), State::Missing);
        assert_eq!(finding(Pointer::Hidden, true), State::Unknown);
    }

    #[test]
    fn a_field_that_only_newer_kernels_have_is_no_trouble() {
        let finding = |absent| findings(&of_absent(absent)).swap_remove(1);
        let older = finding(&[("inet_sock", "local_port_range")]);
        assert_eq!(older.state, State::Ok);
        assert_eq!(older.value, "all except inet_sock.local_port_range");
        let step = finding(&[("net", "ipv4.sysctl_ip_local_port_step_width")]);
        assert_eq!(step.state, State::Ok);
        let locks = finding(&[("sock", "sk_userlocks")]);
        assert_eq!(locks.state, State::Limited);
        let broken = finding(&[("sock", "__sk_common.skc_net.net")]);
        assert_eq!(broken.state, State::Limited);
    }
}
