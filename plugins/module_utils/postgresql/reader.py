# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Reads the state of PostgreSQL servers, one statement a server, all servers at once.

Source: PostgreSQL's manual, versions 13 to 18, "Monitoring Database Activity" and "System Administration Functions".
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.settings import QUERY as SETTINGS_QUERY
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.settings import Setting, from_rows
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.state import Server, server_from_row
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# One statement, so that all values belong together. The timeline comes from the WAL file in use: the control file
# learns of a new one only at the next checkpoint.
QUERY = """
SELECT json_build_object(
  'in_recovery', pg_is_in_recovery(),
  'timeline', CASE
    WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
  'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
  'received_lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END,
  'replay_paused', CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
  'replay_age_seconds', CASE WHEN pg_is_in_recovery()
    THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END,
  'synchronous_standby_names', current_setting('synchronous_standby_names'),
  'synchronous_commit', (SELECT coalesce(reset_val, setting) FROM pg_settings WHERE name = 'synchronous_commit'),
  'senders', (SELECT coalesce(json_agg(json_build_object(
      'application_name', application_name, 'client_address', coalesce(host(client_addr), 'local'),
      'state', coalesce(state, ''), 'sync_state', coalesce(sync_state, ''), 'replay_lsn', replay_lsn,
      'replay_lag_seconds', extract(epoch FROM replay_lag)::float8) ORDER BY application_name), '[]')
    FROM pg_stat_replication),
  'slots', (SELECT coalesce(json_agg(json_build_object(
      'name', slot_name, 'kind', slot_type, 'active', active, 'restart_lsn', restart_lsn, 'wal_status', wal_status)
      ORDER BY slot_name), '[]')
    FROM pg_replication_slots WHERE NOT temporary),
  'archiver', (SELECT json_build_object(
      'enabled', current_setting('archive_mode') <> 'off', 'failed', failed_count,
      'last_failed', extract(epoch FROM last_failed_time)::float8, 'last_failed_wal', last_failed_wal,
      'last_archived', extract(epoch FROM last_archived_time)::float8,
      'backlog', (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'))
    FROM pg_stat_archiver),
  'receiver', (SELECT json_build_object(
      'status', status, 'timeline', received_tli, 'sender', concat_ws(':', sender_host, sender_port))
    FROM pg_stat_wal_receiver WHERE pid IS NOT NULL),
  'xid_ages', (SELECT json_object_agg(datname, age(datfrozenxid)) FROM pg_database),
  'multixact_ages', (SELECT json_object_agg(datname, mxid_age(datminmxid)) FROM pg_database),
  'checksum_failures', (SELECT coalesce(json_object_agg(coalesce(datname, 'shared'), checksum_failures), '{}')
    FROM pg_stat_database WHERE checksum_failures > 0),
  'prepared_seconds', (SELECT extract(epoch FROM max(clock_timestamp() - prepared))::float8 FROM pg_prepared_xacts),
  'rewind_lacks', (SELECT coalesce(json_agg(needed ORDER BY needed), '[]') FROM unnest(ARRAY[
      'pg_ls_dir(text, boolean, boolean)', 'pg_stat_file(text, boolean)', 'pg_read_binary_file(text)',
      'pg_read_binary_file(text, bigint, bigint, boolean)']) AS needed
    WHERE NOT has_function_privilege('pg_catalog.' || needed, 'EXECUTE')),
  'pending_restart', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart))::text
"""


CONNECT_SECONDS = 5


@dataclass(frozen=True)
class Target:
    """A server to ask: name of the member, host (an address, or the folder of a socket), port."""

    name: str
    host: str
    port: int = 5432

    @property
    def address(self) -> str:
        """Host and port as one text."""
        return f"{self.host}:{self.port}"


def find_driver() -> Any:
    """Import and return psycopg (3), else psycopg2. Raises Refusal."""
    for name in ("psycopg", "psycopg2"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise Refusal("neither psycopg nor psycopg2 is installed for this Python; on Debian install python3-psycopg2")


def read_settings(socket: str, user: str) -> dict[str, Setting] | None:
    """Return the settings of this host's server, None where there is none that answers.

    Parameters: socket, the folder of its socket; user, as which the server accepts the system user.
    """
    try:
        driver = find_driver()
    except Refusal:
        # Nothing is installed here yet.
        return None
    try:
        connection = driver.connect(host=socket, user=user, dbname="postgres", connect_timeout=CONNECT_SECONDS)
    except driver.OperationalError:
        return None
    try:
        with connection.cursor() as cursor:
            cursor.execute(SETTINGS_QUERY)
            return from_rows(cursor.fetchall())
    finally:
        connection.close()


def read_servers(targets: Iterable[Target], access: Mapping[str, Any], driver: Any) -> list[Server]:
    """Ask all targets at the same time; one that cannot be asked yields a Server with an error.

    Parameters: access, libpq's connection parameters without host and port, connect_timeout in seconds among them;
    driver, what find_driver returned. Raises Refusal.
    """
    targets = list(targets)
    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        return list(pool.map(lambda target: _read(target, access, driver), targets))


def _read(target: Target, access: Mapping[str, Any], driver: Any) -> Server:
    try:
        connection = driver.connect(host=target.host, port=target.port, **access)
    except driver.Error as error:
        return Server(target.name, target.address, error=_line(error))
    try:
        with connection.cursor() as cursor:
            cursor.execute(QUERY)
            row = json.loads(cursor.fetchone()[0])
    except driver.Error as error:
        return Server(target.name, target.address, error=_line(error))
    finally:
        connection.close()
    return server_from_row(target.name, target.address, row)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
