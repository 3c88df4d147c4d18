# shellcheck shell=bash
# What the examples share: options, cleaning up, the server, captures over HTTP, comparisons.
# Sourced, not run.

# Options of the command line.
seconds=10
keep=

# The profiler: a program on PATH, unless EBPFPROF names another.
profiler=${EBPFPROF:-ebpfprof}

# What we started, by pid, in order.
started=()
# Where everything lies; removed at the end.
folder=
# Where the profiler's server is.
server=

say() {
    echo "== $*"
}

die() {
    echo "error: $1" >&2
    [ $# -lt 2 ] || echo "  try: $2" >&2
    exit 1
}

# Reads the command line.
read_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --seconds)
                [[ ${2-} =~ ^[1-9][0-9]*$ ]] || misuse "--seconds takes a whole number"
                seconds=$2
                shift 2
                ;;
            --keep)
                [ -d "${2-}" ] || misuse "--keep takes a folder that is there"
                keep=$2
                shift 2
                ;;
            *) misuse "unknown option: $1" ;;
        esac
    done
}

misuse() {
    echo "error: $1" >&2
    echo "usage: [EBPFPROF=PATH] $0 [--seconds N] [--keep FOLDER]" >&2
    exit 2
}

# need PROGRAM PACKAGE: ends unless the program is there.
need() {
    command -v "$1" >/dev/null || die "there is no $1" "apt-get install $2"
}

need_profiler() {
    [ "$(id -u)" = 0 ] || die "only root may profile other processes" "sudo $0"
    command -v "$profiler" >/dev/null ||
        die "there is no $profiler" "EBPFPROF=target/release/ebpfprof $0"
    need go golang-go
    need curl curl
}

# Makes the folder, and has all that we start end with us.
make_folder() {
    folder=$(mktemp -d -t ebpfprof-example.XXXXXX)
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # pprof keeps what it fetches, and reads nobody's settings.
    export PPROF_TMPDIR=$folder/fetched
}

clean_up() {
    local at
    # The last first: load before what serves it.
    for ((at = ${#started[@]} - 1; at >= 0; at--)); do
        end "${started[at]}"
    done
    rm -rf "$folder"
}

# end PID [SIGNAL]: ends a process that we started, and waits until it has.
end() {
    kill -s "${2:-TERM}" "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    local pid others=()
    for pid in "${started[@]}"; do
        [ "$pid" = "$1" ] || others+=("$pid")
    done
    started=("${others[@]}")
}

# start LOG COMMAND…: starts a command in the background; its pid is in $pid.
start() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    started+=("$pid")
}

# wait_for PID LOG COMMAND…: waits until the command succeeds, and ends if the process has.
wait_for() {
    local pid=$1 log=$2 deadline=$((SECONDS + 60))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ! kill -0 "$pid" 2>/dev/null || ((SECONDS >= deadline)); then
            cat "$log" >&2
            die "it did not start: $(basename "$log" .log)"
        fi
        sleep 0.05
    done
}

# The address that a server told in its log.
address_in() {
    sed -n 's,^.*listening on \(http://[^ ]*\).*,\1,p' "$1"
}

start_profiler() {
    local log=$folder/ebpfprof.log
    start "$log" "$profiler" serve --listen 127.0.0.1:0
    wait_for "$pid" "$log" grep -q 'listening on' "$log"
    server=$(address_in "$log")
    say "ebpfprof serve answers at $server"
}

# capture TARGET NAME: captures a CPU profile of a target by HTTP.
capture() {
    local url="$server/$1/debug/pprof/profile?seconds=$seconds" file="$folder/$2.pb.gz"
    say "go tool pprof -proto -output $2.pb.gz $url"
    # By itself it waits for half the time again and five seconds, which a host where everything
    # waits for a CPU may need for naming alone.
    go tool pprof -timeout $((seconds + 60)) -proto -output "$file" "$url" >"$folder/pprof.log" 2>&1 || {
        cat "$folder/pprof.log" >&2
        die "no profile came"
    }
    [ -z "$keep" ] || cp "$file" "$keep/"
}

# show TITLE OPTIONS…: what pprof says, its first lines.
show() {
    say "go tool pprof $*"
    # All of it is read, so that pprof does not end by a closed pipe.
    (cd "$folder" && go tool pprof "$@" 2>/dev/null) | awk 'NR <= 24'
}

# share NAME FUNCTION: the share of a capture's time that a function and what it called took, in
# tenths of a percent. A share does not depend on how busy the host is otherwise.
share() {
    go tool pprof -top -cum -nodecount=1000000 -nodefraction=0 -edgefraction=0 \
        "$folder/$1.pb.gz" 2>/dev/null |
        awk -v name="$2" '$6 == name { sum += $5 } END { printf "%d\n", sum * 10 }'
}

# expect_gone FUNCTION: ends with an error unless a function took much before, and no more than a
# tenth of that after.
expect_gone() {
    local before after
    before=$(share before "$1")
    after=$(share after "$1")
    say "$1: $((before / 10)).$((before % 10))% before, $((after / 10)).$((after % 10))% after"
    ((before >= 50)) || die "$1 took too little before to tell" "$0 --seconds 30"
    ((after * 10 <= before)) || die "$1 is still slow"
}
