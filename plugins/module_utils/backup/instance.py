# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""PostgreSQL of a physical backup, for a while: restored into a folder of its own, on a socket that nobody else sees.

It neither archives nor listens on the network, so that it can't be taken for a member of the cluster.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

USER = "postgres"
PGBACKREST_CONFIG = "/etc/pgbackrest.conf"
STOP_SECONDS = 60
# What of a host's configuration belongs to its place in the cluster, not to the repositories.
_LEFT_OUT = re.compile(r"^(tls-server-|pg\d|lock-path|log-path|log-level-file|spool-path|archive-async|backup-standby)")
_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
unix_socket_permissions = 0700
port = {port}
hba_file = '{folder}/pg_hba.conf'
ident_file = '{folder}/pg_ident.conf'
ssl = off
archive_mode = off
hot_standby = {hot_standby}
shared_buffers = 128MB
max_connections = {max_connections}
max_worker_processes = {max_worker_processes}
max_wal_senders = {max_wal_senders}
max_prepared_transactions = {max_prepared_transactions}
max_locks_per_transaction = {max_locks_per_transaction}
logging_collector = off
log_destination = stderr
shared_preload_libraries = ''
"""


@dataclass(frozen=True)
class Instance:
    """A running PostgreSQL: folder that holds its socket, data and log; port; seconds that restoring and starting took."""

    folder: str
    data_dir: str
    port: int
    bin_dir: str
    restore_seconds: float
    start_seconds: float

    def query(self, sql: str, database: str = "postgres", seconds: float = 600) -> str:
        """Return what a query prints, fields by |, rows by lines. Raises Refusal."""
        return contexts.run(
            [
                f"{self.bin_dir}/psql",
                "--no-psqlrc",
                "-Atq",
                "-v",
                "ON_ERROR_STOP=1",
                f"--host={self.folder}",
                f"--port={self.port}",
                f"--username={USER}",
                f"--dbname={database}",
            ],
            user=USER,
            seconds=seconds,
            given=sql,
            what="a query on the restored server",
        ).strip()


def configuration(text: str, stanza: str, data_dir: str, folder: str) -> str:
    """Return pgBackRest's configuration for a restore beside the cluster, from that of this host."""
    kept: list[str] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip()
        elif section == "[global]" and line.strip() and not line.startswith("#") and not _LEFT_OUT.match(line):
            kept.append(line)
    return "\n".join(
        [
            "[global]",
            *kept,
            f"lock-path={folder}/lock",
            f"log-path={folder}",
            "log-level-file=off",
            f"[{stanza}]",
            f"pg1-path={data_dir}",
            "",
        ]
    )


@contextlib.contextmanager
def restored(
    context: Context,
    arguments: Sequence[str],
    *,
    parent: str,
    port: int = 5433,
    timeout: float = 3600,
    promote: bool = True,
) -> Iterator[Instance]:
    """Give a running server of a physical backup in the block, and remove every trace of it afterwards.

    Parameters: arguments of `pgbackrest restore`: which backup and target; parent, folder in which it is made, on a disk with room;
    timeout, seconds that recovery may take; promote, whether recovery ends in a server that can be written.
    Raises Refusal.
    """
    folder = os.path.join(parent, f"holdfast-instance-{port}")
    bin_dir = context.section("postgresql")["bin_dir"]
    owner = pwd.getpwnam(USER)
    data_dir = os.path.join(folder, "data")
    # A folder of this name is what a killed run left: its server is ended, its data belongs to nobody.
    _remove(folder, data_dir, bin_dir)
    make_folders(parent)
    for path in (folder, data_dir):
        os.mkdir(path, 0o700)
        os.chown(path, owner.pw_uid, owner.pw_gid)
    try:
        begun = time.monotonic()
        _restore(context, arguments, folder, data_dir)
        done = time.monotonic()
        _configure(folder, data_dir, bin_dir, port, hot_standby=not promote)
        _start(folder, data_dir, bin_dir, timeout)
        _wait(Instance(folder, data_dir, port, bin_dir, 0.0, 0.0), promote, timeout)
        yield Instance(folder, data_dir, port, bin_dir, done - begun, time.monotonic() - done)
    finally:
        _remove(folder, data_dir, bin_dir)


def _restore(context: Context, arguments: Sequence[str], folder: str, data_dir: str) -> None:
    stanza = context.section("pgbackrest")["stanza"]
    with open(PGBACKREST_CONFIG, encoding="utf-8") as file:
        text = configuration(file.read(), stanza, data_dir, folder)
    config = os.path.join(folder, "pgbackrest.conf")
    _write(config, text)
    contexts.run(
        [
            "pgbackrest",
            f"--config={config}",
            f"--stanza={stanza}",
            "--log-level-console=warn",
            "--archive-mode=off",
            *arguments,
            "restore",
        ],
        user=USER,
        what="pgbackrest restore",
    )


def _write(path: str, text: str) -> None:
    owner = pwd.getpwnam(USER)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchown(descriptor, owner.pw_uid, owner.pw_gid)
        file.write(text)


def _configure(folder: str, data_dir: str, bin_dir: str, port: int, hot_standby: bool) -> None:
    # Recovery refuses less of these than the server had that wrote the WAL.
    told = contexts.run([f"{bin_dir}/pg_controldata", data_dir], user=USER)
    control = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    values = {
        name: control[f"{name} setting"].strip()
        for name in (
            "max_connections",
            "max_worker_processes",
            "max_wal_senders",
            "max_locks_per_xact",
            "max_prepared_xacts",
        )
    }
    values["max_locks_per_transaction"] = values.pop("max_locks_per_xact")
    values["max_prepared_transactions"] = values.pop("max_prepared_xacts")
    _write(
        f"{folder}/postgresql.conf",
        _SETTINGS.format(folder=folder, port=port, hot_standby="on" if hot_standby else "off", **values),
    )
    _write(f"{folder}/pg_hba.conf", "local all postgres trust\n")
    _write(f"{folder}/pg_ident.conf", "")


def _start(folder: str, data_dir: str, bin_dir: str, timeout: float) -> None:
    """Start the server. Raises Refusal with the end of its log."""
    options = f"-c config_file={folder}/postgresql.conf -c data_directory={data_dir}"
    command = [f"{bin_dir}/pg_ctl", f"--pgdata={data_dir}", f"--log={folder}/log", "-o", options, "--wait"]
    try:
        contexts.run([*command, f"--timeout={timeout:.0f}", "start"], user=USER, seconds=timeout + STOP_SECONDS)
    except Refusal as error:
        raise Refusal(f"the restored server did not come up in {timeout:.0f} s: {_tail(folder)}") from error


def _wait(instance: Instance, promote: bool, timeout: float) -> None:
    """Wait until the server answers, with promote until recovery has ended. Raises Refusal with the end of its log."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if instance.query("SELECT pg_is_in_recovery()") == "f" or not promote:
                return
            problem = "recovery continues"
        except Refusal as error:
            problem = str(error)
        if not _runs(instance):
            raise Refusal(f"the restored server ended: {_tail(instance.folder)}")
        if time.monotonic() >= deadline:
            raise Refusal(f"recovery did not end in {timeout:.0f} s ({problem}): {_tail(instance.folder)}")
        time.sleep(0.25)


def _runs(instance: Instance) -> bool:
    try:
        contexts.run([f"{instance.bin_dir}/pg_ctl", f"--pgdata={instance.data_dir}", "status"], user=USER, seconds=10)
    except Refusal:
        return False
    return True


def _tail(folder: str) -> str:
    try:
        with open(f"{folder}/log", encoding="utf-8", errors="replace") as file:
            return " ".join(file.read().splitlines()[-8:])
    except FileNotFoundError:
        return "it left no log"


def _remove(folder: str, data_dir: str, bin_dir: str) -> None:
    if os.path.exists(os.path.join(data_dir, "postmaster.pid")):
        with contextlib.suppress(Refusal):
            contexts.run(
                [f"{bin_dir}/pg_ctl", f"--pgdata={data_dir}", "--mode=immediate", "--wait", "stop"],
                user=USER,
                seconds=STOP_SECONDS,
            )
    if os.path.exists(folder):
        shutil.rmtree(folder)


def probes(instance: Instance, queries: Sequence[Mapping[str, str]]) -> list[tuple[str, bool, str]]:
    """Return name, verdict and detail of queries that must each return one true value."""
    found = []
    for probe in queries:
        try:
            answer = instance.query(probe["query"], probe.get("database", "postgres"))
            found.append((probe.get("name", probe["query"]), answer == "t", answer[:200]))
        except Refusal as error:
            found.append((probe.get("name", probe["query"]), False, str(error)[:400]))
    return found
