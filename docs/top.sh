# Measures the CPU time that `connect-trace top` uses beside a load: see docs/top.md.
seconds=30

# Prints the CPU time of connect-trace in hundredths of a second, in user space and in the kernel, before and after a load.
measure() {
    while ! pid=$(pidof connect-trace); do sleep 0.1; done
    sleep 5
    before=$(cut -d' ' -f14,15 "/proc/$pid/stat")
    made=$(truth rate --seconds $seconds | sed -n "s/^connected//p")
    echo "$1: $before, then $(cut -d' ' -f14,15 "/proc/$pid/stat"); connect() calls:$made"
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}

for size in 80x24 120x40 200x60; do
    tmux -f /dev/null new-session -d -x ${size%x*} -y ${size#*x} connect-trace top
    measure "top, $size"
done
connect-trace -i 2 --ports --overhead --quiet >/dev/null &
measure "a report every 2 s"
