# SPDX-License-Identifier: Apache-2.0
"""Plans for a declared shape, from what servers say."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import rules, shape
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import SlotRange
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.shape import Declared, Plan, Planner, State
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Server, View, parse_nodes
from growth import growth

SERVER = Server(version=(8, 1, 1), run_id="r", role="primary", offset=100)


def identity(index: int) -> str:
    return f"{index:040x}"


class World:
    """Six nodes on three hosts; lines of CLUSTER NODES by index."""

    def __init__(self, number: int = 6) -> None:
        self.declared = [
            Declared(Endpoint("10.0.0.1", 7000 + i), f"node{i % 3 + 1}", f"z{i % 3 + 1}") for i in range(number)
        ]
        self.slots = dict.fromkeys(range(number), "")
        self.primary: dict[int, int] = {}
        self.marks = dict.fromkeys(range(number), "")
        self.keys = dict.fromkeys(range(number), 0)
        self.groups = [set(range(number))]
        self.flags: dict[int, str] = {}
        self.extra = ""
        self.pace: dict[int, int] = {}
        self.servers: dict[int, Server] = {}

    def formed(self) -> World:
        self.slots.update({0: "0-5461", 1: "5462-10922", 2: "10923-16383"})
        self.primary = {3: 2, 4: 0, 5: 1}
        return self

    def line(self, index: int, me: int) -> str:
        role = "slave" if index in self.primary else "master"
        flags = ",".join(word for word in ("myself" if index == me else "", role, self.flags.get(index, "")) if word)
        primary = identity(self.primary[index]) if index in self.primary else "-"
        marks = self.marks[index] if index == me else ""
        return (
            f"{identity(index)} 10.0.0.1:{7000 + index}@{17000 + index} {flags} {primary} 0 0 {index + 1} connected"
            f" {self.slots[index]} {marks}"
        )

    def states(self) -> dict[Endpoint, State]:
        found = {}
        for node, declared in enumerate(self.declared):
            known = next(group for group in self.groups if node in group)
            text = "\n".join(self.line(other, node) for other in sorted(known)) + "\n" + self.extra
            server = self.servers.get(node, SERVER)
            found[declared.endpoint] = State(
                parse_nodes(text), replace(server, keys=self.keys[node]), self.pace.get(node)
            )
        return found

    def plan(self, **more: bool) -> Plan:
        return self.planner(**more).plan()

    def planner(self, **more: bool) -> Planner:
        return Planner(self.declared, self.states(), replicas=1, **more)

    def lines(self, **more: bool) -> list[str]:
        planner = self.planner(**more)
        return planner.plan().lines(planner.names)

    def rules(self) -> list[tuple[str, str]]:
        found = rules.check(self.declared, self.states(), {}, rules.Limits())
        return [(finding.rule, finding.severity) for finding in found]


def lone(number: int = 6) -> World:
    world = World(number)
    world.groups = [{index} for index in range(number)]
    return world


def test_empty_nodes_become_a_cluster() -> None:
    plan = lone().plan()
    assert plan.forming
    assert len(plan.meet) == 5
    assert [(m.first, m.last, m.target) for m in plan.assign] == [
        (0, 5461, identity(0)), (5462, 10922, identity(1)), (10923, 16383, identity(2)),
    ]  # fmt: skip
    assert len(plan.replicate) == 3


def test_a_formed_cluster_needs_nothing() -> None:
    world = World().formed()
    assert world.plan().empty
    assert world.rules() == []


def test_a_half_made_cluster_is_finished() -> None:
    """One primary has its slots, two nodes have met."""
    world = lone()
    world.groups = [{0, 1}, *({index} for index in range(2, 6))]
    world.slots[0] = "0-5461"
    plan = world.plan()
    assert [move.target for move in plan.assign] == [identity(1), identity(2)]
    assert set(plan.meet) == {identity(index) for index in range(2, 6)}
    assert not plan.forming


def test_the_pace_of_a_killed_formation_is_given_back() -> None:
    world = World().formed()
    world.pace = {1: 5}
    assert world.lines() == ["restore the ping interval of node2:7001"]
    assert world.rules() == [("formation_pace", "warning")]


def test_weights_move_the_fewest_slots_as_people_read_it() -> None:
    world = World().formed()
    world.declared[2] = replace(world.declared[2], weight=Fraction(2))
    assert world.lines() == ["0-1365 node1:7000 -> node3:7002", "9558-10922 node2:7001 -> node3:7002"]
    assert world.plan(balance=False).empty
    planner = world.planner()
    after = shape.rows_after(world.states(), planner.plan(), planner.names)
    assert "node1:7000 primary 1366-5461" in after


def test_a_leaving_node_is_drained_first_and_forgotten_then() -> None:
    world = World(8).formed()
    world.slots.update({0: "0-4095", 1: "5462-9557", 2: "10923-15018", 6: "4096-5461 9558-10922 15019-16383"})
    world.primary[7] = 6
    world.declared[6] = replace(world.declared[6], present=False)
    world.declared[7] = replace(world.declared[7], present=False)
    plan = world.plan()
    assert {move.source for move in plan.move} == {identity(6)}
    assert plan.forget == (identity(7),)
    world.slots.update({0: "0-5461", 1: "5462-10922", 2: "10923-16383", 6: ""})
    assert set(world.plan().forget) == {identity(6), identity(7)}


def test_open_slots_are_finished_before_anything_else() -> None:
    world = World().formed()
    world.marks[1] = f"[7-<-{identity(0)}] [8-<-{identity(0)}]"
    world.marks[0] = f"[7->-{identity(1)}] [99->-{identity(2)}]"
    plan = world.plan()
    assert [(m.first, m.last, m.source, m.target) for m in plan.heal] == [(7, 8, identity(0), identity(1))]
    assert {node: list(found) for node, found in plan.settle.items()} == {identity(0): [(99, 99)]}
    assert ("slots_open", "warning") in world.rules()


def test_a_majority_on_one_host_is_mended_by_failover() -> None:
    world = World().formed()
    # The replica of node2's primary stands on node3 and has taken over.
    world.slots.update({1: "", 5: "5462-10922"})
    world.primary = {3: 2, 4: 0, 1: 5}
    assert ("host_holds_majority", "critical") in world.rules()
    plan = world.plan()
    assert len(plan.promote) == 1
    assert plan.move == ()


def error(world: World, **more: bool) -> str:
    with pytest.raises(Refusal) as caught:
        world.plan(**more)
    return str(caught.value)


def test_refusals() -> None:
    world = World().formed()
    with pytest.raises(Refusal, match="listed 2 times"):
        shape.check_declaration([*world.declared, world.declared[0]])

    world.extra = f"{'f' * 40} 10.0.0.9:7009@17009 master - 0 0 9 connected\n"
    assert "undeclared node 10.0.0.9:7009" in error(world)
    world.extra = f"{'f' * 40} 10.0.0.9:7009@17009 master,fail - 0 0 9 disconnected\n"
    assert "undeclared node 10.0.0.9:7009" in error(world)
    assert world.plan(forget_failed=True).forget == ("f" * 40,)

    world = lone()
    world.keys[3] = 7
    assert "node1:7003 is not empty: 7 keys" in error(world)

    world = World()
    world.groups = [{0, 1, 2}, {3, 4, 5}]
    world.slots.update({0: "0-16383", 3: "0-16383"})
    assert "belong to different clusters" in error(world)

    world = World().formed()
    world.slots[1] = "5461-10922"
    assert "slots 5461 have two owners" in error(world)

    world = World().formed()
    world.declared[3] = replace(world.declared[3], pinned=(SlotRange(1, 2),))
    assert "which is a replica" in error(world)

    world = World().formed()
    states = world.states()
    states[world.declared[1].endpoint] = states[world.declared[0].endpoint]
    with pytest.raises(Refusal, match="are the same node"):
        Planner(world.declared, states, replicas=1).plan()


def versions(world: World, *newer: int) -> World:
    """These servers have the next major version."""
    world.servers.update({index: replace(SERVER, version=(9, 1, 2)) for index in newer})
    return world


def test_data_does_not_go_to_an_older_major_version() -> None:
    world = versions(World().formed(), 0)
    world.declared[2] = replace(world.declared[2], weight=Fraction(2))
    planner = world.planner()
    with pytest.raises(Refusal, match=r"from node1:7000 \(9.1.2\) to node3:7002 \(8.1.1\).*Upgrade node3:7002 first"):
        shape.check_versions(planner.plan(), world.states(), planner.names)

    world = versions(World().formed(), 0)
    world.primary.pop(4)
    planner = world.planner()
    with pytest.raises(Refusal, match="it would be replicated from node1:7000"):
        shape.check_versions(planner.plan(), world.states(), planner.names)

    world = versions(World().formed(), 2)
    world.declared[2] = replace(world.declared[2], weight=Fraction(2))
    planner = world.planner()
    shape.check_versions(planner.plan(), world.states(), planner.names)


def test_a_primary_older_than_its_replica_keeps_leading() -> None:
    """Half-way through an upgrade it could not follow; afterwards the majority is mended."""
    world = World().formed()
    world.slots.update({1: "", 5: "5462-10922"})
    world.primary = {3: 2, 4: 0, 1: 5}
    assert len(world.plan().promote) == 1
    versions(world, 1, 3, 4)
    assert world.plan().empty
    versions(world, 0, 2, 5)
    assert len(world.plan().promote) == 1
    world = versions(World().formed(), 3, 4, 5)
    world.declared[4] = replace(world.declared[4], role="primary")
    assert world.plan().empty


def test_declarations_that_contradict_themselves() -> None:
    world = World()
    for index in (0, 1):
        world.declared[index] = replace(world.declared[index], pinned=(SlotRange(5, 6 + index),))
    with pytest.raises(Refusal, match="slots 5-6 are pinned to node1:7000 and to node2:7001"):
        shape.check_declaration(world.declared)
    world = World()
    world.declared[0] = replace(world.declared[0], weight=Fraction(-1))
    with pytest.raises(Refusal, match="weight -1 of node1:7000 is negative"):
        shape.check_declaration(world.declared)


def grown(hosts: int) -> Planner:
    """Four nodes a host, every other a primary, and a 25th part more hosts that nobody has met yet."""
    met, new = hosts * 4, hosts * 4 // 25
    world = World(met + new)
    world.declared = [
        Declared(
            Endpoint(f"10.0.{i // 250}.{i % 250}", 7000),
            f"host{i % (hosts + new // 4)}",
            f"z{i % (hosts + new // 4) % 3}",
        )
        for i in range(met + new)
    ]
    shards = met // 2
    bounds = [index * 16384 // shards for index in range(shards + 1)]
    nodes = []
    for index in range(met + new):
        leads = index < shards
        text = f"{bounds[index]}-{bounds[index + 1] - 1}" if leads else ""
        primary = "-" if leads or index >= met else identity((index - shards + 1) % shards)
        flags = "master" if primary == "-" else "slave"
        nodes.append(
            f"{identity(index)} 10.0.{index // 250}.{index % 250}:7000@17000 {flags} {primary} 0 0 {index} connected {text}"
        )
    members = parse_nodes("\n".join(nodes[:met])).nodes
    states = {}
    for index, node in enumerate(world.declared):
        view = members if index < met else parse_nodes(nodes[index]).nodes
        mine = index if index < met else 0
        me = replace(view[mine], flags=view[mine].flags | {"myself"})
        states[node.endpoint] = State(View((*view[:mine], me, *view[mine + 1 :])), SERVER)
    return Planner(world.declared, states, replicas=1)


def test_a_thousand_nodes_are_planned_and_the_cost_grows_no_faster_than_what_servers_say() -> None:
    """500 shards on 250 hosts grow by ten hosts. What n servers say of n nodes grows by the square of n."""
    assert growth(grown(50).plan, grown(100).plan) < 6
    plan = grown(250).plan()
    assert len(plan.meet) == 40
    assert sum(move.count for move in plan.move) == pytest.approx(16384 * 20 / 520, abs=20)


def test_rules_of_replication() -> None:
    world = World().formed()
    world.primary[3], world.primary[4] = 0, 2
    assert {("replica_on_primary_host", "critical")} == set(world.rules())

    world = World().formed()
    world.primary.pop(5)
    assert ("replicas_missing", "critical") in world.rules()

    world = World().formed()
    world.slots[2] = "10923-16000"
    assert ("slots_uncovered", "critical") in world.rules()

    world = World().formed()
    replica = replace(SERVER, role="replica")
    world.servers[3] = replace(replica, link_up=False, link_silence=7)
    world.servers[4] = replace(replica, link_up=False, syncing=True)
    world.servers[5] = replace(replica, link_silence=31)
    found = set(world.rules())
    assert {("replica_link_down", "critical"), ("replica_link_down", "warning"), ("replica_silent", "warning")} == found

    world = World().formed()
    world.servers[0] = replace(SERVER, offset=2_000_000)
    world.servers[1] = replace(SERVER, offset=200_000_000)
    assert world.rules() == [("replica_lag", "critical"), ("replica_lag", "warning")]

    world = World().formed()
    world.flags = {3: "fail?", 4: "fail"}
    assert world.rules() == [("node_failed", "critical"), ("node_suspected", "warning")]

    world = World().formed()
    world.groups = [{0, 1, 2, 3, 4}, {5}]
    assert ("node_outside", "critical") in world.rules()

    world = World().formed()
    world.extra = f"{'f' * 40} 10.0.0.9:7009@17009 slave {identity(0)} 0 0 9 connected\n"
    assert world.rules() == [("node_undeclared", "warning")]


def test_primaries_that_lack_a_library_or_a_database() -> None:
    """Replicas get libraries from their primary; the databases have to be the same everywhere."""
    world = World().formed()
    states = {
        endpoint: replace(state, libraries={"one": "code", "two": "code"}, databases=4)
        for endpoint, state in world.states().items()
    }
    assert rules.check(world.declared, states, {}, rules.Limits()) == []
    second, third, replica = (world.declared[n] for n in (1, 2, 5))
    states[second.endpoint] = replace(states[second.endpoint], libraries={"one": "code"})
    states[third.endpoint] = replace(states[third.endpoint], libraries={"one": "other", "two": "code"})
    states[replica.endpoint] = replace(states[replica.endpoint], libraries={}, databases=1)
    found = rules.check(world.declared, states, {}, rules.Limits())
    assert [(f.rule, f.severity, f.where) for f in found] == [
        ("functions_missing", "critical", second.name),
        ("databases_differ", "warning", replica.name),
        ("functions_differ", "warning", third.name),
    ]


def test_servers_that_differ_and_servers_that_are_silent() -> None:
    world = World().formed()
    states = world.states()
    first = world.declared[0]
    other = parse_nodes("\n".join(world.line(i, 0) for i in range(6)).replace(" 0 0 3 connected", " 0 0 9 connected"))
    states[first.endpoint] = replace(states[first.endpoint], view=other)
    found = rules.check(world.declared, states, {}, rules.Limits())
    assert [(f.rule, f.where) for f in found] == [("topology_disagreement", first.name)]

    states = world.states()
    silent = world.declared[3]
    del states[silent.endpoint]
    found = rules.check(world.declared, states, {silent.endpoint: "refused"}, rules.Limits())
    assert {(f.rule, f.where) for f in found} == {("node_unreachable", silent.name), ("replicas_missing", "node3:7002")}
