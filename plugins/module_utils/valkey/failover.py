# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Whether a replica may take over from its primary, which one should, and what that may cost. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Node, Server, View

PLANNED = "planned"
FORCE = "force"
TAKEOVER = "takeover"
MODES = (PLANNED, FORCE, TAKEOVER)


@dataclass(frozen=True)
class Decision:
    """promote: id of the replica that takes over, empty for nothing to do. primary: id of the primary that it takes over from.

    reason: why nothing has to happen. lag: bytes that the replica is behind, None where its primary does not answer.
    risk: what may be lost, empty for a planned failover.
    """

    promote: str = ""
    primary: str = ""
    reason: str = ""
    lag: int | None = None
    risk: str = ""


def find(view: View, name: str) -> Node:
    """Return the member that is named by its id or by address:port. Raises Refusal."""
    for node in view.members:
        if name in (node.id, node.endpoint):
            return node
    known = ", ".join(sorted(node.endpoint for node in view.members))
    raise Refusal(f"{name} is not a member of the cluster", f"Name one of {known}, or a node id")


def decide(view: View, servers: Mapping[str, Server], mode: str, *, target: str = "", away_from: str = "") -> Decision:
    """Return what to do. Either target or away_from is given, as an id or address:port.

    view: the cluster as one member sees it. servers: what each node that answers says of itself, by id.
    mode: planned, force or takeover. target: the replica that shall lead. away_from: the node that shall not lead.
    Raises Refusal.
    """
    if away_from:
        leader = find(view, away_from)
        if leader.is_replica or not leader.slots:
            return Decision(reason=f"{leader.endpoint} leads no slots")
        replica = best_replica(view, servers, leader)
    else:
        replica = find(view, target)
        if replica.is_primary:
            return Decision(reason=f"{replica.endpoint} is a primary already")
        leader = _leader_of(view, replica)
    lag = _lag(servers, replica, leader)
    if mode != TAKEOVER:
        _check_majority(view)
    if mode == PLANNED:
        _check_planned(servers, replica, leader)
        return Decision(replica.id, leader.id, lag=lag)
    if replica.id not in servers:
        raise Refusal(f"{replica.endpoint} does not answer", "Name a replica that runs")
    return Decision(replica.id, leader.id, lag=lag, risk=_risk(mode, replica, leader, lag))


def best_replica(view: View, servers: Mapping[str, Server], leader: Node) -> Node:
    """Return the replica of a primary that answers, is linked and has received most. Raises Refusal."""
    fit = [
        node
        for node in view.replicas_of(leader.id)
        if node.id in servers and servers[node.id].link_up and not (node.failed or node.suspected)
    ]
    if not fit:
        raise Refusal(
            f"{leader.endpoint} has no replica that is in sync", "Bring a replica back, and wait until its link is up"
        )
    return max(fit, key=lambda node: (servers[node.id].offset, node.id))


def _leader_of(view: View, replica: Node) -> Node:
    leader = view.by_id.get(replica.primary_id or "")
    if leader is None:
        raise Refusal(f"{replica.endpoint} is not a replica of a known primary", "Attach it with valkey_cluster")
    if not leader.slots:
        raise Refusal(
            f"{replica.endpoint} replicates {leader.endpoint}, which owns no slot", "Name a replica of a shard"
        )
    return leader


def _lag(servers: Mapping[str, Server], replica: Node, leader: Node) -> int | None:
    if replica.id not in servers or leader.id not in servers:
        return None
    return max(0, servers[leader.id].offset - servers[replica.id].offset)


def _check_majority(view: View) -> None:
    """Elections are won by the votes of most primaries that own slots."""
    alive = [node for node in view.primaries if not (node.failed or node.suspected)]
    if len(alive) * 2 <= len(view.primaries):
        raise Refusal(
            f"only {len(alive)} of {len(view.primaries)} primaries are up, so no majority can vote",
            "Bring primaries back; mode takeover needs no vote; its documentation says what it may lose",
        )


def _check_planned(servers: Mapping[str, Server], replica: Node, leader: Node) -> None:
    if leader.failed or leader.suspected or leader.id not in servers:
        raise Refusal(
            f"the primary {leader.endpoint} does not answer, so a planned failover is impossible",
            "Wait for the automatic failover; mode force works without the primary; its documentation says what it may lose",
        )
    if replica.id not in servers:
        raise Refusal(f"{replica.endpoint} does not answer", "Name a replica that runs")
    if not servers[replica.id].link_up:
        doing = "is loading a full copy" if servers[replica.id].syncing else "is down"
        raise Refusal(
            f"the link of {replica.endpoint} to its primary {leader.endpoint} {doing}",
            "Wait until it is up; see the replica's log for network, replication password and certificate",
        )


def _risk(mode: str, replica: Node, leader: Node, lag: int | None) -> str:
    behind = f"{lag} bytes at the last look" if lag is not None else f"unknown, as {leader.endpoint} does not answer"
    text = (
        f"slots {ranges.text(leader.slots)}: writes that {leader.endpoint} acknowledged and {replica.endpoint} has not received"
        f" are lost ({behind})"
    )
    if mode == TAKEOVER:
        text += (
            f"; nobody votes, so if {leader.endpoint} still serves clients behind a network cut, its writes until it learns of"
            " this are lost too"
        )
    return text


def not_yet(views: Mapping[str, View], decision: Decision, slots: ranges.Ranges) -> list[str]:
    """Return which members do not see the new primary yet, with what they see; empty when all do.

    views: by what people call the member. slots: those that the old primary owned.
    """
    late = []
    for name, view in sorted(views.items()):
        node = view.by_id.get(decision.promote)
        if node is None or not node.is_primary:
            late.append(f"{name} does not see it as a primary")
        elif node.slots != slots:
            late.append(f"{name} sees it with slots {ranges.text(node.slots) or 'none'}")
        elif view.myself.id == decision.primary and view.myself.primary_id != decision.promote:
            late.append(f"{name} does not follow it")
    return late
