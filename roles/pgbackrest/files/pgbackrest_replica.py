# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0
"""Make a replica from the newest backup, where that is of the primary's own history.

Patroni calls this (`create_replica_methods`) with --scope, --role, --datadir and --connstring. Status 1 tells it to take the next
method, a copy of the primary.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import psycopg2
import psycopg2.extras
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import repository, wal_place
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

SETTINGS = "/etc/holdfast/pgbackrest-replica.json"
INFO_SECONDS = 60


def primary(connstring: str) -> tuple[int, int]:
    """Return system identifier and timeline of the primary. Raises psycopg2.Error."""
    connection = psycopg2.connect(
        connstring, connection_factory=psycopg2.extras.PhysicalReplicationConnection, connect_timeout=5
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute("IDENTIFY_SYSTEM")
            row = cursor.fetchone()
            return int(row[0]), int(row[1])
    finally:
        connection.close()


def refusal(scope: str, connstring: str) -> str:
    """Return why the newest backup is not taken, or an empty string."""
    try:
        identity = primary(connstring)
        told = subprocess.run(
            ["pgbackrest", f"--stanza={scope}", "--log-level-console=off", "--output=json", "info"],
            capture_output=True,
            text=True,
            check=True,
            timeout=INFO_SECONDS,
        )
        return repository.reason_against_copy(repository.parse(told.stdout, scope), *identity)
    except (psycopg2.Error, OSError, subprocess.SubprocessError, Refusal) as error:
        return str(error).strip()


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="pgbackrest-replica", description="Make a replica from the newest backup.")
    for name in ("scope", "datadir", "connstring"):
        parser.add_argument(f"--{name}", required=True)
    options, _others = parser.parse_known_args()
    reason = refusal(options.scope, options.connstring)
    if reason:
        print(f"pgbackrest-replica: not from a backup: {reason}", file=sys.stderr)
        return 1
    os.makedirs(options.datadir, mode=0o700, exist_ok=True)
    command = ["pgbackrest", f"--stanza={options.scope}", f"--pg1-path={options.datadir}", "--type=standby", "restore"]
    if subprocess.run(command, check=False).returncode:
        return 1
    with open(SETTINGS, encoding="utf-8") as stream:
        wal_dir = json.load(stream)["wal_dir"]
    try:
        if wal_dir:
            wal_place.place(options.datadir, wal_dir)
    except (Refusal, OSError) as error:
        print(f"pgbackrest-replica: no place for WAL: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
