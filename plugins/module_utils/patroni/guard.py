# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""When a host gives up PostgreSQL's leadership although Patroni sees nothing wrong, and when it comes back. No I/O.

Patroni keeps its connections to PostgreSQL open and asks no disk: a postmaster that takes no new connection, and a file system
that takes no write, look well to it (patroni/postgresql/__init__.py and patroni/ha.py of 3.0.2, 4.0.7 and 4.1.5).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.switchover import Wish, unfitness

# How far back leaving counts for the length of the next rest, and the longest one, in seconds.
HOUR = 3600.0


@dataclass(frozen=True)
class Rules:
    """failures: how many looks in a row have to find the same subject bad. rest: seconds for which all has to be well before a
    host comes back; doubled for each time that it left within the last hour."""

    failures: int = 3
    rest: float = 30.0


@dataclass(frozen=True)
class Finding:
    """What one look found of one subject: the server, or a file system. problem: empty if it is well.

    stuck: whether what was asked didn't answer at all, so that an orderly stop would not end either.
    gone: whether nobody was there to answer, which is Patroni's matter.
    """

    subject: str
    problem: str = ""
    stuck: bool = False
    gone: bool = False


@dataclass(frozen=True)
class Memory:
    """What one look leaves for the next. failures: bad looks in a row by subject; well_since: since when all is well, None while
    it is not; left: when this host left, oldest first. Times are seconds of one clock."""

    failures: Mapping[str, int] = field(default_factory=dict)
    well_since: float | None = None
    left: tuple[float, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """sick: what is bad for long enough, in words, empty where nothing is. stuck: whether it has to be killed."""

    sick: str = ""
    stuck: bool = False


def observe(memory: Memory, findings: Sequence[Finding], rules: Rules, now: float) -> tuple[Memory, Verdict]:
    """Return the memory after a look, and what it means."""
    counts = {found.subject: memory.failures.get(found.subject, 0) + 1 for found in findings if found.problem}
    well_since = None if counts else now if memory.well_since is None else memory.well_since
    bad = [found for found in findings if counts.get(found.subject, 0) >= rules.failures]
    words = "; ".join(f"{found.subject} {found.problem}" for found in bad)
    return (
        replace(memory, failures=counts, well_since=well_since),
        Verdict(words, any(found.stuck for found in bad)),
    )


def obstacle(cluster: Cluster, name: str, synchronous: bool, sick: Collection[str], token: str) -> str:
    """Return why this host must not leave, empty where it may.

    Parameters: cluster as another member sees it; name of this host's member; synchronous, whether only a synchronous standby has
    every acknowledged commit; sick, the members whose own guard calls them that; token, the member that is out, empty if none is.
    """
    if token not in ("", name):
        return f"{token} is out already, one host at a time"
    leader = cluster.leader
    if leader is None or leader.name != name:
        return f"it does not lead, {leader.name if leader else 'nobody'} does"
    if cluster.paused:
        return "Patroni is paused (maintenance mode)"
    wish = Wish(synchronous=synchronous)
    reasons = {
        member.name: "is sick itself" if member.name in sick else unfitness(member, leader, wish)
        for member in cluster.replicas
    }
    if any(not reason for reason in reasons.values()):
        return ""
    return "nobody could take over: " + (
        "; ".join(f"{other} {reason}" for other, reason in sorted(reasons.items())) or "there is no replica"
    )


def leave(memory: Memory, now: float) -> Memory:
    """Return the memory of a host that leaves now."""
    return replace(memory, well_since=None, left=(*(at for at in memory.left if now - at < HOUR), now))


def rest_of(memory: Memory, rules: Rules, now: float) -> float:
    """Return for how long all has to be well before this host comes back, in seconds."""
    times = sum(now - at < HOUR for at in memory.left)
    return min(rules.rest * 2.0 ** max(0, times - 1), max(HOUR, rules.rest))


def may_return(memory: Memory, rules: Rules, now: float) -> bool:
    """Return whether a host that left can come back."""
    return memory.well_since is not None and now - memory.well_since >= rest_of(memory, rules, now)
