#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# server_lifetime = 0 means "use a connection once" for PgBouncer as a whole, and nothing at all in the line of a database.
#
# PgBouncer 1.24.1 (its manual: "If this value is 0, then the connection is to be used only once, then closed"; for a database:
# "Configure the server_lifetime per database. If not set the database will fall back to the instance wide configured value"). A 0 in the line
# counts as not set: the connection is used again. A 0 for the whole, with another value in the lines of all other databases, does it.
#
# Exits with 0 when it sees that, else with 1.
. "$(dirname "$0")/lib/pool.sh"
start_postgresql
databases="once = host=127.0.0.1 port=$server dbname=postgres server_lifetime=0
lasting = host=127.0.0.1 port=$server dbname=postgres server_lifetime=900"
backends() { for _time in 1 2 3; do sql -p $pool -d "$1" -c 'SELECT pg_backend_pid()'; done | sort -u | wc -l; }
start_pgbouncer
line=$(backends once)
echo "0 in the line: three clients got $line connection(s)"
kill -QUIT "${pids[-1]}"
wait "${pids[-1]}" || true
start_pgbouncer 'server_lifetime = 0'
whole=$(backends once) other=$(backends lasting)
echo "0 for the whole: three clients got $whole connection(s); where the line says 900: $other"
[[ $line -eq 1 && $whole -eq 3 && $other -eq 1 ]]
