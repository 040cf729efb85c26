# Starts and ends a tracer in a guest, for the scripts that look at connects beside one; it comes before them.

# [exec]: 1,000 connects to even ports, then as many to odd ones.
connects() {
    ${1-} truth exhaust 20000-21999 --set-range --quiet 2>&1
}

# Functions that something is attached to.
attached() {
    cat /sys/kernel/debug/tracing/enabled_functions | wc -l
}

# Lets the boot's background work end, and the first connects fill the kernel's caches.
settle() {
    sleep 20
    connects >/dev/null
    functions=$(attached)
}

# COMMAND: starts it and waits until it is attached. A failure if it has ended meanwhile.
start() {
    rm -f out messages
    # In the place of the shell that is forked for it, so that it is what is ended.
    eval "exec $1" >out 2>messages &
    tracer=$!
    # Nothing tells for all of them when they are attached; bpftrace takes longest, to compile.
    sleep 10
    kill -0 "$tracer" 2>/dev/null
}

# NAME: ends it. A failure if it says itself that it is not to be relied on.
end() {
    # A shell gives its children no SIGINT to answer.
    kill -TERM "$tracer" 2>/dev/null || true
    wait "$tracer" 2>/dev/null || true
    # Nobody may be left to measure beside.
    if [ "$(attached)" -gt "$functions" ]; then
        echo "still attached after $1: $(cat /sys/kernel/debug/tracing/enabled_functions)" >&2
        exit 1
    fi
    ! grep -q -E "INCOMPLETE|lost [1-9]" out
}

# NAME: says why, by the last line that the tracer said.
failed() {
    printf "failed\t%s\t%s\n" "$1" "$(cat messages out | tail -n 1)"
}

