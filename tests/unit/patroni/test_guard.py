# SPDX-License-Identifier: Apache-2.0
"""When a host gives up the leadership because of what Patroni doesn't see, and when it comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.guard import (
    HOUR,
    Finding,
    Memory,
    Rules,
    leave,
    may_return,
    observe,
    obstacle,
    rest_of,
)
from hypothesis import given
from hypothesis import strategies as st

RULES = Rules(failures=3, rest=30.0)
WELL = [Finding("PostgreSQL"), Finding("disk")]
HANGS = [Finding("PostgreSQL", "takes no connection", stuck=True), Finding("disk")]
FULL = [Finding("PostgreSQL"), Finding("disk", "is full")]
LEADER = Member("node1", "leader", "running", timeline=3)
FIT = Member("node2", "quorum_standby", "streaming", timeline=3, lag=0)
OTHER = Member("node3", "quorum_standby", "streaming", timeline=3, lag=0)
CLUSTER = Cluster((LEADER, FIT, OTHER))

looks = st.lists(st.sampled_from([WELL, HANGS, FULL, HANGS[:1] + FULL[1:]]), max_size=30)


def test_the_third_bad_look_in_a_row_makes_it_sick() -> None:
    memory, verdicts = Memory(), []
    for second in range(3):
        memory, verdict = observe(memory, HANGS, RULES, float(second))
        verdicts.append(verdict.sick)
    assert verdicts == ["", "", "PostgreSQL takes no connection"]
    assert verdict.stuck


def test_a_full_disk_needs_no_killing() -> None:
    memory = Memory(failures={"disk": 2})
    _memory, verdict = observe(memory, FULL, RULES, 0.0)
    assert (verdict.sick, verdict.stuck) == ("disk is full", False)


@given(looks)
def test_it_is_sick_of_a_subject_exactly_when_its_last_looks_were_all_bad(history: list[list[Finding]]) -> None:
    memory = Memory()
    for number, findings in enumerate(history, start=1):
        memory, verdict = observe(memory, findings, RULES, float(number))
        recent = history[max(0, number - RULES.failures) : number]
        bad = {
            subject
            for index, subject in enumerate(("PostgreSQL", "disk"))
            if len(recent) == RULES.failures and all(look[index].problem for look in recent)
        }
        assert {subject for subject in ("PostgreSQL", "disk") if subject in verdict.sick} == bad
        assert verdict.stuck <= ("PostgreSQL" in bad)


@given(looks, st.integers(1, 60))
def test_it_comes_back_only_after_it_was_well_all_the_time_of_the_rest(
    history: list[list[Finding]], seconds: int
) -> None:
    memory = leave(Memory(), 0.0)
    last_bad, now = 0.0, 0.0
    first_well: float | None = None
    for findings in [*history, WELL]:
        now += seconds
        memory, _verdict = observe(memory, findings, RULES, now)
        if findings is WELL:
            first_well = now if first_well is None else first_well
        else:
            last_bad, first_well = now, None
        if may_return(memory, RULES, now):
            assert first_well is not None
            assert now - first_well >= RULES.rest
            assert now - last_bad >= RULES.rest


@given(st.integers(1, 12))
def test_who_leaves_again_and_again_rests_longer_up_to_an_hour(times: int) -> None:
    memory = Memory()
    for number in range(times):
        memory = leave(memory, float(number))
    rest = rest_of(memory, RULES, float(times))
    assert rest == min(RULES.rest * 2 ** (times - 1), HOUR)
    assert rest_of(memory, RULES, HOUR * 2) == RULES.rest


def test_it_leaves_where_another_can_take_over() -> None:
    assert obstacle(CLUSTER, "node1", True, (), "") == ""
    assert obstacle(CLUSTER, "node1", True, ("node2",), "node1") == ""


@pytest.mark.parametrize(
    ("cluster", "sick", "token", "reason"),
    [
        (CLUSTER, (), "node2", "node2 is out already, one host at a time"),
        (replace(CLUSTER, paused=True), (), "", "Patroni is paused"),
        (
            Cluster((replace(LEADER, role="replica"), replace(FIT, role="leader"))),
            (),
            "",
            "it does not lead, node2 does",
        ),
        (Cluster((replace(LEADER, role="replica"), FIT)), (), "", "it does not lead, nobody does"),
        (Cluster((LEADER,)), (), "", "nobody could take over: there is no replica"),
        (CLUSTER, ("node2", "node3"), "", "node2 is sick itself; node3 is sick itself"),
        (Cluster((LEADER, replace(FIT, state="stopped"))), (), "", "node2 is in state 'stopped'"),
        (Cluster((LEADER, replace(FIT, role="replica"))), (), "", "node2 is not a synchronous standby"),
        (Cluster((LEADER, replace(FIT, lag=1 << 30))), (), "", "node2 lags"),
        (Cluster((LEADER, replace(FIT, tags={"nofailover": True}))), (), "", "node2 has the tag nofailover"),
    ],
)
def test_it_stays_and_says_why(cluster: Cluster, sick: tuple[str, ...], token: str, reason: str) -> None:
    assert reason in obstacle(cluster, "node1", True, sick, token)


@given(
    st.lists(st.sampled_from(["running", "streaming", "stopped", "crashed"]), min_size=0, max_size=4),
    st.sets(st.sampled_from(["r0", "r1", "r2", "r3"])),
    st.sampled_from(["", "node1", "r0"]),
)
def test_it_never_leaves_without_a_fit_replica_or_while_another_is_out(
    states: list[str], sick: set[str], token: str
) -> None:
    replicas = tuple(Member(f"r{n}", "quorum_standby", state, timeline=3, lag=0) for n, state in enumerate(states))
    reason = obstacle(Cluster((LEADER, *replicas)), "node1", True, sick, token)
    fit = [member for member in replicas if member.is_healthy and member.name not in sick]
    assert (reason == "") == (bool(fit) and token in ("", "node1"))
