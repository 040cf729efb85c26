# Measures connect() beside tracers, in a guest: `cargo xtask bench` runs this script, after tracer.sh. Each line of the
# argument is a name, a number of rounds and a command, separated by tabs; without a command there is no tracer. In the
# command, TARGET stands for the id of the connecting process.
#
# Prints one line for each: "figures", the name, the least time of a connect() with an even port, and the mean and the
# least time of one with an odd port, in microseconds, as measured by the connecting program; a round is 1,000 of each,
# until a range of 2,000 ports is exhausted. With "waiting" in place of a number, the even ports are in TIME_WAIT, which
# the kernel refuses. With "crowd": "crowd", the name, and the mean over 512 threads of the least time of a connect().
# With "udp-least": the same line, with the least time of a connect() of UDP. With "lifetime": "lifetime", the name, and
# the least time of a connection from open to close. On failure: "failed", the name, and the last line of the tracer's
# output.
set -eu

# figures NAME: reads the output of connects() and prints the line of figures.
figures() {
    awk -v name="$1" '
        function least(known, new) { return known == "" || new < known ? new : known }
        $1 == "even" { even_least = least(even_least, $9 + 0) }
        $1 == "odd" { rounds++; odd += $5; odd_least = least(odd_least, $9 + 0) }
        END { OFS = "\t"; print "figures", name, even_least, odd / rounds, odd_least }'
}

# measure NAME ROUNDS
measure() {
    case "$2" in
    crowd | udp-least)
        printf 'crowd\t%s\t%s\n' "$1" "$(truth "$2")"
        return
        ;;
    lifetime)
        printf '%s\t%s\t%s\n' "$2" "$1" "$(truth "$2")"
        return
        ;;
    waiting)
        # The ports of an earlier measurement are in TIME_WAIT for a minute.
        sleep 61
        echo 0 >/proc/sys/net/ipv4/tcp_tw_reuse
        connects "" --waiting | figures "$1"
        return
        ;;
    esac
    round=0
    while [ "$round" -lt "$2" ]; do
        connects
        round=$((round + 1))
    done | figures "$1"
}

# in_cgroup COMMAND: runs a command in the cgroup of the mitigation, which has seen the route before.
in_cgroup() {
    echo $$ >/sys/fs/cgroup/bench/cgroup.procs
    connects >/dev/null
    sleep 2
    "$@"
    echo $$ >/sys/fs/cgroup/cgroup.procs
}

# beside NAME ROUNDS COMMAND
beside() {
    rm -f go said
    connecting=
    case "$3" in
    *TARGET*)
        (until [ -e go ]; do sleep 0.1; done; connects exec >said) &
        connecting=$!
        command=$(echo "$3" | sed "s/TARGET/$connecting/")
        ;;
    *) command=$3 ;;
    esac
    if ! start "$command"; then
        touch go
        failed "$1"
    elif [ -n "$connecting" ]; then
        touch go
        wait "$connecting"
        figures "$1" <said
    else
        case "$3" in
        *" mitigate "*) in_cgroup measure "$1" "$2" ;;
        *) measure "$1" "$2" ;;
        esac
    fi
    if ! end "$1"; then
        failed "$1"
    fi
}

mkdir /sys/fs/cgroup/bench
settle
while IFS="$(printf '\t')" read -r name rounds command <&3; do
    if [ -n "$command" ]; then
        beside "$name" "$rounds" "$command"
    else
        measure "$name" "$rounds"
    fi
done 3<<TRACERS
$1
TRACERS
