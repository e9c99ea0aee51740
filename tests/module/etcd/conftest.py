# SPDX-License-Identifier: Apache-2.0
"""A real etcd cluster on loopback, over TLS."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import Connection
from ports import free_ports
from valkey_servers import ROOT, make_certificates


class Etcd:
    """A cluster of etcd servers over TLS, by name."""

    def __init__(self, folder: Path) -> None:
        command = [str(ROOT / "tools/servers"), "trixie", "etcd-server", "etcd-client"]
        programs = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()) / "run"
        self._program, self._control = programs / "etcd", programs / "etcdctl"
        self._folder = folder
        # With authentication on etcd's gateway refuses client certificates that have a common name.
        self._tls = make_certificates(folder / "tls", name="")
        self.peers: dict[str, str] = {}
        self.clients: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # Bytes that a member's database may take, 0 for etcd's default; and who etcdctl logs in as.
        self.quota = 0
        self.user = ""

    def reserve(self, name: str) -> None:
        """Choose the addresses of a server."""
        peer, client = free_ports(2)
        self.peers[name] = f"https://127.0.0.1:{peer}"
        self.clients[name] = f"https://127.0.0.1:{client}"

    def data(self, name: str) -> Path:
        """Return a server's data folder."""
        return self._folder / name

    def start(self, name: str, initial: str, state: str) -> None:
        """Start a server."""
        ca, own = str(self._tls.ca), str(self._tls.combined)
        files = {"cert-file": own, "key-file": own, "trusted-ca-file": ca, "peer-cert-file": own, "peer-key-file": own,
                 "peer-trusted-ca-file": ca}  # fmt: skip
        options = {
            "name": name, "data-dir": str(self.data(name)), "listen-peer-urls": self.peers[name],
            "initial-advertise-peer-urls": self.peers[name], "listen-client-urls": self.clients[name],
            "advertise-client-urls": self.clients[name], "initial-cluster": initial, "initial-cluster-state": state,
            "quota-backend-bytes": str(self.quota), "heartbeat-interval": "50", "election-timeout": "500", "log-level": "error", **files,
        }  # fmt: skip
        words = [f"--{option}={value}" for option, value in options.items()]
        self._processes[name] = subprocess.Popen(
            [self._program, *words, "--client-cert-auth", "--peer-client-cert-auth"]
        )

    def found(self, names: list[str]) -> None:
        """Start servers as a new cluster and wait until it decides."""
        for name in names:
            self.reserve(name)
        for name in names:
            self.start(name, ",".join(f"{other}={self.peers[other]}" for other in names), "new")
        deadline = time.monotonic() + 60
        while not self.decides():
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run etcdctl."""
        files = [f"--cacert={self._tls.ca}", f"--cert={self._tls.combined}", f"--key={self._tls.combined}"]
        running = [self.clients[name] for name, process in self._processes.items() if process.poll() is None]
        login = [f"--user={self.user}"] if self.user else []
        asked = [] if words[0].startswith("--endpoints=") else [f"--endpoints={','.join(running)}"]
        command = [str(self._control), *files, *login, *asked, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @property
    def connection(self) -> Connection:
        """How the collection's own client reaches the servers."""
        return Connection(tuple(self.clients.values()), str(self._tls.ca), str(self._tls.combined), timeout=5)

    def decides(self) -> bool:
        """Return whether a write succeeds."""
        return self.control("--command-timeout=2s", "put", "key", "value").returncode == 0

    def revision(self) -> str:
        """Return the newest revision."""
        told = self.control("endpoint", "status", "--write-out=json").stdout
        return str(max(one["Status"]["header"]["revision"] for one in json.loads(told)))

    def members(self) -> dict[str, str]:
        """Return what etcdctl lists: `true` for a learner, by peer URL."""
        rows = [line.split(", ") for line in self.control("member", "list").stdout.splitlines()]
        return {row[3]: row[5] for row in rows}

    def stop(self, name: str) -> None:
        """Kill a server."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        """Kill all servers."""
        for name in list(self._processes):
            with contextlib.suppress(ProcessLookupError):
                self.stop(name)

    def asked(self, name: str, state: str, **options: Any) -> dict[str, Any]:
        """Return the module's options for a member, to be asked of the others."""
        return {
            "name": name,
            "peer_url": self.peers[name],
            "state": state,
            "endpoints": [url for other, url in self.clients.items() if other != name],
            "ca_cert": str(self._tls.ca),
            "client_cert": str(self._tls.combined),
            "patience": 30,
            **options,
        }


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """Servers that end with the test."""
    servers = Etcd(tmp_path)
    yield servers
    servers.close()
