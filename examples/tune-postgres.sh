#!/usr/bin/env bash
# Finds a query that lacks an index in what PostgreSQL does under load, over HTTP; makes the index;
# shows that the scan is gone. The cluster is a temporary one, and nobody but us can reach it.
#
#     sudo examples/tune-postgres.sh --seconds 10
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=examples/loop.sh
source "$here/loop.sh"

# What PostgreSQL calls for each row of a scan without an index.
scan=heap_getnextslot

# Where PostgreSQL's programs are, and whose processes they will be.
programs=
user=
# The cluster.
postgres=

# Debian keeps the programs of each version in a folder of its own, off PATH.
find_postgres() {
    local candidate
    for candidate in /usr/lib/postgresql/*/bin "$(dirname "$(command -v postgres || echo /)")"; do
        if [ -x "$candidate/initdb" ] && [ -x "$candidate/pgbench" ]; then
            programs=$candidate
        fi
    done
    [ -n "$programs" ] || die "there is no PostgreSQL" "apt-get install postgresql"
    need setpriv util-linux
    # PostgreSQL refuses to run as root.
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
}

# become PROGRAM…: turns this shell into a program of PostgreSQL, of its user. What is started in
# the background by it has the pid of the program.
become() {
    local program=$1
    shift
    cd "$folder/cluster"
    exec env HOME="$folder/cluster" PGHOST="$folder/cluster" PGDATABASE=postgres PGUSER="$user" \
        setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \
        "$programs/$program" "$@"
}

# as_user PROGRAM…: runs a program of PostgreSQL to its end.
as_user() {
    (become "$@")
}

start_postgres() {
    local log=$folder/postgres.log
    say "initdb: a cluster of user $user in a temporary folder"
    mkdir "$folder/cluster"
    chown "$user" "$folder/cluster"
    chmod 755 "$folder"
    as_user initdb --pgdata="$folder/cluster/data" --auth=trust --encoding=UTF8 --locale=C \
        --no-sync >"$log" 2>&1 || {
        cat "$log" >&2
        die "initdb failed"
    }
    # A socket of its own and no port. The disk is not what we look at.
    start "$log" become postgres -D "$folder/cluster/data" -c listen_addresses= \
        -c unix_socket_directories="$folder/cluster" -c shared_buffers=64MB -c fsync=off \
        -c max_parallel_workers_per_gather=0 -c autovacuum=off
    postgres=$pid
    wait_for "$postgres" "$log" as_user pg_isready
    say "PostgreSQL is pid $postgres"
}

sql() {
    say "$1"
    as_user psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --command="$1"
}

# measure NAME: puts load on the cluster, captures, and tells how many queries it answered.
measure() {
    local log=$folder/pgbench.log
    start "$log" become pgbench -n -M prepared -c 2 -T 3600 -P 1 -f "$folder/query.sql"
    local load=$pid
    wait_for "$load" "$log" grep -q '^progress' "$log"
    capture comm/postgres "$1"
    end "$load"
    say "pgbench: $(grep '^progress' "$log" | tail -1)"
}

read_options "$@"
need_profiler
find_postgres
make_folder
start_profiler
start_postgres

sql "CREATE TABLE orders AS SELECT i AS id, i * 7919 % 20011 AS customer, i % 100 AS total
     FROM generate_series(1, 100000) AS i"
sql "VACUUM ANALYZE orders"
cat >"$folder/query.sql" <<'QUERY'
\set customer random(0, 20010)
SELECT sum(total) FROM orders WHERE customer = :customer;
QUERY
say "pgbench: SELECT sum(total) FROM orders WHERE customer = :customer"

measure before
show -top -nodecount=15 before.pb.gz
show -top -cum -focus "^$scan\$" -nodecount=10 before.pb.gz

sql "CREATE INDEX ON orders (customer)"
sql "ANALYZE orders"
measure after
end "$postgres" INT
show -top -nodecount=15 -base before.pb.gz after.pb.gz

expect_gone "$scan"
say "gone"
