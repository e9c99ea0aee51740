# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Moving slots with their keys between servers: what an engine takes and gives.

An engine may be interrupted anywhere: what it leaves is open slots, which `healing` reads and turns into moves again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint, Fleet
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move


@dataclass(frozen=True)
class Member:
    """A primary as an engine sees it.

    endpoint: where we reach it. address and port: where the other servers reach it, as CLUSTER NODES tells.
    known: whether clients can know it because it owns slots already. databases: how many it has.
    """

    id: str
    endpoint: Endpoint
    address: str
    port: int
    version: tuple[int, ...]
    known: bool = True
    databases: int = 1


@dataclass(frozen=True)
class Limits:
    """How hard an engine may work. None means no limit.

    batch_keys and batch_bytes (by MEMORY USAGE): bounds of one MIGRATE. parallel: movers at once.
    round_seconds: how long the MIGRATEs that a mover sends together may take. keys_per_second: rate of all together.
    max_p99: milliseconds that the 99th percentile of a probe of the servers may take.
    migrate_timeout: milliseconds without progress after which a server gives up a MIGRATE.
    """

    batch_keys: int = 100
    batch_bytes: int = 1024 * 1024
    parallel: int = 4
    round_seconds: float = 0.01
    keys_per_second: int | None = None
    max_p99: float | None = None
    migrate_timeout: int = 60_000


@dataclass(frozen=True)
class Progress:
    """How far a run is. bytes: of the keys, by MEMORY USAGE; 0 where it was not measured. seconds since its start."""

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
    """What a run did: moves done and remaining (a move may be split), how it was done (`keys`, `atomic`), what to tell."""

    done: tuple[Move, ...]
    remaining: tuple[Move, ...]
    progress: Progress
    way: str
    notes: tuple[str, ...] = ()


def apart(move: Move, others: Iterable[Move]) -> bool:
    """Return whether a move may continue beside others: no server gives and takes at the same time.

    Two servers that MIGRATE to each other wait for each other, serving nobody, until the time is out. One that takes slots
    atomically while it hands others over can end in a failed assertion (seen with 9.1.2).
    """
    return all(move.source != other.target and move.target != other.source for other in others)


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
