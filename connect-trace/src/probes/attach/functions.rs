//! The probed functions that the running kernel has.

use anyhow::Result;

use super::{choice::Way, return_events};
use crate::connect::Protocols;
use crate::kernel::{
    btf::Btf,
    prototypes::{CHECKS, CONNECT, DCCP, Function, TIME_WAIT, UDP},
    requirement::MissingRequirement,
    symbols::{Pointer, Symbols},
};

/// The probed functions that this kernel has, and a variable that they use.
pub(crate) struct Functions {
    /// The functions of connect() and the port search, of each protocol.
    connect: Vec<&'static Function>,
    checks: Vec<&'static Function>,
    /// The function of TIME_WAIT, or the reason why it cannot be probed.
    time_wait: Result<&'static Function, String>,
    /// The functions of modules, which are probed by kprobe in every mode.
    of_modules: Vec<&'static Function>,
    /// Notes on the functions that are not traced, with reasons.
    pub(crate) notes: Vec<String>,
    /// The first function of connect() that the kernel's types lack. If there is one, fentry cannot be used.
    without_type: Option<&'static str>,
    /// True if the kernel has the functions of IPv6.
    pub(crate) ipv6: bool,
    /// The variable from which the port search takes its start.
    pub(crate) table_perturb: Pointer,
}

impl Functions {
    /// Looks for the functions of these protocols.
    ///
    /// # Errors
    /// Names the required function that the kernel lacks.
    pub(crate) fn of_running_kernel(protocols: Protocols) -> Result<Self> {
        let (connect, checks) = wanted(protocols);
        let all = connect.into_iter().chain(checks).chain([&TIME_WAIT]);
        let all = all.chain(optional(protocols));
        let names: Vec<&'static str> = all.map(|function| function.name).collect();
        let symbols = Symbols::of_running_kernel(&names)?;
        Self::of(&symbols, protocols)
    }

    fn of(symbols: &Symbols, protocols: Protocols) -> Result<Self> {
        let (wanted, wanted_checks) = wanted(protocols);
        let connect = present(wanted.iter().copied(), symbols);
        let checks = present(wanted_checks, symbols);
        let is_missing = |function: &&Function| !symbols.functions.contains_key(function.name);
        if let Some(missing) = wanted
            .iter()
            .copied()
            .filter(|function| !function.ipv6)
            .find(is_missing)
        {
            return Err(MissingRequirement::new(
                format!(
                    "the kernel has no function {} to probe: it may be inlined or renamed",
                    missing.name
                ),
                "boot another build of it; Debian's kernels 5.10 to 7.3 have the function",
            )
            .into());
        }
        let ipv6 = connect.len() == wanted.len();
        let mut notes = Vec::from_iter(symbols.note.clone());
        if !ipv6 {
            notes.push("IPv6 is not loaded, so only IPv4 is traced".to_owned());
        }
        for missing in wanted_checks.iter().filter(is_missing) {
            if ipv6 || !missing.ipv6 {
                notes.push(unwatched(missing, "this kernel has no such function"));
            }
        }
        Ok(Self {
            connect,
            checks,
            time_wait: present(std::slice::from_ref(&TIME_WAIT), symbols)
                .pop()
                .ok_or_else(|| "the kernel has no such function: it may be inlined".to_owned()),
            of_modules: present(optional(protocols), symbols),
            notes,
            without_type: None,
            ipv6,
            table_perturb: symbols.table_perturb,
        })
    }

    /// Checks the prototypes. Candidate checks whose prototype does not fit are dropped, with a note.
    ///
    /// # Errors
    /// States how a function of connect() differs from what the programs assume.
    pub(crate) fn fit(&mut self, btf: &Btf) -> Result<()> {
        for function in &self.connect {
            if !function.check(btf)? {
                self.without_type.get_or_insert(function.name);
            }
        }
        if let Ok(function) = self.time_wait {
            match function.check(btf) {
                Ok(true) => {}
                Ok(false) => self.time_wait = Err("it is not in the kernel's types".to_owned()),
                Err(error) => self.time_wait = Err(format!("{error:#}")),
            }
        }
        let Self { checks, notes, .. } = self;
        checks.retain(|function| {
            let why = match function.check(btf) {
                Ok(true) => return true,
                Ok(false) => "it is not in the kernel's types".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            notes.push(unwatched(function, &why));
            false
        });
        Ok(())
    }

    /// Returns the functions of connect() and the port search.
    pub(crate) fn connect(&self) -> Vec<&'static Function> {
        self.connect.clone()
    }

    /// Returns the functions of modules.
    pub(crate) fn of_modules(&self) -> Vec<&'static Function> {
        self.of_modules.clone()
    }

    /// Returns the functions that check one candidate port.
    pub(crate) fn checks(&self) -> Vec<&'static Function> {
        self.checks.clone()
    }

    /// Returns the function of TIME_WAIT.
    ///
    /// # Errors
    /// States why it cannot be probed.
    pub(crate) fn time_wait(&self) -> Result<&'static Function> {
        self.time_wait.clone().map_err(|why| {
            MissingRequirement::new(
                format!("--time-wait: {} cannot be probed: {why}", TIME_WAIT.name),
                "leave the option out, or boot another build of the kernel",
            )
            .into()
        })
    }

    /// Checks that the kernel's types and this process's privileges allow a way to attach, if that is known before it
    /// is tried.
    pub(crate) fn offer(&self, way: Way) -> Result<()> {
        match (way, self.without_type) {
            (Way::Fentry, Some(name)) => Err(MissingRequirement::new(
                format!("the function {name} is not in the kernel's types"),
                "none needed: kprobe/kretprobe works without it",
            )
            .into()),
            (Way::KprobeWithSlots, _) => return_events::offered().map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Returns all functions, or all but those of IPv6.
    #[cfg(test)]
    pub(crate) fn all(ipv6: bool) -> Self {
        let all = CONNECT.iter().chain(&CHECKS).chain([&TIME_WAIT]);
        let wanted = all.filter(|function| ipv6 || !function.ipv6);
        let functions = wanted.map(|function| (function.name, function.name.to_owned()));
        let symbols = Symbols {
            functions: functions.collect(),
            table_perturb: Pointer::At(0xffff_ffff_8300_0010),
            note: None,
        };
        Self::of(&symbols, Protocols::TCP).unwrap()
    }
}

/// Returns the functions of connect() and the port search of these protocols, and those that check a candidate port.
fn wanted(protocols: Protocols) -> (Vec<&'static Function>, &'static [Function]) {
    let tcp: &[Function] = if protocols.tcp { &CONNECT } else { &[] };
    let udp: &[Function] = if protocols.udp { &UDP } else { &[] };
    let checks: &[Function] = if protocols.tcp { &CHECKS } else { &[] };
    (tcp.iter().chain(udp).collect(), checks)
}

/// Returns the functions that are probed if their modules are loaded.
fn optional(protocols: Protocols) -> &'static [Function] {
    if protocols == Protocols::ALL {
        &DCCP
    } else {
        &[]
    }
}

/// Returns the functions that the kernel has, with its symbols for them.
fn present(
    functions: impl IntoIterator<Item = &'static Function>,
    symbols: &Symbols,
) -> Vec<&'static Function> {
    let with_symbol = |function: &'static Function| {
        let symbol = symbols.functions.get(function.name)?;
        Some(function.with_symbol(symbol))
    };
    functions.into_iter().filter_map(with_symbol).collect()
}

/// Returns the note on a candidate check that is not watched.
fn unwatched(function: &Function, why: &str) -> String {
    format!("calls of {} are not seen: {why}", function.name)
}
