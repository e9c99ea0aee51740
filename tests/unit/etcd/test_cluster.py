# SPDX-License-Identifier: Apache-2.0
"""Reading and judging an etcd cluster."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import (
    Alarm,
    Cluster,
    Member,
    Status,
    judge,
    parse_alarms,
    parse_members,
    parse_status,
    to_dict,
)
from hypothesis import given
from hypothesis import strategies as st

UP = Status("3.5.16", "1", 2, 100, 100, 50, 20480, 16384)


def member(number, status=UP, **changes):
    values = {"member_id": str(number), "name": f"node{number}", "peer_urls": (), "client_urls": (), "status": status}
    return Member(**(values | changes))


def cluster(*members, **changes):
    return Cluster(**({"members": members, "auth_enabled": True} | changes))


THREE = cluster(member(1), member(2), member(3))


def rules(found, **options):
    return {(finding.rule, finding.severity) for finding in judge(found, **options)}


def test_answers_of_the_gateway():
    found = parse_members(
        {
            "members": [
                {"ID": "9", "name": "node1", "peerURLs": ["p"], "clientURLs": ["c"]},
                {"ID": "8", "peerURLs": ["q"]},
            ]
        }
    )
    assert found[0] == Member("9", "node1", ("p",), ("c",))
    assert found[1].label == "q"
    answer = {
        "header": {"revision": "50", "raft_term": "2"},
        "version": "3.5.16",
        "dbSize": "20480",
        "dbSizeInUse": "16384",
        "leader": "1",
        "raftIndex": "100",
        "raftTerm": "2",
        "raftAppliedIndex": "100",
    }
    assert parse_status(answer) == UP
    assert parse_status({}).leader == ""
    assert parse_alarms({"alarms": [{"memberID": "9", "alarm": "NOSPACE"}]}) == (Alarm("9", "NOSPACE"),)


def test_healthy_cluster_has_no_findings():
    assert judge(THREE) == []
    assert THREE.leader == THREE.members[0]
    assert (THREE.quorum, THREE.margin) == (2, 1)


def test_one_of_three_down_leaves_no_margin():
    found = cluster(member(1), member(2), member(3, None, error="refused"))
    assert rules(found) == {("etcd_member_down", "warning"), ("etcd_quorum_margin", "warning")}


def test_two_of_three_down_is_critical():
    assert ("etcd_quorum", "critical") in rules(cluster(member(1), member(2, None), member(3, None)))


def test_two_of_five_down_leave_no_margin_but_one_does():
    five = [member(number) for number in range(1, 6)]
    assert cluster(*five).margin == 2
    one_down = cluster(*five[:4], member(5, None))
    assert rules(one_down) == {("etcd_member_down", "warning")}


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (cluster(member(1), member(2), member(3, is_learner=True)), ("etcd_learner", "warning")),
        (cluster(member(1), member(2)), ("etcd_even_members", "warning")),
        (dataclasses.replace(THREE, auth_enabled=False), ("etcd_auth_off", "warning")),
        (dataclasses.replace(THREE, alarms=(Alarm("2", "CORRUPT"),)), ("etcd_alarm", "critical")),
        (cluster(member(1), member(2), member(3, dataclasses.replace(UP, leader=""))), ("etcd_leader", "warning")),
        (cluster(member(1), member(2), member(3, dataclasses.replace(UP, leader="3"))), ("etcd_leader", "critical")),
        (cluster(member(1, dataclasses.replace(UP, leader=""))), ("etcd_leader", "critical")),
        (
            cluster(member(1), member(2), member(3, dataclasses.replace(UP, version="3.4.23"))),
            ("etcd_versions", "warning"),
        ),
        (
            cluster(member(1, dataclasses.replace(UP, applied_index=2000)), member(2), member(3)),
            ("etcd_lag", "warning"),
        ),
    ],
)
def test_each_rule(found, rule):
    assert rule in rules(found)


def test_size_is_held_against_the_quota():
    assert rules(THREE, quota=20480) == {("etcd_size", "warning")}


def test_members_that_formed_clusters_of_their_own_are_seen():
    declared = ["node3", "node1", "node2"]
    assert rules(THREE, declared=declared) == set()
    assert rules(cluster(member(1)), declared=declared) == {("etcd_members", "critical")}


def test_alarm_names_its_member():
    (finding,) = judge(dataclasses.replace(THREE, alarms=(Alarm("2", "NOSPACE"),)))
    assert (
        finding.where == "node2"
        and "no failover is possible" in finding.found
        and "Leave Patroni alone" in finding.remedy
    )


def test_plain_data_has_no_tuples():
    data = to_dict(dataclasses.replace(THREE, alarms=(Alarm("2", "NOSPACE"),)))
    assert data["leader"] == "node1"
    assert data["alarms"] == [{"member": "node2", "alarm": "NOSPACE"}]
    assert data["members"][0]["client_urls"] == []


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_critical_exactly_without_a_majority(answering):
    found = cluster(*(member(number, UP if up else None) for number, up in enumerate(answering, 1)))
    has_majority = sum(answering) * 2 > len(answering)
    assert (("etcd_quorum", "critical") in rules(found)) is not has_majority
