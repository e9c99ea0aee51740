# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A dump's way into the cluster: as a database, as single tables, as rows, as roles.

A database is filled under another name and takes its place only when it is whole; what was there is kept beside it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import logical
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.dump import (
    RESTORER,
    Dump,
    create_statement,
    data_tables,
    parse_toc,
    property_statements,
    role_statements,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier, literal, qualified
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.wish import Wish
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

SWAP_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """The primary, where a restore goes to. Without a password only what anybody may see can be asked."""

    context: Context
    host: str
    password: str

    def run(self, program: str, *options: str, what: str = "", given: str | None = None) -> str:
        """Run one of PostgreSQL's programs against it as the role that restores. Raises Refusal."""
        port = self.context.section("postgresql")["port"]
        user = RESTORER if self.password else self.context.section("postgresql")["user"]
        reach = [f"--host={self.host}", f"--port={port}", f"--username={user}", "--no-password"]
        # What it makes belongs to the superuser, so that nothing hangs on a user that goes.
        role = {"PGOPTIONS": "-c role=postgres"} if self.password else {}
        return contexts.run(
            [logical.program(self.context, program), *reach, *options],
            environment={**logical.environment(self.context, self.password), **role},
            given=given,
            what=what or program,
        )

    def query(self, sql: str, database: str = "postgres") -> str:
        """Return what SQL prints, fields by |, rows by lines. Raises Refusal."""
        options = ["--no-psqlrc", "-Atq", "-v", "ON_ERROR_STOP=1", f"--dbname={logical.conninfo(database)}"]
        return self.run("psql", *options, given=sql, what=f"SQL on {self.host}").strip()

    def do(self, sql: str, database: str = "postgres") -> None:
        """Run one statement that can't be part of a transaction. Raises Refusal."""
        options = ["--no-psqlrc", "-Atq", f"--dbname={logical.conninfo(database)}", "--command", sql]
        self.run("psql", *options, what=f"SQL on {self.host}")


def load(server: Server, wish: Wish, folder: str, properties: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Bring a dump in the directory format into the cluster; return what was done. check: only see that it can be.

    properties: what the database is beside its content. Raises Refusal before anything changes, or with all as it was.
    """
    dump = Dump(folder, properties, parse_toc(_list(server.context, folder)))
    into = wish.into or wish.database
    _require_roles(server, dump)
    exists = bool(server.query(f"SELECT 1 FROM pg_database WHERE datname = {literal(into)}"))
    if wish.kind == "data":
        return _load_data(server, dump, into, exists, check)
    if wish.tables:
        return _load_tables(server, wish, dump, exists, check)
    used = exists and bool(server.query(USER_RELATIONS, into))
    if used and not wish.replace:
        raise Refusal(
            f"the database {into} exists and is not empty; nothing was changed. Restore into another one (restore_into), or "
            "set restore_replace: true: it is then kept under another name"
        )
    if check:
        return {"database": into, "replaces": used}
    with _filled(server, wish, dump, into) as name:
        kept = _swap(server, name, into, exists)
    return {"database": into, "replaces": used, "kept": kept, "tables": len(dump.toc.tables)}


USER_RELATIONS = """
SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') LIMIT 1
"""


def _list(context: Context, folder: str) -> str:
    return contexts.run([logical.program(context, "pg_restore"), "--list", folder], what="pg_restore --list")


def _require_roles(server: Server, dump: Dump) -> None:
    known = set(server.query("SELECT rolname FROM pg_roles").splitlines())
    owner = dump.properties.get("owner")
    missing = sorted((dump.toc.owners | ({owner} if owner else set())) - known)
    if missing:
        raise Refusal(
            f"the cluster has no role {', '.join(missing)}, which owns a part of it; nothing was changed. Restore the roles first "
            "(restore_kind: globals), or declare them in patroni_users"
        )


@contextlib.contextmanager
def _filled(server: Server, wish: Wish, dump: Dump, into: str) -> Iterator[str]:
    """Give the name of a database that holds the dump; what was not renamed in the block is dropped again."""
    name = f"{into}_restoring"
    # Only a killed run leaves one: the name is taken by nothing else.
    server.do(f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")
    server.do(create_statement(name, dump.properties))
    try:
        options = ["--exit-on-error", f"--jobs={wish.parallel}", f"--dbname={logical.conninfo(name)}"]
        server.run("pg_restore", *options, dump.folder)
        found = int(server.query(_COUNT_TABLES, name))
        if found < len(dump.toc.tables):
            raise Refusal(
                f"{len(dump.toc.tables)} tables are in the dump, {found} were restored; {into} was not touched"
            )
        server.do("ANALYZE", name)
        for statement in property_statements(name, dump.properties):
            server.do(statement)
        yield name
    finally:
        server.do(f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")


_COUNT_TABLES = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""


def _swap(server: Server, name: str, into: str, exists: bool) -> str:
    """Give a database its name; the one that had it is kept. Both happen, or none."""
    kept = f"{into}_before_{contexts.now():%Y%m%dT%H%M%S}" if exists else ""
    renames = [f"ALTER DATABASE {identifier(into)} RENAME TO {identifier(kept)}"] if exists else []
    renames.append(f"ALTER DATABASE {identifier(name)} RENAME TO {identifier(into)}")
    deadline = time.monotonic() + SWAP_SECONDS
    while True:
        names = f"({literal(name)}, {literal(into)})"
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN {names} AND pid <> pg_backend_pid()"
        try:
            server.query(f"BEGIN;\n{end};\n{';'.join(renames)};\nCOMMIT;")
            return kept
        except Refusal as error:
            if "being accessed by other users" not in str(error) or time.monotonic() >= deadline:
                raise
            # A client came back faster than the rename, and is ended by the next try; no lock on a database holds it off.
            time.sleep(0.2)


def _load_data(server: Server, dump: Dump, into: str, exists: bool, check: bool) -> dict[str, Any]:
    if not exists:
        raise Refusal(f"there is no database {into} whose tables the data could fill; restore a schema first")
    listed = data_tables(_list(server.context, dump.folder))
    present = set(server.query(_TABLE_NAMES, into).splitlines())
    missing = [table for table in listed if table not in present]
    if missing:
        raise Refusal(f"{into} has no table {missing[0]}, whose data is in the dump; restore a schema first")
    used = [table for table in listed if server.query(f"SELECT 1 FROM {qualified(table)} LIMIT 1", into)]
    if used:
        raise Refusal(f"the table {used[0]} of {into} is not empty; nothing was changed. Restore into empty tables")
    if not check:
        options = ["--data-only", "--disable-triggers", "--single-transaction", f"--dbname={logical.conninfo(into)}"]
        server.run("pg_restore", *options, dump.folder)
    return {"database": into, "replaces": False, "kept": "", "tables": len(listed)}


_TABLE_NAMES = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""


def _load_tables(server: Server, wish: Wish, dump: Dump, exists: bool, check: bool) -> dict[str, Any]:
    into = wish.into or wish.database
    missing = [table for table in wish.tables if table not in dump.toc.tables]
    if missing:
        raise Refusal(f"the dump has no table {missing[0]}; it has {', '.join(dump.toc.tables[:20])}")
    if not exists:
        raise Refusal(f"there is no database {into} for the tables; create it, or restore the whole database")
    present = set(server.query(_TABLE_NAMES, into).splitlines())
    there = [table for table in wish.tables if table in present]
    if there and not wish.replace:
        raise Refusal(
            f"{into} has a table {there[0]} already; nothing was changed. Restore into another database (restore_into), or set "
            "restore_replace: true: it is then moved into a schema of its own"
        )
    _refuse_dependents(server, into, there)
    if check:
        return {"database": into, "replaces": bool(there), "tables": len(wish.tables)}
    kept = f"before_{contexts.now():%Y%m%dt%H%M%S}" if there else ""
    with _filled(server, wish, dump, f"{into}_tables") as name:
        selected = [f"--table={qualified(table)}" for table in wish.tables]
        text = server.run("pg_dump", *selected, f"--dbname={logical.conninfo(name)}")
        schemas = sorted({table.partition(".")[0] for table in wish.tables})
        before = [
            f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)} AUTHORIZATION {identifier(_schema_owner(server, name, schema))}"
            for schema in schemas
        ]
        before += [f"CREATE SCHEMA {identifier(kept)}"] if kept else []
        before += [f"ALTER TABLE {qualified(table)} SET SCHEMA {identifier(kept)}" for table in there]
        options = [
            "--no-psqlrc",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "--single-transaction",
            f"--dbname={logical.conninfo(into)}",
        ]
        server.run("psql", *options, given=";\n".join(before) + ";\n" + text, what=f"tables into {into}")
    return {"database": into, "replaces": bool(there), "kept": kept, "tables": len(wish.tables)}


def _schema_owner(server: Server, database: str, schema: str) -> str:
    return server.query(
        f"SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = {literal(schema)}", database
    )


def _refuse_dependents(server: Server, into: str, tables: Sequence[str]) -> None:
    """Views and foreign keys would continue with the table that was moved away, unseen."""
    for table in tables:
        found = server.query(_DEPENDENTS.format(table=literal(qualified(table))), into)
        if found:
            raise Refusal(
                f"{', '.join(found.splitlines())} of {into} depend on {table} and would stay with the old one; nothing was changed. "
                "Restore it into another database (restore_into) and copy what you need, or drop them first"
            )


_DEPENDENTS = """
SELECT DISTINCT 'the foreign key ' || conname FROM pg_constraint
WHERE contype = 'f' AND confrelid = {table}::regclass AND conrelid <> confrelid
UNION ALL
SELECT DISTINCT 'the view ' || r.ev_class::regclass FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
WHERE d.refobjid = {table}::regclass AND d.classid = 'pg_rewrite'::regclass AND r.ev_class <> {table}::regclass
"""


def load_roles(server: Server, path: str, check: bool) -> dict[str, Any]:
    """Make the roles of a dump of roles; return those that were missing. Raises Refusal."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    known = set(server.query("SELECT rolname FROM pg_roles").splitlines())
    statements, made = role_statements(text, known)
    if not check and statements:
        server.query("BEGIN;\n" + "\n".join(statements) + "\nCOMMIT;")
    return {"roles": made}
