# SPDX-License-Identifier: Apache-2.0
"""How the cost of pure code grows with its input, whatever else the machine does."""

from __future__ import annotations

import time
from collections.abc import Callable


def growth(small: Callable[[], object], large: Callable[[], object]) -> float:
    """Return by which factor `large` costs more processor time than `small`: each one's best of three turns, taken in turn."""
    best = [float("inf"), float("inf")]
    for _turn in range(3):
        for index, work in enumerate((small, large)):
            begun = time.process_time()
            work()
            best[index] = min(best[index], time.process_time() - begun)
    return best[1] / best[0]
