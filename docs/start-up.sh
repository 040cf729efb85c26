# Measures the start-up of connect-trace, and the memory of a trace after a load: see docs/performance.md.
uptime_s() { cut -d' ' -f1 /proc/uptime; }

for mode in fentry kprobe; do
    # In the first run, the files are not in the page cache and the kernel's code is not translated yet.
    for run in first second third; do
        begin=$(uptime_s)
        connect-trace --attach $mode -d 0.001 --check-established off 2>&1 >/dev/null | {
            while read -r line && case $line in Tracing*) false ;; esac; do :; done
            echo "$mode, $run: at $begin s; tracing at $(uptime_s) s"
            cat >/dev/null
        }
    done
    time connect-trace --attach $mode -d 0.001 --check-established off >/dev/null
done

connect-trace --quiet >report &
trace=$!
sleep 3
truth rate --seconds 5
grep -E 'VmHWM|VmRSS|RssAnon|RssFile|RssShmem' /proc/$trace/status
kill -INT $trace
wait $trace
head -n 1 report
