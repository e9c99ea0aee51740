# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which pools get new connections to PostgreSQL when something of a database has changed that a connection remembers. No I/O.

A connection keeps settings of its database and role as they were when it was made, and the plans of statements that PgBouncer has prepared
in it. Sessions are left alone: RECONNECT would end them in the middle (server_fast_close), and a client that wants the new settings can
connect again. Source: PgBouncer's manual, "RECONNECT", "WAIT_CLOSE", "server_fast_close".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.pause import kinds

Row: TypeAlias = Mapping[str, Any]


def known(databases: Iterable[Row], database: str) -> bool:
    """Return whether a name of SHOW DATABASES is that database, or leads to it."""
    return any(database in (row["name"], row["database"]) for row in databases)


def to_renew(databases: Iterable[Row], pools: Iterable[Row], database: str = "") -> list[str]:
    """Return the names of databases, as the console knows them, whose pools are to be renewed.

    Parameters: databases, SHOW DATABASES; pools, SHOW POOLS; database, in PostgreSQL, all where empty.
    """
    leads_to = {str(row["name"]): str(row["database"]) for row in databases}
    return [name for name in kinds(pools).shared if not database or leads_to.get(name, name) == database]
