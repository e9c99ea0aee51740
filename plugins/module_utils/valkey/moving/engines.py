"""Which engine carries out which move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import Context, Outcome, Progress
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.atomic import (
    FIRST_VERSION,
    AtomicEngine,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.keywise import KeywiseEngine
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move

AUTO = "auto"
KEYS = "keys"
ATOMIC = "atomic"
WAYS = (AUTO, KEYS, ATOMIC)


def check(moves: Sequence[Move], versions: Mapping[str, tuple[int, ...]], names: Mapping[str, str], way: str) -> None:
    """Refuse a way that a server of these moves does not know. versions and names: by id. Raises Refusal."""
    involved = {node for move in moves for node in (move.source, move.target)}
    old = sorted((names.get(node, node), versions[node]) for node in involved if versions[node] < FIRST_VERSION)
    if way == ATOMIC and old:
        found = ", ".join(f"{name} has {'.'.join(map(str, version))}" for name, version in old)
        raise Refusal(
            f"migration atomic needs Valkey {FIRST_VERSION[0]}.{FIRST_VERSION[1]} or later, but {found}."
            " Use auto or keys, or upgrade"
        )


def carry_out(context: Context, moves: Sequence[Move], budget: float | None, way: str) -> Outcome:
    """Carry out moves: atomically where both servers can (AUTO, ATOMIC), else key by key (AUTO, KEYS).

    With AUTO what servers fail to move atomically is moved key by key. A rate or a latency limit is for keys only, so AUTO
    with one of them goes key by key. Raises ValkeyError.
    """
    limits = context.limits
    guarded = limits.keys_per_second is not None or limits.max_p99 is not None
    able = [] if way == KEYS or (way == AUTO and guarded) else [move for move in moves if _able(context, move)]
    rest = [move for move in moves if move not in able]
    engine = AtomicEngine(context)
    first = engine.run(able, budget)
    if way == AUTO:
        rest += engine.refused
    left = None if budget is None else budget - first.progress.seconds
    over = left is not None and left <= 0 and bool(first.done)
    second = None if over or not rest else KeywiseEngine(context).run(rest, left)
    return first if second is None and not rest else _joined(first, second, rest)


def _able(context: Context, move: Move) -> bool:
    return all(context.members[member].version >= FIRST_VERSION for member in (move.source, move.target))


def _joined(first: Outcome, second: Outcome | None, rest: Sequence[Move]) -> Outcome:
    """Return both outcomes as one; rest is what the second was to do."""
    waiting = tuple(move for move in first.remaining if move not in rest)
    if second is None:
        return Outcome(first.done, (*waiting, *rest), first.progress, first.way, first.notes)
    one, two = first.progress, second.progress
    progress = Progress(
        one.slots_done + two.slots_done,
        one.slots_total + two.slots_total,
        one.keys + two.keys,
        one.bytes + two.bytes,
        one.seconds + two.seconds,
    )
    way = "+".join(name for name in (first.way, second.way) if name)
    return Outcome((*first.done, *second.done), (*waiting, *second.remaining), progress, way, first.notes)
