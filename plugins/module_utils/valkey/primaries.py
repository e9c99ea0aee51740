# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""How many primaries a number of instances makes, and whether hosts can keep them apart. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

# A failover needs the votes of a majority of the primaries; with two, the loss of one leaves no majority.
FEWEST = 3


def wished(instances: Mapping[str, int], replicas: int) -> int:
    """Return the number of primaries: as many as have their replicas, and of these as many as survive the loss of any host.

    Parameters: instances, their number by host; replicas, the least number for each primary. Nine instances on three hosts with one
    replica are four primaries by their number, but some host would hold two of them, and two are no majority of four: three
    primaries are the safe shape, the other instances are further replicas. Where no number is safe it is that of the instances.
    """
    most = sum(instances.values()) // (replicas + 1)
    if replicas == 0:
        return most
    safe = (number for number in range(most, FEWEST - 1, -1) if majority_safe(instances, number))
    return next(safe, most)


def separable(instances: Mapping[str, int], primaries: int, replicas: int) -> bool:
    """Tell whether every replica can live on another host than its primary and its sisters.

    Parameters: instances, their number by host; primaries; replicas of each primary.
    A shard takes at most one instance of a host, so a host can serve at most `primaries` instances; by the
    theorem of Gale and Ryser for equal shards that is enough, too.
    """
    return sum(min(count, primaries) for count in instances.values()) >= primaries * (1 + replicas)


def majority_safe(instances: Mapping[str, int], primaries: int) -> bool:
    """Tell whether the primaries can be spread so that a majority of them survives the loss of any one host."""
    most = (primaries - 1) // 2
    return sum(min(count, most) for count in instances.values()) >= primaries
