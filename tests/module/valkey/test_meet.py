# SPDX-License-Identifier: Apache-2.0
"""valkey_meet against real servers all of whose addresses change at once, as those of pods do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import parse_nodes
from run_module import fail_module, run_module
from valkey_servers import PASSWORD, ValkeyServers

KEYS = 300


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


class MovingServers(ValkeyServers):
    """Servers that have an address of their own each, and others after every move. The first move is none: 127.0.1.1 and so on."""

    move = 1

    def address(self, port: int) -> str:
        return f"127.0.{self.move}.{self.ports.index(port) + 1}"

    def _settings(self, port: int) -> dict[str, str]:
        where = self.address(port)
        # As a pod that sends from its own address; on loopback a server has to be told.
        moved = {"bind": where, "bind-source-addr": where, "cluster-announce-ip": where}
        return {**super()._settings(port), **moved}

    def wait(self, port: int) -> None:
        wait_for(lambda: "PONG" in self.cli(port, "PING", check=False))

    def cli(self, port: int, *words: str, check: bool = True) -> str:
        # No TLS on a Unix socket.
        command = [str(self.programs / "valkey-cli"), "--no-auth-warning", "-s", str(self.socket(port))]
        command += ["--user", "admin", "--pass", PASSWORD] if self.secure else []
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, check=check, timeout=30
        ).stdout.strip()

    def restart_elsewhere(self) -> None:
        for port in self.ports:
            self.kill(port)
        self.move += 1
        for port in self.ports:
            self.start(port)
        for port in self.ports:
            self.wait(port)

    def nodes(self, *_arguments: Any) -> list[dict[str, Any]]:
        places = enumerate(self.ports)
        return [{"address": self.address(port), "port": port, "host": f"pod{index}"} for index, port in places]

    @property
    def login(self) -> dict[str, Any]:
        # The certificate is for localhost and 127.0.0.1 alone.
        return {**super().login, "server_name": "localhost"} if self.secure else super().login

    def ask(self, lines: list[str]) -> list[str]:
        """Do commands as a client of the cluster that knows one server and is sent to the others."""
        command = [str(self.programs / "valkey-cli"), "-c", "-h", self.address(self.ports[0]), "-p", str(self.ports[0])]
        if self.certificates is not None:
            combined = str(self.certificates.combined)
            command += ["--tls", "--cacert", str(self.certificates.ca), "--cert", combined, "--key", combined]
            command += ["--no-auth-warning", "--user", "admin", "--pass", PASSWORD]
        found = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
        return [line for line in found.stdout.splitlines() if line and not line.startswith("->")]

    def states(self) -> set[str]:
        return {
            line for text in self.all("CLUSTER", "INFO").values() for line in text.splitlines() if "_state:" in line
        }


@pytest.mark.parametrize(("version", "secure"), [("8.1", True), ("9.1", False)])
def test_a_cluster_that_moved_as_a_whole_is_joined_again(version: str, secure: bool) -> None:
    """Down with new addresses, up by one run, keys and owners as before; twice over, as a pod moves more than once."""
    with MovingServers(
        version, 6, secure=secure, settings={"cluster-node-timeout": "2000", "appendonly": "yes"}
    ) as servers:
        run_module("valkey_cluster", {"nodes": servers.nodes(), **servers.login})
        assert run_module("valkey_meet", {"nodes": servers.nodes(), **servers.login})["changed"] is False
        assert servers.ask([f"SET key:{number} {number}" for number in range(KEYS)]) == ["OK"] * KEYS
        ids = servers.all("CLUSTER", "MYID")
        for _move in range(2):
            servers.restart_elsewhere()
            wait_for(lambda: servers.states() == {"cluster_state:fail"})
            wish = {"nodes": servers.nodes(), **servers.login}
            planned = run_module("valkey_meet", wish, check=True)
            assert planned["changed"]
            assert len(planned["met"]) == 5
            assert servers.states() == {"cluster_state:fail"}
            done = run_module("valkey_meet", wish)
            assert done["met"] == planned["met"]
            assert (done["strangers"], done["unreachable"]) == ([], [])
            assert servers.states() == {"cluster_state:ok"}
            assert servers.all("CLUSTER", "MYID") == ids
            where = {identity: servers.address(port) for port, identity in ids.items()}
            for text in servers.all("CLUSTER", "NODES").values():
                assert {node.id: node.address for node in parse_nodes(text).nodes} == where
            assert run_module("valkey_meet", wish)["changed"] is False
            assert servers.ask([f"GET key:{number}" for number in range(KEYS)]) == [
                str(number) for number in range(KEYS)
            ]


def test_a_server_that_lost_its_disk_is_no_member_and_is_not_met() -> None:
    with MovingServers("8.1", 6, settings={"cluster-node-timeout": "2000"}) as servers:
        run_module("valkey_cluster", {"nodes": servers.nodes()})
        lost = servers.ports[-1]
        servers.kill(lost)
        (servers.folder / str(lost) / "nodes.conf").unlink()
        servers.start(lost)
        servers.wait(lost)
        gone = {"address": "no-such-pod.invalid", "port": 6379}
        result = run_module("valkey_meet", {"nodes": [*servers.nodes(), gone]})
        assert result["strangers"] == [f"{servers.address(lost)}:{lost}"]
        assert result["changed"] is False
        assert "no-such-pod.invalid: name not found" in result["unreachable"][0]
        assert parse_nodes(servers.cli(lost, "CLUSTER", "NODES")).alone


def test_certificates_are_checked_for_the_name_that_is_given() -> None:
    with MovingServers("8.1", 1, secure=True) as servers:
        wish = {"nodes": servers.nodes(), **servers.login}
        assert run_module("valkey_meet", wish)["changed"] is False
        assert "TLS failed" in fail_module("valkey_meet", {**wish, "server_name": "another.example"})
        assert "TLS failed" in fail_module("valkey_meet", {**wish, "server_name": None})
