# SPDX-License-Identifier: Apache-2.0
"""Missing WAL shows by the names of the archive's files, and by nothing else."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.gaps import (
    SEGMENT_BYTES,
    Gap,
    after,
    find,
    name,
)
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "0123456789abcdef0123456789abcdef01234567"


def path(timeline: int, number: int) -> str:
    text = name(timeline, number)
    return f"17-1/{text[:16]}/{text}-{DIGEST}.zst"


@given(st.integers(1, 9), st.integers(0, 2**20), st.integers(1, 40))
def test_an_archive_without_a_gap_has_none_over_the_end_of_a_log_too(timeline: int, first: int, count: int) -> None:
    assert find(path(timeline, first + n) for n in range(count)) == []


@given(st.sets(st.integers(240, 280), min_size=1), st.randoms())
def test_what_is_missing_between_two_that_are_there_is_found(there: set[int], random: object) -> None:
    listing = [path(3, number) for number in there]
    random.shuffle(listing)  # type: ignore[attr-defined]
    missing = {n for gap in find(listing) for n in range(gap.first, gap.last + 1)}
    assert missing == set(range(min(there), max(there))) - there


def test_timelines_are_apart_and_other_files_are_none_of_them() -> None:
    listing = [
        *("archive.info", "archive.info.copy", "17-1/00000002.history", f"17-1/x/{name(1, 7)}.partial-{DIGEST}.zst"),
        *(path(1, 5), path(1, 6), path(2, 9), path(2, 12)),
        f"17-1/x/{name(2, 11)}.00000028.backup",
    ]
    (gap,) = find(listing)
    assert gap == Gap(2, 10, 11)
    assert gap.text == "00000002000000000000000A to 00000002000000000000000B (2 segments)"


def test_a_restore_meets_the_gaps_behind_its_beginning() -> None:
    gaps = [Gap(1, 4, 5), Gap(1, 9, 9)]
    assert after(gaps, 6 * SEGMENT_BYTES + 1) == [Gap(1, 9, 9)]
