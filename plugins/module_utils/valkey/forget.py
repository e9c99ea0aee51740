# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which members of a Valkey cluster stood on a machine that is gone, and whether they may be forgotten. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Node, View


def plan(views: Sequence[View], gone: Sequence[Endpoint], answering: Mapping[Endpoint, str]) -> dict[str, str]:
    """Return what has to be forgotten: address:port by id.

    views: the cluster as each member that stays sees it. gone: where the lost instances listened.
    answering: node ids of those of them that answer. Raises Refusal.
    """
    found: dict[str, str] = {}
    for view in views:
        for node in view.members:
            if Endpoint(node.address, node.port) in gone:
                _check(node, answering)
                found[node.id] = node.endpoint
    return found


def _check(node: Node, answering: Mapping[Endpoint, str]) -> None:
    if answering.get(Endpoint(node.address, node.port)) == node.id:
        raise Refusal(
            f"{node.endpoint} ({node.id}) still answers and is a member",
            "Only instances that are gone are forgotten: drain a living host with remove_node.yml; if the machine was"
            " replaced already, run site.yml",
        )
    if node.slots:
        raise Refusal(
            f"{node.endpoint} ({node.id}) owns slots {ranges.text(node.slots)}",
            "Wait until a replica has taken over; if it had none, restore the shard or bring the host back",
        )
    if not node.failed:
        raise Refusal(
            f"{node.endpoint} ({node.id}) is not seen as down by the cluster yet",
            "Wait cluster-node-timeout and run again",
        )
