# SPDX-License-Identifier: Apache-2.0
"""valkey_cluster against real servers; valkey-cli is the witness."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Client, Endpoint, Options
from run_module import fail_module, finish, run_module, start
from valkey_servers import ValkeyServers

KINDS = [("8.1", False), ("9.1", False), ("8.1", True), ("9.1", True)]
IDS = ["8.1 plain", "9.1 plain", "8.1 tls", "9.1 tls"]

# Commands that change a server or its data, as INFO commandstats counts them.
WRITES = re.compile(
    r"cmdstat_(cluster\|(meet|addslots|addslotsrange|delslots|replicate|setslot|set-config-epoch|forget|reset|failover"
    r"|migrateslots|bumpepoch)|config\|(set|rewrite)|migrate|restore|set|del|flushall):"
)


def settings(servers: ValkeyServers) -> dict[int, str]:
    """The settings that formation touches, by port."""
    names = ("cluster-ping-interval", "repl-diskless-sync-delay", "cluster-node-timeout")
    return servers.all("CONFIG", "GET", *names)


def writes(servers: ValkeyServers) -> set[str]:
    """Names of the writing commands that the servers have seen."""
    return {match[1] for text in servers.all("INFO", "commandstats").values() for match in WRITES.finditer(text)}


def arguments(servers: ValkeyServers, **more: object) -> dict[str, object]:
    return {"nodes": servers.nodes(), **servers.login, **more}


def wait_for(condition: Callable[[], bool], seconds: float = 30.0, pause: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


@pytest.mark.parametrize(("version", "secure"), KINDS, ids=IDS)
def test_life_of_a_cluster(version: str, secure: bool) -> None:
    """Form, adopt, grow, weigh, shrink: one cluster, in the order that its operator would."""
    with ValkeyServers(version, 8, secure=secure) as servers:
        six = servers.ports[:6]
        forming = {"nodes": servers.nodes(ports=six), **servers.login}
        own = settings(servers)

        planned = run_module("valkey_cluster", forming, check=True)
        assert planned["changed"]
        assert f"0-5461 -> node1:{six[0]}" in planned["plan"]
        assert not writes(servers)

        formed = run_module("valkey_cluster", forming)
        assert formed["changed"]
        assert formed["formed"]
        assert formed["diff"]["after"] == planned["diff"]["after"]
        assert settings(servers) == own
        servers.witness()

        again = run_module("valkey_cluster", forming)
        assert not again["changed"]
        assert again["plan"] == again["done"] == []
        assert again["diff"]["before"] == again["diff"]["after"]
        checked = run_module("valkey_replication_check", forming)
        assert checked["findings"] == []

        keys = {f"{{{number}}}key": str(number) for number in range(40)}
        for key, value in keys.items():
            servers.cli(six[0], "-c", "SET", key, value)

        # Two more nodes: one more primary with its replica, and with 1/64 of the slots; those move, no more.
        light = grown_by_two(servers)
        growing = arguments(servers, nodes=light)
        planned = run_module("valkey_cluster", growing, check=True)
        grown = run_module("valkey_cluster", growing)
        assert grown["slots_moved"] == planned["remaining"] == 256
        assert grown["remaining"] == 0
        servers.witness()
        assert not run_module("valkey_cluster", growing)["changed"]
        owned = {node["name"]: _count(node["slots"]) for node in grown["nodes"] if node["role"] == "primary"}
        assert sorted(owned.values()) == [256, 5376, 5376, 5376]

        # A pinned slot with its key.
        slot = servers.cli(six[0], "CLUSTER", "KEYSLOT", "{1}key")
        target = next(i for i, n in enumerate(grown["nodes"]) if n["role"] == "primary" and not _holds(n, int(slot)))
        pinned = [{**n, "slots": slot if i == target else ""} for i, n in enumerate(light)]
        moved = run_module("valkey_cluster", {**growing, "nodes": pinned})
        assert _holds(moved["nodes"][target], int(slot))
        assert moved["keys_moved"] >= 1
        assert moved["slots_moved"] == 2
        servers.witness()

        # The last two leave: drained, forgotten and empty.
        leaving = [{**n, "state": "absent" if n["port"] not in six else "present"} for n in light]
        left = run_module("valkey_cluster", {**growing, "nodes": leaving})
        assert left["changed"]
        servers.witness()
        for port in servers.ports[6:]:
            assert len(servers.cli(port, "CLUSTER", "NODES").splitlines()) == 1
            assert servers.cli(port, "DBSIZE") == "0"
        assert not run_module("valkey_cluster", {**growing, "nodes": leaving})["changed"]
        for key, value in keys.items():
            assert servers.cli(six[0], "-c", "GET", key).splitlines()[-1] == value


def grown_by_two(servers: ValkeyServers) -> list[dict]:
    """Return all nodes, the last two on hosts of their own, as four primaries need, and light: 1/64 of the slots."""
    hosts = {6: "node4", 7: "node5"}
    return [
        {**node, "host": hosts.get(index, node["host"]), "weight": 1 if index in hosts else 21}
        for index, node in enumerate(servers.nodes())
    ]


def _holds(node: dict, slot: int) -> bool:
    bounds = [word.partition("-") for word in node["slots"].split()]
    return any(int(first) <= slot <= int(last or first) for first, _dash, last in bounds)


def _count(ranges: str) -> int:
    bounds = [word.partition("-") for word in ranges.split()]
    return sum(int(last or first) - int(first) + 1 for first, _dash, last in bounds)


@pytest.mark.parametrize("version", ["8.1", "9.1"])
def test_a_formation_killed_at_any_time_is_finished(version: str) -> None:
    """Kill the module later and later; the next run makes one good cluster and leaves no trace of the first."""
    for delay in (0.4, 0.6, 0.9, 1.5):
        with ValkeyServers(version, 6) as servers:
            own = settings(servers)
            process = start("valkey_cluster", arguments(servers))
            time.sleep(delay)
            process.kill()
            process.communicate()
            run_module("valkey_cluster", arguments(servers))
            servers.witness()
            assert settings(servers) == own
            assert not run_module("valkey_cluster", arguments(servers))["changed"]


def test_a_formation_killed_at_its_pace_is_finished() -> None:
    """The same, killed for certain while the servers gossip fast."""
    with ValkeyServers("8.1", 6, settings={"repl-diskless-sync-delay": "3"}) as servers:
        own = settings(servers)
        process = start("valkey_cluster", arguments(servers))
        wait_for(lambda: servers.cli(servers.ports[0], "CONFIG", "GET", "cluster-ping-interval").endswith("210"))
        process.kill()
        process.communicate()
        assert settings(servers) != own
        checked = run_module("valkey_replication_check", arguments(servers, fail_on="none"))
        assert "formation_pace" in {finding["rule"] for finding in checked["findings"]}
        run_module("valkey_cluster", arguments(servers))
        servers.witness()
        assert settings(servers) == own


def test_a_formation_killed_while_timeouts_are_brief_is_finished() -> None:
    with ValkeyServers("8.1", 6, settings={"cluster-node-timeout": "5000"}) as servers:
        own = settings(servers)
        run_module("valkey_cluster", arguments(servers))
        assert settings(servers) == own
        for port in servers.ports[:2]:
            left = ("cluster-ping-interval", "312", "repl-diskless-sync-delay", "0", "cluster-node-timeout", "550")
            assert "OK" in servers.cli(port, "CONFIG", "SET", *left)
        planned = run_module("valkey_cluster", arguments(servers), check=True)
        assert len([line for line in planned["plan"] if "ping interval" in line]) == 2
        run_module("valkey_cluster", arguments(servers))
        assert settings(servers) == own


def test_servers_that_wait_for_long_form_at_once() -> None:
    """A primary that had no slots for a while waits 5 s before it serves; not here."""
    with ValkeyServers("8.1", 6) as servers:
        time.sleep(4)
        begun = time.monotonic()
        run_module("valkey_cluster", arguments(servers))
        assert time.monotonic() - begun < 5
        servers.witness()


def test_a_run_ends_when_all_servers_serve() -> None:
    """A primary that was cut off from the others agrees with them at once, and serves when the rejoin delay of 5 s is over."""
    with ValkeyServers("8.1", 3) as servers:
        run_module("valkey_cluster", arguments(servers, replicas=0))
        alone, *others = servers.ports
        for port in others:
            servers.processes[port].send_signal(signal.SIGSTOP)
        wait_for(lambda: "cluster_state:fail" in servers.cli(alone, "CLUSTER", "INFO"))
        for port in others:
            servers.processes[port].send_signal(signal.SIGCONT)
        wait_for(lambda: not any("fail" in view for view in servers.all("CLUSTER", "NODES").values()))
        assert not run_module("valkey_cluster", arguments(servers, replicas=0))["changed"]
        assert all("cluster_state:ok" in text for text in servers.all("CLUSTER", "INFO").values())


def test_a_cluster_of_another_tool_is_adopted() -> None:
    """valkey-cli makes it, we find nothing to do."""
    with ValkeyServers("8.1", 6) as servers:
        addresses = [f"127.0.0.1:{port}" for port in servers.ports]
        servers.cli(0, "--cluster", "create", *addresses, "--cluster-yes")
        primaries = servers.ports[:3]
        wait_for(lambda: all("cluster_state:ok" in text for text in servers.all("CLUSTER", "INFO").values()))
        del primaries
        found = run_module("valkey_cluster_info", {"host": "127.0.0.1", "port": servers.ports[0]})
        assert found["slots_assigned"] == 16384
        assert found["primaries"] == 6
        nodes = [{**node, "host": f"host{node['port']}", "zone": ""} for node in servers.nodes()]
        adopted = run_module("valkey_cluster", {"nodes": nodes, "replicas": 0})
        assert not adopted["changed"], adopted["done"]


def test_changes_of_the_placement() -> None:
    """A primary too many on one host after a failover goes back; a killed slot move is finished."""
    with ValkeyServers("8.1", 6) as servers:
        formed = run_module("valkey_cluster", arguments(servers))
        names = {node["name"]: node for node in formed["nodes"]}
        replica = next(n for n in formed["nodes"] if n["role"] == "replica" and n["host"] == "node1")
        old = names[replica["primary"]]
        port = int(replica["name"].split(":")[1])
        servers.cli(port, "CLUSTER", "FAILOVER")
        wait_for(lambda: all(f"{replica['id']} " in t and _leads(t, replica["id"]) for t in _views(servers)))
        message = fail_module("valkey_replication_check", arguments(servers))
        assert "host_holds_majority" in message
        spread = run_module("valkey_cluster", arguments(servers))
        assert any(line.startswith("fail over ") for line in spread["done"]), spread["done"]
        after = [node["host"] for node in spread["nodes"] if node["role"] == "primary"]
        assert sorted(after) == ["node1", "node2", "node3"]
        run_module("valkey_replication_check", arguments(servers))
        servers.witness()
        assert old["slots"]


def _views(servers: ValkeyServers) -> list[str]:
    return list(servers.all("CLUSTER", "NODES").values())


def _leads(text: str, node: str) -> bool:
    return any(line.startswith(node) and "master" in line for line in text.splitlines())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_killed_slot_move_is_finished(secure: bool) -> None:
    """Open slots of a killed run are moved on; nothing is lost."""
    with ValkeyServers("8.1", 6, secure=secure) as servers:
        six = servers.ports
        run_module("valkey_cluster", arguments(servers))
        for port in six:
            servers.cli(port, "CONFIG", "SET", "maxmemory", "0")
        servers.cli(six[0], "-c", "EVAL", "for i=1,20000 do server.call('SET','{a}'..i,i) end", "1", "{a}")
        owner = next(p for p in six if servers.cli(p, "DBSIZE") != "0" and "master" in servers.cli(p, "ROLE"))
        assert servers.cli(owner, "DBSIZE") == "20000"
        slot = servers.cli(owner, "CLUSTER", "KEYSLOT", "{a}")
        index = next(i for i, port in enumerate(six) if port != owner and "master" in servers.cli(port, "ROLE"))
        pinned = [{**n, "slots": slot if i == index else ""} for i, n in enumerate(servers.nodes(ports=six))]
        wish = {"nodes": pinned, **servers.login}
        target = Client(Endpoint("127.0.0.1", six[index]), Options(**servers.login))
        process = start("valkey_cluster", wish)
        wait_for(lambda: "-<-" in target.call("CLUSTER", "NODES") and target.call("DBSIZE") > 0, pause=0.001)
        process.kill()
        process.communicate()
        assert any("[" in view for view in _views(servers))
        found = run_module("valkey_replication_check", arguments(servers, fail_on="none"))
        assert "slots_open" in {finding["rule"] for finding in found["findings"]}
        finished = run_module("valkey_cluster", wish)
        assert any(line.startswith(("finish ", "clear ")) for line in finished["done"]), finished["done"]
        servers.witness()
        total = sum(node["keys"] for node in _info(servers)["nodes"] if node["role"] == "primary")
        assert total == 20000


def _info(servers: ValkeyServers) -> dict:
    return run_module("valkey_cluster_info", {"host": "127.0.0.1", "port": servers.ports[0], **servers.login})


def test_a_time_budget_is_kept_and_the_rest_told() -> None:
    """Repeated calls with almost no time get there."""
    with ValkeyServers("8.1", 8) as servers:
        run_module("valkey_cluster", {"nodes": servers.nodes(ports=servers.ports[:6])})
        light = grown_by_two(servers)
        first = run_module("valkey_cluster", {"nodes": light, "time_budget": 0.001})
        assert 0 < first["remaining"] < 256
        assert first["seconds_left"] > 0
        second = run_module("valkey_cluster", {"nodes": light})
        assert second["remaining"] == 0
        assert first["slots_moved"] + second["slots_moved"] == 256
        servers.witness()


def test_bad_input_changes_nothing() -> None:
    """One clear error each."""
    with ValkeyServers("8.1", 6) as servers:
        nodes = servers.nodes()
        first = servers.ports[0]
        cases = {
            "fewer than 3": {"nodes": nodes[:4]},
            f"127.0.0.1:{first} is listed 2 times": {"nodes": [*nodes, nodes[0]]},
            "unreachable": {"nodes": [*nodes, {"address": "127.0.0.1", "port": 1, "host": "node4"}]},
            "are on host node1": {"nodes": [{**node, "host": "node1"} for node in nodes]},
            "declared as primaries": {"nodes": [{**node, "role": "primary"} for node in nodes]},
            "not a range of slots": {"nodes": [{**nodes[0], "slots": "what"}, *nodes[1:]]},
            f"slots 9 are pinned to node1:{first} and to node2:": {
                "nodes": [{**nodes[0], "slots": "0-9"}, {**nodes[1], "slots": "9-12"}, *nodes[2:]]
            },
            "16380 slots have no node to go to": {
                "nodes": [{**node, "weight": 0, "slots": "" if n else "1-4"} for n, node in enumerate(nodes)]
            },
            f"weight -1 of node1:{first} is negative": {"nodes": [{**nodes[0], "weight": -1}, *nodes[1:]]},
            "weight nan is not a number": {"nodes": [{**nodes[0], "weight": "nan"}, *nodes[1:]]},
            "replicas is -1": {"nodes": nodes, "replicas": -1},
            "time_budget is -1": {"nodes": nodes, "time_budget": -1},
            "login refused": {"nodes": nodes, "username": "admin", "password": "wrong"},
        }
        for expected, case in cases.items():
            message = fail_module("valkey_cluster", case)
            assert expected in message, message
        servers.cli(first, "CLUSTER", "ADDSLOTS", "12182")
        servers.cli(first, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        wait_for(lambda: "cluster_state:ok" in servers.cli(first, "CLUSTER", "INFO"))
        servers.cli(first, "SET", "foo", "bar")
        servers.cli(first, "CLUSTER", "DELSLOTS", "12182")
        message = fail_module("valkey_cluster", {"nodes": nodes})
        assert "is not empty: 1 keys" in message
        assert f"node1:{first}" in message
        assert writes(servers) == {"cluster|addslots", "cluster|delslots", "config|set", "set"}


def test_a_node_of_another_cluster_is_refused() -> None:
    """Two clusters of three; nodes of both declared, or some of one left out."""
    with ValkeyServers("8.1", 6) as servers:
        one, two = servers.nodes(ports=servers.ports[:3]), servers.nodes(ports=servers.ports[3:])
        for nodes in (one, two):
            run_module("valkey_cluster", {"nodes": nodes, "replicas": 0})
        message = fail_module("valkey_cluster", {"nodes": one + two, "replicas": 1})
        assert "belong to different clusters" in message
        message = fail_module("valkey_cluster", {"nodes": [*one, two[0]], "replicas": 0})
        assert "undeclared node" in message


def test_wrong_certificates_and_passwords_are_told_apart() -> None:
    """Over TLS a wrong password, a foreign authority and no certificate each have their own message."""
    with ValkeyServers("8.1", 3, secure=True) as servers:
        good = arguments(servers, replicas=0)
        assert "login refused" in fail_module("valkey_cluster", {**good, "password": "wrong"})
        assert "TLS failed" in fail_module("valkey_cluster", {**good, "ca_cert": "/etc/ssl/certs/ca-certificates.crt"})
        process = start("valkey_cluster", {**good, "client_cert": None})
        with pytest.raises(AssertionError, match=r"TLS failed|unreachable"):
            finish(process)
