# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Planner of slot moves: from who owns what and a wish to the fewest moves that fulfil it. No I/O.

Nodes are named by id. A slot moves only when it must: the number of slots moved is what pins demand plus the sum of
what nodes own beyond their share. Within that, ranges are kept together. Equal input gives an equal plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import SLOT_COUNT, Ranges, SlotRange

NOBODY = ""


@dataclass(frozen=True, order=True)
class Move:
    """Slots first to last go from node source to node target (ids)."""

    first: int
    last: int
    source: str
    target: str

    @property
    def count(self) -> int:
        """Number of slots."""
        return self.last - self.first + 1

    @property
    def slots(self) -> SlotRange:
        """The slots as a range."""
        return SlotRange(self.first, self.last)


def describe(moves: Iterable[Move], names: Mapping[str, str]) -> list[str]:
    """Return moves as people read them: `0-1365 node1:7001 -> node3:7002`.

    names: what people call the nodes, by id; an id without a name stands for itself.
    """
    return [
        f"{move.slots} {names.get(move.source, move.source) if move.source else '(nobody)'}"
        f" -> {names.get(move.target, move.target)}"
        for move in moves
    ]


@dataclass(frozen=True)
class Wish:
    """The wished distribution.

    weights: share of each node by id, in the order that ties are broken in; 0 drains the node. Nodes that own slots and
    are not named are drained. pins: slots that a node has to own, by id; they count towards its share.
    """

    weights: Mapping[str, int | Fraction]
    pins: Mapping[str, Ranges] = field(default_factory=dict)


@dataclass(frozen=True)
class SlotPlan:
    """assignments: slots without owner that get one (source is NOBODY). moves: slots that change their owner.

    targets: number of slots of each node afterwards, by id. Both lists are ordered by slot.
    """

    assignments: tuple[Move, ...]
    moves: tuple[Move, ...]
    targets: Mapping[str, int]

    @property
    def slots_moved(self) -> int:
        """Number of slots that change their owner."""
        return sum(move.count for move in self.moves)


def plan(owned: Mapping[str, Ranges], wish: Wish) -> SlotPlan:
    """Return the plan with the fewest moved slots that fulfils the wish.

    owned: ranges of each owner by id. Raises Refusal when the wish contradicts itself or has nobody to own slots.
    """
    before = _owner_list(owned)
    pinned = _pinned(wish)
    after = [pinned.get(slot, owner) for slot, owner in enumerate(before)]
    counts = _counts(after)
    targets = _targets(wish, _counts_of(pinned.values()), counts)
    surplus = {owner: counts[owner] - targets.get(owner, 0) for owner in sorted(counts)}
    deficit = {node: target - counts.get(node, 0) for node, target in targets.items()}
    _Distribution(after, surplus, deficit, frozenset(pinned)).run()
    moves = _moves(before, after)
    return SlotPlan(
        assignments=tuple(move for move in moves if move.source == NOBODY),
        moves=tuple(move for move in moves if move.source != NOBODY),
        targets=targets,
    )


def keep(owned: Mapping[str, Ranges], wish: Wish) -> SlotPlan:
    """Return the plan that only gives away what must go: slots without owner and slots of drained nodes.

    What nodes with a weight own stays, balanced or not; the rest is shared out so that the result comes as near to the
    wished balance as that allows. Raises Refusal as plan does.
    """
    stays = {node: slots for node, slots in owned.items() if wish.weights.get(node, 0) > 0}
    pins = dict(stays)
    for node, slots in wish.pins.items():
        taken = set(ranges.expand(slots))
        pins = {n: ranges.to_ranges(set(ranges.expand(s)) - taken) for n, s in pins.items()}
        pins[node] = ranges.to_ranges({*ranges.expand(pins.get(node, ())), *taken})
    _pinned(wish)
    return plan(owned, Wish(wish.weights, pins))


def minimum(owned: Mapping[str, Ranges], targets: Mapping[str, int]) -> int:
    """Return how many slots at least change their owner on the way to these numbers of slots, without pins."""
    return sum(max(0, ranges.count(slots) - targets.get(node, 0)) for node, slots in owned.items())


def _owner_list(owned: Mapping[str, Ranges]) -> list[str]:
    owners = [NOBODY] * SLOT_COUNT
    for node, slots in owned.items():
        for slot in ranges.expand(slots):
            if owners[slot] != NOBODY:
                raise Refusal(
                    f"slot {slot} has two owners, {owners[slot]} and {node}", "Heal the cluster before slots are moved"
                )
            owners[slot] = node
    return owners


def _pinned(wish: Wish) -> dict[int, str]:
    pinned: dict[int, str] = {}
    for node, slots in wish.pins.items():
        if node not in wish.weights:
            raise Refusal(
                f"slots {ranges.text(slots)} are pinned to {node}, which is not among the primaries",
                "Pin them to a declared primary",
            )
        for slot in ranges.expand(slots):
            if slot in pinned and pinned[slot] != node:
                raise Refusal(f"slot {slot} is pinned to {pinned[slot]} and to {node}", "Pin each slot to one node")
            pinned[slot] = node
    return pinned


def _counts(owners: Sequence[str]) -> dict[str, int]:
    return _counts_of(owners)


def _counts_of(owners: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for owner in owners:
        counts[owner] = counts.get(owner, 0) + 1
    return counts


def _targets(wish: Wish, pinned: Mapping[str, int], owned: Mapping[str, int]) -> dict[str, int]:
    """Share out all slots by weight; a node with more pinned slots than its share gets exactly those."""
    for node, weight in wish.weights.items():
        if weight < 0:
            raise Refusal(f"weight {weight} of {node} is negative", "Use 0 to drain a node")
    fixed = {node: pinned.get(node, 0) for node, weight in wish.weights.items() if weight == 0}
    while True:
        sharing = {node: Fraction(weight) for node, weight in wish.weights.items() if node not in fixed}
        rest = SLOT_COUNT - sum(fixed.values())
        total = sum(sharing.values())
        if rest and not total:
            raise Refusal(f"{rest} slots have no node to go to", "Give at least one primary a weight above 0")
        shares = {node: rest * weight / total for node, weight in sharing.items()}
        over = {node: pinned[node] for node, share in shares.items() if pinned.get(node, 0) > share}
        if not over:
            break
        fixed.update(over)
    rounded = _rounded(shares, rest, owned)
    return {node: fixed[node] if node in fixed else rounded[node] for node in wish.weights}


def _rounded(shares: Mapping[str, Fraction], rest: int, owned: Mapping[str, int]) -> dict[str, int]:
    """Round shares to whole slots; the one more goes to nodes that own it already, then to the largest remainders."""
    floors = {node: int(share) for node, share in shares.items()}
    left = rest - sum(floors.values())
    takers = [node for node, share in shares.items() if share > floors[node]]
    takers.sort(key=lambda node: (owned.get(node, 0) <= floors[node], floors[node] - shares[node]))
    for node in takers[:left]:
        floors[node] += 1
    return floors


class _Distribution:
    """Hands slots from nodes with a surplus to nodes with a deficit, in as few pieces as it can."""

    def __init__(
        self, owners: list[str], surplus: Mapping[str, int], deficit: Mapping[str, int], pinned: frozenset[int]
    ) -> None:
        self.owners = owners
        self.surplus = {node: number for node, number in surplus.items() if number > 0}
        self.deficit = {node: number for node, number in deficit.items() if number > 0}
        self.pinned = pinned
        self.slots_of: dict[str, list[int]] = {}
        for slot, owner in enumerate(owners):
            if owner in self.surplus:
                self.slots_of.setdefault(owner, []).append(slot)

    def run(self) -> None:
        """Change the owners until no deficit is left."""
        for slot in range(SLOT_COUNT - 1):
            self._take(slot + 1, self.owners[slot])
        for slot in range(SLOT_COUNT - 1, 0, -1):
            self._take(slot - 1, self.owners[slot])
        while self.deficit:
            target = max(self.deficit, key=self.deficit.__getitem__)
            self._give(self._donor(self.deficit[target]), target)

    def _take(self, slot: int, target: str) -> bool:
        """Give one slot to target if its owner has to give and target has to get. Returns whether it was given."""
        source = self.owners[slot]
        if source not in self.surplus or target not in self.deficit or slot in self.pinned:
            return False
        self.owners[slot] = target
        for numbers, node in ((self.surplus, source), (self.deficit, target)):
            numbers[node] -= 1
            if not numbers[node]:
                del numbers[node]
        return True

    def _donor(self, amount: int) -> str:
        exact = [node for node, number in self.surplus.items() if number == amount]
        return exact[0] if exact else max(self.surplus, key=self.surplus.__getitem__)

    def _give(self, source: str, target: str) -> None:
        amount = min(self.surplus[source], self.deficit[target])
        pieces = sorted(self._runs(source), key=lambda run: (run.first - run.last, run.first))
        fitting = [run for run in pieces if run.last - run.first + 1 == amount]
        for run in fitting[:1] or pieces:
            amount -= self._give_piece(run, amount, source, target)
            if not amount:
                break

    def _give_piece(self, run: SlotRange, amount: int, source: str, target: str) -> int:
        """Give up to amount slots of a run, then what lies beside it and goes anyway. Returns how many of the run."""
        slots = list(range(run.first, run.last + 1))
        if len(slots) > amount and self._gives(run.last + 1, source):
            slots.reverse()
        given = slots[:amount]
        for slot in given:
            self._take(slot, target)
        self._extend(max(given) + 1, 1, target)
        self._extend(min(given) - 1, -1, target)
        return min(len(given), amount)

    def _gives(self, slot: int, other_than: str) -> bool:
        return slot < SLOT_COUNT and self.owners[slot] in self.surplus and self.owners[slot] != other_than

    def _extend(self, slot: int, step: int, target: str) -> None:
        while 0 <= slot < SLOT_COUNT and self._take(slot, target):
            slot += step

    def _runs(self, source: str) -> Ranges:
        """Ranges of slots that source owns still and may give."""
        self.slots_of[source] = [slot for slot in self.slots_of[source] if self.owners[slot] == source]
        return ranges.to_ranges(slot for slot in self.slots_of[source] if slot not in self.pinned)


def _moves(before: Sequence[str], after: Sequence[str]) -> list[Move]:
    moves: list[Move] = []
    first, way = 0, (NOBODY, NOBODY)
    for slot, pair in enumerate([*zip(before, after, strict=True), (NOBODY, NOBODY)]):
        if pair == way:
            continue
        if way[0] != way[1]:
            moves.append(Move(first, slot - 1, *way))
        first, way = slot, pair
    return moves
