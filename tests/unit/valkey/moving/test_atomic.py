# SPDX-License-Identifier: Apache-2.0
"""What atomic slot migration gives to the servers, and how it reads their answer."""

from __future__ import annotations

from collections import Counter

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.atomic import batches, parse_jobs
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move
from hypothesis import given
from hypothesis import strategies as st

moves = st.lists(
    st.builds(
        lambda first, count, source, target: Move(first, first + count - 1, source, target),
        st.integers(0, 16000),
        st.integers(1, 384),
        st.sampled_from("ab"),
        st.sampled_from("xy"),
    ),
    max_size=20,
)


def slots_of(found):
    return sorted((slot, move.source, move.target) for move in found for slot in range(move.first, move.last + 1))


@given(moves, st.integers(1, 512))
def test_batches_are_the_moves_in_pieces_that_fit(wished, size):
    found = batches(wished, size)
    assert slots_of(move for batch in found for move in batch.moves) == slots_of(wished)
    for batch in found:
        assert 0 < batch.count <= size
        assert len({(move.source, move.target) for move in batch.moves}) == 1
    ways = Counter()
    for move in wished:
        ways[move.source, move.target] += move.count
    assert len(found) == sum(-(-count // size) for count in ways.values())


def test_the_command_names_every_range():
    (batch,) = batches([Move(0, 9, "a", "x"), Move(20, 20, "a", "x")], 256)
    assert batch.command == ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", 0, 9, 20, 20, "NODE", "x")
    assert str(batch) == "0-9 20"


def test_jobs_are_read_from_flat_lists():
    (job,) = parse_jobs(
        [["name", "n", "operation", "EXPORT", "slot_ranges", "0-9", "state", "snapshotting", "message", ""]]
    )
    assert job.running
    assert job.operation == "export"
