# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The names under which PgBouncer offers databases, with their pools: the one place that makes them. No I/O.

Source of the options of a line and of how its names are read: PgBouncer's manual, "Section [databases]"; lib/usual/cfparser.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

READ_ONLY_SUFFIX = "_ro"
SESSION_SUFFIX = "_session"
# The name that stands for every other database.
ANY = "*"
# PgBouncer's words for options of pgbouncer_databases.
_OPTIONS = {
    "pool_mode": "pool_mode",
    "pool_size": "pool_size",
    "min_pool_size": "min_pool_size",
    "reserve_pool_size": "reserve_pool",
    "max_connections": "max_db_connections",
}


@dataclass(frozen=True)
class Entry:
    """A name that clients ask for: which database it leads to, on which member (target), and the options of its pools."""

    name: str
    database: str
    target: str = "read_write"
    options: Mapping[str, Any] = field(default_factory=dict)

    def session(self, default: str) -> bool:
        """Return whether a client keeps its connection to PostgreSQL, where default is the mode of pools without one of their own."""
        return bool(self.options.get("pool_mode", default) == "session")


def entries(
    declared: Iterable[Mapping[str, Any]],
    real: Iterable[str] = (),
    read_only: Iterable[str] = (),
    sessions: Iterable[str] = (),
    session_options: Mapping[str, Any] | None = None,
) -> list[Entry]:
    """Return all names: those of the operator, then the databases themselves, then their second names.

    Parameters: declared, as pgbouncer_databases; real, names of databases in PostgreSQL; read_only and sessions, the databases that get
    a second name; session_options, the options of the session pools, in PgBouncer's words.
    A name that is taken, by the operator's own line or by a real database, is left to its owner.
    """
    found = [
        Entry(
            name=str(line["name"]),
            database=str(line.get("database") or line["name"]),
            target=str(line.get("target") or "read_write"),
            options={word: line[option] for option, word in _OPTIONS.items() if line.get(option) is not None},
        )
        for line in declared
    ]
    names = list(real)
    # A line of their own, so that they are always among SHOW DATABASES: one that only "*" covers comes and goes there.
    found += [Entry(name, name) for name in names if name not in {entry.name for entry in found}]
    taken = {entry.name for entry in found}
    derived = [Entry(f"{name}{READ_ONLY_SUFFIX}", name, "read_only") for name in read_only]
    derived += [
        Entry(f"{name}{SESSION_SUFFIX}", name, options={"pool_mode": "session", **(session_options or {})})
        for name in sessions
    ]
    return found + [entry for entry in derived if entry.name not in taken]


def lines(
    found: Iterable[Entry], ports: Mapping[str, int], transaction_options: Mapping[str, Any], mode: str
) -> list[str]:
    """Return the lines of the section [databases], the one for every other database last.

    Parameters: ports, of HAProxy by target; transaction_options, what every pool gets whose clients share connections, in PgBouncer's
    words; mode, the pools' mode where a line has none.
    """
    rest = Entry(ANY, "")
    return [
        _line(entry, ports[entry.target], {} if entry.session(mode) else transaction_options)
        for entry in [*found, rest]
    ]


def _line(entry: Entry, port: int, more: Mapping[str, Any]) -> str:
    words = {"host": "127.0.0.1", "port": port, **({"dbname": f"'{entry.database}'"} if entry.database else {})}
    return f"{entry.name} = " + " ".join(f"{key}={value}" for key, value in {**words, **more, **entry.options}.items())
