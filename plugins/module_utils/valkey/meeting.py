# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Who has to be met again after the servers of a Valkey cluster came back with other addresses. No I/O.

The cluster bus knows addresses only; host names that servers announce do not help it, and one meeting joins two servers and
tells neither where a third is now (Valkey 8.1.1 and 9.1.2). So one server has to meet every other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import View


@dataclass(frozen=True)
class Meeting:
    """One server meets others. seed: who meets; others: whom, where they are now; strangers: servers that are no members of its cluster."""

    seed: Endpoint
    others: tuple[Endpoint, ...]
    strangers: tuple[Endpoint, ...]


def plan(views: Mapping[Endpoint, View]) -> Meeting:
    """Return who meets whom.

    views: the cluster as each server sees it, by where the server is now; at least one.
    A server whose id the seed does not know is a stranger: a meeting would merge two clusters, or take in an empty server.
    """
    seed = max(views, key=lambda endpoint: (_reached(endpoint, views), len(views[endpoint].members), endpoint))
    known = views[seed].by_id
    others = [e for e, view in views.items() if e != seed and view.myself.id in known]
    return Meeting(
        seed,
        tuple(sorted(e for e in others if not _in_touch(views[seed], views[e].myself.id, e))),
        tuple(sorted(e for e, view in views.items() if view.myself.id not in known)),
    )


def outdated(views: Mapping[Endpoint, View]) -> tuple[str, ...]:
    """Return a line for each server that another has lost, sorted: who does not reach whom."""
    return tuple(
        sorted(
            f"{where} does not reach {other}"
            for where, view in views.items()
            for other, seen in views.items()
            if seen.myself.id in view.by_id and where != other and not _in_touch(view, seen.myself.id, other)
        )
    )


def _reached(endpoint: Endpoint, views: Mapping[Endpoint, View]) -> int:
    return sum(_in_touch(views[endpoint], view.myself.id, other) for other, view in views.items() if other != endpoint)


def _in_touch(view: View, identity: str, where: Endpoint) -> bool:
    node = view.by_id.get(identity)
    return node is not None and node.link_up and (node.address, node.port) == where
