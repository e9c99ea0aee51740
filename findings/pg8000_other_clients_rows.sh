#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# pg8000 behind a pool in transaction mode gets rows of another client's statement, and writes into another client's table, without an error.
#
# pg8000 1.31.6 (PyPI), PgBouncer 1.24.1 with max_prepared_statements. run() with arguments prepares the unnamed statement, describes it and
# executes it, each in a round of its own that ends with Sync. Between two rounds the pool may hand the connection to another client, which
# prepares its own unnamed statement. Seen of 1,697 turns of 4 threads, 3 connections: 1,185 reads right, 351 with another thread's rows, 161 errors
# (SQLSTATE 26000, or AttributeError in pg8000); 304 acknowledged inserts are in another thread's table. Go's lib/pq 1.10 does the same without binary_parameters=yes.
# A simple query between two clients (server_reset_query_always = 1) makes errors of all of them.
#
# Exits with 0 when it sees that, else with 1.
. "$(dirname "$0")/lib/pool.sh"
start_postgresql
start_pgbouncer 'default_pool_size = 3'
python3 -m pip install --quiet --no-warn-conflicts --disable-pip-version-check --root-user-action=ignore --target "$work/python" pg8000==1.31.6
for number in 0 1 2 3; do
  sql -p $server -d postgres -c "CREATE TABLE mine_$number AS SELECT $number AS owner; CREATE TABLE written_$number (owner int)"
done
PYTHONPATH=$work/python python3 - $pool << 'PY'
import sys, threading
import pg8000.native

port, tallies = int(sys.argv[1]), {"right": 0, "wrong": 0, "errors": 0}


def work(worker):
    link = None
    for _time in range(400):
        try:
            link = link or pg8000.native.Connection("postgres", host="127.0.0.1", port=port, database="postgres")
            rows = link.run(f"SELECT owner, CAST(:argument AS int) FROM mine_{worker}", argument=worker)
            tallies["right" if rows == [[worker, worker]] else "wrong"] += 1
            link.run(f"INSERT INTO written_{worker} (owner) VALUES (:owner)", owner=worker)
        except (pg8000.exceptions.Error, AttributeError):
            # AttributeError: rows come where it expects none.
            tallies["errors"] += 1
            link = None


threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(tallies)
sys.exit(0 if tallies["wrong"] else 1)
PY
foreign=0
for number in 0 1 2 3; do
  foreign=$((foreign + $(sql -p $server -d postgres -c "SELECT count(*) FROM written_$number WHERE owner <> $number")))
done
echo "rows in another worker's table: $foreign"
[[ $foreign -gt 0 ]]
