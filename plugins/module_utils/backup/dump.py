# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a dump of PostgreSQL holds, and the SQL that makes its database and its roles anew. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal, unquoted

# The user of restores, which exists while one runs.
RESTORER = "restorer"
# Users of the cluster itself, whose passwords site.yml keeps.
SYSTEM_ROLES = frozenset({"postgres", "replicator", "rewinder", "pgbouncer", "dumper", RESTORER})
# Settings whose value is a list that is stored quoted already (pg_dump's variable_is_guc_list_quote).
_LIST_SETTINGS = frozenset(
    {
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
    }
)
_TOC = re.compile(r"^\d+; \d+ \d+ (?P<kind>[A-Z][A-Z ]*[A-Z]) (?P<schema>\S+) (?P<rest>.+) (?P<owner>\S+)$")
_ROLE_STATEMENT = re.compile(r'^(CREATE ROLE|ALTER ROLE|COMMENT ON ROLE|GRANT) ("(?:[^"]|"")+"|\S+?)[ ;]')
_GRANT_TO = re.compile(r'^GRANT ("(?:[^"]|"")+"|\S+) TO ("(?:[^"]|"")+"|[^\s;]+)')


@dataclass(frozen=True)
class Toc:
    """What a dump holds: tables as schema.table, roles that own something."""

    tables: tuple[str, ...]
    owners: frozenset[str]


@dataclass(frozen=True)
class Dump:
    """A dump in the directory format: folder, what the database is beside its content, and what is in it."""

    folder: str
    properties: Mapping[str, Any]
    toc: Toc


def parse_toc(text: str) -> Toc:
    """Return what `pg_restore --list` printed."""
    tables, owners = [], set()
    for line in text.splitlines():
        match = _TOC.match(line)
        if not match:
            continue
        owners.add(match["owner"])
        if match["kind"] == "TABLE":
            tables.append(f"{match['schema']}.{match['rest']}")
    return Toc(tuple(tables), frozenset(owners - {"-"}))


def data_tables(text: str) -> list[str]:
    """Return the tables whose rows `pg_restore --list` printed."""
    matches = [_TOC.match(line) for line in text.splitlines()]
    return [f"{match['schema']}.{match['rest']}" for match in matches if match and match["kind"] == "TABLE DATA"]


def create_statement(name: str, properties: Mapping[str, Any]) -> str:
    """Return the SQL that makes a database like the one that was dumped."""
    parts = [f"CREATE DATABASE {identifier(name)} TEMPLATE template0"]
    if properties.get("owner"):
        parts.append(f"OWNER {identifier(properties['owner'])}")
    for key, word in (("encoding", "ENCODING"), ("collate", "LC_COLLATE"), ("ctype", "LC_CTYPE")):
        if properties.get(key):
            parts.append(f"{word} {literal(properties[key])}")
    provider = {"i": "icu", "b": "builtin"}.get(properties.get("provider", ""))
    if provider and properties.get("locale"):
        parts.append(f"LOCALE_PROVIDER {provider} {provider.upper()}_LOCALE {literal(properties['locale'])}")
    return " ".join(parts)


def property_statements(name: str, properties: Mapping[str, Any]) -> list[str]:
    """Return the SQL that gives a database the settings and the rights of the one that was dumped."""
    statements = []
    for setting in properties.get("settings") or []:
        key, _equals, value = setting.partition("=")
        shown = value if key in _LIST_SETTINGS else literal(value)
        statements.append(f"ALTER DATABASE {identifier(name)} SET {identifier(key)} TO {shown}")
    if properties.get("grants") is not None:
        statements.append(f"REVOKE ALL ON DATABASE {identifier(name)} FROM PUBLIC")
        for grant in properties["grants"]:
            grantee = identifier(grant["to"]) if grant["to"] else "PUBLIC"
            option = " WITH GRANT OPTION" if grant["option"] else ""
            statements.append(f"GRANT {grant['right']} ON DATABASE {identifier(name)} TO {grantee}{option}")
    return statements


def role_statements(text: str, known: set[str]) -> tuple[list[str], list[str]]:
    """Return the statements of a dump of roles that a cluster needs, and the roles it lacks.

    Roles that exist get password, attributes and memberships of the dump. The cluster's own users are left as they are, and so are
    tablespaces: their folders belong to the hosts.
    """
    statements, made = [], []
    for line in text.splitlines():
        match = _ROLE_STATEMENT.match(line)
        if not match:
            continue
        names = {unquoted(match[2])}
        grant = _GRANT_TO.match(line)
        if match[1] == "GRANT":
            if not grant:
                continue
            # Memberships of the cluster's own users are its own affair.
            names = {unquoted(grant[2])}
        if names & SYSTEM_ROLES:
            continue
        if match[1] == "CREATE ROLE":
            if names & known:
                continue
            made += sorted(names)
        statements.append(re.sub(r' GRANTED BY ("(?:[^"]|"")+"|[^\s;]+);', ";", line))
    return statements, made
