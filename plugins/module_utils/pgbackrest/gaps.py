# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""WAL that is missing inside an archive, by the names of its files. No I/O.

Where archive-push-queue-max is reached pgBackRest drops WAL and tells PostgreSQL that it is archived. Afterwards `info`, `verify` and
`check` of 2.55.1 say ok, and a restore without a target ends at the gap without a word: only the names of the files show it.
Names: 24 hexadecimal digits, timeline, log, segment (XLogFileName of access/xlog_internal.h).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SEGMENT_BYTES = 16 * 1024**2
# pgBackRest adds the digest and the compression; a segment that a promotion left half full is called .partial.
_FILE = re.compile(r"(?:^|/)([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(?:-[0-9a-f]{40})?(?:\.\w+)?$")


@dataclass(frozen=True)
class Gap:
    """Segments that are missing between two that are there; first and last are their numbers, counted from LSN 0."""

    timeline: int
    first: int
    last: int

    @property
    def text(self) -> str:
        """What is missing, in words."""
        count = self.last - self.first + 1
        return f"{name(self.timeline, self.first)} to {name(self.timeline, self.last)} ({count} segments)"


def name(timeline: int, number: int) -> str:
    """Return the name of a segment by its number."""
    per_log = 2**32 // SEGMENT_BYTES
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def find(listing: Iterable[str]) -> list[Gap]:
    """Return the gaps inside each timeline, in their order. listing: paths of the archive's files, others among them."""
    numbers: dict[int, set[int]] = defaultdict(set)
    for path in listing:
        if match := _FILE.search(path):
            timeline, log, segment = (int(part, 16) for part in match.groups())
            numbers[timeline].add(log * (2**32 // SEGMENT_BYTES) + segment)
    found = []
    for timeline in sorted(numbers):
        ordered = sorted(numbers[timeline])
        found += [Gap(timeline, one + 1, next_ - 1) for one, next_ in pairwise(ordered) if next_ > one + 1]
    return found


def after(gaps: Sequence[Gap], lsn: int) -> list[Gap]:
    """Return the gaps that a restore meets which begins at an LSN (bytes)."""
    return [gap for gap in gaps if gap.first >= lsn // SEGMENT_BYTES]
