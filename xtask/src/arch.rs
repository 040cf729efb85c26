//! Architectures of the machines that programs are built for, and of guests.

use clap::ValueEnum;

/// An architecture, by Debian's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64, that of the machine that runs xtask.
    #[default]
    Amd64,
    /// Arm with 64 bits, little endian.
    Arm64,
}

impl Arch {
    /// The architecture of the machine that runs xtask.
    pub const HOST: Self = Self::Amd64;

    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Returns Debian's name, which container images and QEMU's packages know too.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns the kernel's name, as `uname -m` prints it.
    pub(crate) const fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Returns the target triple of static programs: musl, whose licence is MIT, and which has no name modules (NSS) that
    /// a static program could not load.
    pub(crate) const fn musl(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Returns the target triple of all programs for guests. Named explicitly, even if it is the host's own, to keep a
    /// build's flags away from its build scripts.
    pub(crate) const fn guest_target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => self.musl(),
        }
    }

    /// Returns the name of the folder that Debian puts libraries into.
    pub(crate) const fn libraries(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// Returns a word for a name, with this architecture if it is not the host's.
    pub(crate) fn named(self, name: &str) -> String {
        match self {
            Self::HOST => name.to_owned(),
            other => format!("{name} {}", other.debian()),
        }
    }
}
