//! Protocols, and the operations that make the kernel choose a source port.

/// The protocol of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite, which Linux had up to 7.0.
    UdpLite,
    /// DCCP, which Linux 6.12 still has.
    Dccp,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::UdpLite, Self::Dccp];

    /// Returns the name in text, JSON and recordings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpLite => "udplite",
            Self::Dccp => "dccp",
        }
    }

    /// Returns true for UDP and UDP-Lite. Their ports are taken for all destinations, those of the others for one.
    #[must_use]
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Udp | Self::UdpLite)
    }

    /// Returns true for TCP.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        self == Self::Tcp
    }
}

/// The operation on a socket. All but connect() are recorded for UDP only, and only if the kernel chooses a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// connect().
    #[default]
    Connect,
    /// bind() to port 0.
    Bind,
    /// The first send() of a socket without a port.
    Send,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 3] = [Self::Connect, Self::Bind, Self::Send];

    /// Returns the name in text, JSON and recordings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Bind => "bind",
            Self::Send => "send",
        }
    }
}

/// A protocol and an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKind {
    /// The protocol.
    pub protocol: Protocol,
    /// The operation.
    pub operation: Operation,
}

/// The protocols that are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// TCP.
    pub tcp: bool,
    /// UDP and UDP-Lite.
    pub udp: bool,
}

impl Protocols {
    /// TCP alone.
    pub const TCP: Self = Self {
        tcp: true,
        udp: false,
    };
    /// UDP and UDP-Lite alone.
    pub const UDP: Self = Self {
        tcp: false,
        udp: true,
    };
    /// All protocols.
    pub const ALL: Self = Self {
        tcp: true,
        udp: true,
    };

    /// Returns true if a protocol is among them.
    #[must_use]
    pub fn have(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp | Protocol::UdpLite => self.udp,
            Protocol::Dccp => self == Self::ALL,
        }
    }

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.tcp, self.udp) {
            (_, false) => "tcp",
            (false, true) => "udp",
            (true, true) => "all",
        }
    }
}
