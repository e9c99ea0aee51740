# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""When a silent primary's host may be powered off, and when its lease may be ended after that. No I/O.

Ending a lease lets another member lead at once. It is safe only where the old primary cannot take a write any more: its power is
off, as the command says, and nothing of it answers, as the network says. Each alone is not enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.switchover import Wish, unfitness


@dataclass(frozen=True)
class Leader:
    """Who leads: member, and the lease that its leader key hangs on."""

    name: str
    lease: str


@dataclass(frozen=True)
class Memory:
    """What one look leaves for the next: the leader, and since when nothing of its host answers, None where something does."""

    leader: Leader | None = None
    silent_since: float | None = None


def observe(memory: Memory, leader: Leader | None, answered: bool, now: float) -> Memory:
    """Return the memory after a look. answered: whether anything of the leader's host answered, a refusal too."""
    if leader != memory.leader:
        # The silence of one says nothing about another, nor about one that has taken the lock anew since then.
        memory = Memory(leader)
    if leader is None or answered:
        return replace(memory, silent_since=None)
    return memory if memory.silent_since is not None else replace(memory, silent_since=now)


def is_silent(memory: Memory, seconds: float, now: float) -> bool:
    """Return whether the leader's host has been silent for that long."""
    return memory.silent_since is not None and now - memory.silent_since >= seconds


def obstacle(cluster: Cluster, name: str, leader: Leader, synchronous: bool, votes: Mapping[str, str]) -> str:
    """Return why the leader's host must not be powered off by this one, empty where it may.

    Parameters: cluster as a surviving member sees it; name of the member that would act; leader; synchronous, whether only a
    synchronous standby has every acknowledged commit; votes, by member the lease whose holder it finds silent.
    """
    if name == leader.name:
        return "a host does not power itself off"
    if cluster.paused:
        return "Patroni is paused (maintenance mode)"
    if cluster.leader is None or cluster.leader.name != leader.name:
        return f"{leader.name} does not lead any more"
    others = {member.name for member in cluster.replicas}
    silent = {voter for voter, lease in votes.items() if lease == leader.lease} & others
    if 2 * len(silent) <= len(others):
        return f"{len(silent)} of {len(others)} other members find {leader.name} silent, a majority of them is needed"
    old = cluster.leader
    reasons = {
        member.name: unfitness(member, old, Wish(synchronous=synchronous))
        for member in cluster.replicas
        # A silent replica would win nothing.
        if member.name in silent
    }
    if any(not reason for reason in reasons.values()):
        return ""
    return "nobody could take over: " + "; ".join(f"{other} {reason}" for other, reason in sorted(reasons.items()))


def refusal(status: int | None, answered: bool, leader: Leader, after: Leader | None) -> str:
    """Return why the lease must not be ended after the command, empty where it may.

    Parameters: status, with which the command ended, None where it didn't in time; answered, whether anything of the host answered
    since then; leader, whose lease it is; after, who leads now.
    """
    if status is None:
        return "the command did not end in time, so nothing says that the power is off"
    if status != 0:
        return f"the command failed (exit status {status}), so nothing says that the power is off"
    if answered:
        return f"the command says that {leader.name} is off, but its host still answers"
    if after != leader:
        return f"{leader.name} does not hold that lease any more"
    return ""


def words_of(command: Sequence[str], host: str, address: str) -> list[str]:
    """Return the command's words with {host} and {address} filled in."""
    return [word.replace("{host}", host).replace("{address}", address) for word in command]
