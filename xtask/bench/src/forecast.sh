# Runs in a guest for `cargo xtask bench-forecast`: a program takes the ports of a range at a steady rate until none is left,
# while connect-trace predicts when that will be. Prints lines of a name and values, separated by tabs.
# Usage: sh -c … forecast LOW HIGH RATE CLOSE_EVERY
set -eu
echo "$1 $2" >/proc/sys/net/ipv4/ip_local_port_range
# On the loopback, ports in TIME_WAIT would be taken again after a second.
echo 0 >/proc/sys/net/ipv4/tcp_tw_reuse

connect-trace --ports --interval 1 --format json >reports 2>messages &
tracer=$!
until grep -q Tracing messages; do
    kill -0 "$tracer" || { cat messages >&2; exit 1; }
    sleep 0.1
done
truth hold --rate "$3" --close-every "$4" --open $(($2 - $1 + 1000)) >made &
program=$!
until grep -q '^none' made; do
    kill -0 "$program" || exit 1
    sleep 1
done
kill -INT "$tracer"
wait "$tracer"
kill "$program"

awk -v odd=$((1 - $1 % 2)) '
    NR == 1 { print "start\t" $3 }
    $1 != "none" && $2 % 2 == odd && !seen { seen = 1; print "second\t" $3 }
    $1 == "none" { print "none\t" $3 }' made
sed -n 's/.*"end":"[^T]*T\([^Z]*\)Z".*"second_pass":{"seconds":\([^,]*\),.*"exhausted":{"seconds":\([^,]*\),.*/forecast\t\1\t\2\t\3/p' reports
