//! Properties of the running kernel and options of this run, which the daemon gives to the programs as constants.

/// Declares [`Params`].
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The constants that the daemon links the programs with. They are constants to the verifier too, which removes
        /// the code that they make unreachable. Offsets of fields are not among them: see [`crate::Field`].
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Params {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Params {
            /// Value of a constant that a service may change while it runs: the programs take the word of the same name
            /// in [`crate::Control`]. A comparison with it costs nothing, because the verifier removes it.
            pub const IN_CONTROL: u64 = u64::MAX;

            /// Returns each constant with its name in the programs.
            #[must_use]
            pub fn named(&self) -> [(&'static str, u64); size_of::<Self>() / size_of::<u64>()] {
                [$((stringify!($name), self.$name)),*]
            }
        }
    };
}

params! {
    /// Set of the fields that the running kernel has, by [`crate::Field::bit`].
    fields,
    /// 1 if this run has any of the options below, or if the kernel lacks the helper `bpf_get_current_task_btf`. If 0,
    /// the programs check none of them.
    has_options,
    /// 1 if `net.ipv4.ip_local_ports.range` is `int[2]` (before 6.8), 0 if it is `high << 16 | low`.
    net_port_range_is_pair,
    /// 1 if `inet_sock.local_port_range` is `struct { u16 lo, hi }` (before 6.8), 0 if it is `high << 16 | low`: the
    /// same bytes.
    inet_port_range_is_pair,
    /// 1 if the kernel has the function `bpf_rdonly_cast`, which casts an address to one of the types below.
    casts,
    /// Number of `struct sock` in the kernel's BTF.
    sock,
    /// Number of `struct inet_sock` in the kernel's BTF.
    inet_sock,
    /// Number in the kernel's BTF of a structure that begins with a 32-bit word.
    word,
    /// Address of the variable `table_perturb`, a `u32 *`; 0 if it is not known.
    table_perturb,
    /// The bit of `sk_kern_sock` in [`crate::ConnectRecord::bits_of_sock`]; 0 if it is not known.
    kernel_sock,
    /// The filters: [`crate::FilterBits`]; or `IN_CONTROL`.
    filters,
    /// 1 if one process is traced alone, without its children, and no reload can add others.
    has_only_process,
    /// Number of places of the map `CGROUPS` that are looked at; or `IN_CONTROL`.
    cgroup_count,
    /// Minimum latency of a call that gets a record; faster calls are counted in [`crate::FastGroup`]; or `IN_CONTROL`.
    min_latency_ns,
    /// 1 in a service: calls below the minimum latency are counted by [`crate::FastKind`] too, and failed calls get a
    /// record however fast they are.
    service,
    /// Place of the lowest of the bits of `sk_userlocks` in [`crate::ConnectRecord::user_locks`].
    user_locks_bit,
    /// 1 if the calls of `__inet{,6}_check_established` are counted for each connect().
    count_checks,
    /// 1 if a connect() adds its count of these calls to the total when it returns, 0 if each call is added by itself.
    checks_add_up,
    /// 1 if records may be made of a sample of the calls only: [`crate::Control::sample_every`].
    may_sample,
    /// 1 if the parts of each connect() are measured: [`crate::Phases`].
    phases,
    /// Offset of `inet_timewait_death_row.hashinfo`. This and the next seven are set only if the kernel has the
    /// tracepoints of lock contention.
    death_row_hashinfo,
    /// Offset of `inet_hashinfo.bhash`, an array of `inet_bind_hashbucket`s, which begin with their locks.
    hashinfo_bhash,
    /// Offset of `inet_hashinfo.bhash_size`, the number of buckets of `bhash`, and of `bhash2`.
    hashinfo_bhash_size,
    /// Offset of `inet_hashinfo.bhash2`.
    hashinfo_bhash2,
    /// Offset of `inet_hashinfo.ehash_locks`, an array of `spinlock_t`.
    hashinfo_ehash_locks,
    /// Offset of `inet_hashinfo.ehash_locks_mask`, the number of these locks minus one.
    hashinfo_ehash_locks_mask,
    /// Size of `struct inet_bind_hashbucket` in bytes.
    bind_bucket_bytes,
    /// Size of `spinlock_t` in bytes.
    spinlock_bytes,
    /// 1 if connections are followed after their connect(): see [`crate::EndRecord`].
    ends,
    /// Offset of `sock.sk_err`, for the program that follows connections. It and the next two are not [`crate::Field`]s,
    /// which have room for few more: that program reads by a helper, which takes any offset.
    sock_error,
    /// Offset of `sock.sk_protocol`, a `u16`.
    sock_protocol,
    /// Offset of `tcp_sock.total_retrans`.
    total_retransmits,
    /// Method of the mitigation: [`crate::mitigation::method`].
    mitigation,
    /// Share of the mitigation: [`crate::mitigation::is_in_share`].
    mitigation_share,
    /// 1 if the share is one of cgroups, 0 if it is one of threads.
    mitigation_by_cgroup,
    /// Numbers of the addresses in `SOURCES4` and `SOURCES6`: [`crate::mitigation::Sources::to_word`].
    mitigation_sources,
    /// Offset of `net.ipv4.sysctl_local_reserved_ports`, a pointer to a bitmap; 0 if the kernel lacks it.
    reserved_ports,
    /// Offset of `tcp_timewait_sock.tw_ts_recent_stamp`.
    time_wait_stamp,
    /// Offset of `task_struct.pid`.
    task_pid,
}
