# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""In which order instances of a Valkey cluster restart. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def order(nodes: Sequence[Mapping[str, Any]], waiting: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the steps of a rolling restart: shard after shard, in each replicas first, its primary last.

    nodes: the result `nodes` of the module valkey_cluster. waiting: why an instance has to restart, by host:port.
    A step has name, host, port, why and hand_over: whether it leads a shard with replicas, of which one leads meanwhile.
    """
    by_name = {node["name"]: node for node in nodes}
    followed = {node["primary"] for node in nodes if node["role"] == "replica"}

    def rank(name: str) -> tuple[str, bool, str]:
        node = by_name[name]
        leads = node["role"] == "primary"
        return name if leads else node["primary"], leads, name

    return [
        {
            "name": name,
            "host": by_name[name]["host"],
            "port": int(name.rpartition(":")[2]),
            "why": list(waiting[name]),
            "hand_over": name in followed,
        }
        for name in sorted((name for name in waiting if waiting[name] and name in by_name), key=rank)
    ]
