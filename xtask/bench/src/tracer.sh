# Starts and ends a tracer in a guest, for the scripts that measure connections beside one; comes before them.

# connects [exec [OPTION]]: makes 1,000 connections from even ports, then 1,000 from odd ones.
connects() {
    ${1-} truth exhaust 20000-21999 --set-range --quiet ${2-} 2>&1
}

# Prints the functions with an attached probe; on some architectures kprobes are not in the first list.
probed() {
    (cd /sys/kernel/debug && cat tracing/enabled_functions kprobes/list)
}

# Prints the number of lines of that.
attached() {
    probed | wc -l
}

# Waits for the boot's background work to end; the first connections fill the kernel's caches.
settle() {
    sleep 20
    connects >/dev/null
    functions=$(attached)
}

# start COMMAND: starts a tracer and waits until it is attached. Fails if the tracer has ended meanwhile.
start() {
    rm -f out messages
    # exec replaces the forked shell, so that the tracer itself gets the signals.
    eval "exec $1" >out 2>messages &
    tracer=$!
    # No output common to all tracers shows that they are attached; bpftrace takes longest, because it compiles.
    sleep 10
    kill -0 "$tracer" 2>/dev/null
}

# end NAME: ends the tracer. Fails if the tracer's own output says that it lost calls.
end() {
    # A shell makes its background children ignore SIGINT.
    kill -TERM "$tracer" 2>/dev/null || true
    wait "$tracer" 2>/dev/null || true
    # No tracer may remain attached beside the next measurement.
    if [ "$(attached)" -gt "$functions" ]; then
        echo "still attached after $1: $(probed)" >&2
        exit 1
    fi
    ! grep -q -E "INCOMPLETE|lost [1-9]" out
}

# failed NAME: prints the reason, from the last line of the tracer's output.
failed() {
    printf "failed\t%s\t%s\n" "$1" "$(cat messages out | tail -n 1)"
}

