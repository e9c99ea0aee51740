# SPDX-License-Identifier: Apache-2.0
"""What the documents promise of slots and of check mode, on real servers. HOLDFAST_PEER=1: with valkey-cli beside every run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable

import pytest
from ports import free_ports
from run_module import fail_module, run_module
from valkey_load import fill, missing
from valkey_servers import ValkeyServers

SETTINGS = {"maxmemory": "0", "cluster-allow-replica-migration": "no"}
PEER = bool(os.environ.get("HOLDFAST_PEER"))
SLOTS = 16384

# All that a look may ask; whatever else a server has seen was not only looking.
LOOKS = {
    *(
        "auth",
        "client|setinfo",
        "client|setname",
        "cluster|countkeysinslot",
        "cluster|getslotmigrations",
        "cluster|info",
    ),
    *("cluster|nodes", "config|get", "function|list", "hello", "info", "ping", "select"),
}
# What the test itself and the servers among themselves do.
OTHERS = {"config|resetstat", "replconf", "psync", "acl|whoami", "role"}


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def wish(servers: ValkeyServers, weights: list[float], **more: object) -> dict[str, object]:
    """Primaries only, each on a host of its own."""
    nodes = [
        {**node, "host": f"host{index}", "zone": "", "weight": weight}
        for index, (node, weight) in enumerate(zip(servers.nodes(), weights, strict=True))
    ]
    return {"nodes": nodes, "replicas": 0, **servers.login, **more}


def owned(servers: ValkeyServers) -> dict[int, set[int]]:
    """Slots by port, as each server claims them."""
    found = {}
    for port, text in servers.all("CLUSTER", "NODES").items():
        mine = next(line for line in text.splitlines() if "myself" in line).split()[8:]
        bounds = [word.partition("-") for word in mine if not word.startswith("[")]
        found[port] = {slot for first, _dash, last in bounds for slot in range(int(first), int(last or first) + 1)}
    return found


def moved(before: dict[int, set[int]], after: dict[int, set[int]]) -> int:
    """Slots that changed their owner."""
    return sum(len(after[port] - before[port]) for port in after)


def least(before: dict[int, set[int]], weights: dict[int, float]) -> int:
    """The fewest slots that have to move: the sum of what owners have beyond their share.

    Shares are rounded up for as many as make the sum whole, best for those who give: each of them gives one slot less.
    """
    share = {port: SLOTS * weight / sum(weights.values()) for port, weight in weights.items()}
    rounded_up = SLOTS - sum(int(part) for part in share.values())
    surplus = {port: len(before[port]) - int(share[port]) for port in before}
    givers = sum(1 for port, more in surplus.items() if more > 0 and share[port] % 1)
    return sum(max(0, more) for more in surplus.values()) - min(rounded_up, givers)


STEPS = {
    "3 -> 4": ([1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]),
    "4 -> 3": ([1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]),
    "7 -> 5": ([1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]),
    "weighted": ([1, 1, 1, 1, 0, 0, 0], [3, 1, 1, 0.5, 2, 0, 0]),
}


def test_slots_moved_are_the_fewest_that_have_to() -> None:
    """Each step on one cluster; put back by layout, valkey-cli makes the same step and moves as many or more."""
    with ValkeyServers("8.1", 7, settings=SETTINGS) as servers:
        for name, (first, last) in STEPS.items():
            run_module("valkey_cluster", wish(servers, first))
            before = owned(servers)
            planned = run_module("valkey_cluster", wish(servers, last), check=True)
            result = run_module("valkey_cluster", wish(servers, last))
            after = owned(servers)
            weights = dict(zip(servers.ports, last, strict=True))
            count = moved(before, after)
            assert count == least(before, weights) == result["slots_moved"] == planned["remaining"], name
            for port, weight in weights.items():
                assert abs(len(after[port]) - SLOTS * weight / sum(last)) < 1, name
            servers.witness()
            if PEER:
                theirs = peer(servers, before, weights)
                print(f"{name}: {count} slots moved, the fewest; valkey-cli {theirs}")
                assert count <= theirs


def peer(servers: ValkeyServers, before: dict[int, set[int]], weights: dict[int, float]) -> int:
    """Put the slots back and let valkey-cli make the step. Returns how many slots it moved."""
    layout = [
        {"node": f"127.0.0.1:{port}", "slots": " ".join(map(str, sorted(found)))}
        for port, found in before.items()
        if found
    ]
    run_module("valkey_slots", {"port": servers.ports[0], "layout": layout})
    assert owned(servers) == before
    ids = {port: servers.cli(port, "CLUSTER", "MYID") for port in servers.ports}
    words = [f"{ids[port]}={weight}" for port, weight in weights.items()]
    seed = f"127.0.0.1:{servers.ports[0]}"
    command = [
        "--cluster",
        "rebalance",
        seed,
        "--cluster-use-empty-masters",
        "--cluster-threshold",
        "0.001",
        "--cluster-weight",
    ]
    servers.cli(0, *command, *words)
    return moved(before, owned(servers))


def seen(servers: ValkeyServers) -> set[str]:
    """Names of the commands that servers have seen."""
    lines = [line for text in servers.all("INFO", "commandstats").values() for line in text.splitlines()]
    return {line.partition(":")[0].removeprefix("cmdstat_") for line in lines if line.startswith("cmdstat_")}


@pytest.mark.parametrize("version", ["8.1", "9.1"])
def test_check_mode_only_looks(version: str) -> None:
    """Formation, growth, healing, failover, drain, and slots by weight: a check of each makes no server do a thing."""
    with ValkeyServers(version, 8, secure=True) as servers:
        nodes = servers.nodes()
        six = {"nodes": nodes[:6], **servers.login}

        def looks(module: str, arguments: dict[str, object]) -> None:
            servers.all("CONFIG", "RESETSTAT")
            result = run_module(module, arguments, check=True)
            assert result["changed"]
            assert result["plan"]
            assert result["done"] == []
            assert seen(servers) <= LOOKS | OTHERS, seen(servers) - LOOKS - OTHERS

        looks("valkey_cluster", six)
        formed = run_module("valkey_cluster", six)
        looks("valkey_cluster", {"nodes": nodes, **servers.login})
        leaving = [{**node, "state": "absent" if index in (0, 3) else "present"} for index, node in enumerate(nodes)]
        looks("valkey_cluster", {"nodes": leaving, **servers.login})
        first, second = [node for node in formed["nodes"] if node["role"] == "primary"][:2]
        entry = {"host": "127.0.0.1", "port": servers.ports[0], **servers.login}
        looks("valkey_slots", {**entry, "weights": {first["id"]: 2}})
        looks("valkey_slots", {**entry, "drain": [first["id"]]})
        ports = {node["id"]: int(node["name"].rpartition(":")[2]) for node in formed["nodes"]}
        slot = first["slots"].split("-")[0]
        servers.cli(ports[first["id"]], "CLUSTER", "SETSLOT", slot, "MIGRATING", second["id"])
        looks("valkey_cluster", six)
        looks("valkey_slots", {**entry, "drain": [second["id"]]})
        servers.cli(ports[first["id"]], "CLUSTER", "SETSLOT", slot, "STABLE")
        replica = next(node for node in formed["nodes"] if node["role"] == "replica" and node["host"] == "node1")
        servers.cli(ports[replica["id"]], "CLUSTER", "FAILOVER")
        wait_for(lambda: bool(run_module("valkey_cluster", six, check=True)["plan"]))
        looks("valkey_cluster", six)


def test_a_cluster_of_valkey_cli_is_adopted_unchanged() -> None:
    """Made with replicas, with keys in it."""
    with ValkeyServers("8.1", 6) as servers:
        addresses = [f"127.0.0.1:{port}" for port in servers.ports]
        servers.cli(0, "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes")
        wait_for(lambda: all("cluster_state:ok" in text for text in servers.all("CLUSTER", "INFO").values()))
        wait_for(lambda: sum("myself,slave" in text for text in servers.all("CLUSTER", "NODES").values()) == 3)
        wait_for(lambda: len(set(map(_roles, servers.all("CLUSTER", "NODES").values()))) == 1)
        fill(servers.ports[0], 1000, 0)
        before = owned(servers)
        nodes = [{**node, "host": f"host{node['port']}", "zone": ""} for node in servers.nodes()]
        adopted = run_module("valkey_cluster", {"nodes": nodes, "replicas": 1})
        assert not adopted["changed"], adopted["done"]
        assert owned(servers) == before
        assert missing(servers.ports[0], 1000, 0) == []


def _roles(view: str) -> tuple[str, ...]:
    """Primary of each node, as a view has it."""
    return tuple(sorted(f"{words[0]} {words[3]}" for words in map(str.split, view.splitlines())))


def test_nodes_are_known_by_their_ids() -> None:
    """A primary and a replica come back under other ports: nothing is met, forgotten or moved; the next growth works."""
    with ValkeyServers("8.1", 6, settings={**SETTINGS, "save": '""', "appendonly": "yes"}) as servers:
        nodes = servers.nodes()
        formed = run_module("valkey_cluster", {"nodes": nodes})
        fill(servers.ports[0], 1000, 0)
        for index, moved_to in zip((1, 4), free_ports(2), strict=True):
            port = servers.ports[index]
            servers.cli(port, "SHUTDOWN", check=False)
            servers.processes.pop(port).wait()
            shutil.copytree(servers.folder / str(port), servers.folder / str(moved_to))
            nodes[index] = {**nodes[index], "port": moved_to}
            servers.ports[index] = moved_to
            servers.start(moved_to)
            servers.wait(moved_to)
        after = run_module("valkey_cluster", {"nodes": nodes})
        assert [node["id"] for node in after["nodes"]] == [node["id"] for node in formed["nodes"]]
        assert not [line for line in after["done"] if not line.startswith("fail over")], after["done"]
        light = [{**node, "weight": 2 if index == 1 else 1} for index, node in enumerate(nodes)]
        grown = run_module("valkey_cluster", {"nodes": light})
        assert grown["remaining"] == 0
        servers.witness()
        assert missing(servers.ports[0], 1000, 0) == []


def test_mixed_versions_move_by_keys_and_refuse_atomic() -> None:
    """A server of 9.1 joins three of 8.1: atomic is refused before it is even met, auto moves key by key."""
    with ValkeyServers("8.1", 3, settings=SETTINGS) as old, ValkeyServers("9.1", 1, settings=SETTINGS) as new:
        nodes = [{**node, "host": f"host{node['port']}", "zone": ""} for node in [*old.nodes(), *new.nodes()]]
        run_module("valkey_cluster", {"nodes": nodes[:3], "replicas": 0})
        fill(old.ports[0], 1000, 0)
        grown = {"nodes": nodes, "replicas": 0}
        message = fail_module("valkey_cluster", {**grown, "migration": "atomic"})
        assert "migration atomic needs Valkey 9.0 or later" in message
        assert f"host{old.ports[0]}:{old.ports[0]} has 8.1." in message
        assert len(new.cli(new.ports[0], "CLUSTER", "NODES").splitlines()) == 1
        result = run_module("valkey_cluster", grown)
        assert (result["migration"], result["slots_moved"]) == ("keys", 4096)
        assert missing(old.ports[0], 1000, 0) == []
        old.witness()
