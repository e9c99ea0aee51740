# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""In which order the members of a Patroni cluster are upgraded and restarted. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEADERS = frozenset({"leader", "standby_leader"})
SYNCHRONOUS = frozenset({"sync_standby", "quorum_standby"})


def order(members: Sequence[Mapping[str, Any]], status: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps of a rolling update: replicas first, those on which no commit waits before the others, the leader last.

    members: the result `members` of the module patroni_cluster_info. status: by member the result of the module package_status.
    A step has name, why (one line each), upgrade (packages), restart (`patroni` with PostgreSQL, or only `postgresql`) and leads.
    """
    steps = [step for member in members if (step := _step(member, status.get(member["name"], {})))]
    roles = {member["name"]: member["role"] for member in members}
    return sorted(steps, key=lambda step: (step["leads"], roles[step["name"]] in SYNCHRONOUS, step["name"]))


def _step(member: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any] | None:
    upgrade = list(status.get("newer", []))
    waiting = _pending(member)
    why = [*status.get("reasons", []), *waiting]
    if not why:
        return None
    return {
        "name": member["name"],
        "why": why,
        "upgrade": upgrade,
        "restart": "patroni" if upgrade or status.get("outdated") else "postgresql",
        "leads": member["role"] in LEADERS,
    }


def _pending(member: Mapping[str, Any]) -> list[str]:
    if not member.get("pending_restart"):
        return []
    changes = [
        f"{name} {change.get('old_value')} -> {change.get('new_value')}" if isinstance(change, Mapping) else name
        for name, change in sorted((member.get("pending_restart_reason") or {}).items())
    ]
    return [f"waits for a restart: {', '.join(changes) or 'settings'}"]
