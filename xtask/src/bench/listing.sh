# Connects beside tracers, in a guest whose execution is logged: `cargo xtask listing` runs it, after
# tracer.sh. Each line of its argument is a name, `ports` or `-`, and a command, between tabs; without a
# command nothing traces. In the command TARGET is the process that connects.
#
# Prints lines: functions of the kernel as in /proc/kallsyms; then for each tracer "tracer" and its name, the
# functions that have come since, "connects" while connects find their ports at once, and with `ports`
# "candidates" while they search long. Or "failed", the name, and the last line that the tracer said.
set -eu

# Functions, of the kernel itself or, with [, of modules and programs.
symbols() {
    grep -i ' [tw] ' /proc/kallsyms | grep ${1-} -F '['
}

stop_connecting() {
    kill "$connecting" || { cat said >&2; exit 1; }
    wait "$connecting" || true
}

# NAME PORTS COMMAND
beside() {
    rm -f go pid
    truth --pid-file pid --wait-file go exhaust 10000-60999 --set-range --quiet 2>said &
    connecting=$!
    until [ -e pid ]; do sleep 0.1; done
    if [ -n "$3" ] && ! start "$(echo "$3" | sed "s/TARGET/$connecting/")"; then
        stop_connecting
        failed "$1"
        end "$1" || true
        return
    fi
    printf 'tracer\t%s\n' "$1"
    symbols || true
    touch go
    # It takes a second until half of the even ports are in use. Whoever logs holds the guest's time up.
    sleep 0.2
    printf 'connects\n'
    sleep 0.4
    stop_connecting
    if [ "$2" = ports ]; then
        # After half a second all even ports are in use; then it goes on for many seconds.
        truth exhaust 20000-29999 --set-range --quiet 2>said &
        connecting=$!
        sleep 1
        printf 'candidates\n'
        sleep 1
        stop_connecting
    fi
    if [ -n "$3" ] && ! end "$1"; then
        failed "$1"
    fi
}

echo 1 >/proc/sys/net/core/bpf_jit_kallsyms
echo 0 >/proc/sys/kernel/kptr_restrict
settle
symbols -v
while IFS="$(printf '\t')" read -r name ports command <&3; do
    beside "$name" "$ports" "$command"
done 3<<TRACERS
$1
TRACERS
