#!/usr/bin/env bash
# Finds what is slow in a web service in Go, over HTTP, while it is under load; mends it; shows that
# it is gone. The service does not import net/http/pprof and knows nothing of ebpfprof.
#
#     sudo examples/tune-go.sh --seconds 10
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=examples/loop.sh
source "$here/loop.sh"

# The service, while it runs.
service=
address=
# Who asks it.
load=()

# start_service TAG: compiles one variant of the service, and starts it with load on it.
start_service() {
    local program=$folder/$1/slow-service log=$folder/slow-service.log
    say "go build -tags $1 (examples/slow-service)"
    # -trimpath would hide the source from pprof; the folder may be another user's.
    (cd "$here/slow-service" &&
        GOFLAGS='' GOPROXY=off GOTOOLCHAIN=local go build -buildvcs=false -tags "$1" -o "$program" .)
    start "$log" "$program" 127.0.0.1:0
    service=$pid
    wait_for "$service" "$log" grep -q '^listening on' "$log"
    address=$(address_in "$log")
    say "slow-service ($1) is pid $service at $address"
    start_load
}

# Asks for reports without a pause, until it is ended.
start_load() {
    local each
    load=()
    if command -v wrk >/dev/null; then
        start "$folder/load.log" wrk -t1 -c4 -d1h "$address/report"
        load=("$pid")
    elif command -v ab >/dev/null; then
        start "$folder/load.log" ab -q -k -c 4 -t 3600 -n 1000000000 "$address/report"
        load=("$pid")
    else
        say "there is no wrk and no ab: curl makes the load (apt-get install wrk)"
        for each in 1 2 3 4; do
            # One curl, one connection, many requests.
            start "$folder/load.log" curl -s -o /dev/null "$address/report?[1-1000000000]"
            load+=("$pid")
        done
    fi
    wait_for "${load[0]}" "$folder/load.log" is_served
}

served() {
    curl -sf "$address/served"
}

is_served() {
    (($(served) > 0))
}

stop_service() {
    local each
    for each in "${load[@]}" "$service"; do
        end "$each"
    done
}

# measure NAME: captures, and tells how many reports were made meanwhile.
measure() {
    local from since
    from=$(served)
    since=$(date +%s%N)
    capture "pid/$service" "$1"
    local ms=$((($(date +%s%N) - since) / 1000000))
    say "$((($(served) - from) * 1000 / ms)) reports per second"
}

read_options "$@"
need_profiler
make_folder
start_profiler

start_service slow
measure before
show -top -cum -nodecount=15 before.pb.gz
show -list '^main\.makeReport$' before.pb.gz
stop_service

say "the fix: report_fixed.go in place of report_slow.go"
start_service fixed
measure after
stop_service
show -top -cum -nodecount=12 -base before.pb.gz after.pb.gz

expect_gone regexp.compile
expect_gone runtime.concatstrings
say "gone"
