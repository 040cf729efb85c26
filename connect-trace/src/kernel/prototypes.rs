//! The functions that are probed, with the assumptions of the programs about them, checked against the kernel's BTF:
//! which argument is the socket, and how many arguments there are, because fexit finds the return value behind the last
//! one.

use anyhow::Result;

use super::{btf::Btf, layout::misfit};

/// A kernel function that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Name of the function in the kernel's source, and so in its types.
    pub name: &'static str,
    /// The kernel's symbol for the function, to which the compiler may have added a suffix.
    pub symbol: &'static str,
    /// Part of the names of the function's eBPF programs.
    pub program: &'static str,
    /// Index of the argument that is the socket.
    sock: usize,
    /// Structure of the socket: `sock`, or `socket`, which points to it.
    structure: &'static str,
    /// Number of arguments, if the return value is read.
    arguments: Option<usize>,
    /// True if the function belongs to IPv6, which a kernel may lack.
    pub ipv6: bool,
}

/// The two functions of connect() and the port search; each has an entry and a return.
pub const CONNECT: [Function; 3] = [
    Function {
        name: "tcp_v4_connect",
        symbol: "tcp_v4_connect",
        program: "tcp_v4_connect",
        sock: 0,
        structure: "sock",
        arguments: Some(3),
        ipv6: false,
    },
    Function {
        name: "tcp_v6_connect",
        symbol: "tcp_v6_connect",
        program: "tcp_v6_connect",
        sock: 0,
        structure: "sock",
        arguments: Some(3),
        ipv6: true,
    },
    Function {
        name: "__inet_hash_connect",
        symbol: "__inet_hash_connect",
        program: "inet_hash_connect",
        sock: 1,
        structure: "sock",
        arguments: None,
        ipv6: false,
    },
];

/// The functions that check one candidate port, in the order of the slots of the map `CHECKS`.
pub const CHECKS: [Function; 2] = [
    Function {
        name: "__inet_check_established",
        symbol: "__inet_check_established",
        program: "check_established",
        sock: 1,
        structure: "sock",
        arguments: None,
        ipv6: false,
    },
    Function {
        name: "__inet6_check_established",
        symbol: "__inet6_check_established",
        program: "check_established6",
        sock: 1,
        structure: "sock",
        arguments: None,
        ipv6: true,
    },
];

/// The function that decides whether a search may reuse a candidate port in TIME_WAIT. Only its return is probed.
pub const TIME_WAIT: Function = Function {
    name: "tcp_twsk_unique",
    symbol: "tcp_twsk_unique",
    program: "twsk_unique",
    sock: 0,
    structure: "sock",
    arguments: Some(3),
    ipv6: false,
};

/// The functions of UDP, from the outermost to the port search; each has an entry and a return.
pub const UDP: [Function; 3] = [
    Function {
        name: "inet_dgram_connect",
        symbol: "inet_dgram_connect",
        program: "inet_dgram_connect",
        sock: 0,
        structure: "socket",
        arguments: Some(4),
        ipv6: false,
    },
    Function {
        name: "inet_autobind",
        symbol: "inet_autobind",
        program: "inet_autobind",
        sock: 0,
        structure: "sock",
        arguments: Some(1),
        ipv6: false,
    },
    Function {
        name: "udp_lib_get_port",
        symbol: "udp_lib_get_port",
        program: "udp_lib_get_port",
        sock: 0,
        structure: "sock",
        arguments: Some(3),
        ipv6: false,
    },
];

/// The functions of DCCP, which are in modules; each has an entry and a return. Probed by kprobe in every mode.
pub const DCCP: [Function; 2] = [
    Function {
        name: "dccp_v4_connect",
        symbol: "dccp_v4_connect",
        program: "dccp_v4_connect",
        sock: 0,
        structure: "sock",
        arguments: Some(3),
        ipv6: false,
    },
    Function {
        name: "dccp_v6_connect",
        symbol: "dccp_v6_connect",
        program: "dccp_v6_connect",
        sock: 0,
        structure: "sock",
        arguments: Some(3),
        ipv6: true,
    },
];

impl Function {
    /// Returns the function with another symbol. The copy is leaked until the process ends: there are eleven functions at
    /// most.
    #[must_use]
    pub fn with_symbol(&'static self, symbol: &str) -> &'static Self {
        if symbol == self.symbol {
            return self;
        }
        let symbol = Box::leak(Box::from(symbol));
        Box::leak(Box::new(Self { symbol, ..*self }))
    }

    /// Checks the function's prototype against the assumptions of the programs. Returns false if the kernel's types
    /// lack the function: one that belongs to a module, or that the compiler changed.
    ///
    /// # Errors
    /// States how the prototype differs.
    pub fn check(&self, btf: &Btf) -> Result<bool> {
        let name = self.name;
        let Some(parameters) = btf.parameters(name)? else {
            return Ok(false);
        };
        let sock = parameters.get(self.sock).copied();
        if !sock.is_some_and(|id| btf.points_to(id, self.structure).unwrap_or(false)) {
            let what = format!(
                "argument {} of {name} is not a struct {} *",
                self.sock, self.structure
            );
            return Err(misfit(&what).into());
        }
        if let Some(expected) = self.arguments
            && parameters.len() != expected
        {
            let count = parameters.len();
            return Err(misfit(&format!("{name} has {count} arguments, not {expected}")).into());
        }
        Ok(true)
    }
}
