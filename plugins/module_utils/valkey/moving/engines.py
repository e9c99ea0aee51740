# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which engine carries out which move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import Context, Outcome, Progress
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.atomic import (
    FIRST_VERSION,
    AtomicEngine,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.keywise import KeywiseEngine
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import State
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move

AUTO = "auto"
KEYS = "keys"
ATOMIC = "atomic"
WAYS = (AUTO, KEYS, ATOMIC)


def check(moves: Sequence[Move], states: Mapping[str, State], names: Mapping[str, str], way: str) -> None:
    """Refuse a way that a server of these moves does not know, or that loses data. states and names: by id. Raises Refusal."""
    if way != ATOMIC:
        return
    involved = {node for move in moves for node in (move.source, move.target)}
    old = sorted((names.get(n, n), states[n].server) for n in involved if states[n].server.version < FIRST_VERSION)
    if old:
        found = ", ".join(f"{name} has {server.version_text}" for name, server in old)
        raise Refusal(
            f"migration atomic needs Valkey {FIRST_VERSION[0]}.{FIRST_VERSION[1]} or later, but {found}."
            " Use auto or keys, or upgrade"
        )
    several = {move.source for move in moves if states[move.source].databases > 1}
    if several:
        found = ", ".join(sorted(f"{names.get(n, n)} has {databases.SETTING} {states[n].databases}" for n in several))
        raise Refusal(
            f"migration atomic is for clusters with one database, but {found}: servers write to the wrong database what"
            " clients write to database 0 meanwhile. Use auto or keys"
        )


def check_databases(moves: Iterable[Move], states: Mapping[str, State], names: Mapping[str, str]) -> None:
    """Refuse moves to a server that lacks a database in which the source has keys. states and names: by id. Raises Refusal."""
    for move in moves:
        source, target = states[move.source], states[move.target]
        filled = max(source.server.filled, default=0)
        if filled >= target.databases:
            raise Refusal(
                f"{names.get(source.id, source.id)} has keys in database {filled}, but {names.get(target.id, target.id)} has"
                f" {databases.SETTING} {target.databases}. Give all servers the same number of databases"
            )


def carry_out(context: Context, moves: Sequence[Move], budget: float | None, way: str) -> Outcome:
    """Carry out moves: atomically where both servers can (AUTO, ATOMIC), else key by key (AUTO, KEYS).

    A server with several databases can't: see check.
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
    """Whether the servers of a move can make it themselves.

    Of several databases Valkey 9.1.2 copies all keys, but the writes that follow begin in the last database copied, without
    a SELECT, where they are for database 0: they are lost there and appear in the other one.
    """
    source, target = context.members[move.source], context.members[move.target]
    return source.version >= FIRST_VERSION and target.version >= FIRST_VERSION and source.databases == 1


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
