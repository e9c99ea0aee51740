# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The file `nodes.conf`, which is a server's identity in its cluster: whether it can be used, and how it is made again. No I/O.

What a server forgets without it (its id, its slots, whom it follows) every other member knows. The file has the format of CLUSTER NODES
and a line `vars` with epochs (clusterLoadConfig in cluster_legacy.c of Valkey 8.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Node,
    View,
    endpoint_text,
    parse_nodes,
)

VARS = "vars currentEpoch "
# Flags that are of the member who tells, or of a moment.
PASSING = frozenset({"myself", "fail", "fail?", "handshake", "noaddr"})


@dataclass(frozen=True)
class Told:
    """What one member says: where it was asked, the cluster as it sees it, its current epoch."""

    asked: Endpoint
    view: View
    epoch: int


def problem(text: str | None) -> str:
    """Return what is wrong with the content of a nodes.conf, None for no file; empty when nothing is."""
    if text is None:
        return "is missing"
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "is empty"
    try:
        view = parse_nodes("\n".join(line for line in lines if not line.startswith("vars ")))
    except Refusal as error:
        return f"can't be read ({error})"
    if sum(node.myself for node in view.nodes) != 1:
        return "does not say which node this is"
    return "" if any(line.startswith(VARS) for line in lines) else "has no epochs"


def known(told: Mapping[Endpoint, Told], where: Endpoint) -> tuple[Told, Node] | None:
    """Return who knows the node of an address best, and the node as it is known there; None where nobody does.

    told: by member. where: address and port at which the others reach the node.
    """
    found = [
        (item, node)
        for item in told.values()
        for node in item.view.members
        if (node.address, node.port) == where and not node.myself
    ]
    return max(found, key=lambda pair: (pair[0].epoch, pair[0].asked), default=None)


def rebuilt(told: Told, me: Node) -> str:
    """Return the content of nodes.conf for a node, as another member knows the cluster.

    The vote of the current epoch counts as given, so that no epoch is voted in twice.
    """
    lines = [_line(node, told, mine=node.id == me.id) for node in told.view.members if "noaddr" not in node.flags]
    return "".join(f"{line}\n" for line in [*lines, f"{VARS}{told.epoch} lastVoteEpoch {told.epoch}"])


def _line(node: Node, told: Told, *, mine: bool) -> str:
    # Who is asked may not know its own address.
    address = node.address or told.asked.address
    where = f"{endpoint_text(address, node.port)}@{node.bus_port}" + (f",{node.hostname}" if node.hostname else "")
    flags = [*(["myself"] if mine else []), *sorted(node.flags - PASSING)]
    words = [node.id, where, ",".join(flags), node.primary_id or "-", "0", "0", str(node.epoch), "connected"]
    return " ".join([*words, *filter(None, [ranges.text(node.slots)])])


def refuse_empty(me: Node, name: str) -> None:
    """Refuse to let a node without data be the owner of slots again. Raises Refusal."""
    if me.slots:
        raise Refusal(
            f"{name} owns slots {ranges.text(me.slots)} and has no data: a start now would serve these slots empty, and empty its replicas",
            "Let a replica take over (holdfast.persistence.valkey_failover, mode takeover), or bring its data back, then run again",
        )
