# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Dumps of PostgreSQL's databases and roles, made by pg_dump as backups that are folders of files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Member
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

ENGINE = "logical"
DUMP = "dump"
GLOBALS = "globals.sql"
SECTION_OPTIONS: dict[str, list[str]] = {"full": [], "schema": ["--schema-only"], "data": ["--data-only"]}
QUERY_SECONDS = 60
_ZSTD_SINCE = 16
# What a first dump is refused below; later ones are measured by the one before.
_LEAST_SPACE = 64 << 20
_POSITION = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
|| ' ' || current_setting('server_version_num') || ' ' || pg_is_in_recovery()
"""


def run(context: Context, job: Job) -> Result:
    """Dump what the job names, from the member that suits it best. Raises Refusal."""
    return dump(
        context,
        sections=job.options.get("sections") or ["full", "globals"],
        databases=job.options.get("databases") or [],
        parallel=job.options.get("parallel", 2),
        prefer=job.options.get("source", "replica"),
    )


def dump(context: Context, *, sections: Sequence[str], databases: Sequence[str], parallel: int, prefer: str) -> Result:
    """Make one backup of each section of each database; none named means all. Raises Refusal."""
    removed = store.sweep(context.backup_dir, ENGINE)
    known = store.read(context.backup_dir, ENGINE)
    candidates = contexts.sources(contexts.wait_for_leader(context, 60), prefer)
    names = _databases(context, candidates, databases)
    wanted = [(section, "") for section in sections if section == "globals"]
    wanted += [(section, name) for name in names for section in sections if section != "globals"]
    labels, size = [], 0
    for section, name in wanted:
        needed = _last_size(known, section, name) * 6 // 5 + _LEAST_SPACE
        contexts.require_space(context.backup_dir, needed, f"the {section} dump of {name or 'roles'}")
        made = _from_any(context, candidates, section, name, parallel)
        labels.append(made.label)
        size += made.bytes
    swept = f"; removed {len(removed)} unfinished" if removed else ""
    return Result(f"{len(labels)} dumps of {len(names)} databases{swept}", {ENGINE: labels}, size)


def _last_size(known: Sequence[store.Found], section: str, name: str) -> int:
    sizes = [
        found.manifest.bytes
        for found in known
        if found.manifest and found.manifest.kind == section and found.manifest.extras.get("database", "") == name
    ]
    return sizes[-1] if sizes else 0


def _databases(context: Context, candidates: Sequence[Member], wanted: Sequence[str]) -> list[str]:
    errors = []
    for member in candidates:
        try:
            text = query(
                context,
                member.host,
                "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1",
            )
        except Refusal as error:
            errors.append(str(error))
            continue
        found = text.splitlines()
        missing = [name for name in wanted if name not in found]
        if missing:
            raise Refusal(f"there is no database {', '.join(missing)}; there are {', '.join(found)}")
        return list(wanted) or found
    raise Refusal(f"no member can be asked for its databases: {'; '.join(errors) or 'none is healthy'}")


def _from_any(context: Context, candidates: Sequence[Member], section: str, name: str, parallel: int) -> Manifest:
    """Dump from the first member that can: a replica may cancel a long dump, or fall over."""
    errors = []
    for member in candidates:
        try:
            return _dump(context, member, section, name, parallel)
        except Refusal as error:
            errors.append(f"{member.name}: {error}")
            if shutil.disk_usage(context.backup_dir).free < _LEAST_SPACE // 2:
                break
    free = shutil.disk_usage(context.backup_dir).free >> 20
    raise Refusal(
        f"the {section} dump of {name or 'roles'} failed on every member ({free} MiB are free in {context.backup_dir}): "
        f"{'; '.join(errors)}"
    )


def _dump(context: Context, member: Member, section: str, name: str, parallel: int) -> Manifest:
    started = contexts.now()
    label = manifests.new_label(started, section, store.names(context.backup_dir, ENGINE))
    lsn, version, replica = query(context, member.host, _POSITION).split()
    properties = read_properties(lambda sql: query(context, member.host, sql), name) if name else {}
    with store.unfinished(context.backup_dir, ENGINE, label) as folder:
        if section == "globals":
            _dump_globals(context, member, folder)
        else:
            compress = "--compress=zstd:3" if int(version) // 10000 >= _ZSTD_SINCE else "--compress=3"
            _dump_database(context, member, folder, name, [*SECTION_OPTIONS[section], f"--jobs={parallel}", compress])
        made = Manifest(
            engine=ENGINE,
            kind=section,
            cluster=context.cluster,
            label=label,
            set=context.set,
            start=manifests.iso(started),
            end=contexts.stamp(),
            position={
                "lsn": lsn,
                "timeline": member.timeline,
                "replica": replica in ("t", "true"),
                "member": member.name,
            },
            versions={"postgresql": f"{int(version) // 10000}.{int(version) % 10000}"},
            files=store.describe(folder),
            extras={"database": name, "properties": properties} if name else {},
        )
        store.finish(folder, made)
    return made


_PROPERTIES = """
SELECT json_build_object(
  'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding), 'collate', datcollate, 'ctype', datctype,
  'provider', to_jsonb(d) ->> 'datlocprovider', 'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
  'settings', (SELECT coalesce(json_agg(s), '[]') FROM pg_db_role_setting r, unnest(setconfig) s
               WHERE r.setdatabase = d.oid AND r.setrole = 0),
  'grants', CASE WHEN datacl IS NOT NULL THEN (
    SELECT json_agg(json_build_object('to', CASE WHEN grantee <> 0 THEN pg_get_userbyid(grantee) ELSE '' END,
                                      'right', privilege_type, 'option', is_grantable))
    FROM aclexplode(datacl)) END)
FROM pg_database d WHERE datname = '{name}'
"""


def read_properties(ask: Callable[[str], str], name: str) -> dict[str, Any]:
    """Return what a database is beside its content: owner, locale, settings, rights. ask runs SQL. Raises Refusal."""
    return json.loads(ask(_PROPERTIES.format(name=name.replace("'", "''"))))


def _dump_globals(context: Context, member: Member, folder: str) -> None:
    contexts.run(
        [
            program(context, "pg_dumpall"),
            "--globals-only",
            f"--file={folder}/{GLOBALS}",
            "--no-password",
            *reach(context, member.host),
        ],
        environment=environment(context),
        what="pg_dumpall",
    )


def _dump_database(context: Context, member: Member, folder: str, name: str, options: Sequence[str]) -> None:
    contexts.run(
        [
            program(context, "pg_dump"),
            "--format=directory",
            f"--file={folder}/{DUMP}",
            "--no-password",
            *options,
            *reach(context, member.host),
            f"--dbname={conninfo(name)}",
        ],
        environment=environment(context),
        what="pg_dump",
    )
    contexts.run([program(context, "pg_restore"), "--list", f"{folder}/{DUMP}"], what="pg_restore --list")


def conninfo(database: str) -> str:
    """Return a connection string with nothing but the database, whatever its name is."""
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def program(context: Context, name: str) -> str:
    """Return the path of one of PostgreSQL's programs."""
    return os.path.join(context.section("postgresql")["bin_dir"], name)


def reach(context: Context, host: str) -> list[str]:
    """Return the options by which PostgreSQL's programs reach a member."""
    postgresql = context.section("postgresql")
    return [f"--host={host}", f"--port={postgresql['port']}", f"--username={postgresql['user']}"]


def environment(context: Context, password: str = "") -> dict[str, str]:
    """Return the environment by which libpq trusts a member and is trusted."""
    postgresql: Mapping[str, Any] = context.section("postgresql")
    return {
        "PGPASSWORD": password or postgresql["password"],
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": postgresql["ca_cert"],
        "PGSSLCERT": postgresql["client_cert"],
        "PGSSLKEY": postgresql["client_cert"],
        "PGCONNECT_TIMEOUT": "10",
        "PGAPPNAME": "holdfast-backup",
    }


def query(context: Context, host: str, sql: str, database: str = "postgres") -> str:
    """Return what a query prints, fields by spaces, rows by lines. Raises Refusal."""
    return contexts.run(
        [
            program(context, "psql"),
            "--no-psqlrc",
            "-Atq",
            "-F",
            " ",
            "-v",
            "ON_ERROR_STOP=1",
            *reach(context, host),
            conninfo(database),
        ],
        environment=environment(context),
        seconds=QUERY_SECONDS,
        given=sql,
        what=f"a query on {host}",
    ).strip()
