#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A database that is paused and has no client is not among SHOW DATABASES of PgBouncer where only "*" covers it, but stays paused.
#
# PgBouncer 1.24.1. PAUSE closes the last connections of the database, which then counts as an idle automatic one; SHOW DATABASES lists
# those no more. Who looks there for what is still paused (after an interrupted switchover, say) finds nothing, and the next client waits.
# RESUME by its name works all the same. A line of its own in [databases] keeps it in the list.
#
# Exits with 0 when it sees that, else with 1.
. "$(dirname "$0")/lib/pool.sh"
start_postgresql
databases="declared = host=127.0.0.1 port=$server dbname=postgres"
start_pgbouncer
sql -p $pool -d declared -c 'SELECT 1' > "$work/first"
console 'PAUSE postgres'
console 'PAUSE declared'
listed=$(console 'SHOW DATABASES' | cut -d'|' -f1,16)
echo "listed (name, paused): ${listed//$'\n'/ }"
if PGCONNECT_TIMEOUT=3 timeout 5 env LD_LIBRARY_PATH="$libraries" "$programs/psql" -XAtq -h 127.0.0.1 -U postgres -p $pool -d postgres -c 'SELECT 1' \
  > "$work/waited" 2>&1; then
  waits=no
else
  waits=yes
fi
echo "a client of postgres waits: $waits"
console 'RESUME postgres'
sql -p $pool -d postgres -c 'SELECT 1' > "$work/last"
[[ $waits == yes && $listed == *"declared|1"* && $listed != *"postgres|"* ]]
