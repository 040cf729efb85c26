# Connects beside tracers, in a guest whose execution is logged: `cargo xtask bench-parts` runs it, after
# tracer.sh. Each line of its argument is a name and a command, between a tab; without a command nothing traces. In the
# command TARGET is the process that connects.
#
# Prints lines: the kernel's functions as in /proc/kallsyms; then for each tracer "tracer" and its name, the functions
# that have come since, and "connects" while connect() calls find their ports at once. Or "failed", the name, and the
# last line that the tracer said.
set -eu

# Functions, of the kernel itself or, with [, of modules and programs.
symbols() {
    grep -i ' [tw] ' /proc/kallsyms | grep ${1-} -F '['
}

# NAME COMMAND
beside() {
    rm -f go pid
    truth --pid-file pid --wait-file go exhaust 10000-60999 --set-range --quiet 2>said &
    connecting=$!
    until [ -e pid ]; do sleep 0.1; done
    if [ -n "$2" ] && ! start "$(echo "$2" | sed "s/TARGET/$connecting/")"; then
        failed "$1"
    else
        printf 'tracer\t%s\n' "$1"
        symbols || true
        touch go
        # It takes a second until half of the even ports are in use. Whoever logs holds the guest's time up.
        sleep 0.2
        printf 'connects\n'
        sleep 0.4
    fi
    kill "$connecting" || { cat said >&2; exit 1; }
    wait "$connecting" || true
    if [ -n "$2" ] && ! end "$1"; then
        failed "$1"
    fi
}

echo 1 >/proc/sys/net/core/bpf_jit_kallsyms
echo 0 >/proc/sys/kernel/kptr_restrict
settle
symbols -v
while IFS="$(printf '\t')" read -r name command <&3; do
    beside "$name" "$command"
done 3<<TRACERS
$1
TRACERS
