# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""PgBouncer's SHOW POOLS and SHOW DATABASES as data. No I/O.

Source: PgBouncer's manual, "SHOW POOLS", "SHOW DATABASES"; 1.18 to 1.26 differ in columns that are not used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]


def parse_pools(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the pools without the console's own."""
    return [_pool(row) for row in rows if row["database"] != "pgbouncer"]


def _pool(row: Row) -> dict[str, Any]:
    return {
        "database": row["database"],
        "user": row["user"],
        "mode": row["pool_mode"],
        "clients_active": _number(row["cl_active"]),
        "clients_waiting": _number(row["cl_waiting"]),
        "servers_active": _number(row["sv_active"]),
        "servers_idle": _number(row["sv_idle"]) + _number(row["sv_used"]) + _number(row["sv_tested"]),
        "longest_wait": _number(row["maxwait"]) + _number(row["maxwait_us"]) / 1_000_000,
    }


def parse_databases(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the databases without the console's own."""
    return [_database(row) for row in rows if row["name"] != "pgbouncer"]


def _database(row: Row) -> dict[str, Any]:
    return {
        "name": row["name"],
        "address": f"{row['host'] or 'local'}:{row['port']}",
        "paused": row["paused"] == "1",
        "disabled": row["disabled"] == "1",
        "connections": _number(row["current_connections"]),
        "pool_size": _number(row["pool_size"]),
    }


def _number(text: str | None) -> int:
    return int(text or 0)
