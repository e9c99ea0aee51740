# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Backups of PostgreSQL by pgBackRest: made, and read from its repositories."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.gaps import Gap, find
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.repository import (
    Stanza,
    newest,
    parse,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

INFO_SECONDS = 120
# What may pass until a failover that came in between is over, and how often a backup begins anew because of one.
SETTLE_SECONDS = 120
ATTEMPTS = 3


@dataclass(frozen=True)
class Answers:
    """What pgBackRest's repositories hold, and by name which of them can't be used and why."""

    stanza: Stanza | None
    broken: Mapping[str, str]


def run(context: Context, job: Job) -> Result:
    """Make a backup in each repository whose backups this host makes. Raises Refusal."""
    pgbackrest = context.section("pgbackrest")
    wanted = job.options.get("repositories") or [item["name"] for item in pgbackrest["repositories"] if item["own"]]
    unknown = set(wanted) - {item["name"] for item in pgbackrest["repositories"] if item["own"]}
    if unknown:
        raise Refusal(f"{', '.join(sorted(unknown))}: this host makes no backups in a repository of that name")
    labels, stored = [], 0
    for item in pgbackrest["repositories"]:
        if item["name"] in wanted:
            label, size = _backup(context, item, job.options["type"])
            labels.append(label)
            stored += size
    return Result(f"{job.options['type']} backup {', '.join(labels)}", {"postgresql": labels}, stored)


def _backup(context: Context, repository: Mapping[str, Any], kind: str) -> tuple[str, int]:
    number = repository["number"]
    if repository.get("local"):
        contexts.require_space(os.path.join(repository["path"], "backup"), 16 << 20, f"repository {repository['name']}")
    before = {item.label for item in look(context, number).backups if item.repository == number}
    options = [f"--repo={number}", f"--type={kind}"]
    if context.set:
        options.append(f"--annotation=set={context.set}")
    for attempt in range(1, ATTEMPTS + 1):
        leader = _leader(context)
        try:
            command(context, [*options, "--log-level-console=warn", "backup"])
            break
        except Refusal as error:
            # A failover in between ends a backup. Where the cluster has another leader now, it begins anew there.
            time.sleep(1)
            if attempt == ATTEMPTS or not _has_moved(context, leader):
                raise Refusal(f"repository {repository['name']}: {error}") from error
    made = [item for item in look(context, number).backups if item.repository == number and item.label not in before]
    found = newest(made)
    if found is None:
        raise Refusal(f"pgBackRest succeeded, but repository {repository['name']} has no new backup that is whole")
    return found.label, found.stored


def _leader(context: Context) -> tuple[str, int | None]:
    cluster = contexts.wait_for_leader(context, SETTLE_SECONDS)
    return next((member.name, member.timeline) for member in cluster.members if member.is_leader and member.is_healthy)


def _has_moved(context: Context, leader: tuple[str, int | None]) -> bool:
    """Whether the cluster is led by another member, or on another timeline; waits a moment for a failover under way."""
    deadline = time.monotonic() + SETTLE_SECONDS / 2
    while time.monotonic() < deadline:
        cluster = contexts.look(context)
        healthy = [member for member in cluster.members if member.is_leader and member.is_healthy]
        if healthy:
            return (healthy[0].name, healthy[0].timeline) != leader
        time.sleep(1)
    return True


def command(context: Context, arguments: Sequence[str], seconds: float | None = None) -> str:
    """Run pgBackRest as its user; return what it printed. Raises Refusal."""
    stanza = context.section("pgbackrest")["stanza"]
    return contexts.run(["pgbackrest", f"--stanza={stanza}", *arguments], user="postgres", seconds=seconds)


def look(context: Context, number: int = 0) -> Stanza:
    """Return what the repositories hold, or one of them by its number. Raises Refusal."""
    stanza = context.section("pgbackrest")["stanza"]
    options = [f"--repo={number}"] if number else []
    text = command(context, [*options, "--log-level-console=error", "--output=json", "info"], INFO_SECONDS)
    return parse(text, stanza)


def gaps(context: Context) -> dict[str, list[Gap]]:
    """Return the WAL that is missing inside each repository that this host reads, by its name. Raises Refusal."""
    stanza = context.section("pgbackrest")["stanza"]
    found = {}
    for item in context.section("pgbackrest")["repositories"]:
        if item["own"]:
            options = [f"--repo={item['number']}", "--log-level-console=error", "--recurse"]
            listing = command(context, [*options, "repo-ls", f"archive/{stanza}"], INFO_SECONDS)
            found[item["name"]] = find(listing.splitlines())
    return found


def answers(context: Context) -> Answers:
    """Return what every repository that this host reads holds; one that can't be read does not hide the others."""
    repositories = [item for item in context.section("pgbackrest")["repositories"] if item["own"]]
    names = {item["number"]: item["name"] for item in repositories}
    broken: dict[str, str] = {}
    stanzas = []
    for number, name in names.items():
        try:
            found = look(context, number)
        except Refusal as error:
            broken[name] = str(error)
            continue
        stanzas.append(found)
        broken.update({names.get(key, str(key)): text for key, text in found.broken.items()})
        if number in found.missing:
            broken[name] = "it does not know this cluster (no stanza)"
    return Answers(_merged(stanzas), broken)


def _merged(stanzas: Sequence[Stanza]) -> Stanza | None:
    if not stanzas:
        return None
    return Stanza(
        name=stanzas[0].name,
        statuses={number: status for stanza in stanzas for number, status in stanza.statuses.items()},
        versions=stanzas[0].versions,
        backups=tuple(item for stanza in stanzas for item in stanza.backups),
        archives=tuple(item for stanza in stanzas for item in stanza.archives),
    )
