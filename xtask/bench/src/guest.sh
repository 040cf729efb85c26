# Measures connect() beside tracers, in a guest: `cargo xtask bench` runs it, after tracer.sh. Each line of its
# argument is a name, a number of rounds and a command, between tabs; without a command nothing traces. In the
# command TARGET is the process that connects.
#
# Prints a line for each: "figures", its name, the least time of an even connect(), and the mean and the least
# time of an odd one, in microseconds, as the connecting program saw it; a round is 1,000 of each, until a range
# of 2,000 ports is exhausted. With "crowd" in place of a number: "crowd", its name, and the mean over 512 threads of
# the least time of a connect(). Or "failed", its name, and the last line that the tracer said.
set -eu

# NAME: of what connects() said.
figures() {
    awk -v name="$1" '
        function least(known, new) { return known == "" || new < known ? new : known }
        $1 == "even" { even_least = least(even_least, $9 + 0) }
        $1 == "odd" { rounds++; odd += $5; odd_least = least(odd_least, $9 + 0) }
        END { OFS = "\t"; print "figures", name, even_least, odd / rounds, odd_least }'
}

# NAME ROUNDS
measure() {
    if [ "$2" = crowd ]; then
        printf 'crowd\t%s\t%s\n' "$1" "$(truth crowd)"
        return
    fi
    round=0
    while [ "$round" -lt "$2" ]; do
        connects
        round=$((round + 1))
    done | figures "$1"
}

# NAME ROUNDS COMMAND
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
        measure "$1" "$2"
    fi
    if ! end "$1"; then
        failed "$1"
    fi
}

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
