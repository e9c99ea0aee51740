# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Session defaults of databases and roles (ALTER DATABASE, ALTER ROLE ... SET): what is wished, and what differs. No I/O.

Source: PostgreSQL's manual, "ALTER DATABASE", "ALTER ROLE", "pg_db_role_setting"; which parameters are lists of quoted names:
variable_is_guc_list_quote() of src/bin/pg_dump/dumputils.c.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LISTS = frozenset(
    (
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    )
)


@dataclass(frozen=True)
class Default:
    """One parameter of a database, of a role, or of a role in a database (empty: none). Without values it is reset."""

    database: str
    role: str
    name: str
    values: tuple[str, ...] | None

    @property
    def owner(self) -> str:
        """Say whose it is."""
        parts = [f"database {self.database}"] * bool(self.database) + [f"role {self.role}"] * bool(self.role)
        return " in ".join(reversed(parts))


def values_of(name: str, value: Any) -> tuple[str, ...] | None:
    """Return a parameter's values as SET takes them, None for null: several for a list of names, else one."""
    if value is None:
        return None
    if isinstance(value, bool):
        return ("on" if value else "off",)
    if isinstance(value, (list, tuple)):
        return tuple(str(item) for item in value)
    if name.lower() in _LISTS:
        return tuple(part.strip().strip('"') for part in str(value).split(","))
    return (str(value),)


def wished(databases: Iterable[Mapping[str, Any]], roles: Iterable[Mapping[str, Any]]) -> list[Default]:
    """Return all defaults that are declared.

    Parameters: databases, with name and settings; roles, with name, settings, and database_settings by database.
    """
    found = [
        Default(str(item["name"]), "", name, values_of(name, value))
        for item in databases
        for name, value in (item.get("settings") or {}).items()
    ]
    for item in roles:
        of_database = {"": item.get("settings") or {}, **(item.get("database_settings") or {})}
        found += [
            Default(database, str(item["name"]), name, values_of(name, value))
            for database, settings in of_database.items()
            for name, value in settings.items()
        ]
    return found


def stored(values: tuple[str, ...]) -> str:
    """Return how PostgreSQL stores values that need no quotes."""
    return ", ".join(values)


def differing(wish: Iterable[Default], have: Mapping[tuple[str, str], Mapping[str, str]]) -> list[Default]:
    """Return the defaults that may have to be set; have is what is stored, by (database, role) and name.

    PostgreSQL may write a value in another way than the inventory: such a default is in the result, and setting it changes nothing.
    """
    changes = []
    for default in wish:
        now = have.get((default.database, default.role), {})
        found = {name.lower(): value for name, value in now.items()}.get(default.name.lower())
        if found != (None if default.values is None else stored(default.values)):
            changes.append(default)
    return changes


def affected(changes: Iterable[tuple[str, str]]) -> list[str]:
    """Return the databases whose connections have to be renewed for changes of (database, role); "" stands for all."""
    found = {database for database, _role in changes}
    return [""] if "" in found else sorted(found)


def parse(rows: Iterable[tuple[str, str, Iterable[str]]]) -> dict[tuple[str, str], dict[str, str]]:
    """Return what is stored; rows are (database, role, ["name=value", ...])."""
    return {
        (database, role): {name: value for name, _equals, value in (item.partition("=") for item in items)}
        for database, role, items in rows
    }


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the parameter whose name is most like an unknown one, nothing where none is."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), "")
