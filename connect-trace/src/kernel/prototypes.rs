//! The functions that are probed, and what the programs assume of them, checked against the kernel's
//! BTF: which argument is the socket, and how many there are, because fexit finds the return value
//! behind the last one.

use anyhow::{Result, ensure};

use super::btf::Btf;

/// A function of the kernel that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// The kernel's name for it.
    pub name: &'static str,
    /// What it is called in the names of the eBPF programs.
    pub program: &'static str,
    /// Which argument is the `struct sock *`.
    sock: usize,
    /// Number of arguments, where the return value is read.
    arguments: Option<usize>,
    /// Part of IPv6, which a kernel may lack.
    pub ipv6: bool,
}

/// The two functions of connect() itself and the port search; each has an entry and a return.
pub const CONNECT: [Function; 3] = [
    Function {
        name: "tcp_v4_connect",
        program: "tcp_v4_connect",
        sock: 0,
        arguments: Some(3),
        ipv6: false,
    },
    Function {
        name: "tcp_v6_connect",
        program: "tcp_v6_connect",
        sock: 0,
        arguments: Some(3),
        ipv6: true,
    },
    Function {
        name: "__inet_hash_connect",
        program: "inet_hash_connect",
        sock: 1,
        arguments: None,
        ipv6: false,
    },
];

/// The functions that look at one candidate port, in the order of the slots of the map `CHECKS`.
pub const CHECKS: [Function; 2] = [
    Function {
        name: "__inet_check_established",
        program: "check_established",
        sock: 1,
        arguments: None,
        ipv6: false,
    },
    Function {
        name: "__inet6_check_established",
        program: "check_established6",
        sock: 1,
        arguments: None,
        ipv6: true,
    },
];

impl Function {
    /// Checks the function's prototype against what the programs assume.
    ///
    /// # Errors
    /// Says how it differs.
    pub fn check(&self, btf: &Btf) -> Result<()> {
        let name = self.name;
        let parameters = btf.parameters(name)?;
        let Some(parameters) = parameters else {
            anyhow::bail!("the kernel's BTF has no function {name}")
        };
        let sock = parameters.get(self.sock).copied();
        ensure!(
            sock.is_some_and(|id| btf.points_to(id, "sock").unwrap_or(false)),
            "argument {} of {name} is not a struct sock * in this kernel",
            self.sock,
        );
        if let Some(expected) = self.arguments {
            ensure!(
                parameters.len() == expected,
                "{name} has {} arguments in this kernel, not {expected}",
                parameters.len(),
            );
        }
        Ok(())
    }
}
