# SPDX-License-Identifier: Apache-2.0
"""Answers of Patroni's REST API and the verdicts on them."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import (
    Expectation,
    Promotion,
    parse_cluster,
    parse_history,
    unmet,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def member(name: str, role: str, state: str, **more: object) -> dict:
    return {
        "name": name,
        "role": role,
        "state": state,
        "api_url": f"https://{name}:8008/patroni",
        "timeline": 3,
        **more,
    }


# As each version answers, shortened.
PATRONI_3_0 = {
    "members": [
        member("node1", "leader", "running"),
        member("node2", "sync_standby", "running", lag=0),
        member("node3", "replica", "running", lag="unknown"),
    ]
}
PATRONI_4_0 = {
    "members": [
        member("node1", "leader", "running", host="192.0.2.11", port=5432, pending_restart=True),
        member("node2", "quorum_standby", "streaming", lag=16, tags={"clonefrom": True}),
        member("node3", "quorum_standby", "streaming", lag=0),
    ],
    "scope": "lab",
}
PATRONI_4_1 = {
    "members": [
        member(
            "node1",
            "leader",
            "running",
            pending_restart=True,
            pending_restart_reason={"max_connections": {"old_value": "100", "new_value": "200"}},
        ),
        member("node2", "quorum_standby", "streaming", lag=8, receive_lag=0, replay_lag=8, lsn="0/8", replay_lsn="0/8"),
    ],
    "scope": "lab",
    "pause": True,
    "scheduled_switchover": {"at": "2026-12-01T00:00:00+00:00", "from": "node1"},
}


def test_patroni_3_0() -> None:
    cluster = parse_cluster(PATRONI_3_0)
    assert cluster.leader is not None
    assert cluster.leader.name == "node1"
    assert [replica.name for replica in cluster.synchronous] == ["node2"]
    assert [replica.lag for replica in cluster.replicas] == [0, None]
    assert unmet(cluster, Expectation(("node1", "node2", "node3"), minimum_synchronous=1)) == ()


def test_patroni_4_0() -> None:
    cluster = parse_cluster(PATRONI_4_0)
    assert cluster.scope == "lab"
    assert cluster.timeline == 3
    assert [waiting.name for waiting in cluster.pending_restart] == ["node1"]
    assert [replica.name for replica in cluster.synchronous] == ["node2", "node3"]
    assert cluster.members[0].host == "192.0.2.11"
    assert cluster.members[1].tags == {"clonefrom": True}
    assert not cluster.paused


def test_patroni_4_1() -> None:
    cluster = parse_cluster(PATRONI_4_1)
    assert cluster.paused
    assert cluster.scheduled_switchover["from"] == "node1"
    assert cluster.members[0].pending_restart_reason["max_connections"]["new_value"] == "200"
    assert (cluster.members[1].receive_lag, cluster.members[1].replay_lag) == (0, 8)


def test_a_member_returns_what_it_was_parsed_from() -> None:
    shown = parse_cluster(PATRONI_4_1).members[0].as_dict()
    assert shown["pending_restart_reason"] == PATRONI_4_1["members"][0]["pending_restart_reason"]
    assert shown["lag"] is None


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"members": 1}, {"members": [{"name": "node1"}]}, {"members": ["node1"]}]
)
def test_an_unknown_answer_is_an_error(answer: object) -> None:
    with pytest.raises(Refusal, match="/cluster answered something unknown"):
        parse_cluster(answer)


def test_history() -> None:
    lines = [[1, 83886080, "no recovery target specified"], [2, 99, "r", "2026-11-23T00:04:30+00:00", "node2"]]
    assert parse_history(lines) == (
        Promotion(1, 83886080, "no recovery target specified"),
        Promotion(2, 99, "r", "2026-11-23T00:04:30+00:00", "node2"),
    )
    assert parse_history([]) == ()


@pytest.mark.parametrize("answer", [None, "x", [1], [[1]], [[1, 2, 3, 4, 5, 6]]])
def test_an_unknown_history_is_an_error(answer: object) -> None:
    with pytest.raises(Refusal, match="/history"):
        parse_history(answer)


def answer_with(**changes: dict) -> dict:
    """Patroni 4.0's answer with members changed by name; None removes one."""
    members = [{**one, **(changes.get(one["name"]) or {})} for one in PATRONI_4_0["members"]]
    return {"members": [one for one in members if changes.get(one["name"], {}) is not None]}


WISH = Expectation(("node1", "node2", "node3"), minimum_synchronous=2, maximum_lag=100)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"node1": {"role": "replica", "state": "streaming", "lag": 0}}, ("there is no leader",)),
        (
            {"node1": {"state": "starting"}},
            ("the leader node1 is in state 'starting'", "node1 is in state 'starting'"),
        ),
        (
            {"node3": None},
            ("node3 is not a member yet", "synchronous standbys: node2; at least 2 wanted"),
        ),
        (
            {"node3": {"state": "creating replica"}},
            ("node3 is in state 'creating replica'", "synchronous standbys: node2; at least 2 wanted"),
        ),
        ({"node3": {"timeline": 2}}, ("node3 is on timeline 2, the leader on 3",)),
        ({"node3": {"lag": 101}}, ("the lag of node3 is 101 bytes, allowed are 100",)),
        ({"node3": {"lag": "unknown"}}, ("the lag of node3 is unknown, allowed are 100",)),
        ({}, ()),
    ],
)
def test_what_is_unmet_is_said(changes: dict, said: tuple[str, ...]) -> None:
    assert unmet(parse_cluster(answer_with(**changes)), WISH) == said


def test_no_synchronous_standby_is_said() -> None:
    cluster = parse_cluster({"members": [member("node1", "leader", "running")]})
    assert unmet(cluster, Expectation(minimum_synchronous=1)) == ("synchronous standbys: none; at least 1 wanted",)


def test_a_standby_leader_leads() -> None:
    cluster = parse_cluster({"members": [member("node1", "standby_leader", "running")]})
    assert unmet(cluster, Expectation(("node1",))) == ()
