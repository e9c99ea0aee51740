# SPDX-License-Identifier: Apache-2.0
"""When a host lets a replica take over, and that the hosts together end with spread primaries."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.respread import Memory, Place, decide
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.placement import survivable
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import SlotRange
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Mark, Node, View
from hypothesis import given
from hypothesis import strategies as st

QUIET = 60.0


def address(host: int) -> str:
    return f"198.18.0.{host + 1}"


def cluster(shards: int, hosts: int, leads: list[bool]) -> tuple[View, dict[tuple[str, int], Place]]:
    """Shard n has one node on host n and one on the next; leads says which of the two is the primary."""
    bounds = [16384 * n // shards for n in range(shards + 1)]
    nodes, places = [], {}
    for shard, second_leads in enumerate(leads):
        names = [f"{shard}a", f"{shard}b"]
        leader = names[second_leads]
        for index, name in enumerate(names):
            host, bus = (shard + index) % hosts, 17001 + shard * 2 + index
            places[address(host), bus] = Place(f"node{host}")
            nodes.append(
                Node(
                    id=name,
                    address=address(host),
                    port=0,
                    bus_port=bus,
                    flags=frozenset(
                        {"master" if name == leader else "slave"} | ({"myself"} if name == "0a" else set())
                    ),
                    primary_id=None if name == leader else leader,
                    epoch=shard,
                    slots=(SlotRange(bounds[shard], bounds[shard + 1] - 1),) if name == leader else (),
                )
            )
    return View(tuple(nodes)), places


def promoted(view: View, primary: str, replica: str) -> View:
    """The cluster after a failover."""
    old, new = view.by_id[primary], view.by_id[replica]
    flags = {primary: old.flags - {"master"} | {"slave"}, replica: new.flags - {"slave"} | {"master"}}
    changed = {
        primary: replace(old, flags=flags[primary], primary_id=replica, slots=()),
        replica: replace(new, flags=flags[replica], primary_id=None, slots=old.slots, epoch=old.epoch + 100),
    }
    return View(tuple(changed.get(node.id, node) for node in view.nodes))


def crowded() -> tuple[View, dict[tuple[str, int], Place]]:
    """Three shards on three hosts; node1 leads two of them."""
    return cluster(3, 3, [True, False, False])


@given(st.integers(3, 7), st.integers(3, 5), st.data())
def test_the_hosts_end_with_spread_primaries(shards: int, hosts: int, data: st.DataObject) -> None:
    view, places = cluster(shards, hosts, data.draw(st.lists(st.booleans(), min_size=shards, max_size=shards)))
    memory, now = Memory(), 0.0
    for _step in range(4 * shards):
        decision = decide(view, places, memory, replicas=1, now=now, quiet=QUIET)
        memory, now = decision.memory, now + 15
        if decision.promote:
            assert view.by_id[decision.promote].primary_id == decision.primary
            view = promoted(view, decision.primary, decision.promote)
        elif decision.reason == "primaries are spread":
            break
        now += QUIET
    else:
        raise AssertionError("never spread")
    held = Counter(node.address for node in view.primaries)
    if hosts * survivable(shards) >= shards:
        assert max(held.values()) <= survivable(shards)


def test_it_waits_until_the_cluster_has_been_quiet() -> None:
    view, places = crowded()
    first = decide(view, places, Memory(), replicas=1, now=100.0, quiet=QUIET)
    assert (first.promote, first.memory.since) == ("", 100.0)
    early = decide(view, places, first.memory, replicas=1, now=159.0, quiet=QUIET)
    assert early.promote == ""
    assert "60 s" in early.reason
    due = decide(view, places, early.memory, replicas=1, now=160.0, quiet=QUIET)
    assert due.promote


def test_a_change_begins_the_wait_anew() -> None:
    view, places = crowded()
    other = View(tuple(replace(node, epoch=node.epoch + 9) for node in view.nodes))
    old = decide(other, places, Memory(), replicas=1, now=0.0, quiet=QUIET).memory
    assert decide(view, places, old, replicas=1, now=100.0, quiet=QUIET).memory == Memory(view.signature, 100.0)


def test_nothing_happens_in_an_unhealthy_cluster() -> None:
    view, places = crowded()
    memory = Memory(view.signature, 0.0)
    assert decide(view, places, memory, replicas=1, now=100.0, quiet=QUIET).promote
    first, *rest = view.nodes
    stranger = replace(first, id="x", address="198.18.0.99", flags=frozenset({"slave"}), slots=())
    cases = {
        "a node is down": View((*rest[:-1], first, replace(rest[-1], flags=rest[-1].flags | {"fail?"}))),
        "nodes are being met": View((*view.nodes, replace(stranger, flags=frozenset({"handshake"})))),
        "a declared instance is not a member": View(view.nodes[:-1]),
        "a member is not declared, or is to leave": View((*view.nodes, stranger)),
        "slots have no owner": View(tuple(replace(n, slots=n.slots[1:]) for n in view.nodes)),
        "slots are being moved": View((replace(first, marks=(Mark(1, "importing", "y"),)), *rest)),
    }
    for reason, broken in cases.items():
        decision = decide(broken, places, memory, replicas=1, now=100.0, quiet=QUIET)
        assert (decision.reason, decision.promote, decision.memory) == (reason, "", Memory())


def test_an_impossible_placement_is_told() -> None:
    view, places = crowded()
    same = {where: Place("node1") for where in places}
    decision = decide(view, same, Memory(view.signature, 0.0), replicas=1, now=100.0, quiet=QUIET)
    assert not decision.promote
    assert "host" in decision.reason
