# Measures what connect-trace adds to a connect(): run in a guest, as docs/cost.md says.
# Each line: attach mode, what is watched, mean time of an even and of an odd connect() as the
# connecting program saw it, over so many rounds of 1,000 of each on an exhausted range of 2,000 ports.
# ROUNDS is how many the runs with bursts of watching have: the longer they are, the less the first burst is.
# Usage: sh cost.sh [ROUNDS]
set -eu

sampled=${1:-24}

measure() {
    round=0
    while [ "$round" -lt "$2" ]; do
        truth exhaust 20000-21999 --set-range --quiet 2>&1
        round=$((round + 1))
    done | awk -v name="$1" '
        $1 == "even" { even += $5; rounds++ }
        $1 == "odd" { odd += $5 }
        END { printf "%-28s %10.1f %10.1f\n", name, even / rounds, odd / rounds }'
}

traced() {
    rm -f messages
    connect-trace --attach "$1" --check-established "$2" >report 2>messages &
    tracer=$!
    until grep -q Tracing messages 2>/dev/null; do
        kill -0 "$tracer" || { cat messages; exit 1; }
        sleep 0.1
    done
    measure "$1, checks $2" "$3"
    kill -INT "$tracer"
    wait "$tracer"
    grep -E "INCOMPLETE|lost [1-9]|sampled" report || true
}

uname -r
# Let the boot's background work end, and the first connects fill the kernel's caches.
sleep 20
truth exhaust 20000-21999 --set-range --quiet 2>/dev/null
printf "%-28s %10s %10s\n" "mean, us" even odd
measure untraced 4
for attach in fentry kprobe; do
    traced "$attach" off 4
    # With the first burst; a second comes after a minute at least.
    traced "$attach" sampled "$sampled"
    traced "$attach" count 2
    traced "$attach" time 2
done
