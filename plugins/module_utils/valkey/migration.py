"""Moving slots with their keys between servers: what an engine takes and gives, and the plain key-wise engine.

An engine may be interrupted anywhere: what it leaves is open slots, which `healing` reads and turns into moves again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ReplyError,
    UnreachableError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import parse_nodes

WINDOW = 64
# Longer than the 2 s for which a server since 8.0 waits for its replicas before it answers NOREPLICAS.
TELL_SECONDS = 15.0
TELL_PAUSE = 0.2


@dataclass(frozen=True)
class Member:
    """A primary as an engine sees it.

    endpoint: where we reach it. address and port: where the other servers reach it, as CLUSTER NODES tells.
    """

    id: str
    endpoint: Endpoint
    address: str
    port: int
    version: tuple[int, ...]


@dataclass(frozen=True)
class Limits:
    """How hard an engine may work. None means no limit.

    batch_keys: keys of one MIGRATE. batch_bytes: bytes of one batch, by MEMORY USAGE, for engines that measure.
    parallel: moves at once, for engines that can. keys_per_second: rate.
    max_p99: milliseconds that the 99th percentile of a probe may take.
    migrate_timeout: milliseconds without progress after which a server gives up a MIGRATE.
    """

    batch_keys: int = 100
    batch_bytes: int = 1024 * 1024
    parallel: int = 1
    keys_per_second: int | None = None
    max_p99: float | None = None
    migrate_timeout: int = 60_000


@dataclass(frozen=True)
class Progress:
    """How far a run is. seconds since its start."""

    slots_done: int
    slots_total: int
    keys: int
    bytes: int
    seconds: float

    @property
    def keys_per_second(self) -> float:
        """Rate so far."""
        return self.keys / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate for the rest, at the pace so far; None before the first slot."""
        if not self.slots_done:
            return None
        return self.seconds / self.slots_done * (self.slots_total - self.slots_done)


@dataclass(frozen=True)
class Outcome:
    """What a run did: moves done and remaining (a move may be split), how it was done (`keys` or `atomic`)."""

    done: tuple[Move, ...]
    remaining: tuple[Move, ...]
    progress: Progress
    way: str
    notes: tuple[str, ...] = ()


class Engine(Protocol):
    """Carries out moves.

    A slot is either moved whole, with its owner known to source and target, or it is in `remaining`; none is left open
    when run returns. Raises ValkeyError when a server fails; slots may be open then.
    """

    def run(self, moves: Sequence[Move], budget: float | None = None) -> Outcome:
        """Carry out moves in order until all are done or about budget seconds (None: unlimited) have passed."""


@dataclass
class Context:
    """What engines work with.

    members: all primaries by id, movers or not. report is called now and then.
    """

    fleet: Fleet
    members: Mapping[str, Member]
    limits: Limits = field(default_factory=Limits)
    report: Callable[[Progress], None] = lambda _progress: None
    clock: Callable[[], float] = time.monotonic


class KeywiseEngine:
    """Moves keys by MIGRATE, one window of slots after the other. Works with every version."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._keys = 0

    def run(self, moves: Sequence[Move], budget: float | None = None) -> Outcome:
        """Carry out moves as Engine says. At least one window is moved whatever the budget."""
        clock = self._context.clock
        start = clock()
        self._keys = 0
        total = sum(move.count for move in moves)
        windows = [window for move in moves for window in _windows(move)]
        done: list[Move] = []
        progress = Progress(0, total, 0, 0, 0.0)
        for window in windows:
            if done and budget is not None and clock() - start >= budget:
                break
            self._move(window)
            done.append(window)
            progress = Progress(sum(move.count for move in done), total, self._keys, 0, clock() - start)
            self._context.report(progress)
        return Outcome(tuple(done), tuple(windows[len(done) :]), progress, "keys")

    def _move(self, move: Move) -> None:
        """Move one window. The order is safe at every point: each key is served from one side or the other.

        The other nodes learn of the new owner from its pings.
        """
        slots = range(move.first, move.last + 1)
        self._set(move.target, slots, "IMPORTING", move.source)
        self._set(move.source, slots, "MIGRATING", move.target)
        for slot in slots:
            self._move_keys(slot, move)
        self._set(move.target, slots, "NODE", move.target)
        self._tell(move.source, move)

    def _tell(self, member: str, move: Move) -> None:
        """Let a member know the new owner. Raises ValkeyError when it does not within TELL_SECONDS.

        Gossip may tell it first. A source without slots then turns into a replica: it closes connections that wait in
        SETSLOT, and its own replicas leave, which it answers with NOREPLICAS.
        """
        deadline = self._context.clock() + TELL_SECONDS
        while True:
            try:
                self._set(member, range(move.first, move.last + 1), "NODE", move.target)
                return
            except (ReplyError, UnreachableError) as error:
                if isinstance(error, ReplyError) and error.code != "NOREPLICAS":
                    raise
                self._context.fleet.drop(self._context.members[member].endpoint)
                if self._knows(member, move):
                    return
                if self._context.clock() >= deadline:
                    raise
            time.sleep(TELL_PAUSE)

    def _knows(self, member: str, move: Move) -> bool:
        """Whether a member sees the target as owner of all slots and has none of them open."""
        try:
            view = parse_nodes(
                self._context.fleet.client(self._context.members[member].endpoint).call("CLUSTER", "NODES")
            )
        except (UnreachableError, ReplyError):
            return False
        slots = range(move.first, move.last + 1)
        is_open = any(mark.slot in slots for mark in view.myself.marks)
        return not is_open and all(view.owners.get(slot) == move.target for slot in slots)

    def _set(self, member: str, slots: Sequence[int], state: str, peer: str) -> None:
        endpoint = self._context.members[member].endpoint
        commands = [("CLUSTER", "SETSLOT", slot, state, peer) for slot in slots]
        for reply in self._context.fleet.client(endpoint).pipeline(commands):
            if isinstance(reply, ReplyError) and _already(reply, state):
                continue
            checked(reply)

    def _move_keys(self, slot: int, move: Move) -> None:
        source = self._context.fleet.client(self._context.members[move.source].endpoint)
        while True:
            source.send([("CLUSTER", "GETKEYSINSLOT", slot, self._context.limits.batch_keys)])
            keys = source.receive_raw()
            if isinstance(keys, Exception):
                raise ReplyError(source.endpoint, ("CLUSTER", "GETKEYSINSLOT"), str(keys))
            if not keys:
                return
            source.call(*self._migrate(keys, move))
            self._keys += len(keys)

    def _migrate(self, keys: Sequence[bytes], move: Move) -> list[Any]:
        """The command. REPLACE: a key on both sides is of an interrupted MIGRATE, and the source's is the newer."""
        target = self._context.members[move.target]
        return [
            *("MIGRATE", target.address, target.port, "", 0, self._context.limits.migrate_timeout, "REPLACE"),
            *authentication(self._context.fleet),
            "KEYS",
            *keys,
        ]


def authentication(fleet: Fleet) -> list[str]:
    """Return the words by which MIGRATE logs in at the target, as we log in."""
    options = fleet.options
    if options.password is None:
        return []
    return ["AUTH2", options.username, options.password] if options.username else ["AUTH", options.password]


def _already(error: ReplyError, state: str) -> bool:
    """True for errors of a step that is as good as done.

    A slot that an interrupted run gave to its target can't be opened again. A source that gives its last slot may
    follow the new owner before it has answered (setting cluster-allow-replica-migration).
    """
    if state == "IMPORTING":
        return "already the owner" in error.problem
    return state == "NODE" and ("UNBLOCKED" in error.problem or "only with master" in error.problem)


def _windows(move: Move) -> list[Move]:
    starts = range(move.first, move.last + 1, WINDOW)
    return [Move(first, min(first + WINDOW - 1, move.last), move.source, move.target) for first in starts]
