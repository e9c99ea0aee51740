# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Restores of one database, single tables or the roles: from a dump, or from a physical backup through a temporary server."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import tempfile
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import instance, logical, physical, store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.load import (
    USER_RELATIONS,
    Server,
    load,
    load_roles,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import literal
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.wish import Wish
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest import recovery
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.repository import Stanza, newest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

SCRATCH = "scratch"
_PREFIX = "restore-"


def run(context: Context, wish: Wish, check: bool = False) -> dict[str, Any]:
    """Restore; return what was done. check: stop before anything changes. Raises Refusal."""
    leader = contexts.wait_for_leader(context, 30).leader
    if leader is None:
        raise Refusal("the cluster has no leader at this moment; run again")
    server = Server(context, leader.host, wish.password)
    if wish.source == "physical":
        return _physical(context, wish, server, check)
    found = _find(context, wish)
    if found.manifest is None:
        raise Refusal(f"{found.path} has no manifest any more; name another one")
    done = {"label": found.label, "from": found.path, "primary": leader.name, "check": check}
    if wish.kind == "globals":
        return {**done, **load_roles(server, os.path.join(found.path, logical.GLOBALS), check)}
    folder = os.path.join(found.path, logical.DUMP)
    return {**done, **load(server, wish, folder, found.manifest.extras.get("properties") or {}, check)}


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
        raise Refusal(f"{subject}: {problem or missing}. Good ones: {labels}. Nothing was changed")
    deep = store.look(context.backup_dir, logical.ENGINE, wanted[0].label, deep=True)
    if deep.problems:
        raise Refusal(f"{deep.path} is not what was written: {'; '.join(deep.problems)}. Others: {labels}")
    return deep


def _problem_of(context: Context, label: str) -> str:
    if label not in store.labels(context.backup_dir, logical.ENGINE):
        return ""
    problems = store.look(context.backup_dir, logical.ENGINE, label).problems
    return f"{label} is not usable ({'; '.join(problems)})" if problems else ""


def _physical(context: Context, wish: Wish, server: Server, check: bool) -> dict[str, Any]:
    """Restore from a physical backup: into a temporary server, dump what is wanted there, and load that."""
    plan = plan_physical(context, wish)
    done = {"label": plan.backup.label, "from": f"repository {plan.backup.repository}", "check": check}
    parent = os.path.join(context.backup_dir, SCRATCH)
    if not check:
        _sweep(parent)
    contexts.require_space(parent, int(plan.backup.size * 1.3), f"the restore of {plan.backup.label}")
    # PostgreSQL's own user passes through to the folder of the temporary server.
    os.chmod(parent, 0o711)
    into = wish.into or wish.database
    if check:
        exists = bool(server.query(f"SELECT 1 FROM pg_database WHERE datname = {literal(into)}"))
        return {**done, "database": into, "replaces": exists and bool(server.query(USER_RELATIONS, into))}
    arguments = [*plan.arguments(wish.exclusive), f"--db-include={wish.database}"]
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as scratch:
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
        return {**done, **load(server, wish, folder, properties, check), "seconds": round(seconds, 1)}


def _sweep(parent: str) -> None:
    """Remove dumps that killed restores left; the lock of restores says that nobody works there."""
    for path in glob.glob(os.path.join(glob.escape(parent), f"{_PREFIX}*")):
        shutil.rmtree(path)


def plan_physical(context: Context, wish: Wish) -> recovery.Plan:
    """Return backup and target. Raises Refusal for a target that can't be reached, and says what can."""
    answers = physical.answers(context)
    if answers.stanza is None:
        raise Refusal(f"no repository can be read: {'; '.join(f'{k}: {v}' for k, v in answers.broken.items())}")
    last = newest(answers.stanza.backups)
    if last is None:
        raise Refusal("there is no physical backup that is whole: make one first (backup.yml)")
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


def history(context: Context, stanza: Stanza, timeline: int) -> dict[int, int]:
    """Return where a timeline left its ancestors, from the archive."""
    if timeline == 1:
        return {}
    for number in sorted(stanza.statuses):
        folders = physical.command(context, [f"--repo={number}", "repo-ls", f"archive/{stanza.name}"]).splitlines()
        for folder in sorted((name for name in folders if re.match(r"^[\d.]+-\d+$", name)), reverse=True):
            path = f"archive/{stanza.name}/{folder}/{timeline:08X}.history"
            with contextlib.suppress(Refusal):
                return recovery.parse_history(physical.command(context, [f"--repo={number}", "repo-get", path]))
    return {}
