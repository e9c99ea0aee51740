# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Hash slots as ranges: the arithmetic that planner, parser and messages share. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

SLOT_COUNT = 16384


class SlotRange(NamedTuple):
    """Slots first to last, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


Ranges = tuple[SlotRange, ...]


def to_ranges(slots: Iterable[int]) -> Ranges:
    """Return slots in any order as sorted ranges that don't touch."""
    found: list[SlotRange] = []
    first = last = -2
    for slot in sorted(set(slots)):
        if slot != last + 1:
            if last >= 0:
                found.append(SlotRange(first, last))
            first = slot
        last = slot
    return (*found, SlotRange(first, last)) if last >= 0 else ()


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return ranges in any order, which may overlap, as sorted ranges that don't touch."""
    found: list[SlotRange] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1].last + 1:
            found[-1] = SlotRange(found[-1].first, max(last, found[-1].last))
        else:
            found.append(SlotRange(first, last))
    return tuple(found)


def expand(ranges: Iterable[SlotRange]) -> Iterator[int]:
    """Yield every slot of the ranges."""
    for first, last in ranges:
        yield from range(first, last + 1)


def count(ranges: Iterable[SlotRange]) -> int:
    """Return how many slots the ranges hold."""
    return sum(last - first + 1 for first, last in ranges)


def text(ranges: Iterable[SlotRange]) -> str:
    """Return ranges as people write them: `0-5460 5462`."""
    return " ".join(str(SlotRange(*item)) for item in ranges)


def parse_range(word: str) -> SlotRange:
    """Read `7` or `0-5460`. Raises ValueError that names the word when it is not a range of slots."""
    first, dash, last = word.strip().partition("-")
    try:
        found = SlotRange(int(first), int(last) if dash else int(first))
    except ValueError as error:
        raise ValueError(f"{word!r} is not a range of slots such as 0-5460") from error
    if not 0 <= found.first <= found.last < SLOT_COUNT:
        raise ValueError(f"{word!r} is outside of 0-{SLOT_COUNT - 1} or runs backwards")
    return found


def parse_ranges(words: str) -> Ranges:
    """Read ranges separated by spaces or commas. Raises ValueError as parse_range does."""
    return merged(parse_range(word) for word in words.replace(",", " ").split())
