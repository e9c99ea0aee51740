# SPDX-License-Identifier: Apache-2.0
"""valkey_failover and valkey_forget against real servers, with a reading and writing client beside them."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import valkey_load
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.rolling import order
from run_module import fail_module, run_module
from valkey_servers import ValkeyServers, binaries

KEYS = 2000
HEALTHY = {"node_unreachable", "node_failed", "node_suspected", "replica_link_down", "replicas_missing"}


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def form(servers: ValkeyServers) -> list[dict[str, Any]]:
    """Make the cluster and return its nodes."""
    return run_module("valkey_cluster", {"nodes": servers.nodes(), **servers.login})["nodes"]


def where(node: dict[str, Any]) -> str:
    return f"127.0.0.1:{node['name'].split(':')[1]}"


def entry(servers: ValkeyServers, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": servers.ports[0], **servers.login, **more}


@pytest.mark.parametrize(("version", "secure"), [("8.1", True), ("9.1", False)])
def test_planned_failover_loses_nothing(version: str, secure: bool) -> None:
    """Check mode tells it, the module does it, a second run has nothing to do, and the way back."""
    with ValkeyServers(version, 6, secure=secure) as servers:
        nodes = form(servers)
        replica = next(node for node in nodes if node["role"] == "replica")
        old = next(node for node in nodes if node["name"] == replica["primary"])
        valkey_load.fill(servers.ports[0], KEYS, 0, servers.login)
        wish = entry(servers, target=where(replica))
        with valkey_load.Load(servers.ports[0], KEYS, servers.login) as load:
            planned = run_module("valkey_failover", wish, check=True)
            assert planned["changed"]
            assert not planned["risk"]
            assert f"{where(replica)} replica of {where(old)}" in planned["diff"]["before"]
            assert "master" in servers.cli(int(where(old).split(":")[1]), "ROLE")
            done = run_module("valkey_failover", wish)
            assert (done["promoted"], done["primary"]) == (where(replica), where(old))
            assert done["diff"] == planned["diff"]
            assert not run_module("valkey_failover", wish)["changed"]
            back = run_module("valkey_failover", entry(servers, away_from=where(replica)))
            assert back["promoted"] == where(old)
            assert not run_module("valkey_failover", entry(servers, away_from=where(replica)))["changed"]
        assert load.seen["errors"] == []
        assert load.seen["wrong"] == []
        servers.witness()


def test_without_the_primary_only_by_choice() -> None:
    """Planned refuses, force says what may be lost and wants a confirmation; the majority and a bad name."""
    with ValkeyServers(
        "8.1", 6, settings={"cluster-node-timeout": "2000", "cluster-replica-no-failover": "yes"}
    ) as servers:
        nodes = form(servers)
        replica = next(
            node for node in nodes if node["role"] == "replica" and where(node) != f"127.0.0.1:{servers.ports[0]}"
        )
        old = next(node for node in nodes if node["name"] == replica["primary"])
        port = int(where(replica).split(":")[1])
        wish = {"host": "127.0.0.1", "port": port, "target": where(replica)}
        assert "is not a member of the cluster" in fail_module("valkey_failover", {**wish, "target": "127.0.0.1:1"})
        servers.kill(int(where(old).split(":")[1]))
        wait_for(lambda: re.search(rf"{old['id']} \S+ master,fail,", servers.cli(port, "CLUSTER", "NODES")) is not None)
        assert "does not answer" in fail_module("valkey_failover", wish)
        forced = {**wish, "mode": "force"}
        assert "What may be lost: slots" in fail_module("valkey_failover", forced)
        assert run_module("valkey_failover", forced, check=True)["risk"]
        assert "slave" in servers.cli(port, "ROLE")
        done = run_module("valkey_failover", {**forced, "confirm_loss": True})
        assert done["promoted"] == where(replica)
        assert "master" in servers.cli(port, "ROLE")


def test_takeover_without_a_majority() -> None:
    """Two of three primaries are gone: only a takeover serves their slots again."""
    with ValkeyServers(
        "9.1", 6, settings={"cluster-node-timeout": "2000", "cluster-replica-no-failover": "yes"}
    ) as servers:
        nodes = form(servers)
        primaries = [node for node in nodes if node["role"] == "primary"]
        lost = primaries[:2]
        replica = next(node for node in nodes if node["primary"] == lost[0]["name"])
        for node in lost:
            servers.kill(int(where(node).split(":")[1]))
        port = int(where(replica).split(":")[1])
        wish = {"host": "127.0.0.1", "port": port, "target": where(replica)}
        wait_for(lambda: servers.cli(port, "CLUSTER", "NODES").count("master,fail") == 2)
        message = fail_module("valkey_failover", {**wish, "mode": "force", "confirm_loss": True})
        assert "so no majority can vote" in message
        assert "nobody votes" in run_module("valkey_failover", {**wish, "mode": "takeover"}, check=True)["risk"]
        run_module("valkey_failover", {**wish, "mode": "takeover", "confirm_loss": True})
        assert "master" in servers.cli(port, "ROLE")


def test_a_lag_that_stays_too_big_changes_nothing() -> None:
    """A replica that stands still while its primary is written to."""
    with ValkeyServers("8.1", 6) as servers:
        nodes = form(servers)
        replica = next(node for node in nodes if node["role"] == "replica")
        old = next(node for node in nodes if node["name"] == replica["primary"])
        port, primary = int(where(replica).split(":")[1]), int(where(old).split(":")[1])
        wish = {"host": "127.0.0.1", "port": primary, "target": where(replica), "max_lag": 0, "wait_timeout": 1}
        with valkey_load.Load(servers.ports[0], 10):
            servers.processes[port].send_signal(signal.SIGSTOP)
            message = fail_module("valkey_failover", {**wish, "timeout": 1})
            servers.processes[port].send_signal(signal.SIGCONT)
        assert "does not answer" in message or "behind after" in message or "no answer" in message
        assert "master" in servers.cli(primary, "ROLE")


def test_a_lost_machine_is_forgotten_everywhere() -> None:
    """Refused while it answers; after its death all members forget it and a second run has nothing to do."""
    with ValkeyServers("8.1", 8, settings={"cluster-node-timeout": "2000"}) as servers:
        hosts = run_module("valkey_cluster", {"nodes": servers.nodes(4)})["nodes"]
        assert len(hosts) == 8
        lost = [node for node in servers.nodes(4) if node["host"] == "node4"]
        wish = {"nodes": [node for node in servers.nodes(4) if node["host"] != "node4"], "gone": lost}
        assert "still answers" in fail_module("valkey_forget", wish)
        for node in lost:
            servers.kill(node["port"])
        done = run_module("valkey_forget", wish)
        assert len(done["forgotten"]) == 2
        for node in wish["nodes"]:
            assert len(servers.cli(node["port"], "CLUSTER", "NODES").splitlines()) == 6
        assert not run_module("valkey_forget", wish)["changed"]


def test_rolling_upgrade_from_8_1_to_9_1_on_the_same_data() -> None:
    """Replicas first, a planned failover, the old primary, shard by shard, the way back: no client notices."""
    durable = {"appendonly": "yes", "appenddirname": "appendonlydir", "repl-diskless-sync-delay": "0"}
    with ValkeyServers("8.1", 6, settings=durable) as servers:
        nodes = form(servers)
        valkey_load.fill(servers.ports[0], KEYS, 0)
        led = {node["name"] for node in nodes if node["role"] == "primary"}
        servers.programs = binaries("9.1")
        with valkey_load.Load(servers.ports[0], KEYS) as load:
            for step in order(nodes, {node["name"]: ["program"] for node in nodes}):
                port = step["port"]
                if step["hand_over"]:
                    run_module("valkey_failover", entry(servers, away_from=f"127.0.0.1:{port}"))
                servers.processes[port].terminate()
                servers.processes[port].wait()
                servers.start(port)
                servers.wait(port)
                wait_for(lambda: not _ill(servers))
                if step["hand_over"]:
                    run_module("valkey_failover", entry(servers, target=f"127.0.0.1:{port}"))
        assert load.seen["errors"] == []
        assert load.seen["wrong"] == []
        after = run_module("valkey_cluster", {"nodes": servers.nodes()})
        assert not after["changed"], after["done"]
        assert {node["name"] for node in after["nodes"] if node["role"] == "primary"} == led
        assert all(node["version"].startswith("9.1") for node in after["nodes"])
        assert valkey_load.missing(servers.ports[0], KEYS, 0) == []
        servers.witness()


def _ill(servers: ValkeyServers) -> set[str]:
    found = run_module("valkey_replication_check", {"nodes": servers.nodes(), "fail_on": "none"})["findings"]
    return HEALTHY.intersection(finding["rule"] for finding in found)
