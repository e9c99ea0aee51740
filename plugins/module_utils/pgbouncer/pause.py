# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The pause of one PgBouncer for planned work: transactions end, then sessions are ended, and nobody is let in until it is over. No I/O.

PAUSE alone waits for the clients of session pools too, which leave when they like, and KILL is refused while PAUSE is at work. So the
pools whose clients share connections are paused one database after the other; a client there waits from then on. When the last transaction
has ended, the databases with sessions are killed, and PAUSE, which has nothing to wait for, takes the place of the single pauses.
Source: PgBouncer's manual, "Admin console" (PAUSE, KILL, RESUME), and src/admin.c of 1.18 to 1.26: KILL pauses its database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
# Runs a command on the console and returns its rows; raises what its caller catches.
Ask: TypeAlias = Callable[[str], Iterable[Row]]
CONSOLE = "pgbouncer"


@dataclass(frozen=True)
class Kinds:
    """Databases with pools, by whether their clients keep a connection (sessions) or share some (shared)."""

    shared: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()


def kinds(pools: Iterable[Row]) -> Kinds:
    """Return the databases of SHOW POOLS by kind. One with pools of both kinds counts among the sessions: they would not end."""
    modes: dict[str, set[str]] = {}
    for row in pools:
        if row["database"] != CONSOLE:
            modes.setdefault(str(row["database"]), set()).add(str(row["pool_mode"]))
    return Kinds(
        shared=tuple(sorted(name for name, found in modes.items() if "session" not in found)),
        sessions=tuple(sorted(name for name, found in modes.items() if "session" in found)),
    )


def paused(databases: Iterable[Row]) -> frozenset[str]:
    """Return the databases of SHOW DATABASES that are paused by themselves."""
    return frozenset(str(row["name"]) for row in databases if str(row["paused"]) == "1")


def quoted(name: str) -> str:
    """Return a database's name as the console reads it."""
    return '"' + name.replace('"', '""') + '"'


def pause_all(ask: Ask, refusal: type[Exception]) -> tuple[str, ...]:
    """Pause; return the databases whose sessions were ended. Waits for transactions as long as they last.

    refusal is what ask raises where the console says no. What fails, or is cut off, may leave single databases paused: see resume_single.
    """
    before = paused(ask("SHOW DATABASES"))
    found = kinds(ask("SHOW POOLS"))
    shared = [name for name in found.shared if name not in before]
    ended = [name for name in found.sessions if name not in before]
    for name in shared:
        ask(f"PAUSE {quoted(name)}")
    for name in ended:
        ask(f"KILL {quoted(name)}")
    ask("PAUSE")
    _resume(ask, [*shared, *ended], refusal)
    return tuple(ended)


def resume_single(ask: Ask, before: Iterable[str], refusal: type[Exception]) -> list[str]:
    """Resume the databases that are paused by themselves and were not before; return them.

    A database without a line of its own and without connections is not among SHOW DATABASES, whether it is paused or not: its pools tell
    of it.
    """
    listed = list(ask("SHOW DATABASES"))
    names = {str(row["name"]) for row in listed}
    hidden = {str(row["database"]) for row in ask("SHOW POOLS")} - names - {CONSOLE}
    return _resume(ask, sorted((paused(listed) | hidden) - set(before)), refusal)


def _resume(ask: Ask, names: Iterable[str], refusal: type[Exception]) -> list[str]:
    """Resume databases; return those that were paused."""
    resumed = []
    for name in names:
        try:
            ask(f"RESUME {quoted(name)}")
        except refusal as error:
            if not any(words in str(error) for words in ("is not paused", "no such database")):
                raise
            continue
        resumed.append(name)
    return resumed
