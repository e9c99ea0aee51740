# SPDX-License-Identifier: Apache-2.0
"""Event stores and journals that the real libraries wrote (tests/data/events), on a real server."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from postgresql.conftest import Database
from run_module import fail_module, run_module

DATA = Path(__file__).resolve().parents[1] / "data/events"
VERSIONS = ("9.58.0", "9.29.0")
SHAPES = ("guid", "string", "conjoined", "archived", "metadata", "compacted", "tagged", "binary", "source", "tenants")
STORES = [f"marten-{version}/{shape}" for version in VERSIONS for shape in SHAPES]
JOURNALS = [
    f"akka-sql-1.5.73/{mapping}-{ids}" for mapping in ("default", "postgresql") for ids in ("plain", "prefixes")
]
# Tenants that an application has added are part of what it makes before it writes.
_ROWS = re.compile(r"^COPY (?!events\.mt_tenant_partitions ).*? FROM stdin;\n.*?^\\\.\n", re.MULTILINE | re.DOTALL)
_NUMBERS = re.compile(r"^SELECT pg_catalog\.setval\(.*$", re.MULTILINE)


def without_rows(text: str) -> str:
    """Return a dump's tables and keys: what an application makes before it has written anything."""
    return _NUMBERS.sub("", _ROWS.sub("", text))


@dataclass
class Server:
    """One server, on which each store gets a database of its own."""

    database: Database
    made: set[str] = field(default_factory=set)

    @property
    def port(self) -> int:
        """Its port on loopback."""
        return self.database.port

    def make(self, name: str, store: str = "", rows: bool = True) -> str:
        """Make a database anew, with a store of tests/data/events, or its tables alone; return its name."""
        self.drop(name)
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        self.made.add(name)
        if store:
            text = (DATA / f"{store}.sql").read_text()
            self.run(name, text if rows else without_rows(text))
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever uses it."""
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def run(self, name: str, text: str) -> None:
        """Run a script as psql does."""
        command = [str(self.database.programs.folder / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
        done = subprocess.run(
            [*command, "-p", str(self.port), "-U", "postgres", name],
            input=text, capture_output=True, text=True, check=False, env={**os.environ, **self.database.programs.environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def connect(self, name: str) -> psycopg.Connection[Any]:
        """Return a connection that commits each statement."""
        return psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=name, autocommit=True)

    def query(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.connect(name) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def tables(self, name: str, *without: str) -> dict[str, list[str]]:
        """Return every row of every table that is not a partition, as text and sorted, by schema and name of the table."""
        found = {}
        with self.connect(name) as connection:
            names = connection.execute(
                "SELECT n.nspname, c.relname, (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute a "
                "WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped) "
                "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
            ).fetchall()
            for schema, table, columns in names:
                if table in without:
                    continue
                rows = connection.execute(f'SELECT ROW({columns})::text FROM "{schema}"."{table}"').fetchall()
                found[f"{schema}.{table}"] = sorted(row[0] for row in rows)
        return found

    def sequences(self, name: str) -> dict[str, tuple[int, bool]]:
        """Return last value and whether it was given, by sequence."""
        found = {}
        with self.connect(name) as connection:
            for schema, sequence in connection.execute("SELECT schemaname, sequencename FROM pg_sequences").fetchall():
                row = connection.execute(f'SELECT last_value, is_called FROM "{schema}"."{sequence}"').fetchone()
                assert row is not None
                found[sequence] = (row[0], row[1])
        return found

    def arguments(self, name: str, folder: Path, archive: str, **more: Any) -> dict[str, Any]:
        """Return options of a module that reads or writes a database of this server."""
        return {
            "login_host": "127.0.0.1",
            "login_port": self.port,
            "login_db": name,
            "bin_dir": str(self.database.programs.folder),
            "folder": str(folder),
            "archive": archive,
            **more,
        }

    def export(
        self, name: str, folder: Path, archive: str = "a", *, check: bool = False, **more: Any
    ) -> dict[str, Any]:
        """Run event_store_export."""
        return run_module("event_store_export", self.arguments(name, folder, archive, **more), check=check)

    def load(self, name: str, folder: Path, archive: str = "a", *, check: bool = False, **more: Any) -> dict[str, Any]:
        """Run event_store_import."""
        return run_module("event_store_import", self.arguments(name, folder, archive, **more), check=check)

    def refused(self, name: str, folder: Path, archive: str = "a", **more: Any) -> str:
        """Run event_store_import, which has to fail; return its words."""
        return fail_module("event_store_import", self.arguments(name, folder, archive, **more))
