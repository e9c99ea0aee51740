# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For findings about pools: PostgreSQL of this machine or Debian release and PgBouncer 1.24.1 of trixie in a temporary folder, nothing installed.
# Source it; then start_postgresql and start_pgbouncer [LINE...], the lines of its section [pgbouncer] after the usual ones.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d /var/tmp/finding-XXXXXX)
chmod 0755 "$work"
pids=()
finish() {
  for pid in "${pids[@]}"; do kill -QUIT "$pid" 2> /dev/null || true; done
  wait || true
  rm -rf "$work"
}
trap finish EXIT

# Neither server runs as root.
nobody=(env)
if [[ $(id -u) -eq 0 ]]; then
  nobody=(setpriv --reuid=nobody --regid=nogroup --clear-groups env)
  chown nobody "$work"
fi

cache=${XDG_CACHE_HOME:-/var/tmp}
# The newest PostgreSQL that is installed, else that of this release, unpacked.
programs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1) libraries=
if [[ ! -x $programs/initdb ]]; then
  unpacked=$(XDG_CACHE_HOME=$cache "$here/tools/servers" "$(. /etc/os-release && echo "$VERSION_CODENAME")" postgresql)
  programs=$(echo "$unpacked"/usr/lib/postgresql/*/bin)
  libraries=$(printf '%s:' "$unpacked"/usr/lib/*-linux-gnu)
fi
bouncer=$(XDG_CACHE_HOME=$cache "$here/tools/servers" trixie pgbouncer)/run/pgbouncer

server=17500 pool=17501
await() { for _try in $(seq 600); do "$@" > "$work/answer" 2>&1 && return; sleep 0.1; done; cat "$work/answer" >&2; return 1; }
sql() { LD_LIBRARY_PATH=$libraries "$programs/psql" -XAtq -h 127.0.0.1 -U postgres "$@"; }

start_postgresql() {
  "${nobody[@]}" LD_LIBRARY_PATH="$libraries" "$programs/initdb" -D "$work/data" -U postgres --auth=trust --no-sync > "$work/initdb"
  "${nobody[@]}" LD_LIBRARY_PATH="$libraries" "$programs/postgres" -D "$work/data" -p $server -c unix_socket_directories= -c fsync=off \
    2> "$work/postgresql.log" &
  pids+=($!)
  await sql -p $server -d postgres -c 'SELECT 1'
  sql -p $server -d postgres -c 'SELECT version()'
}

# databases may hold lines of that section; any other database is covered by the star.
databases=
start_pgbouncer() {
  printf '%s\n' '[databases]' "$databases" "* = host=127.0.0.1 port=$server" '[pgbouncer]' 'listen_addr = 127.0.0.1' "listen_port = $pool" \
    'unix_socket_dir =' 'auth_type = any' 'admin_users = postgres' 'pool_mode = transaction' 'max_prepared_statements = 200' "$@" \
    > "$work/pgbouncer.ini"
  # With auth_type any PgBouncer logs in as the user of the line.
  sed -i "s/port=$server/& user=postgres/" "$work/pgbouncer.ini"
  "$bouncer" --version | head -1
  "${nobody[@]}" "$bouncer" "$work/pgbouncer.ini" 2> "$work/pgbouncer.log" &
  pids+=($!)
  await sql -p $pool -d postgres -c 'SELECT 1'
}
console() { sql -p $pool -d pgbouncer -c "$1"; }
