# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""When paused pools continue: decided from what the members of Patroni and HAProxy say. No I/O.

The pools of a balancer are held by a program of that balancer, so that they resume whatever becomes of the controller, and
at the moment when the new primary can be reached from there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

PRIMARY_ROLES = frozenset({"primary", "master"})


@dataclass(frozen=True)
class Step:
    """What to do next: resume the pools, or tell HAProxy which server is up and which are down, or (nothing) look again."""

    resume: bool = False
    up: str = ""
    down: tuple[str, ...] = ()


def leads(answer: Mapping[str, Any] | None) -> bool:
    """Return whether a member's answer to GET /primary, None where the status was not 200, is that of a primary.

    The status alone tells that it holds the leader lock; for a moment after that PostgreSQL is still in recovery.
    """
    return answer is not None and answer.get("role") in PRIMARY_ROLES and answer.get("state") == "running"


def next_step(old: str, leaders: Collection[str], routes: Collection[str]) -> Step:
    """Return the next step.

    Parameters: old, who led when the pools were paused; leaders, the members that now answer as primary; routes, the servers
    that HAProxy sends read-write connections to.
    While the old leader still answers as primary, or two members do, nothing is decided.
    """
    if len(leaders) != 1 or old in leaders:
        return Step()
    (new,) = leaders
    if set(routes) == {new}:
        return Step(resume=True)
    return Step(up="" if new in routes else new, down=tuple(sorted(set(routes) - {new})))
