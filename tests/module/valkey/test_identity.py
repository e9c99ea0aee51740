# SPDX-License-Identifier: Apache-2.0
"""A lost or damaged nodes.conf comes back from what the other members know, on real servers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import valkey_load
from run_module import fail_module, run_module
from valkey_servers import ValkeyServers

KEYS = 1000


def arguments(servers: ValkeyServers, *ports: int) -> dict[str, object]:
    """Options of valkey_identity for instances of this machine."""
    nodes = [{"address": "127.0.0.1", "port": port} for port in servers.ports]
    return {
        "address": "127.0.0.1",
        "ports": list(ports),
        "data_dir": str(servers.folder),
        "nodes": nodes,
        **servers.login,
    }


def file_of(servers: ValkeyServers, port: int) -> Path:
    return servers.folder / str(port) / "nodes.conf"


def start(servers: ValkeyServers, *ports: int) -> None:
    for port in ports:
        servers.start(port)
    for port in ports:
        servers.wait(port)


@pytest.mark.parametrize(("version", "secure"), [("8.1", True), ("9.1", False)])
def test_identities_come_back(version: str, secure: bool) -> None:
    """Damaged, missing and emptied files, of primaries with all their data and of a replica; nobody loses an id, a slot or a key."""
    with ValkeyServers(version, 6, secure, {"appendonly": "yes", "cluster-require-full-coverage": "no"}) as servers:
        wish = {"nodes": servers.nodes(), **servers.login}
        formed = run_module("valkey_cluster", wish)
        valkey_load.fill(servers.ports[0], KEYS, 0, servers.login)
        ids = {int(node["name"].rpartition(":")[2]): node["id"] for node in formed["nodes"]}
        primaries = [port for port in servers.ports if "master" in servers.cli(port, "ROLE")]
        replica = next(port for port in servers.ports if port not in primaries)
        assert not run_module("valkey_identity", arguments(servers, *servers.ports))["changed"]

        # One runs: it has all in memory.
        running = primaries[0]
        file_of(servers, running).write_text("")
        assert run_module("valkey_identity", arguments(servers, running))["made"] == {str(running): ids[running]}
        assert ids[running] in file_of(servers, running).read_text()

        lost = [primaries[1], replica]
        for port in lost:
            servers.kill(port)
        damaged = file_of(servers, primaries[1])
        damaged.write_bytes(damaged.read_bytes()[:40] + b"\xff\x00")
        file_of(servers, replica).unlink()
        told = run_module("valkey_identity", arguments(servers, *lost), check=True)
        assert told["made"] == {str(port): ids[port] for port in lost}
        assert not file_of(servers, replica).exists()
        assert run_module("valkey_identity", arguments(servers, *lost))["made"] == told["made"]
        assert len(list(damaged.parent.glob("nodes.conf.damaged-*"))) == 1
        start(servers, *lost)
        run_module("valkey_cluster", wish)
        servers.witness()
        assert {port: servers.cli(port, "CLUSTER", "MYID") for port in servers.ports} == ids
        assert valkey_load.missing(servers.ports[0], KEYS, 0, servers.login) == []
        assert not run_module("valkey_identity", arguments(servers, *servers.ports))["changed"]
        assert not run_module("valkey_cluster", wish)["changed"]


def test_what_would_lose_data_is_refused() -> None:
    """Slots without their data, and a file that nobody can tell; an instance that is new is left alone."""
    with ValkeyServers("8.1", 4, settings={"appendonly": "yes"}) as servers:
        run_module("valkey_cluster", {"nodes": servers.nodes(ports=servers.ports[:3]), "replicas": 0})
        new, owner = servers.ports[3], servers.ports[0]
        file_of(servers, new).unlink()
        servers.kill(new)
        shutil.rmtree(servers.folder / str(new))
        assert not run_module("valkey_identity", arguments(servers, new))["changed"]
        servers.kill(owner)
        file_of(servers, owner).write_text("")
        shutil.move(servers.folder / str(owner) / "appendonlydir", servers.folder / "aside")
        message = fail_module("valkey_identity", arguments(servers, owner))
        assert "owns slots 0-5461 and has no data" in message
        shutil.move(servers.folder / "aside", servers.folder / str(owner) / "appendonlydir")
        for port in servers.ports[1:3]:
            servers.kill(port)
        message = fail_module("valkey_identity", arguments(servers, owner))
        assert f"nodes.conf is empty, and no other member that answers knows 127.0.0.1:{owner}" in message
        assert file_of(servers, owner).read_text() == ""
