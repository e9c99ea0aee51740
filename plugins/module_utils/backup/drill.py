# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The job that restores the newest backup of each engine, looks whether it is good, and writes down what was found.

Nothing of the cluster is touched. Each engine's drill stands beside what makes its backups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.proofs import Check, Proof
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# What a host's configuration calls what an engine's drill needs.
SECTIONS = {"postgresql": "pgbackrest", "valkey": "valkey", "events": "postgresql"}


@dataclass(frozen=True)
class Seen:
    """What a drill saw of one backup."""

    engine: str
    label: str
    repository: str
    checks: tuple[Check, ...]
    rto: float | None
    rpo: float | None


# What drills the newest backup of one engine. Raises Refusal where there is none.
Drill = Callable[[Context, Job], list[Seen]]


def run(drills: Mapping[str, Drill], context: Context, job: Job) -> Result:
    """Drill the newest backup of each engine. Raises Refusal where one is not proved; the verdicts are written then, too."""
    engines = job.options.get("engines") or [name for name in drills if context.config.get(SECTIONS[name])]
    if not engines:
        raise Refusal(
            "nothing to restore: this host makes no backups that a drill could prove",
            "See backup_jobs and the group backup",
        )
    seen: list[Seen] = []
    missing: list[str] = []
    for engine in engines:
        try:
            found = drills[engine](context, job)
            if not found:
                raise Refusal("nothing was restored")
            seen += found
        except Refusal as error:
            missing.append(f"{engine}: {error}")
    for item in seen:
        store.write_proof(context.backup_dir, proof_of(item, job.name, contexts.stamp()))
    failed = [f"{item.engine} {item.label}: {_failures(item)}" for item in seen if not _passed(item)]
    if failed or missing:
        raise Refusal("not proved: " + "; ".join([*failed, *missing]))
    labels: dict[str, list[str]] = {}
    for item in seen:
        labels.setdefault(item.engine, []).append(item.label)
    return Result("proved " + ", ".join(_told(item) for item in seen), labels)


def proof_of(seen: Seen, drill: str, moment: str) -> Proof:
    """Return the verdict over what was seen."""
    return Proof(
        engine=seen.engine,
        label=seen.label,
        drill=drill,
        proved=moment,
        verdict="proved" if _passed(seen) else "failed",
        repository=seen.repository,
        rto_seconds=None if seen.rto is None else round(seen.rto, 1),
        rpo_seconds=None if seen.rpo is None else round(seen.rpo, 1),
        checks=seen.checks,
    )


def _passed(seen: Seen) -> bool:
    return bool(seen.checks) and all(check.ok for check in seen.checks)


def _failures(seen: Seen) -> str:
    return ", ".join(f"{check.name} ({check.detail})" for check in seen.checks if not check.ok) or "nothing was checked"


def _told(seen: Seen) -> str:
    return f"{seen.engine} {seen.label} (served after {seen.rto or 0:.1f} s)"
