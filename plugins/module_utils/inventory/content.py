# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Users and databases of a running PostgreSQL as variables of the inventory. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.dump import SYSTEM_ROLES
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory import secrets
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import Note, Part, listing

AREA = "postgresql"
# Attribute of pg_authid, and the flag that a user gets who has it.
_FLAGS = {
    "super": "SUPERUSER",
    "createdb": "CREATEDB",
    "createrole": "CREATEROLE",
    "replication": "REPLICATION",
    "bypassrls": "BYPASSRLS",
}
_OWN_SCHEMAS = frozenset(("pgbouncer", "public"))


def plan(users: Iterable[Mapping[str, Any]], databases: Iterable[Mapping[str, Any]], reserved: Iterable[str]) -> Part:
    """Return patroni_users and patroni_databases. reserved: names of users that Patroni uses for itself."""
    notes: list[Note] = []
    own = SYSTEM_ROLES | set(reserved)
    found = [_user(user, notes) for user in users if user["name"] not in own]
    held = [database for database in (_database(each, notes) for each in databases) if database]
    variables = {"patroni_users": found, "patroni_databases": held}
    return Part(variables={name: value for name, value in variables.items() if value}, notes=tuple(notes))


def _user(user: Mapping[str, Any], notes: list[Note]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": user["name"]}
    flags = [] if user["login"] else ["NOLOGIN"]
    flags += [flag for attribute, flag in _FLAGS.items() if user[attribute]]
    flags += [] if user["inherit"] else ["NOINHERIT"]
    if flags:
        found["flags"] = ["LOGIN", *flags] if user["login"] else flags
    if user["member_of"]:
        found["member_of"] = list(user["member_of"])
    if user["expires"] and user["expires"] != "infinity":
        found["expires"] = user["expires"]
    own, databases = _settings(user["settings"], f"of the user {user['name']}", notes)
    if own:
        found["settings"] = own
    if databases:
        found["database_settings"] = databases
    notes += _user_notes(user)
    return found


def _user_notes(user: Mapping[str, Any]) -> list[Note]:
    name, notes = user["name"], []
    if user["login"]:
        text = (
            f"the password of the user {name}: the file postgresql_user_{name} in cluster_secrets_dir, before the first run; "
            "where it is missing, the user gets a new one and applications are refused"
        )
        notes.append(Note(AREA, "secret", "patroni_users", text))
    if user["password"] == "md5":
        notes.append(
            Note(
                AREA,
                "decide",
                "patroni_users",
                f"{name} has an md5 password; the role stores the same password as SCRAM",
            )
        )
    if user["login"] and user["password"] == "none":
        notes.append(
            Note(
                AREA,
                "decide",
                "patroni_users",
                f"{name} has no password now (another way to log in); the role gives it one",
            )
        )
    if user["limit"] >= 0:
        notes.append(
            Note(
                AREA,
                "lost",
                "patroni_users",
                f"{name} has a connection limit of {user['limit']}; it stays, but nothing declares it",
            )
        )
    return notes


def _settings(
    found: Iterable[Mapping[str, Any]], whose: str, notes: list[Note]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return (settings everywhere, settings by database) out of {database, values}, values as pg_db_role_setting has them."""
    everywhere: dict[str, Any] = {}
    databases: dict[str, dict[str, Any]] = {}
    for row in found:
        for value in row["values"]:
            name, _equals, text = value.partition("=")
            target = databases.setdefault(row["database"], {}) if row["database"] else everywhere
            target[name] = text
        for name in row["hidden"]:
            notes.append(
                Note(AREA, "secret", "settings", f"{name} {whose}: it stays in the database, but nothing declares it")
            )
    return everywhere, {database: values for database, values in databases.items() if values}


def settings_without_secrets(values: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return (name=value without secrets, names of those that are)."""
    kept, hidden = [], []
    for value in values:
        name, _equals, text = value.partition("=")
        if secrets.is_secret(name) or secrets.has_secret(text):
            hidden.append(name)
        else:
            kept.append(value)
    return kept, hidden


def _database(database: Mapping[str, Any], notes: list[Note]) -> dict[str, Any] | None:
    name, owner = database["name"], database["owner"]
    found: dict[str, Any] = {"name": name}
    if owner != "postgres":
        found["owner"] = owner
    if database["extensions"]:
        found["extensions"] = list(database["extensions"])
    schemas = [
        schema["name"]
        for schema in database["schemas"]
        if schema["owner"] == owner and schema["name"] not in _OWN_SCHEMAS
    ]
    if schemas and name != "postgres":
        found["schemas"] = schemas
    settings, _none = _settings([{"database": "", **database["settings"]}], f"of the database {name}", notes)
    if settings:
        found["settings"] = settings
    if name == "postgres":
        return found if len(found) > 1 else None
    others = [
        schema["name"]
        for schema in database["schemas"]
        if schema["owner"] not in (owner, "postgres", "pg_database_owner")
    ]
    if others:
        text = f"{name} has schemas of others than its owner ({listing(others)}); they stay, but nothing declares them"
        notes.append(Note(AREA, "lost", "patroni_databases", text))
    return found
