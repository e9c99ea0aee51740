# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What can be said about the difference of two clocks that were read over a network. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import Inventory, Problem, rule

MOST_SKEW = 1.0

_ROUNDING = 1e-3

Interval = tuple[float, float]


def offset(before: float, after: float, first: float, elapsed: float = 0.0) -> Interval:
    """Bound how far a host's clock is ahead of the controller's.

    Parameters, in seconds: before and after, the controller's clock around the call; first, the host's clock at its
    first reading; elapsed, how long the host worked after that reading.
    Returns the least and the greatest offset that explain the readings.
    Raises ValueError when the call ended before it began: the controller's clock was set meanwhile.
    """
    low, high = first - (after - elapsed), first - before
    if low - high > _ROUNDING:
        raise ValueError(f"the controller's clock went back: {before} before the call, {after} after it")
    return min(low, high), max(low, high)


def narrowest(intervals: Iterable[Interval]) -> Interval:
    """Intersect several bounds of the same offset; where they contradict (a clock was set meanwhile) span them all."""
    known = list(intervals)
    low, high = max(item[0] for item in known), min(item[1] for item in known)
    if low <= high:
        return low, high
    return min(item[0] for item in known), max(item[1] for item in known)


def proven_skew(one: Interval, other: Interval) -> float:
    """Return the smallest difference of two clocks that their bounds allow, in seconds; 0 if they may agree."""
    return max(one[0] - other[1], other[0] - one[1], 0.0)


@rule("clock_skew")
def clock_skew(inventory: Inventory) -> Iterator[Problem]:
    """Refuse hosts whose clocks are provably more than a second away from the clock that most hosts agree with."""
    clocks = {host.name: probe.clock for host, probe in inventory.probed() if probe.clock is not None}
    if not clocks:
        return
    reference = max(clocks, key=lambda name: sum(_agree(clocks[name], other) for other in clocks.values()))
    for name, clock in clocks.items():
        skew = proven_skew(clock, clocks[reference])
        if skew <= MOST_SKEW:
            continue
        side = "ahead of" if clock[0] > clocks[reference][1] else "behind"
        yield Problem(
            rule="clock_skew",
            hosts=(name,),
            subject="clock",
            found=f"at least {skew:.1f} s {side} {reference}",
            allowed=f"at most {MOST_SKEW:.0f} s between any two hosts: certificates and recovery targets need it",
            remedy="synchronise the clock (chrony or systemd-timesyncd), then run again",
        )


def _agree(one: Interval, other: Interval) -> bool:
    return proven_skew(one, other) <= MOST_SKEW
