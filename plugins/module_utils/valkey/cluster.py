# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Reads what the servers of a cluster say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases, healing, pace, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.agreeing import Agreement
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.forming import Forming
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import Member
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import State, States
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    parse_info,
    parse_nodes,
    parse_server,
    parse_spaces,
    version_of,
)


class Cluster:
    """A set of servers.

    wait_timeout: seconds in which they have to agree after a change. forming: what changes who is in it. agreement: what is waited for.
    """

    def __init__(self, fleet: Fleet, endpoints: Iterable[Endpoint], *, wait_timeout: float = 120.0) -> None:
        self.fleet = fleet
        self.endpoints = tuple(endpoints)
        self.agreement = Agreement(fleet, wait_timeout=wait_timeout)
        self.forming = Forming(fleet, self.agreement)

    def observe(self) -> dict[Endpoint, State]:
        """Read the state of every server, changing nothing. Raises ValkeyError."""
        replies = self.fleet.each(
            {
                endpoint: [
                    ("CLUSTER", "NODES"),
                    ("INFO",),
                    ("CONFIG", "GET", pace.SETTING),
                    ("CONFIG", "GET", databases.SETTING),
                ]
                for endpoint in self.endpoints
            }
        )
        return self._with_keys({endpoint: _state(found) for endpoint, found in replies.items()})

    def versions(self) -> dict[Endpoint, tuple[int, ...]]:
        """Return the version of every server. Raises ValkeyError."""
        replies = self.fleet.all(self.endpoints, "INFO", "server")
        return {endpoint: version_of(parse_info(reply)) for endpoint, reply in replies.items()}

    def _with_keys(self, states: dict[Endpoint, State]) -> dict[Endpoint, State]:
        """Add how many keys each server has of the slots in doubt, in all its databases."""
        nodes = [state.view.myself for state in states.values()]
        owned = {slot for node in nodes for slot in ranges.expand(node.slots)}
        doubt = sorted(healing.doubtful(nodes, owned))
        if not doubt:
            return states
        replies = self.fleet.each({e: databases.counting(doubt, state.server.filled) for e, state in states.items()})
        found = {e: databases.counted(doubt, states[e].server.filled, answers) for e, answers in replies.items()}
        held = {e: {slot: databases.total(numbers) for slot, numbers in counts.items()} for e, counts in found.items()}
        return {endpoint: replace(state, held=held[endpoint]) for endpoint, state in states.items()}


def settled(states: States, endpoints: Iterable[Endpoint]) -> bool:
    """Return whether these servers already agree, with nobody down and nobody half met, by what they said last."""
    views = [states[endpoint].view for endpoint in endpoints]
    for node in (node for view in views for node in view.nodes):
        if node.failed or node.suspected or node.handshake or not (node.link_up or node.myself):
            return False
    return len({view.signature for view in views}) == 1


def members(states: States) -> dict[str, Member]:
    """Return the primaries as migration engines want them. A server may not know its address; its port it does."""
    known = {node.id: node for state in states.values() for node in state.view.members if node.address}
    found = {}
    for endpoint, state in states.items():
        if not state.view.myself.is_primary or state.view.alone:
            continue
        me = state.view.myself
        address = me.address or known[state.id].address
        found[state.id] = Member(
            state.id, endpoint, address, me.port, state.server.version, bool(me.slots), state.databases
        )
    return found


def count_keys(fleet: Fleet, endpoint: Endpoint, moves: Iterable[Move]) -> int:
    """Return how many keys a server has in the slots of moves, in all its databases. Raises ValkeyError."""
    client = fleet.client(endpoint)
    slots = [slot for move in moves for slot in ranges.expand([move.slots])]
    filled = parse_spaces(parse_info(client.call("INFO", "keyspace")))
    counts = databases.counted(slots, filled, client.pipeline(databases.counting(slots, filled)))
    return sum(databases.total(numbers) for numbers in counts.values())


def _state(replies: Sequence[Any]) -> State:
    nodes, info, interval, number = (checked(reply) for reply in replies)
    return State(parse_nodes(nodes), parse_server(info), pace.read(interval), databases=databases.limit(number))
