# Measures connect() beside each tracer, in a guest: see bench.rs, which runs it with the number of rounds
# of the long run, and "NAME COMMAND" lines of tracers in the file `tracers`. A line for each: its name,
# and of an even and of an odd connect() on an exhausted range of 2,000 ports the mean and the least time,
# in microseconds, as the connecting program saw it.
set -eu

# NAME ROUNDS [PID FILE]
measure() {
    round=0
    while [ "$round" -lt "$2" ]; do
        truth exhaust 20000-21999 --set-range --quiet ${3:+--pid-file "$3" --wait-file go} 2>&1
        round=$((round + 1))
    done | awk -v name="$1" -v rounds="$2" '
        function least(known, new) { return known == "" || new < known ? new : known }
        $1 == "even" { even += $5; even_least = least(even_least, $9 + 0) }
        $1 == "odd" { odd += $5; odd_least = least(odd_least, $9 + 0) }
        END { print "figures\t" name "\t" even / rounds "\t" even_least "\t" odd / rounds "\t" odd_least }'
}

# Waits until a file has a line, or the process is gone.
wait_for() {
    until grep -q "$1" "$2" 2>/dev/null; do
        kill -0 "$3" 2>/dev/null || return 1
        sleep 0.1
    done
}

# NAME ROUNDS READY COMMAND...
beside() {
    name=$1 rounds=$2 ready=$3
    shift 3
    rm -f go pid
    pid_file=
    case "$*" in
        *TARGET*)
            pid_file=pid
            measure "$name" "$rounds" pid >measured &
            measuring=$!
            until [ -s pid ]; do sleep 0.1; done
            ;;
    esac
    command=$(echo "$*" | sed "s/TARGET/$(cat pid 2>/dev/null)/")
    sh -c "exec $command" >out 2>messages &
    tracer=$!
    if ! wait_for "$ready" out "$tracer" && ! wait_for "$ready" messages "$tracer"; then
        :
    fi
}
