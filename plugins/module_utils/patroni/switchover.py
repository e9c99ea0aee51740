# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which member may take over from the leader, and which one should: decided from what Patroni says. No I/O.

Sources: patroni/ha.py (process_manual_failover_from_leader, is_failover_possible) and docs/rest_api.rst of Patroni 3.0.2, 4.0.7
and 4.1.5. Patroni checks a candidate again; what is refused here would have cost a pause of the pools first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    candidate, the member that shall lead, empty to choose; maximum_lag in bytes; synchronous, whether the cluster commits
    synchronously, so that only a synchronous standby has every acknowledged commit; other_zone, whether the new leader has to be
    in another zone than the old one, by zones, the zone of each member (empty where unknown).
    """

    candidate: str = ""
    maximum_lag: int = 1048576
    synchronous: bool = True
    other_zone: bool = False
    zones: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The leader, who shall follow it (the leader itself if there is nothing to do), and why each other member may not lead."""

    leader: str
    candidate: str
    unfit: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether the leader changes."""
        return self.candidate != self.leader


def plan(cluster: Cluster, wish: Wish) -> Plan:
    """Return who takes over. Raises Refusals where nobody may, or not the wished one, or not now."""
    leader = _leader_of(cluster)
    if wish.candidate and wish.candidate == leader.name:
        return Plan(leader.name, leader.name)
    if problems := tuple(_untimely(cluster, leader)):
        raise Refusals(problems)
    unfit = {member.name: reason for member in cluster.replicas if (reason := unfitness(member, leader, wish))}
    if wish.candidate:
        return Plan(leader.name, _wished(cluster, wish, unfit), unfit)
    fit = [member for member in cluster.replicas if member.name not in unfit]
    if not fit:
        found = tuple(f"{name} {reason}" for name, reason in sorted(unfit.items())) or ("there is no replica",)
        raise Refusals((f"no member can take over from {leader.name}", *found))
    return Plan(leader.name, min(fit, key=_preference).name, unfit)


def _leader_of(cluster: Cluster) -> Member:
    leader = cluster.leader
    if leader is None:
        raise Refusals(
            ("the cluster has no leader: this is a case for a failover, which Patroni does by itself, see its journal",)
        )
    return leader


def _untimely(cluster: Cluster, leader: Member) -> Iterator[str]:
    if leader.role == "standby_leader":
        yield f"{leader.name} leads a standby cluster, which has no primary: switch over on the primary site"
    if not leader.is_healthy:
        yield f"the leader {leader.name} is in state '{leader.state}', allowed is 'running'"
    if cluster.paused:
        yield "Patroni is paused (maintenance mode): resume it first (patronictl resume)"
    if cluster.scheduled_switchover:
        when = cluster.scheduled_switchover.get("at", "a later time")
        yield f"another switchover is scheduled for {when}: wait for it, or remove it (patronictl flush {cluster.scope} switchover)"


def _wished(cluster: Cluster, wish: Wish, unfit: Mapping[str, str]) -> str:
    if cluster.member(wish.candidate) is None:
        names = ", ".join(member.name for member in cluster.replicas) or "none"
        raise Refusals((f"{wish.candidate} is not a member, replicas are: {names}",))
    if wish.candidate in unfit:
        raise Refusals((f"{wish.candidate} {unfit[wish.candidate]}",))
    return wish.candidate


def unfitness(member: Member, leader: Member, wish: Wish) -> str:
    """Return why a member may not take over, empty where it may."""
    return next(_defects(member, leader, wish), "")


def _defects(member: Member, leader: Member, wish: Wish) -> Iterator[str]:
    if not member.is_healthy:
        yield f"is in state '{member.state}', wanted is 'streaming'"
    if _says(member, "nofailover"):
        yield "has the tag nofailover"
    if member.tags.get("failover_priority") in (0, "0"):
        yield "has the tag failover_priority 0"
    if wish.synchronous and not member.is_synchronous:
        yield "is not a synchronous standby, so it may miss acknowledged commits"
    if None not in (member.timeline, leader.timeline) and member.timeline != leader.timeline:
        yield f"is on timeline {member.timeline}, the leader on {leader.timeline}"
    if member.lag is None:
        yield "has an unknown lag"
    elif member.lag > wish.maximum_lag:
        yield f"lags {member.lag} bytes, allowed are {wish.maximum_lag}"
    if wish.other_zone and _zone(member, wish) in ("", _zone(leader, wish)):
        yield f"is in zone '{_zone(member, wish)}', wanted is another than '{_zone(leader, wish)}' of {leader.name}"


def _says(member: Member, tag: str) -> bool:
    return str(member.tags.get(tag, "")).lower() in ("true", "yes", "on", "1")


def _zone(member: Member, wish: Wish) -> str:
    return wish.zones.get(member.name, "")


def _preference(member: Member) -> tuple[bool, int, int, str]:
    """Order: synchronous first, then Patroni's own priority, the least lag, the name."""
    try:
        priority = int(member.tags.get("failover_priority", 1))
    except (TypeError, ValueError):
        priority = 1
    return not member.is_synchronous, -priority, member.lag or 0, member.name
