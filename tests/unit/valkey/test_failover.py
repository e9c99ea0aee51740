# SPDX-License-Identifier: Apache-2.0
"""Decisions of a failover, of forgetting, and the order of a rolling restart."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import failover, forget, rolling
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Server, View, parse_nodes
from hypothesis import given
from hypothesis import strategies as st

NODES = """\
aaa 10.0.0.1:7001@17001 myself,master - 0 0 1 connected 0-5460
bbb 10.0.0.2:7001@17001 master - 0 0 2 connected 5461-10922
ccc 10.0.0.3:7001@17001 master - 0 0 3 connected 10923-16383
ddd 10.0.0.2:7002@17002 slave aaa 0 0 1 connected
eee 10.0.0.3:7002@17002 slave aaa 0 0 1 connected
"""
UP = Server(version=(8, 1, 1), run_id="x", role="replica", offset=100)
SERVERS = dict.fromkeys(("aaa", "bbb", "ccc", "ddd", "eee"), UP)


def view(text: str = NODES) -> View:
    return parse_nodes(text)


def test_target_by_address_and_id() -> None:
    for name in ("ddd", "10.0.0.2:7002"):
        decision = failover.decide(view(), SERVERS, "planned", target=name)
        assert (decision.promote, decision.primary, decision.lag, decision.risk) == ("ddd", "aaa", 0, "")


def test_nothing_to_do() -> None:
    assert "already" in failover.decide(view(), SERVERS, "planned", target="aaa").reason
    assert "leads no slots" in failover.decide(view(), SERVERS, "planned", away_from="ddd").reason


def test_the_replica_that_received_most_takes_over() -> None:
    servers = {**SERVERS, "eee": replace(UP, offset=101)}
    assert failover.decide(view(), servers, "planned", away_from="aaa").promote == "eee"
    servers["eee"] = replace(UP, offset=101, link_up=False)
    assert failover.decide(view(), servers, "planned", away_from="aaa").promote == "ddd"


@pytest.mark.parametrize(
    ("servers", "text", "mode", "options", "message"),
    [
        (SERVERS, NODES, "planned", {"target": "zzz"}, "zzz is not a member"),
        ({**SERVERS, "ddd": replace(UP, link_up=False)}, NODES, "planned", {"target": "ddd"}, "is down"),
        (
            {**SERVERS, "ddd": replace(UP, link_up=False, syncing=True)},
            NODES,
            "planned",
            {"target": "ddd"},
            "full copy",
        ),
        ({"aaa": UP}, NODES, "planned", {"target": "ddd"}, "10.0.0.2:7002 does not answer"),
        ({"aaa": UP}, NODES, "force", {"target": "ddd"}, "10.0.0.2:7002 does not answer"),
        ({"ddd": UP}, NODES, "planned", {"target": "ddd"}, "the primary 10.0.0.1:7001 does not answer"),
        ({"aaa": UP}, NODES, "planned", {"away_from": "aaa"}, "no replica that is in sync"),
        (SERVERS, NODES.replace(" master", " master,fail"), "force", {"target": "ddd"}, "no majority"),
    ],
)
def test_refusals(servers: dict[str, Server], text: str, mode: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        failover.decide(view(text), servers, mode, **options)


def test_what_may_be_lost_is_said() -> None:
    servers = {**SERVERS, "aaa": replace(UP, offset=150)}
    assert "(50 bytes" in failover.decide(view(), servers, "force", target="ddd").risk
    down = NODES.replace(" master", " master,fail")
    takeover = failover.decide(view(down), {"ddd": UP}, "takeover", target="ddd")
    assert "unknown" in takeover.risk
    assert "nobody votes" in takeover.risk


def test_members_that_do_not_see_it_yet() -> None:
    decision = failover.Decision("ddd", "aaa")
    slots = view().by_id["aaa"].slots
    assert "does not see it" in failover.not_yet({"a": view()}, decision, slots)[0]
    after = NODES.replace("myself,master - 0 0 1 connected 0-5460", "myself,slave ddd 0 0 6 connected").replace(
        "slave aaa 0 0 1 connected\neee", "master - 0 0 6 connected 0-5460\neee"
    )
    assert failover.not_yet({"a": view(after)}, decision, slots) == []


GONE = [Endpoint("10.0.0.2", 7002)]


def test_forget_only_what_is_gone() -> None:
    dead = view(NODES.replace("17002 slave aaa", "17002 slave,fail aaa"))
    assert forget.plan([dead], GONE, {}) == {"ddd": "10.0.0.2:7002"}
    assert forget.plan([dead], GONE, {GONE[0]: "fresh"}) == {"ddd": "10.0.0.2:7002"}
    assert forget.plan([dead], [Endpoint("10.0.0.9", 1)], {}) == {}


@pytest.mark.parametrize(
    ("gone", "answering", "message"),
    [
        (GONE, {GONE[0]: "ddd"}, "still answers"),
        (GONE, {}, "not seen as down"),
        ([Endpoint("10.0.0.2", 7001)], {}, "owns slots 5461-10922"),
    ],
)
def test_forget_refuses(gone: list[Endpoint], answering: dict[Endpoint, str], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        forget.plan([view()], gone, answering)


@given(st.integers(1, 6), st.integers(0, 3), st.data())
def test_restart_order(shards: int, replicas: int, data: st.DataObject) -> None:
    """Exactly what waits restarts, shards one after the other, each primary after its replicas."""
    nodes = []
    for shard in range(shards):
        leader = f"h{shard}:7001"
        nodes.append({"name": leader, "host": f"h{shard}", "role": "primary", "primary": ""})
        nodes += [
            {"name": f"h{(shard + n) % 9}:{7001 + 10 * shard + n}", "host": "h", "role": "replica", "primary": leader}
            for n in range(1, replicas + 1)
        ]
    names = [node["name"] for node in nodes]
    waiting = {name: ["why"] for name in data.draw(st.lists(st.sampled_from(names), unique=True))}
    steps = rolling.order(nodes, waiting)
    assert sorted(step["name"] for step in steps) == sorted(waiting)
    shard_of = {node["name"]: node["primary"] or node["name"] for node in nodes}
    visited = [shard_of[step["name"]] for step in steps]
    assert visited == sorted(visited)
    for first, second in pairwise(steps):
        assert shard_of[second["name"]] != first["name"], "a primary before its replica"
    assert all(step["hand_over"] == (bool(replicas) and step["name"] == shard_of[step["name"]]) for step in steps)
