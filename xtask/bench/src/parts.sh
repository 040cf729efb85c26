# Connects beside tracers, in a guest whose execution is logged: `cargo xtask bench-parts` runs this script, after
# tracer.sh. Each line of the argument is a name and a command, separated by a tab; without a command there is no
# tracer. In the command, TARGET stands for the id of the connecting process.
#
# Prints lines: the kernel's functions as in /proc/kallsyms; then for each tracer "tracer" and its name, the functions
# added since, and "connects" while connect() calls find their ports at once. On failure: "failed", the name, and the
# last line of the tracer's output.
set -eu

# Prints the functions of modules and programs, or with -v those of the kernel itself.
symbols() {
    grep -i ' [tw] ' /proc/kallsyms | grep ${1-} -F '['
}

# beside NAME COMMAND
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
        # It takes a second until half of the even ports are in use. The guest's time stands still while the host logs.
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
