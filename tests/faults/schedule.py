# SPDX-License-Identifier: Apache-2.0
"""Schedules by chance: which faults strike when and for how long, the same for the same seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Seconds from the beginning to the last strike: faults overlap more often than not.
SPREAD = 6.0
# How long a fault lasts: mostly less than what the cluster needs to notice, sometimes longer than a lease.
HOLDS = ((0.5, 3.0), (3.0, 8.0), (21.0, 25.0))
WEIGHTS = (6, 5, 2)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of a schedule. at and until: seconds after its beginning."""

    fault: str
    at: float
    until: float


def draw(seed: int, names: Sequence[str]) -> list[Step]:
    """Return two or three different faults of names with their times, in order of their strikes."""
    dice = random.Random(seed)
    chosen = dice.sample(sorted(names), min(len(names), dice.choice((2, 2, 3))))
    steps = []
    for name in chosen:
        at = round(dice.uniform(0.0, SPREAD), 1)
        low, high = dice.choices(HOLDS, WEIGHTS)[0]
        steps.append(Step(name, at, round(at + dice.uniform(low, high), 1)))
    return sorted(steps, key=lambda step: step.at)


def acts(steps: Sequence[Step]) -> list[tuple[float, str, Step]]:
    """Return strikes and heals in order of time."""
    found = [(step.at, "strike", step) for step in steps] + [(step.until, "heal", step) for step in steps]
    return sorted(found, key=lambda act: act[0])
