# SPDX-License-Identifier: Apache-2.0
"""valkey_slots against real servers; valkey-cli is the witness and the peer."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from run_module import fail_module, run_module
from valkey_load import Load, fill, missing
from valkey_servers import ValkeyServers

STRINGS, HASHES = 6_000, 5
# A drained primary stays one, as the role sets it.
SETTINGS = {"maxmemory": "0", "cluster-allow-replica-migration": "no"}
LAYOUT = ["0-5460", "5461-10922", "10923-16383"]


def wish(servers: ValkeyServers, **more: object) -> dict[str, object]:
    names = {f"127.0.0.1:{port}": f"node{index + 1}:{port}" for index, port in enumerate(servers.ports)}
    return {"host": "127.0.0.1", "port": servers.ports[0], "names": names, **servers.login, **more}


def names(servers: ValkeyServers) -> list[str]:
    return [f"node{index + 1}:{port}" for index, port in enumerate(servers.ports)]


def form(servers: ValkeyServers, primaries: int) -> None:
    """The first servers own slots, the others are members without."""
    nodes = [
        {**node, "host": f"host{index}", "zone": "", "weight": int(index < primaries)}
        for index, node in enumerate(servers.nodes())
    ]
    run_module("valkey_cluster", {"nodes": nodes, "replicas": 0, **servers.login})


def claims(servers: ValkeyServers) -> list[list[str]]:
    """Role, slots and marks of each server, by its own word."""
    views = servers.all("CLUSTER", "NODES").values()
    mine = [next(line.split() for line in view.splitlines() if "myself" in line) for view in views]
    return [[words[2], *words[8:]] for words in mine]


def counts(result: dict) -> dict[str, int]:
    return {node["name"]: node["slot_count"] for node in result["nodes"]}


@pytest.mark.parametrize(("version", "secure"), [("8.1", True), ("9.1", False)], ids=["8.1 tls", "9.1 plain"])
def test_slots_go_where_they_are_assigned(version: str, secure: bool) -> None:
    """By layout, weight, pin and drain, under a client: what the plan says, the fewest slots, no key lost."""
    with ValkeyServers(version, 4, secure=secure, settings=SETTINGS) as servers:
        form(servers, 3)
        fill(servers.ports[0], STRINGS, HASHES, servers.login)
        one, two, three, four = names(servers)
        with Load(servers.ports[0], STRINGS, servers.login) as load:
            doubled = wish(servers, weights={one: 2, two: 2, three: 2, four: 2})
            planned = run_module("valkey_slots", doubled, check=True)
            weighed = run_module("valkey_slots", doubled)
            assert weighed["done"] == planned["plan"]
            assert weighed["diff"] == planned["diff"]
            assert (planned["remaining"], weighed["slots_moved"], weighed["remaining"]) == (4096, 4096, 0)
            assert any(re.fullmatch(rf"\d+-\d+ {one} -> {four}", line) for line in planned["plan"])
            assert set(counts(weighed).values()) == {4096}
            assert not run_module("valkey_slots", doubled)["changed"]
            servers.witness()

            # A pin alone moves nothing else.
            first = int(next(node for node in weighed["nodes"] if node["name"] == two)["slots"].split("-")[0])
            wanted = f"{first} {first + 2}-{first + 4}"
            pinned = run_module("valkey_slots", wish(servers, pins=[{"node": four, "slots": wanted}]))
            assert pinned["slots_moved"] == 4
            assert all(line.endswith(f"{two} -> {four}") for line in pinned["done"])

            # Drained node by node id: the others give nothing.
            me = servers.cli(servers.ports[3], "CLUSTER", "MYID")
            drained = run_module("valkey_slots", wish(servers, drain=[me]))
            assert drained["slots_moved"] == 4100
            assert all(f" {four} -> " in line for line in drained["done"])
            assert counts(drained)[four] == 0

            # Slot by slot as said, named by address and port.
            layout = [
                {"node": f"127.0.0.1:{port}", "slots": text} for port, text in zip(servers.ports, LAYOUT, strict=False)
            ]
            placed = run_module("valkey_slots", wish(servers, layout=layout))
            assert [node["slots"] for node in placed["nodes"]] == [*LAYOUT, ""]
            assert not run_module("valkey_slots", wish(servers, layout=layout))["changed"]
        assert load.seen["errors"] == load.seen["wrong"] == []
        assert missing(servers.ports[0], STRINGS, HASHES, servers.login) == []
        servers.witness()


def test_a_time_budget_goes_on_where_it_stopped() -> None:
    with ValkeyServers("8.1", 4, settings=SETTINGS) as servers:
        form(servers, 3)
        fill(servers.ports[0], STRINGS, HASHES)
        even = wish(servers, weights={names(servers)[3]: 1}, time_budget=0.001)
        moved, left, calls = 0, 4096, 0
        while left:
            result = run_module("valkey_slots", {**even, "time_budget": 0.001 if not calls else 0})
            moved += result["slots_moved"]
            assert result["remaining"] < left
            assert result["seconds_left"] is not None
            left, calls = result["remaining"], calls + 1
        assert calls == 2
        assert moved == 4096
        servers.witness()


@pytest.fixture(scope="module")
def servers() -> Iterator[ValkeyServers]:
    """Three primaries and a replica."""
    with ValkeyServers("8.1", 4) as found:
        nodes = [{**node, "host": f"host{index}", "zone": ""} for index, node in enumerate(found.nodes())]
        # Three primaries and one spare replica.
        run_module("valkey_cluster", {"nodes": nodes[:3], "replicas": 0})
        found.cli(found.ports[0], "CLUSTER", "MEET", "127.0.0.1", str(found.ports[3]))
        me = found.cli(found.ports[0], "CLUSTER", "MYID")
        while found.cli(found.ports[3], "CLUSTER", "REPLICATE", me, check=False) != "OK":
            pass
        while len({view.count("connected") for view in found.all("CLUSTER", "NODES").values()} - {4}) > 0:
            pass
        yield found


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layout": [("1", "0-5460"), ("2", "5460-10922"), ("3", "10923-16383")]}, "slots 5460 are given to node1"),
        ({"layout": [("1", "0-5460"), ("2", "5470-10922"), ("3", "10923-16383")]}, "without a node: 5461-5469"),
        ({"pins": [("1", "1-3"), ("2", "3")]}, "slots 3 are given to node1"),
        ({"pins": [("1", "0-16384")]}, "outside of 0-16383"),
        ({"pins": [("9", "1")]}, "node9 is not a member of the cluster. Name one of node1"),
        ({"pins": [("4", "1")]}, "node4 is a replica of node1"),
        ({"drain": ["1", "2", "3"]}, "have no node to go to"),
        ({"drain": ["1"], "pins": [("1", "7")]}, "node1 is drained"),
        ({"weights": {"1": "much"}}, "'much' is not a number"),
        ({"weights": {"1": -1}}, "is negative"),
        ({}, "one of the following is required: layout, weights, drain, pins"),
        ({"drain": ["1"], "layout": [("1", "0")]}, "mutually exclusive"),
        ({"drain": ["1"], "keys_per_second": 0}, "has to be more than 0"),
        ({"drain": ["1"], "migration": "atomic"}, "needs Valkey 9.0 or later"),
        ({"drain": ["1"], "password": "wrong", "username": "nobody"}, "login refused"),
    ],
)
def test_bad_input_changes_nothing(servers: ValkeyServers, asked: dict, message: str) -> None:
    called = {str(index + 1): f"node{index + 1}" for index in range(9)}
    given = {
        **wish(servers),
        "names": {f"127.0.0.1:{port}": f"node{index + 1}" for index, port in enumerate(servers.ports)},
    }
    for option, value in asked.items():
        if option in ("layout", "pins"):
            given[option] = [{"node": called[node], "slots": text} for node, text in value]
        elif option == "drain":
            given[option] = [called[node] for node in value]
        elif option == "weights":
            given[option] = {called[node]: weight for node, weight in value.items()}
        else:
            given[option] = value
    before = claims(servers)
    found = fail_module("valkey_slots", given)
    assert message in found.replace(str(servers.ports[0]), "")
    assert claims(servers) == before


def test_data_without_room_stays() -> None:
    """Half of the data of two full servers does not fit into the third; check mode says so too."""
    with ValkeyServers("8.1", 3, settings={"cluster-allow-replica-migration": "no"}) as servers:
        form(servers, 3)
        fill(servers.ports[0], 60_000, 0)
        for port in servers.ports:
            used = int(servers.cli(port, "INFO", "memory").split("used_memory:")[1].split()[0])
            servers.cli(port, "CONFIG", "SET", "maxmemory", str(used + 1024 * 1024))
        before = servers.all("DBSIZE")
        drain = wish(servers, drain=[names(servers)[2]])
        for check in (True, False):
            message = fail_module("valkey_slots", drain, check=check)
            assert "no room for the data: node1" in message
            assert "MiB" in message
        nodes = [
            {**node, "host": f"host{index}", "zone": "", "weight": int(index < 2)}
            for index, node in enumerate(servers.nodes())
        ]
        assert "no room for the data" in fail_module("valkey_cluster", {"nodes": nodes, "replicas": 0})
        assert servers.all("DBSIZE") == before
        for port in servers.ports:
            servers.cli(port, "CONFIG", "SET", "maxmemory", "64mb")
        assert run_module("valkey_slots", drain)["remaining"] == 0
        assert missing(servers.ports[0], 60_000, 0) == []
        servers.witness()
