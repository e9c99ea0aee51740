# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about repositories of backups. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import jobs, manifest, retention
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Host,
    Inventory,
    Problem,
    archives,
    as_int,
    rule,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# What each type can't do without.
_NEEDS = {
    "s3": ("bucket", "endpoint", "region"),
    "azure": ("account", "container"),
}


@rule("pgbackrest_repository", reads=("pgbackrest_repositories",))
def repositories(inventory: Inventory) -> Iterator[Problem]:
    """Refuse repositories that can't work: double names, missing parts, bad paths, retention below one."""
    for host in inventory.members("postgresql", "backup"):
        declared = host.value("pgbackrest_repositories")
        names: set[str] = set()
        for index, entry in enumerate(declared if isinstance(declared, list) else []):
            if not isinstance(entry, Mapping):
                continue
            subject = f"pgbackrest_repositories[{index}]"
            name = str(entry.get("name"))
            if name in names:
                yield _problem(host, f"{subject}.name", f"{name!r} a second time", "names of their own", "rename it")
            names.add(name)
            for part, found, allowed, remedy in entry_faults(entry, inventory):
                yield _problem(host, f"{subject}.{part}", found, allowed, remedy)


def entry_faults(entry: Mapping[str, Any], inventory: Inventory) -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, found, allowed, remedy) for each fault of one repository. No value of a secret is told."""
    kind = entry.get("type")
    path = entry.get("path")
    if path is not None and not str(path).startswith("/"):
        yield "path", repr(path), "an absolute path", f"write /{path}, or leave it out"
    for key in ("retention_full", "retention_diff"):
        number = as_int(entry.get(key, 1))
        if number is None or number < 1:
            yield key, repr(entry[key]), "a whole number, at least 1", "keep one at least"
    for key in _NEEDS.get(str(kind), ()):
        if not entry.get(key):
            yield key, "nothing", f"what a repository of type {kind} can't be found without", f"set {key}"
    secret = ("key", "key_secret") if kind == "s3" else ("key",)
    if kind in _NEEDS and entry.get("key_type", "shared") in ("shared", "sas"):
        for key in secret:
            if not entry.get(key):
                yield key, "nothing", "the credentials of the store, best from a vault", f"set {key}"
    members = [host.name for host in inventory.members("backup")]
    if kind == "host" and not members:
        yield "type", "host, and no host in the group backup", "a host that keeps it", "fill the group backup"
    elif kind == "host" and entry.get("host", members[0]) not in members:
        yield "host", repr(entry["host"]), f"a host of the group backup: {', '.join(members)}", "correct it"
    if kind == "disk" and len(inventory.members("postgresql")) > 1 and entry.get("shared") is not True:
        yield (
            "shared",
            "a disk of each PostgreSQL host, so that a failover leaves the backups behind",
            "a file system that all PostgreSQL hosts mount, with shared: true, or another type",
            "use a backup host or an object store, or mount one file system everywhere and set shared: true",
        )


@rule("backup_schedule")
def schedules(inventory: Inventory) -> Iterator[Problem]:
    """Refuse jobs and rules that can't be understood: calendars, kinds, two jobs of one name, retention."""
    for host in inventory.members("backup") or inventory.members("postgresql"):
        declared = host.value("backup_jobs")
        if isinstance(declared, list):
            try:
                jobs.parse(declared)
            except Refusal as error:
                yield _schedule(host, "backup_jobs", str(error))
        for engine, kept, subject in _rules(host):
            if engine not in manifest.ENGINES:
                yield _schedule(host, subject, f"a rule for {engine}; there are {', '.join(manifest.ENGINES)}")
                continue
            try:
                retention.parse_rule(kept, str(engine))
            except Refusal as error:
                yield _schedule(host, subject, str(error))


def _rules(host: Host) -> Iterator[tuple[Any, Any, str]]:
    declared = host.value("backup_retention")
    if isinstance(declared, Mapping):
        yield from ((engine, kept, "backup_retention") for engine, kept in declared.items())
    places = host.value("backup_offsite")
    for index, place in enumerate(places if isinstance(places, list) else []):
        rules = place.get("retention") if isinstance(place, Mapping) else None
        if isinstance(rules, Mapping):
            yield from ((engine, kept, f"backup_offsite[{index}].retention") for engine, kept in rules.items())


def _schedule(host: Host, subject: str, found: str) -> Problem:
    return Problem(
        rule="backup_schedule",
        hosts=(host.name,),
        subject=subject,
        found=found,
        allowed="what the role backup documents",
        remedy="correct the inventory",
    )


@rule("pgbackrest_release", reads=("pgbackrest_repositories",))
def releases(inventory: Inventory) -> Iterator[Problem]:
    """Refuse hosts with another release: pgBackRest talks only to its own version, and drills need the same PostgreSQL."""
    found: dict[str, list[Host]] = {}
    for host, probe in inventory.probed():
        if archives(inventory, host):
            found.setdefault(probe.os_codename, []).append(host)
    if len(found) > 1:
        sizes = "; ".join(f"{name} on {', '.join(host.name for host in hosts)}" for name, hosts in found.items())
        yield Problem(
            rule="pgbackrest_release",
            hosts=(),
            subject="groups postgresql and backup",
            found=sizes,
            allowed="one release: pgBackRest on both sides must be the same version",
            remedy="install the backup hosts with the release of the PostgreSQL hosts",
        )


def _problem(host: Host, subject: str, found: str, allowed: str, remedy: str) -> Problem:
    return Problem(
        rule="pgbackrest_repository",
        hosts=(host.name,),
        subject=subject,
        found=found,
        allowed=allowed,
        remedy=remedy,
    )
