# SPDX-License-Identifier: Apache-2.0
"""Slot moves with a client beside, killed and throttled. HOLDFAST_KILLS: kills in each test, 3 unless given."""

from __future__ import annotations

import os
import random
import subprocess
import time

import pytest
from run_module import fail_module, run_module, start
from valkey_load import Load, fill, missing
from valkey_servers import ValkeyServers

STRINGS, HASHES = 20_000, 20
# As the role sets it: a drained primary stays one.
SETTINGS = {"maxmemory": "0", "cluster-allow-replica-migration": "no"}
KILLS = int(os.environ.get("HOLDFAST_KILLS", "3"))


def wish(servers: ValkeyServers, weights: list[int], **more: object) -> dict[str, object]:
    """Primaries only, with these weights; each server a host."""
    nodes = [
        {**node, "host": f"host{n}", "zone": "", "weight": weight}
        for n, (node, weight) in enumerate(zip(servers.nodes(), weights, strict=True))
    ]
    return {"nodes": nodes, "replicas": 0, **servers.login, **more}


def filled(servers: ValkeyServers) -> tuple[int, int, dict[str, object], int]:
    """Fill all databases. Returns what of: strings and hashes of each, the login, the number of databases."""
    number = servers.databases
    data = (STRINGS // number, HASHES // number, servers.login, number)
    fill(servers.ports[0], *data)
    return data


@pytest.mark.parametrize(
    ("version", "secure", "databases", "way"),
    [
        ("8.1", False, 1, "keys"),
        ("8.1", True, 1, "keys"),
        ("9.1", False, 1, "atomic"),
        ("9.1", True, 1, "atomic"),
        ("9.1", True, 4, "keys"),
    ],
    ids=["8.1 plain", "8.1 tls", "9.1 plain atomic", "9.1 tls atomic", "9.1 tls four databases"],
)
def test_clients_notice_nothing(version: str, secure: bool, databases: int, way: str) -> None:
    """Slots move there and back under a reading and writing client of all databases: no error, no key lost, the minimum moved."""
    with ValkeyServers(version, 4, secure=secure, settings=SETTINGS, databases=databases) as servers:
        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        data = filled(servers)
        with Load(servers.ports[0], data[0], servers.login, data[3]) as load:
            grown = run_module("valkey_cluster", wish(servers, [1, 1, 1, 1]))
            shrunk = run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        assert load.seen["errors"] == load.seen["wrong"] == []
        assert load.seen["operations"] > 100
        assert grown["slots_moved"] == shrunk["slots_moved"] == 4096
        assert grown["migration"] == shrunk["migration"] == way
        assert grown["keys_moved"] > STRINGS / 5
        assert (grown["bytes_moved"] > 100_000) == (way == "keys")
        assert missing(servers.ports[0], *data) == []
        servers.witness()
        assert not run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))["changed"]


def settle(servers: ValkeyServers, arguments: dict[str, object], data: tuple[int, int, dict[str, object], int]) -> int:
    """The run after a kill finishes: valkey-cli finds no fault, no key is lost, nothing is left to do. Returns the slots moved."""
    result = run_module("valkey_cluster", arguments)
    servers.witness()
    assert not any("[" in view for view in servers.all("CLUSTER", "NODES").values())
    assert missing(servers.ports[0], *data) == []
    assert not run_module("valkey_cluster", arguments)["changed"]
    moved: int = result["slots_moved"]
    return moved


@pytest.mark.parametrize(
    ("version", "databases", "way"),
    [("8.1", 1, "keys"), ("9.1", 4, "keys"), ("9.1", 1, "atomic")],
    ids=["8.1", "9.1 four databases", "9.1 atomic"],
)
def test_killed_at_any_time_the_next_run_finishes(version: str, databases: int, way: str) -> None:
    """Kill a run at a random moment, let the next finish it; again and again on one cluster with data in all databases."""
    chance = random.Random(f"{version} {way}")
    with ValkeyServers(version, 4, settings=SETTINGS, databases=databases) as servers:
        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        data = filled(servers)
        begin = time.monotonic()
        assert run_module("valkey_cluster", wish(servers, [1, 1, 1, 1]))["migration"] == way
        whole = time.monotonic() - begin
        assert missing(servers.ports[0], *data) == []
        midway = 0
        for kill in range(KILLS):
            arguments = wish(servers, [1, 1, 1, kill % 2])
            process = start("valkey_cluster", arguments)
            time.sleep(chance.uniform(0.1, whole))
            process.kill()
            process.communicate()
            midway += 0 < settle(servers, arguments, data) < 4096
        print(f"{version} {way}, databases {databases}: {KILLS} kills, {midway} with some slots moved and others not")


@pytest.mark.parametrize("version", ["8.1", "9.1"])
def test_what_a_killed_valkey_cli_left_is_finished(version: str) -> None:
    """The same of `valkey-cli --cluster rebalance`, with replicas that have the marks too."""
    chance = random.Random(version)
    with ValkeyServers(version, 8, settings=SETTINGS) as servers:
        roles = {"role": "primary"}, {"role": "replica"}
        nodes = [
            {**node, **roles[n // 4], "host": f"host{n}", "zone": "", "weight": int(n != 3)}
            for n, node in enumerate(servers.nodes())
        ]
        arguments: dict[str, object] = {"nodes": nodes, "replicas": 1}
        run_module("valkey_cluster", arguments)
        data = filled(servers)
        me = servers.cli(servers.ports[3], "CLUSTER", "MYID")
        command = [str(servers.programs / "valkey-cli"), "--cluster", "rebalance", f"127.0.0.1:{servers.ports[0]}"]
        opened = 0
        for _kill in range(KILLS):
            process = subprocess.Popen(
                [*command, "--cluster-use-empty-masters", "--cluster-weight", f"{me}=1"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(chance.uniform(0.2, 4.0))
            process.kill()
            process.wait()
            opened += any("[" in view for view in servers.all("CLUSTER", "NODES").values())
            settle(servers, arguments, data)
        print(f"{version} valkey-cli: {KILLS} kills, {opened} of them left open slots")


def test_what_servers_fail_to_move_is_moved_by_keys() -> None:
    """Servers that can't log in at each other fail every job; key by key they log in as we do."""
    with ValkeyServers("9.1", 4, secure=True, settings={**SETTINGS, "primaryauth": "not-it"}) as servers:
        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        data = filled(servers)
        result = run_module("valkey_cluster", wish(servers, [1, 1, 1, 1]))
        assert (result["migration"], result["slots_moved"], result["remaining"]) == ("keys", 4096, 0)
        assert 0 < len(result["notes"]) < 50
        assert all("were not moved atomically" in note for note in result["notes"])
        assert missing(servers.ports[0], *data) == []
        servers.witness()


def test_limits_are_kept() -> None:
    """A rate is not exceeded; a big key goes alone; a latency limit still gets there."""
    with ValkeyServers("8.1", 4, settings=SETTINGS) as servers:
        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        fill(servers.ports[0], STRINGS, HASHES)
        slow = run_module("valkey_cluster", wish(servers, [8, 8, 8, 1], keys_per_second=500))
        assert 0 < slow["keys_per_second"] <= 650
        guarded = run_module("valkey_cluster", wish(servers, [1, 1, 1, 1], max_p99=5))
        assert guarded["remaining"] == 0
        assert missing(servers.ports[0], STRINGS, HASHES) == []
        servers.witness()


def test_several_databases_are_moved_as_they_are_or_not_at_all() -> None:
    """No way that would lose writes, and no server that lacks a database with keys: refused before a slot moves."""
    with ValkeyServers("9.1", 4, settings=SETTINGS, databases=4) as servers:
        small = servers.ports[3]
        servers.kill(small)
        servers.databases = 2
        servers.start(small)
        servers.wait(small)
        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        fill(servers.ports[0], 300, 0, databases=2)
        assert "atomic is for clusters with one database" in fail_module(
            "valkey_cluster", wish(servers, [1, 1, 1, 1], migration="atomic")
        )
        assert run_module("valkey_cluster", wish(servers, [1, 1, 1, 1]))["migration"] == "keys"
        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        fill(servers.ports[0], 300, 0, databases=3)
        message = fail_module("valkey_cluster", wish(servers, [1, 1, 1, 1]))
        assert "has keys in database 2, but host3" in message
        assert "cluster-databases 2" in message
        assert servers.cli(small, "INFO", "keyspace") == "# Keyspace"
        assert missing(servers.ports[0], 300, 0, databases=3) == []
        servers.witness()


def test_impossible_ways_are_refused() -> None:
    with ValkeyServers("8.1", 4, settings=SETTINGS) as servers:
        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        message = fail_module("valkey_cluster", wish(servers, [1, 1, 1, 1], migration="atomic"))
        assert "needs Valkey 9.0 or later" in message
        assert "keys_per_second" in fail_module("valkey_cluster", wish(servers, [1, 1, 1, 1], keys_per_second=0))
        assert "max_p99" in fail_module("valkey_cluster", wish(servers, [1, 1, 1, 1], max_p99=-1))
        servers.witness()
        assert int(servers.cli(servers.ports[3], "DBSIZE")) == 0
