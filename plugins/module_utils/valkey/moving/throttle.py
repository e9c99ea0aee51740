# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""How hard slot moves may work: a rate for all movers together, and a regulator that keeps clients' latency. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

LEAST_ROUND = 0.0005
GROWTH = 1.25
# A p99 between this part of its limit and the limit is left alone.
COMFORT = 0.6


def percentile(samples: Sequence[float], part: float) -> float:
    """Return the smallest sample that this part (0 to 1) of all does not exceed, 0 without samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


class Bucket:
    """Lets at most rate units a second through, for all threads together; None lets everything through at once."""

    def __init__(self, rate: float | None, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()
        self._lock = Lock()

    def take(self, units: int) -> None:
        """Wait until what was taken before has been paid for, then take units."""
        if not self._rate:
            return
        with self._lock:
            begin = max(self._free_at, self._clock())
            self._free_at = begin + units / self._rate
        self._sleep(max(0.0, begin - self._clock()))


@dataclass
class Regulator:
    """How long one round of MIGRATE may take, and how many movers may work, so that clients see at most max_p99.

    max_p99: milliseconds, None for no limit. movers: most that may work. round_seconds: longest round.
    Fast back, slow forth: a round is halved when the limit is exceeded, then movers are taken away one by one.
    """

    max_p99: float | None
    movers: int
    round_seconds: float
    working: int = field(init=False)
    round: float = field(init=False)

    def __post_init__(self) -> None:
        self.working = self.movers if self.max_p99 is None else 1
        self.round = self.round_seconds if self.max_p99 is None else min(self.round_seconds, self.max_p99 / 4000)

    def feed(self, p99: float) -> None:
        """Take in what a probe saw last, in milliseconds."""
        if self.max_p99 is None:
            return
        if p99 > self.max_p99:
            if self.working > 1:
                self.working -= 1
            else:
                self.round = max(LEAST_ROUND, self.round / 2)
        elif p99 < self.max_p99 * COMFORT:
            longest = min(self.round_seconds, self.max_p99 / 2000)
            if self.round < longest:
                self.round = min(longest, self.round * GROWTH)
            else:
                self.working = min(self.movers, self.working + 1)


@dataclass
class RoundSize:
    """How many keys one round takes, so that a round takes about as long as it may.

    most: bound. keys: size now. A round that was too long shrinks it by as much as it was, a short one grows it slowly.
    """

    most: int = 1000
    keys: int = 16

    def feed(self, moved: int, seconds: float, wished: float) -> None:
        """Take in how long a round of so many keys took."""
        if seconds > wished:
            self.keys = max(1, min(self.keys - 1, int(moved * wished / seconds)))
        elif moved * 2 >= self.keys:
            self.keys = min(self.most, int(self.keys * GROWTH) + 1)
