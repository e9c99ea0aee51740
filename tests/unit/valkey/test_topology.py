# SPDX-License-Identifier: Apache-2.0
"""Replies of real servers (8.1 and 9.1), read."""

from __future__ import annotations

import itertools

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges, topology
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import SlotRange
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Mark
from hypothesis import given
from hypothesis import strategies as st

A, B, C, D = (letter * 40 for letter in "abcd")

NODES = f"""\
{A} 127.0.0.1:7001@17001 myself,master - 0 0 3 connected 0-5460 9000 [77->-{B}] [78-<-{C}]
{B} 10.0.0.2:7002@17002,node2.example master - 0 1426238316232 2 connected 5461-8999 9001-16383
{C} [::1]:7003@17003,,shard-id=x,human-nodename=blue slave,fail? {A} 1426238317741 1426238316232 3 disconnected
{D} :0@0 master,fail,noaddr - 1 1 0 disconnected
{"e" * 40} 10.0.0.5:7005@17005 handshake - 0 0 0 connected
"""


def test_nodes() -> None:
    view = topology.parse_nodes(NODES)
    a, b, c, d = (view.by_id[identity] for identity in (A, B, C, D))
    assert view.myself is a
    assert a.slots == (SlotRange(0, 5460), SlotRange(9000, 9000))
    assert a.marks == (Mark(77, "migrating", B), Mark(78, "importing", C))
    assert (b.hostname, b.port, b.bus_port, b.endpoint) == ("node2.example", 7002, 17002, "10.0.0.2:7002")
    assert c.is_replica
    assert c.suspected
    assert not c.failed
    assert not c.link_up
    assert c.endpoint == "[::1]:7003" or c.address == "[::1]"
    assert c.fields == {"shard-id": "x", "human-nodename": "blue"}
    assert c.primary_id == A
    assert d.failed
    assert not d.has_address
    assert [node.id for node in view.primaries] == [A, B]
    assert view.replicas_of(A) == (c,)
    assert len(view.members) == 4
    assert view.unassigned == ()
    assert view.owners[9000] == A
    assert not view.alone


def test_a_server_that_knows_no_other() -> None:
    """Its own address is empty until it has met another one."""
    view = topology.parse_nodes(f"{A} :17001@27001,nodea.example myself,master - 0 0 0 connected\n")
    assert view.alone
    assert view.myself.address == ""
    assert view.myself.endpoint == "nodea.example:17001"
    assert ranges.count(view.unassigned) == 16384


def test_signature_is_about_topology_only() -> None:
    base = topology.parse_nodes(NODES).signature
    assert topology.parse_nodes(NODES.replace("10.0.0.2", "10.9.9.9").replace("fail?", "noflags")).signature == base
    assert topology.parse_nodes(NODES.replace("9001-16383", "9001-16382")).signature != base
    assert topology.parse_nodes(NODES.replace(" 2 connected", " 4 connected")).signature != base
    assert topology.parse_nodes(NODES.replace(f"fail? {A}", f"fail? {B}")).signature != base


def test_sight_tells_what_agreement_hangs_on() -> None:
    """The same as the whole view does."""
    sight = topology.parse_sight(NODES)
    assert sight.me == A
    assert sight.handshake
    assert sight.unlinked == ("[::1]:7003",)
    assert (
        topology.parse_sight(NODES.replace("10.0.0.2", "10.9.9.9").replace("[77", "[99")).signature == sight.signature
    )
    for old, new in (("9001-16383", "9001-16382"), (" 2 connected", " 4 connected"), (f"fail? {A}", f"fail? {B}")):
        assert topology.parse_sight(NODES.replace(old, new)).signature != sight.signature
    assert topology.parse_sight(NODES.replace(" 3 disconnected", " 9 disconnected")).signature == sight.signature
    with pytest.raises(Refusal, match="CLUSTER NODES"):
        topology.parse_sight("nonsense")


@given(st.sets(st.integers(0, 60)), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=9))
def test_ranges_of_slots_and_of_ranges(slots: set[int], pieces: list[tuple[int, int]]) -> None:
    """Both ways to make ranges: sorted, apart, and exactly what was given."""
    overlapping = [(first, first + more) for first, more in pieces]
    for found, given_slots in (
        (ranges.to_ranges(slots), slots),
        (ranges.merged(overlapping), {slot for first, last in overlapping for slot in range(first, last + 1)}),
    ):
        assert set(ranges.expand(found)) == given_slots
        assert all(one.last + 1 < other.first for one, other in itertools.pairwise(found))


@pytest.mark.parametrize("line", ["nonsense", f"{A} 127.0.0.1:x@1 master - 0 0 0 connected", NODES[:60]])
def test_a_line_that_is_none(line: str) -> None:
    with pytest.raises(Refusal, match="CLUSTER NODES"):
        topology.parse_nodes(line)


@pytest.mark.parametrize("flat", [True, False])
def test_shards(flat: bool) -> None:
    node = {
        "id": A, "tls-port": 7001, "ip": "10.0.0.1", "endpoint": "10.0.0.1", "hostname": "n1", "role": "master",
        "replication-offset": 14, "health": "online", "availability-zone": "za",
    }  # fmt: skip
    old = {"id": B, "port": 7002, "ip": "10.0.0.2", "role": "replica", "replication-offset": 13, "health": "loading"}
    items = [{"slots": [0, 100, 200, 200], "nodes": [node, old], "id": C}, {"slots": [], "nodes": []}]

    def wire(value: object) -> object:
        if isinstance(value, dict) and flat:
            return [part for pair in value.items() for part in (pair[0], wire(pair[1]))]
        if isinstance(value, dict):
            return {name: wire(part) for name, part in value.items()}
        return [wire(part) for part in value] if isinstance(value, list) else value

    first, second = topology.parse_shards([wire(item) for item in items])
    assert first.id == C
    assert first.slots == (SlotRange(0, 100), SlotRange(200, 200))
    assert (first.nodes[0].role, first.nodes[0].tls_port, first.nodes[0].zone) == ("primary", 7001, "za")
    assert (first.nodes[1].role, first.nodes[1].port, first.nodes[1].health) == ("replica", 7002, "loading")
    assert second == topology.Shard("", (), ())
    with pytest.raises(Refusal):
        topology.parse_shards([["slots", [0]]])


PRIMARY = """\
# Server\r
redis_version:7.2.4\r
valkey_version:9.1.2\r
run_id:f1154250dae0fb0138cb9c95adbd5aacebc3dadf\r
# Memory\r
used_memory:2000\r
maxmemory:4000\r
# Persistence\r
loading:0\r
# Replication\r
role:master\r
connected_slaves:1\r
slave0:ip=127.0.0.1,port=7002,state=online,offset=42,lag=1,type=replica\r
master_repl_offset:43\r
# Keyspace\r
db0:keys=3,expires=0,avg_ttl=0\r
"""
REPLICA = """\
valkey_version:8.1.1
run_id:x
role:slave
master_link_status:down
master_last_io_seconds_ago:-1
master_sync_in_progress:1
slave_repl_offset:17
master_repl_offset:17
"""


def test_server() -> None:
    server = topology.parse_server(PRIMARY)
    assert (server.version, server.version_text, server.role) == ((9, 1, 2), "9.1.2", "primary")
    assert (server.offset, server.keys, server.used_memory, server.max_memory) == (43, 3, 2000, 4000)
    assert server.link_up
    assert server.attached == (topology.AttachedReplica("127.0.0.1", 7002, "online", 42, 1),)
    replica = topology.parse_server(REPLICA)
    assert (replica.role, replica.offset, replica.link_up, replica.syncing) == ("replica", 17, False, True)
    assert replica.link_silence == 0
    with pytest.raises(Refusal, match="INFO"):
        topology.parse_server("role:master")


def test_ranges() -> None:
    assert ranges.text(ranges.parse_ranges("5 1-3,4 9")) == "1-5 9"
    for wrong in ("a", "3-1", "16384", "-1", "1-"):
        with pytest.raises(ValueError, match=wrong):
            ranges.parse_ranges(wrong)
