# Runs in a guest for `cargo xtask bench-load`: connects as fast as the guest can, untraced before and after, and traced
# in between. Prints lines of a name, a tab and a value.
# Usage: sh -c … load SECONDS THREADS [connect-trace's arguments]
set -eu
seconds=$1
threads=$2
shift 2

# connect NAME SECONDS: prints the counts of the connecting program. The host reads its clock at each line.
connect() {
    printf '%s begin\t\n' "$1"
    truth rate --refused --threads "$threads" --seconds "$2" >counted
    sed "s/^/$1 /" counted
}

# ticks NAME: prints the user and system time of connect-trace so far, in ticks of 10 ms.
ticks() {
    awk -v name="$1" '{ printf "ticks %s\t%d\n", name, $14 + $15 }' "/proc/$tracer/stat"
}

# The first connections fill the kernel's caches.
truth rate --refused --threads "$threads" --seconds 2 >/dev/null
connect before $(((seconds + 1) / 2))

rm -f messages
connect-trace --format json "$@" >report 2>messages &
tracer=$!
until grep -q Tracing messages 2>/dev/null; do
    kill -0 "$tracer" || { cat messages >&2; exit 1; }
    sleep 0.1
done
ticks before
connect traced "$seconds"
ticks after
kill -INT "$tracer"
wait "$tracer"
sed "s/^/report\t/" report

connect after $(((seconds + 1) / 2))
