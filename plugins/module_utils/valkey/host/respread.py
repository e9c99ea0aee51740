# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Whether a host should let one of its replicas take over, so that no host holds a majority of the primaries. No I/O.

Every host decides by itself from the same facts, so at most one of them finds that it is its turn: the promotions are
those that `placement` wishes, one at a time, and the host of the replica makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.placement import (
    Seat,
    place,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import View

BUS_OFFSET = 10_000


@dataclass(frozen=True)
class Place:
    """Where an instance runs. hint: its declared role or empty. present: False for an instance that is to leave."""

    host: str
    zone: str = ""
    hint: str = ""
    present: bool = True


@dataclass(frozen=True)
class Memory:
    """What one look leaves for the next: the topology as a digest, and since when (seconds) it is healthy like that."""

    signature: str = ""
    since: float = 0.0


@dataclass(frozen=True)
class Decision:
    """promote: id of the replica that should take over, or empty. primary: id of the primary that it takes over from.

    reason: why nothing has to happen or nothing can be done yet. memory: for the next look.
    """

    reason: str
    memory: Memory
    promote: str = ""
    primary: str = ""


# By address and bus port: the client port that CLUSTER NODES shows over a Unix socket is 0 for a server with TLS only.
Places = Mapping[tuple[str, int], Place]


def decide(view: View, places: Places, memory: Memory, *, replicas: int, now: float, quiet: float) -> Decision:
    """Return what to do.

    view: the cluster as the host's instances see it. replicas: least number for each primary.
    quiet: seconds for which the cluster has to have been healthy and unchanged.
    """
    problem = unhealthy(view, places)
    if problem:
        return Decision(problem, Memory())
    if memory.signature != view.signature:
        memory = Memory(view.signature, now)
    try:
        promotions = place(_seats(view, places), replicas).promotions
    except Refusal as error:
        return Decision(error.problem, memory)
    if not promotions:
        return Decision("primaries are spread", memory)
    if now - memory.since < quiet:
        return Decision(f"waiting until the cluster has been healthy for {quiet:.0f} s", memory)
    primary, replica = min(promotions.items())
    return Decision("primaries are not spread", memory, replica, primary)


def unhealthy(view: View, places: Places) -> str:
    """Return why this is no time for a planned failover, empty when it is one."""
    present = {where for where, place in places.items() if place.present}
    known = {(node.address, node.bus_port): node for node in view.members}
    if len(view.members) < len(view.nodes):
        return "nodes are being met"
    if any(node.failed or node.suspected for node in view.nodes):
        return "a node is down"
    if present.difference(known):
        return "a declared instance is not a member"
    if set(known).difference(present):
        return "a member is not declared, or is to leave"
    if view.unassigned:
        return "slots have no owner"
    return "slots are being moved" if view.myself.marks else ""


def _seats(view: View, places: Places) -> list[Seat]:
    """Seats in the declared order, which is the same on every host and for the modules."""
    node_at = {(node.address, node.bus_port): node for node in view.members}
    seats = []
    for where, found in places.items():
        node = node_at[where]
        leader = view.by_id.get(node.primary_id or node.id)
        shard = leader.id if leader is not None and leader.slots else ""
        seats.append(Seat(node.id, found.host, found.zone, found.hint, shard))
    return seats
