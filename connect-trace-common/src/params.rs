//! What the daemon found out about the running kernel and about the options of this run, as constants of the programs.

/// Declares [`Params`].
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The constants that the programs are linked with. To the verifier they are that, so what cannot happen is not in
        /// the program that it makes of this. Offsets are not among them: see [`crate::Field`].
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Params {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Params {
            /// Returns each by the name that the programs have for it.
            #[must_use]
            pub fn named(&self) -> [(&'static str, u64); size_of::<Self>() / size_of::<u64>()] {
                [$((stringify!($name), self.$name)),*]
            }
        }
    };
}

params! {
    /// The fields that the running kernel has: their [`crate::Field::bit`].
    fields,
    /// Whether this run has any of the options below, or a kernel without the helper `bpf_get_current_task_btf`; where
    /// not, that is all that is asked of them.
    has_options,
    /// Whether `net.ipv4.ip_local_ports.range` is `int[2]` (1, before 6.8) or `high << 16 | low` (0).
    net_port_range_is_pair,
    /// Whether `inet_sock.local_port_range` is `struct { u16 lo, hi }` (1, before 6.8) or `high << 16 | low` (0): the
    /// same bytes.
    inet_port_range_is_pair,
    /// Whether the kernel has the function `bpf_rdonly_cast`, which gives an address one of the types below.
    casts,
    /// `struct sock`, by its number in the kernel's BTF.
    sock,
    /// `struct inet_sock`
    inet_sock,
    /// A structure that begins with a word of 32 bits.
    word,
    /// Address of the variable `table_perturb`, a `u32 *`; 0 where it is not known.
    table_perturb,
    /// The bit of `sk_kern_sock` in [`crate::ConnectRecord::bits_of_sock`]; 0 where it is not known.
    kernel_sock,
    /// The filters: [`crate::FilterBits`].
    filters,
    /// Whether one process is traced alone, without its children.
    has_only_process,
    /// Number of cgroups in the map `CGROUPS`.
    cgroup_count,
    /// Calls that took less get no record, and are counted in [`crate::FastGroup`].
    min_latency_ns,
    /// Whether the calls of `__inet{,6}_check_established` are counted for each connect().
    count_checks,
    /// Whether a connect() adds up those that it has counted when it returns; else each call is added.
    checks_add_up,
    /// Whether records may be made of some calls alone: [`crate::Control::sample_every`].
    may_sample,
}
