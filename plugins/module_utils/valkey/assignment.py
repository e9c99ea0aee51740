# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""From slots that an operator assigns, and what servers say, to a plan. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges, shape, slots
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import Ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Plan, States
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Wish


@dataclass(frozen=True)
class Request:
    """What is asked for. Nodes are called by id, address:port or name.

    layout: the slots of every primary, all of them. weights: shares of primaries, 1 for those not named.
    drain: primaries that give all their slots. pins: slots that a primary has to own, as pairs since a node may come twice.
    """

    layout: tuple[tuple[str, Ranges], ...] = ()
    weights: Mapping[str, Fraction] = field(default_factory=dict)
    drain: tuple[str, ...] = ()
    pins: tuple[tuple[str, Ranges], ...] = ()


class Assigner:
    """Plans a request for the members of a cluster.

    states: of all members. names: what people call nodes, by address:port.
    """

    def __init__(self, request: Request, states: States, names: Mapping[str, str]) -> None:
        self.request = request
        self.states = states
        self.by_id = {state.id: state for state in states.values()}
        self.names = {
            node.id: names.get(node.endpoint, node.endpoint)
            for state in states.values()
            for node in state.view.members
            if node.has_address
        }

    def plan(self) -> Plan:
        """Return the plan. Raises Refusal when there can't be one."""
        wish = self._wish()
        owned = shape.owners(self.states.values())
        healed = shape.heal(self.by_id, owned, self.names)
        if not healed.empty:
            return Plan(settle=healed.settle, heal=shape.joined(healed.moves), assign=healed.assign)
        balanced = bool(self.request.layout or self.request.weights)
        found = (slots.plan if balanced else slots.keep)(owned, wish)
        return Plan(assign=found.assignments, move=found.moves)

    def staying(self, _plan: Plan) -> list[Endpoint]:
        """Return the servers that are members after the plan: all."""
        return list(self.states)

    def _wish(self) -> Wish:
        weights = {node: Fraction(1) for node in self._primaries()}
        weights.update({self._primary(name): weight for name, weight in self.request.weights.items()})
        # What is a replica now has nothing to give: a drained primary may have turned into one.
        drained = [node for node in map(self._member, self.request.drain) if node in weights]
        weights.update(dict.fromkeys(drained, Fraction(0)))
        pins = self._pins(self.request.layout or self.request.pins)
        for node in drained:
            if node in pins:
                raise Refusal(
                    f"{self._name(node)} is drained, and slots {ranges.text(pins[node])} are pinned to it",
                    "Drain it or pin slots to it",
                )
        if not self.request.layout:
            return Wish(weights, pins)
        self._check_complete(pins)
        return Wish(dict.fromkeys(weights, Fraction(0)), pins)

    def _primaries(self) -> list[str]:
        primaries = [node for node, state in self.by_id.items() if state.view.myself.is_primary]
        return sorted(primaries, key=lambda node: (not self._slots(node), self._slots(node), self._name(node)))

    def _slots(self, node: str) -> Ranges:
        return self.by_id[node].view.myself.slots

    def _pins(self, wanted: Iterable[tuple[str, Ranges]]) -> dict[str, Ranges]:
        """Slots by node. Refuses those that are given to two."""
        taken: dict[int, str] = {}
        for name, slots_of in wanted:
            node = self._primary(name)
            double = [slot for slot in ranges.expand(slots_of) if taken.setdefault(slot, node) != node]
            if double:
                raise Refusal(
                    f"slots {ranges.text(ranges.to_ranges(double))} are given to {self._name(taken[double[0]])} and to"
                    f" {self._name(node)}",
                    "Give each slot to one node",
                )
        found: dict[str, list[int]] = {}
        for slot, node in taken.items():
            found.setdefault(node, []).append(slot)
        return {node: ranges.to_ranges(found[node]) for node in found}

    def _check_complete(self, pins: Mapping[str, Ranges]) -> None:
        given = {slot for found in pins.values() for slot in ranges.expand(found)}
        missing = ranges.to_ranges(set(range(ranges.SLOT_COUNT)) - given)
        if missing:
            raise Refusal(
                f"layout leaves {ranges.count(missing)} slots without a node: {ranges.text(missing)}",
                "Give all of 0-16383, or use pins for some of them",
            )

    def _member(self, name: str) -> str:
        """Return the id of a member by what people call it."""
        for endpoint, state in self.states.items():
            if name in (state.id, str(endpoint), state.view.myself.endpoint, self.names.get(state.id)):
                return state.id
        known = ", ".join(self._name(node) for node in self._primaries())
        raise Refusal(f"{name} is not a member of the cluster", f"Name one of {known}, or a node id")

    def _primary(self, name: str) -> str:
        """Return the id of a primary by what people call it."""
        node = self.by_id[self._member(name)].view.myself
        if node.is_replica:
            primary = self._name(node.primary_id or "")
            raise Refusal(
                f"{name} is a replica of {primary} and can't own slots",
                f"Name {primary}, or let {name} lead its shard first (valkey_failover)",
            )
        return node.id

    def _name(self, node: str) -> str:
        return self.names.get(node, node)
