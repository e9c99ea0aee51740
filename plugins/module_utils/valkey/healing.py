# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What to do about slots that an interrupted run, or another tool, left open or without an owner. No I/O.

The rule behind all of it: a slot goes to the node that holds its keys, and where keys of one slot are in two places nothing is
touched. https://valkey.io/commands/cluster-setslot/ says what the marks mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import Ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import IMPORTING, Node


@dataclass(frozen=True)
class Member:
    """One declared server. myself: as it sees itself. held: its number of keys by slot, of the slots in doubt."""

    myself: Node
    held: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Healing:
    """settle: slots whose marks are cleared, by primary. moves: open slots to finish. assign: slots for the node that holds their keys."""

    settle: Mapping[str, Ranges]
    moves: tuple[Move, ...]
    assign: tuple[Move, ...]

    @property
    def empty(self) -> bool:
        """True when nothing was left open."""
        return not (self.settle or self.moves or self.assign)


def doubtful(nodes: Iterable[Node], owned: Iterable[int]) -> set[int]:
    """Return the slots of which one has to know who has keys: those without owner, and those with several importers."""
    owners = set(owned)
    if not owners:
        # Nothing is formed yet.
        return set()
    found = set(range(ranges.SLOT_COUNT)) - owners
    seen: set[int] = set()
    for node in nodes:
        imported = {mark.slot for mark in node.marks if mark.direction == IMPORTING and node.is_primary}
        found |= seen & imported
        seen |= imported
    return found


class Healer:
    """Reads the marks and keys of servers. members: by id. owner_of: owner of each slot that has one. names: for errors."""

    def __init__(self, members: Mapping[str, Member], owner_of: Mapping[int, str], names: Mapping[str, str]) -> None:
        self._members = members
        self._owner_of = owner_of
        self._names = names
        self._settle: dict[str, set[int]] = {}
        self._moves: list[Move] = []
        self._assign: dict[str, set[int]] = {}

    def heal(self) -> Healing:
        """Return what is to be done. Raises Refusal."""
        importers, exporters = self._marks()
        orphans = {slot for member in self._members.values() for slot in member.held} - set(self._owner_of)
        for slot in sorted({*importers, *exporters, *orphans}):
            if slot in self._owner_of:
                self._open(slot, importers.get(slot, []), exporters.get(slot, {}))
            else:
                self._orphan(slot, importers.get(slot, []))
        self._copies({*importers, *exporters})
        settle = {node: ranges.to_ranges(found) for node, found in self._settle.items()}
        assign = [
            Move(first, last, "", node)
            for node, found in self._assign.items()
            for first, last in ranges.to_ranges(found)
        ]
        return Healing(settle, tuple(self._moves), tuple(sorted(assign)))

    def _marks(self) -> tuple[dict[int, list[str]], dict[int, dict[str, str]]]:
        """Importing primaries by slot, and by slot the migrating primaries with whom they migrate to."""
        importers: dict[int, list[str]] = {}
        exporters: dict[int, dict[str, str]] = {}
        for node, member in self._members.items():
            for mark in member.myself.marks if member.myself.is_primary else ():
                if mark.direction == IMPORTING:
                    importers.setdefault(mark.slot, []).append(node)
                else:
                    exporters.setdefault(mark.slot, {})[node] = mark.peer
        return importers, exporters

    def _open(self, slot: int, importers: Sequence[str], exporters: Mapping[str, str]) -> None:
        """An owned slot: continue to the one node that imports it; without one clear what is marked."""
        owner = self._owner_of[slot]
        targets = [node for node in importers if node != owner]
        target = self._target(slot, targets, exporters.get(owner, ""))
        stale = [node for node in (*importers, *exporters) if node not in (target, owner)]
        if not target or owner in importers:
            stale += [node for node in (owner,) if node in importers or (node in exporters and not target)]
        for node in stale:
            self._settle.setdefault(node, set()).add(slot)
        if target:
            self._moves.append(Move(slot, slot, owner, target))

    def _target(self, slot: int, targets: Sequence[str], wanted: str) -> str:
        """Choose among importers: the only one with keys, else the one that the owner migrates to, else the first."""
        with_keys = [node for node in targets if self._members[node].held.get(slot)]
        if len(with_keys) > 1:
            raise Refusal(
                f"slot {slot} of {self._name(self._owner_of[slot])} is being imported by {self._keys(slot, with_keys)}",
                "Move them to one server, one source after the other (docs/slots.md, Keys of one slot in several places)",
            )
        preferred = [*with_keys, *(node for node in targets if node == wanted), *targets]
        return preferred[0] if preferred else ""

    def _orphan(self, slot: int, importers: Sequence[str]) -> None:
        """A slot without an owner goes to the node that holds its keys; without keys to its importer; else balance decides."""
        holders = [node for node, member in self._members.items() if member.held.get(slot)]
        copies = [node for node in holders if self._members[node].myself.primary_id in holders]
        originals = [node for node in holders if node not in copies]
        if len(originals) > 1 or any(self._members[node].myself.is_replica for node in originals):
            raise Refusal(
                f"slot {slot} has no owner and keys of it are on {self._keys(slot, originals)}",
                "An owner without those keys would hide them. Promote a replica that has them (CLUSTER FAILOVER TAKEOVER), give"
                " the slot to the server whose keys are right (CLUSTER ADDSLOTS) and bring the others' there (docs/slots.md,"
                " Keys of one slot in several places)",
            )
        for node in [*originals, *importers][:1]:
            self._assign.setdefault(node, set()).add(slot)

    def _copies(self, known: set[int]) -> None:
        """Marks that only replicas have: their primary clears them, as it hands SETSLOT on (valkey#1664)."""
        for member in self._members.values():
            primary = member.myself.primary_id
            if primary is None or primary not in self._members:
                continue
            for slot in {mark.slot for mark in member.myself.marks} - known:
                self._settle.setdefault(primary, set()).add(slot)

    def _keys(self, slot: int, nodes: Iterable[str]) -> str:
        return " and ".join(f"{self._name(node)} ({self._members[node].held[slot]} keys)" for node in nodes)

    def _name(self, node: str) -> str:
        return self._names.get(node, node)
