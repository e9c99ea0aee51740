# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Proves archives: a server of its own on this host, which nobody else sees, takes all their rows.

An archive holds no definitions of tables, so the drill makes them of the columns and keys that the manifest tells, loads every part,
and asks what a store must keep: every event has its stream, streams have no gap, versions agree.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import time
from collections.abc import Iterator

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import catalogue, store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.drill import Seen
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.proofs import Check
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import identifier
from ansible_collections.holdfast.persistence.plugins.module_utils.events import archive as archives
from ansible_collections.holdfast.persistence.plugins.module_utils.events import export, psql
from ansible_collections.holdfast.persistence.plugins.module_utils.events.archive import Archive
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, Session
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

USER = "postgres"
PORT = 5435
SECONDS = 120
_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
unix_socket_permissions = 0700
port = {port}
fsync = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
shared_buffers = 128MB
autovacuum = off
"""


def drill(context: Context, job: Job) -> list[Seen]:
    """Drill the newest archive of each series, good or not. Raises Refusal where there is none, and the job names events."""
    newest_of: dict[str, str] = {}
    for found in store.read(context.backup_dir, archives.ENGINE):
        newest_of[catalogue.series_of(found.manifest) if found.manifest else found.label] = found.label
    if not newest_of and archives.ENGINE in job.options.get("engines", []):
        raise Refusal(f"{context.backup_dir} has no archive of events")
    return [_drilled(context, label) for label in sorted(newest_of.values())]


def _drilled(context: Context, label: str) -> Seen:
    begin = contexts.now().timestamp()
    rto = rpo = None
    try:
        archive, path = export.load(context.backup_dir, label)
        rpo = begin - manifests.seconds(archive.source["time"])
        if archive.encoding == archives.JSON_LINES:
            checks = [Check("files", True, f"{len(archive.parts)} files have the SHA-256 they were written with")]
        else:
            with server(context, os.path.join(context.backup_dir, "drill")) as reach:
                checks, rto = prove(reach, archive, path)
    except Refusal as error:
        checks = [Check("restore", False, str(error)[:400])]
    return Seen(archives.ENGINE, label, "local", tuple(checks), rto, rpo)


@contextlib.contextmanager
def server(context: Context, parent: str, user: str = "") -> Iterator[Reach]:
    """Give an empty server of a user in the block, and remove every trace of it afterwards. Raises Refusal."""
    user = user or USER
    bin_dir = context.section("postgresql")["bin_dir"]
    folder, owner = os.path.join(parent, f"holdfast-events-{PORT}"), pwd.getpwnam(user)
    data_dir = os.path.join(folder, "data")
    # A folder of this name is what a killed run left.
    _remove(folder, data_dir, bin_dir, user)
    make_folders(parent, 0o755)
    os.mkdir(folder, 0o700)
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    try:
        options = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        contexts.run([f"{bin_dir}/initdb", f"--pgdata={data_dir}", *options], user=user, what="initdb of a drill")
        with open(os.path.join(data_dir, "postgresql.auto.conf"), "a", encoding="utf-8") as file:
            file.write(_SETTINGS.format(folder=folder, port=PORT))
        start = [
            f"{bin_dir}/pg_ctl",
            f"--pgdata={data_dir}",
            f"--log={folder}/log",
            "--wait",
            f"--timeout={SECONDS}",
            "start",
        ]
        contexts.run(start, user=user, seconds=SECONDS + 30, what="the server of a drill")
        yield Reach(bin_dir, folder, PORT, USER, "postgres")
    finally:
        _remove(folder, data_dir, bin_dir, user)


def _remove(folder: str, data_dir: str, bin_dir: str, user: str) -> None:
    if os.path.exists(os.path.join(data_dir, "postmaster.pid")):
        with contextlib.suppress(Refusal):
            stop = [f"{bin_dir}/pg_ctl", f"--pgdata={data_dir}", "--mode=immediate", "--wait", "stop"]
            contexts.run(stop, user=user, seconds=SECONDS)
    if os.path.exists(folder):
        shutil.rmtree(folder)


def prove(reach: Reach, archive: Archive, folder: str) -> tuple[list[Check], float]:
    """Load an archive into an empty server; return what was seen, and the seconds that loading took. Raises Refusal."""
    begun = time.monotonic()
    checks = []
    with Session(reach, "holdfast-drill") as session:
        session.ask("CREATE SCHEMA drill")
        for name, told in archive.tables.items():
            columns = ", ".join(f"{identifier(column)} {kind}" for column, kind in told["columns"].items())
            session.ask(f"CREATE TABLE drill.{identifier(name)} ({columns})")
        if archive.of("cuts"):
            part = archive.of("cuts")[0]
            columns = ", ".join(f"{identifier(column)} text" for column in part.columns)
            session.ask(f"CREATE TABLE drill.{identifier(part.table)} ({columns})")
        for part in archive.parts:
            with psql.decompressed(os.path.join(folder, part.file)) as descriptor:
                listed = ", ".join(map(identifier, part.columns))
                rows = session.copy_in(f"drill.{identifier(part.table)}", listed, descriptor)
            if rows != part.rows:
                checks.append(Check(part.file, False, f"{rows} of {part.rows} rows"))
        checks.append(
            Check("rows", not checks, f"{sum(part.rows for part in archive.parts)} in {len(archive.parts)} files")
        )
        for name, told in archive.tables.items():
            if told["key"]:
                key = ", ".join(map(identifier, told["key"]))
                session.ask(f"ALTER TABLE drill.{identifier(name)} ADD PRIMARY KEY ({key})")
        seconds = time.monotonic() - begun
        for name, query in (_MARTEN if archive.kind == archives.MARTEN else {}).items():
            if archive.encoding != archives.COPY_TEXT or (
                name == "no gaps" and (archive.cut or archive.selection.get("types"))
            ):
                continue
            same = "AND s.tenant_id = e.tenant_id" if archive.shape["tenancy"] == "conjoined" else ""
            wrong = session.count(query.format(same=same))
            checks.append(Check(name, wrong == 0, f"{wrong} are otherwise"))
    return checks, seconds


_MARTEN = {
    "every event has its stream": (
        "SELECT count(*) FROM drill.mt_events e WHERE e.type <> 'tombstone' AND NOT EXISTS "
        "(SELECT 1 FROM drill.mt_streams s WHERE s.id = e.stream_id {same})"
    ),
    "no gaps": (
        "SELECT count(*) FROM (SELECT 1 FROM drill.mt_events e WHERE e.type <> 'tombstone' GROUP BY e.tenant_id, e.stream_id "
        "HAVING count(DISTINCT version) <> max(version) - min(version) + 1) q"
    ),
    "streams end with their last event": (
        "SELECT count(*) FROM drill.mt_streams s WHERE s.version > 0 AND s.version IS DISTINCT FROM "
        "(SELECT max(e.version) FROM drill.mt_events e WHERE e.stream_id = s.id {same})"
    ),
}
