"""Restores of one database, single tables or the roles: from a dump, or from a physical backup through a temporary server.

A database is filled under another name and takes its place only when it is whole; what was there is kept beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import instance, logical, physical, store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import BackupError, Context
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import recovery
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.repository import Stanza, newest

SOURCES = ("logical", "physical")
SWAP_SECONDS = 60
SCRATCH = "scratch"
_RESTORER = "restorer"
_LONGEST = 63
# Users of the cluster itself, whose passwords site.yml keeps.
SYSTEM_ROLES = frozenset({"postgres", "replicator", "rewinder", "pgbouncer", "dumper", _RESTORER})
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
_TABLE = re.compile(r"^[^.]+\.[^.]+$")
_TOC = re.compile(r"^\d+; \d+ \d+ (?P<kind>[A-Z][A-Z ]*[A-Z]) (?P<schema>\S+) (?P<rest>.+) (?P<owner>\S+)$")


@dataclass(frozen=True)
class Wish:
    """What to restore.

    source: a dump or a physical backup; label: of which, empty for the newest; database: what is restored, empty for the roles;
    into: the database it becomes; tables: only these (schema.table), empty for all; replace: whether what is there gives way;
    type and target: of a physical restore, as for restore_postgresql.yml; password: of the role that restores.
    """

    source: str
    database: str = ""
    into: str = ""
    label: str = ""
    kind: str = "full"
    tables: tuple[str, ...] = ()
    replace: bool = False
    type: str = "latest"
    target: str = ""
    exclusive: bool = False
    parallel: int = 2
    timeout: int = 3600
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class Server:
    """The primary, where a restore goes to. Without a password only what anybody may see can be asked."""

    context: Context
    host: str
    password: str

    def run(self, program: str, *options: str, what: str = "", given: str | None = None) -> str:
        """Run one of PostgreSQL's programs against it as the role that restores. Raises BackupError."""
        port = self.context.section("postgresql")["port"]
        user = _RESTORER if self.password else self.context.section("postgresql")["user"]
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
        """Return what SQL prints, fields by |, rows by lines. Raises BackupError."""
        options = ["--no-psqlrc", "-Atq", "-v", "ON_ERROR_STOP=1", f"--dbname={logical.conninfo(database)}"]
        return self.run("psql", *options, given=sql, what=f"SQL on {self.host}").strip()

    def do(self, sql: str, database: str = "postgres") -> None:
        """Run one statement that can't be part of a transaction. Raises BackupError."""
        options = ["--no-psqlrc", "-Atq", f"--dbname={logical.conninfo(database)}", "--command", sql]
        self.run("psql", *options, what=f"SQL on {self.host}")


def parse_wish(content: Mapping[str, Any]) -> Wish:
    """Return the wish in plain data. Raises BackupError for what can't be."""
    unknown = sorted(set(content) - set(Wish.__dataclass_fields__))
    if unknown:
        raise BackupError(f"restore: {', '.join(unknown)} is unknown")
    values = {key: value for key, value in content.items() if value is not None}
    wish = Wish(**{**values, "tables": tuple(values.get("tables", ()))})
    if wish.source not in SOURCES:
        raise BackupError(f"restore_source {wish.source!r}: allowed are {', '.join(SOURCES)}")
    if wish.kind not in (*logical.SECTION_OPTIONS, "globals"):
        raise BackupError(f"restore_kind {wish.kind!r}: allowed are full, schema, data, globals")
    if not wish.database and (wish.source == "physical" or wish.kind != "globals"):
        raise BackupError("restore_database is missing: which database is to be restored?")
    if wish.source == "physical" and wish.kind != "full":
        raise BackupError("restore_kind has a meaning for dumps only: leave it out with restore_source physical")
    if wish.source == "logical" and (wish.type != "latest" or wish.target):
        raise BackupError("a dump is of one moment: restore_type and restore_target need restore_source physical")
    if (wish.into or wish.database) in ("postgres", "template0", "template1"):
        raise BackupError(
            f"{wish.into or wish.database} is the cluster's own: restore into another database (restore_into)"
        )
    wrong = [name for name in wish.tables if not _TABLE.match(name)]
    if wrong:
        raise BackupError(f"restore_tables: {wrong[0]!r}; each is schema.table, such as public.orders")
    if wish.tables and wish.kind != "full":
        raise BackupError("restore_tables needs a full dump: restore_kind is not full")
    if len(wish.into or wish.database) > _LONGEST - 24:
        raise BackupError(
            f"restore_into {wish.into or wish.database!r} is too long: at most {_LONGEST - 24} characters"
        )
    return wish


def run(context: Context, wish: Wish, check: bool = False) -> dict[str, Any]:
    """Restore; return what was done. check: stop before anything changes. Raises BackupError."""
    leader = contexts.wait_for_leader(context, 30).leader
    if leader is None:
        raise BackupError("the cluster lost its leader at this moment; run it again")
    server = Server(context, leader.host, wish.password)
    if wish.source == "physical":
        return _physical(context, wish, server, check)
    found = _find(context, wish)
    if found.manifest is None:
        raise BackupError(f"{found.path} has no manifest any more; name another one")
    done = {"label": found.label, "from": found.path, "primary": leader.name, "check": check}
    if wish.kind == "globals":
        return {**done, **_globals(server, os.path.join(found.path, logical.GLOBALS), check)}
    folder = os.path.join(found.path, logical.DUMP)
    return {**done, **_load(server, wish, folder, found.manifest.extras.get("properties") or {}, check)}


def _find(context: Context, wish: Wish) -> store.Found:
    """Return the dump that is wanted, read whole and compared with its digests."""
    known = [
        item
        for item in store.read(context.backup_dir, logical.ENGINE)
        if item.manifest
        and not item.problems
        and item.manifest.kind == wish.kind
        and item.manifest.extras.get("database", "") == wish.database
    ]
    labels = ", ".join(item.label for item in known[-5:]) or "none"
    subject = f"{wish.kind} dumps of {wish.database}" if wish.database else "dumps of the roles"
    wanted = [item for item in known if item.label == wish.label] if wish.label else known[-1:]
    if not wanted:
        problem = _problem_of(context, wish.label)
        missing = f"there is no {wish.label}" if wish.label else "there are none"
        raise BackupError(f"{subject}: {problem or missing}. Good ones: {labels}. Nothing was changed")
    deep = store.look(context.backup_dir, logical.ENGINE, wanted[0].label, deep=True)
    if deep.problems:
        raise BackupError(f"{deep.path} is not what was written: {'; '.join(deep.problems)}. Others: {labels}")
    return deep


def _problem_of(context: Context, label: str) -> str:
    if label not in store.labels(context.backup_dir, logical.ENGINE):
        return ""
    problems = store.look(context.backup_dir, logical.ENGINE, label).problems
    return f"{label} is not usable ({'; '.join(problems)})" if problems else ""


def _load(server: Server, wish: Wish, folder: str, properties: Mapping[str, Any], check: bool) -> dict[str, Any]:
    dump = Dump(folder, properties, parse_toc(_list(server.context, folder)))
    into = wish.into or wish.database
    _require_roles(server, dump)
    exists = bool(server.query(f"SELECT 1 FROM pg_database WHERE datname = {literal(into)}"))
    if wish.kind == "data":
        return _load_data(server, dump, into, exists, check)
    if wish.tables:
        return _load_tables(server, wish, dump, exists, check)
    used = exists and bool(server.query(_USER_RELATIONS, into))
    if used and not wish.replace:
        raise BackupError(
            f"the database {into} exists and is not empty; nothing was changed. Restore into another one (restore_into), or "
            "set restore_replace: true: it is then kept under another name"
        )
    if check:
        return {"database": into, "replaces": used}
    with _filled(server, wish, dump, into) as name:
        kept = _swap(server, name, into, exists)
    return {"database": into, "replaces": used, "kept": kept, "tables": len(dump.toc.tables)}


_USER_RELATIONS = """
SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') LIMIT 1
"""


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


def _list(context: Context, folder: str) -> str:
    return contexts.run([logical.program(context, "pg_restore"), "--list", folder], what="pg_restore --list")


def _require_roles(server: Server, dump: Dump) -> None:
    known = set(server.query("SELECT rolname FROM pg_roles").splitlines())
    owner = dump.properties.get("owner")
    missing = sorted((dump.toc.owners | ({owner} if owner else set())) - known)
    if missing:
        raise BackupError(
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
            raise BackupError(
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
        except BackupError as error:
            # A client was faster; from the first rename on new ones wait.
            if "being accessed by other users" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def _load_data(server: Server, dump: Dump, into: str, exists: bool, check: bool) -> dict[str, Any]:
    if not exists:
        raise BackupError(f"there is no database {into} whose tables the data could fill; restore a schema first")
    listed = _data_tables(_list(server.context, dump.folder))
    present = set(server.query(_TABLE_NAMES, into).splitlines())
    missing = [table for table in listed if table not in present]
    if missing:
        raise BackupError(f"{into} has no table {missing[0]}, whose data is in the dump; restore a schema first")
    used = [table for table in listed if server.query(f"SELECT 1 FROM {qualified(table)} LIMIT 1", into)]
    if used:
        raise BackupError(f"the table {used[0]} of {into} is not empty; nothing was changed. Restore into empty tables")
    if not check:
        options = ["--data-only", "--disable-triggers", "--single-transaction", f"--dbname={logical.conninfo(into)}"]
        server.run("pg_restore", *options, dump.folder)
    return {"database": into, "replaces": False, "kept": "", "tables": len(listed)}


def _data_tables(text: str) -> list[str]:
    matches = [_TOC.match(line) for line in text.splitlines()]
    return [f"{match['schema']}.{match['rest']}" for match in matches if match and match["kind"] == "TABLE DATA"]


_TABLE_NAMES = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""


def _load_tables(server: Server, wish: Wish, dump: Dump, exists: bool, check: bool) -> dict[str, Any]:
    into = wish.into or wish.database
    missing = [table for table in wish.tables if table not in dump.toc.tables]
    if missing:
        raise BackupError(f"the dump has no table {missing[0]}; it has {', '.join(dump.toc.tables[:20])}")
    if not exists:
        raise BackupError(f"there is no database {into} for the tables; make it, or restore the whole database")
    present = set(server.query(_TABLE_NAMES, into).splitlines())
    there = [table for table in wish.tables if table in present]
    if there and not wish.replace:
        raise BackupError(
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
    """Views and foreign keys would go on with the table that was moved away, unseen."""
    for table in tables:
        found = server.query(_DEPENDENTS.format(table=literal(qualified(table))), into)
        if found:
            raise BackupError(
                f"{', '.join(found.splitlines())} of {into} hang on {table} and would stay with the old one; nothing was changed. "
                "Restore it into another database (restore_into) and copy what you need, or drop them first"
            )


_DEPENDENTS = """
SELECT DISTINCT 'the foreign key ' || conname FROM pg_constraint
WHERE contype = 'f' AND confrelid = {table}::regclass AND conrelid <> confrelid
UNION ALL
SELECT DISTINCT 'the view ' || r.ev_class::regclass FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
WHERE d.refobjid = {table}::regclass AND d.classid = 'pg_rewrite'::regclass AND r.ev_class <> {table}::regclass
"""


def _globals(server: Server, path: str, check: bool) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    known = set(server.query("SELECT rolname FROM pg_roles").splitlines())
    statements, made = role_statements(text, known)
    if not check and statements:
        server.query("BEGIN;\n" + "\n".join(statements) + "\nCOMMIT;")
    return {"roles": made}


_ROLE_STATEMENT = re.compile(r'^(CREATE ROLE|ALTER ROLE|COMMENT ON ROLE|GRANT) ("(?:[^"]|"")+"|\S+?)[ ;]')
_GRANT_TO = re.compile(r'^GRANT ("(?:[^"]|"")+"|\S+) TO ("(?:[^"]|"")+"|[^\s;]+)')


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


def unquoted(name: str) -> str:
    """Return an identifier without its quotes."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def identifier(name: str) -> str:
    """Return a name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def qualified(table: str) -> str:
    """Return schema.table as SQL takes it."""
    schema, _dot, name = table.partition(".")
    return f"{identifier(schema)}.{identifier(name)}"


def literal(text: str) -> str:
    """Return a text as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"


def _physical(context: Context, wish: Wish, server: Server, check: bool) -> dict[str, Any]:
    """Restore from a physical backup: into a temporary server, dump what is wanted there, and load that."""
    plan = plan_physical(context, wish)
    done = {"label": plan.backup.label, "from": f"repository {plan.backup.repository}", "check": check}
    parent = os.path.join(context.backup_dir, SCRATCH)
    contexts.require_space(parent, int(plan.backup.size * 1.3), f"the restore of {plan.backup.label}")
    # PostgreSQL's own user passes through to the folder of the temporary server.
    os.chmod(parent, 0o711)
    into = wish.into or wish.database
    if check:
        exists = bool(server.query(f"SELECT 1 FROM pg_database WHERE datname = {literal(into)}"))
        return {**done, "database": into, "replaces": exists and bool(server.query(_USER_RELATIONS, into))}
    arguments = [*plan.arguments(wish.exclusive), f"--db-include={wish.database}"]
    with tempfile.TemporaryDirectory(prefix="restore-", dir=parent) as scratch:
        os.chmod(scratch, 0o755)
        folder = os.path.join(scratch, logical.DUMP)
        with instance.restored(context, arguments, parent=parent, timeout=wish.timeout) as found:
            properties = logical.read_properties(found.query, wish.database)
            contexts.run(
                [
                    logical.program(context, "pg_dump"),
                    "--format=directory",
                    f"--file={folder}",
                    f"--jobs={wish.parallel}",
                    f"--host={found.folder}",
                    f"--port={found.port}",
                    "--username=postgres",
                    f"--dbname={logical.conninfo(wish.database)}",
                ],
                what=f"pg_dump of {plan.backup.label}",
            )
            seconds = found.restore_seconds + found.start_seconds
        return {**done, **_load(server, wish, folder, properties, check), "seconds": round(seconds, 1)}


def plan_physical(context: Context, wish: Wish) -> recovery.Plan:
    """Return backup and target. Raises BackupError for a target that can't be reached, and says what can."""
    answers = physical.answers(context)
    if answers.stanza is None:
        raise BackupError(f"no repository can be read: {'; '.join(f'{k}: {v}' for k, v in answers.broken.items())}")
    last = newest(answers.stanza.backups)
    if last is None:
        raise BackupError("there is no physical backup that is whole: make one first (backup.yml)")
    try:
        target = recovery.parse_target(wish.type, wish.target)
        timeline = recovery.newest_timeline(answers.stanza, last.system_identifier)
        return recovery.plan(
            answers.stanza,
            target,
            system_identifier=last.system_identifier,
            timeline=timeline,
            history=history(context, answers.stanza, timeline),
            now=contexts.now().timestamp(),
            label=wish.label,
        )
    except recovery.TargetError as error:
        raise BackupError(str(error)) from error


def history(context: Context, stanza: Stanza, timeline: int) -> dict[int, int]:
    """Return where a timeline left its ancestors, from the archive."""
    if timeline == 1:
        return {}
    for number in sorted(stanza.statuses):
        folders = physical.command(context, [f"--repo={number}", "repo-ls", f"archive/{stanza.name}"]).splitlines()
        for folder in sorted((name for name in folders if re.match(r"^[\d.]+-\d+$", name)), reverse=True):
            path = f"archive/{stanza.name}/{folder}/{timeline:08X}.history"
            with contextlib.suppress(BackupError):
                return recovery.parse_history(physical.command(context, [f"--repo={number}", "repo-get", path]))
    return {}
