# SPDX-License-Identifier: Apache-2.0
"""When a silent primary is powered off, and when its lease may be ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.fencing import (
    Leader,
    Memory,
    is_silent,
    observe,
    obstacle,
    refusal,
    words_of,
)
from hypothesis import given
from hypothesis import strategies as st

SILENCE = 2.0
LEADER = Leader("node1", "77")
OLD = Member("node1", "leader", "running", timeline=3)
CLUSTER = Cluster(
    (
        OLD,
        Member("node2", "quorum_standby", "streaming", timeline=3, lag=0),
        Member("node3", "quorum_standby", "streaming", timeline=3, lag=0),
    )
)
BOTH = {"node2": "77", "node3": "77"}


@given(st.lists(st.tuples(st.sampled_from([LEADER, Leader("node1", "78"), None]), st.booleans()), max_size=30))
def test_it_is_silent_only_after_as_long_without_any_answer_under_one_lease(
    looks: list[tuple[Leader | None, bool]],
) -> None:
    memory = Memory()
    for second, (leader, answered) in enumerate(looks):
        memory = observe(memory, leader, answered, float(second))
        needed = looks[max(0, second - 2) : second + 1]
        expected = len(needed) == 3 and all(look == (leader, False) and leader is not None for look in needed)
        assert is_silent(memory, SILENCE, float(second)) == expected


def test_a_majority_of_the_others_has_to_find_it_silent() -> None:
    assert obstacle(CLUSTER, "node2", LEADER, True, BOTH) == ""
    assert "1 of 2 other members" in obstacle(CLUSTER, "node2", LEADER, True, {"node2": "77"})


@pytest.mark.parametrize(
    ("cluster", "name", "votes", "reason"),
    [
        (CLUSTER, "node1", BOTH, "does not power itself off"),
        (replace(CLUSTER, paused=True), "node2", BOTH, "Patroni is paused"),
        (Cluster(CLUSTER.members[1:]), "node2", BOTH, "does not lead any more"),
        (CLUSTER, "node2", {"node2": "77", "node3": "76"}, "1 of 2"),
        (CLUSTER, "node2", {"node2": "77", "stranger": "77"}, "1 of 2"),
        (CLUSTER, "node2", {"node1": "77", "node2": "77"}, "1 of 2"),
        (Cluster((OLD, replace(CLUSTER.members[1], state="stopped"))), "node2", BOTH, "nobody could take over: node2"),
        (Cluster((OLD, replace(CLUSTER.members[1], role="replica"))), "node2", BOTH, "not a synchronous standby"),
    ],
)
def test_it_is_left_alone_and_why(cluster: Cluster, name: str, votes: dict[str, str], reason: str) -> None:
    assert reason in obstacle(cluster, name, LEADER, True, votes)


@given(st.none() | st.integers(-15, 255), st.booleans(), st.sampled_from([LEADER, None, Leader("node1", "78")]))
def test_a_lease_is_ended_only_with_proof(status: int | None, answered: bool, after: Leader | None) -> None:
    safe = refusal(status, answered, LEADER, after) == ""
    assert safe == (status == 0 and not answered and after == LEADER)


def test_a_command_that_succeeds_while_the_host_answers_is_not_believed() -> None:
    assert refusal(0, True, LEADER, LEADER) == "the command says that node1 is off, but its host still answers"


def test_words_are_filled_in_and_not_split_again() -> None:
    assert words_of(["/sbin/off", "--node={host}", "{address} "], "a b", "fd00::1") == [
        "/sbin/off",
        "--node=a b",
        "fd00::1 ",
    ]
