# The guest's part of the demo: uses a range of ports up while connect-trace watches. The argument is the range, such as
# 20000-23999.
set -eu
range=$1
cd /tmp

# The files must exist before the programs that write them have started.
: >pid >seen >messages

truth --pid-file pid --wait-file go exhaust --quiet --set-range "$range" >seen 2>&1 &
program=$!
until [ -s pid ]; do
    kill -0 "$program" || { cat seen >&2; exit 1; }
    sleep 0.1
done

connect-trace --pid "$(cat pid)" >report 2>messages &
tracer=$!
until grep -q Tracing messages; do
    kill -0 "$tracer" || { cat messages >&2; exit 1; }
    sleep 0.1
done

cat messages >&2
shown=$(wc -l <messages)
touch go
status=0
wait "$program" || { status=$?; cat seen >&2; }
kill -TERM "$tracer"
wait "$tracer" || status=$?
tail -n "+$((shown + 1))" messages >&2
echo
cat report
[ "$status" -eq 0 ] || exit "$status"

echo
echo "The same as the connecting program saw it:"
cat seen
