# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Restores the newest physical backup of PostgreSQL on this host and looks at all of it, on a socket in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import instance, physical
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.drill import Seen
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.proofs import Check
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.repository import newest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

ENGINE = "postgresql"
PORT = 5434
RECOVERY_SECONDS = 24 * 3600.0
CHECK_SECONDS = 12 * 3600.0


def drill(context: Context, job: Job) -> list[Seen]:
    """Drill the newest backup in each repository that this host restores from. Raises Refusal where there is none."""
    found = []
    for repository in context.section("pgbackrest")["repositories"]:
        if not repository["own"]:
            continue
        stanza = physical.look(context, repository["number"])
        item = newest([entry for entry in stanza.backups if entry.repository == repository["number"]])
        if item is None:
            raise Refusal(f"repository {repository['name']} has no backup")
        begin = contexts.now().timestamp()
        try:
            checks, rto, rpo = _recovered(context, job, repository["number"], item.label, begin)
        except Refusal as error:
            checks, rto, rpo = (Check("restore", False, str(error)[:400]),), None, None
        found.append(Seen(ENGINE, item.label, repository["name"], checks, rto, rpo))
    if not found:
        raise Refusal("this host restores from no repository")
    return found


def _recovered(
    context: Context, job: Job, number: int, label: str, begin: float
) -> tuple[tuple[Check, ...], float, float | None]:
    """Restore a backup, recover to the end of the archive, look at all of it. Returns checks, RTO and RPO."""
    arguments = [f"--repo={number}", f"--set={label}", "--type=default"]
    parent = os.path.join(context.backup_dir, "drill")
    with instance.restored(context, arguments, parent=parent, port=PORT, timeout=RECOVERY_SECONDS) as server:
        checks = [Check("recovery", server.query("SELECT NOT pg_is_in_recovery()") == "t", "to the end of the archive")]
        # What was committed last, by the clock of the primary. An idle cluster has nothing newer.
        last = server.query("SELECT extract(epoch FROM pg_last_xact_replay_timestamp())")
        checks.append(
            _program("pg_amcheck", server, ["--all", "--install-missing", "--heapallindexed", "--no-strict-names"])
        )
        checks += [
            Check(f"probe {name}", ok, detail)
            for name, ok, detail in instance.probes(server, job.options.get("probes", []))
        ]
        if server.query("SHOW data_checksums") == "on":
            checks.append(_checksums(server))
    rpo = max(0.0, begin - float(last)) if last else None
    return tuple(checks), server.restore_seconds + server.start_seconds, rpo


def _program(name: str, server: instance.Instance, options: Sequence[str]) -> Check:
    reach = [f"--host={server.folder}", f"--port={server.port}", f"--username={instance.USER}"]
    try:
        contexts.run([f"{server.bin_dir}/{name}", *reach, *options], user=instance.USER, seconds=CHECK_SECONDS)
    except Refusal as error:
        return Check(name, False, str(error)[:400])
    return Check(name, True, "every table and index")


def _checksums(server: instance.Instance) -> Check:
    """Stop the server and compare every page with its checksum."""
    try:
        stop = [f"{server.bin_dir}/pg_ctl", f"--pgdata={server.data_dir}", "--mode=fast", "--wait", "stop"]
        contexts.run(stop, user=instance.USER, seconds=CHECK_SECONDS)
        command = [f"{server.bin_dir}/pg_checksums", "--check", f"--pgdata={server.data_dir}"]
        told = contexts.run(command, user=instance.USER, seconds=CHECK_SECONDS)
    except Refusal as error:
        return Check("pg_checksums", False, str(error)[:400])
    blocks = [line.strip() for line in told.splitlines() if "locks scanned" in line]
    return Check("pg_checksums", True, "; ".join(blocks))
