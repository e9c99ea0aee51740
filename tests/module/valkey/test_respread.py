# SPDX-License-Identifier: Apache-2.0
"""The program that spreads primaries, run as its timer runs it on each of three pretended hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_module import ROOT, run_module
from valkey_servers import PASSWORD, ValkeyServers

PROGRAM = ROOT / "roles" / "valkey" / "files" / "valkey_respread.py"
HOSTS = ("node1", "node2", "node3")


def look(servers: ValkeyServers, host: str, folder: Path, quiet: float) -> subprocess.CompletedProcess[str]:
    """Run the program once on a host."""
    nodes = servers.nodes()
    mine = [node["port"] for node in nodes if node["host"] == host]
    runtime = folder / host
    runtime.mkdir(exist_ok=True)
    config = folder / f"{host}.json"
    config.write_text(
        json.dumps(
            {
                "username": "admin" if servers.secure else "default",
                "password": PASSWORD,
                "replicas": 1,
                "quiet": quiet,
                "sockets": [str(servers.socket(port)) for port in mine],
                "nodes": nodes,
            }
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".link"), "RUNTIME_DIRECTORY": str(runtime)}
    command = [sys.executable, str(PROGRAM), str(config)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def leaders(nodes: list[dict[str, Any]]) -> list[str]:
    return sorted(node["host"] for node in nodes if node["role"] == "primary")


def crowd(servers: ValkeyServers) -> None:
    """Let node1 lead two shards."""
    formed = run_module("valkey_cluster", {"nodes": servers.nodes(), **servers.login})
    replica = next(n for n in formed["nodes"] if n["role"] == "replica" and n["host"] == "node1")
    run_until(lambda: servers.cli(int(replica["name"].split(":")[1]), "CLUSTER", "FAILOVER") == "OK")
    planned = {"nodes": servers.nodes(), **servers.login}
    run_until(lambda: bool(run_module("valkey_cluster", planned, check=True)["plan"]))


def run_until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.mark.parametrize(("version", "secure"), [("8.1", True), ("9.1", False)], ids=["8.1 tls", "9.1 plain"])
def test_primaries_are_spread_without_a_controller(version: str, secure: bool, tmp_path: Path) -> None:
    with ValkeyServers(version, 6, secure=secure) as servers:
        crowd(servers)
        said: list[str] = []

        def spread() -> bool:
            for host in HOSTS:
                found = look(servers, host, tmp_path, quiet=1.0)
                assert found.returncode == 0, found.stderr
                said.extend(found.stdout.splitlines())
            return bool(said)

        run_until(spread)
        assert len(said) == 1
        assert "took over from" in said[0]
        after = run_module("valkey_cluster", {"nodes": servers.nodes(), **servers.login}, check=True)
        assert leaders(after["nodes"]) == list(HOSTS)
        assert after["plan"] == []
        servers.witness()


def test_nothing_happens_while_a_node_is_down(tmp_path: Path) -> None:
    with ValkeyServers("8.1", 6, secure=True) as servers:
        crowd(servers)
        before = run_module("valkey_cluster", {"nodes": servers.nodes(), **servers.login}, check=True)["nodes"]
        dead = next(n for n in before if n["role"] == "replica" and n["host"] == "node3")
        port = int(dead["name"].split(":")[1])
        servers.kill(port)
        others = [p for p in servers.ports if p != port]
        run_until(lambda: all("fail" in servers.cli(p, "CLUSTER", "NODES") for p in others))
        for _look in range(3):
            for host in HOSTS:
                found = look(servers, host, tmp_path, quiet=0.0)
                assert (found.returncode, found.stdout) == (0, ""), found
        servers.start(port)
        servers.wait(port)
        after = run_module("valkey_cluster_info", {"host": "127.0.0.1", "port": servers.ports[0], **servers.login})
        leading = {node["id"] for node in after["nodes"] if node["role"] == "primary"}
        assert leading == {node["id"] for node in before if node["role"] == "primary"}
