"""Members join, vote in and leave a real etcd cluster on loopback."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_module import fail_module, run_module
from valkey_servers import ROOT, make_certificates


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


class Etcd:
    """A cluster of etcd servers over TLS, by name."""

    def __init__(self, folder: Path) -> None:
        command = [str(ROOT / "tools/servers"), "trixie", "etcd-server", "etcd-client"]
        programs = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()) / "run"
        self._program, self._control = programs / "etcd", programs / "etcdctl"
        self._folder = folder
        self._tls = make_certificates(folder / "tls")
        self.peers: dict[str, str] = {}
        self.clients: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def reserve(self, name: str) -> None:
        """Choose the addresses of a server."""
        self.peers[name] = f"https://127.0.0.1:{free_port()}"
        self.clients[name] = f"https://127.0.0.1:{free_port()}"

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
            "heartbeat-interval": "50", "election-timeout": "500", "log-level": "error", **files,
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
        command = [str(self._control), *files, f"--endpoints={','.join(running)}", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def decides(self) -> bool:
        """Return whether a write succeeds."""
        return self.control("--command-timeout=2s", "put", "key", "value").returncode == 0

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


def test_where_no_cluster_runs_there_is_nothing_to_join(etcd: Etcd) -> None:
    for name in ("a", "b"):
        etcd.reserve(name)
    told = run_module("etcd_member", etcd.asked("a", "joined", data_dir=str(etcd.data("a")), timeout=1))
    assert (told["changed"], told["cluster_found"], told["starts_as"]) == (False, False, "")


def test_a_member_joins_votes_loses_its_data_and_leaves(etcd: Etcd) -> None:
    etcd.found(["a", "b", "c"])
    etcd.reserve("d")
    joined = etcd.asked("d", "joined", data_dir=str(etcd.data("d")))
    left = etcd.asked("d", "absent")

    told = run_module("etcd_member", joined, check=True)
    assert told["changed"]
    assert len(etcd.members()) == 3
    done = run_module("etcd_member", joined)
    assert done["steps"] == told["steps"] == [f"add d ({etcd.peers['d']}) as a learner"]
    assert etcd.members()[etcd.peers["d"]] == "true"
    again = run_module("etcd_member", joined)
    assert (again["changed"], again["starts_as"]) == (False, done["starts_as"])
    assert set(done["starts_as"].split(",")) == {f"{name}={url}" for name, url in etcd.peers.items()}

    etcd.start("d", done["starts_as"], "existing")
    assert run_module("etcd_member", etcd.asked("d", "voting"))["changed"]
    assert set(etcd.members().values()) == {"false"}
    assert not run_module("etcd_member", etcd.asked("d", "voting"))["changed"]
    assert not run_module("etcd_member", joined)["changed"]

    etcd.stop("d")
    shutil.rmtree(etcd.data("d"))
    anew = run_module("etcd_member", joined)
    assert anew["steps"] == ["remove d, which lost its data", f"add d ({etcd.peers['d']}) as a learner"]
    etcd.start("d", anew["starts_as"], "existing")
    assert run_module("etcd_member", etcd.asked("d", "voting"))["changed"]

    assert run_module("etcd_member", left, check=True)["changed"]
    assert len(etcd.members()) == 4
    assert run_module("etcd_member", left)["changed"]
    assert not run_module("etcd_member", left)["changed"]
    assert etcd.peers["d"] not in etcd.members()
    assert "does not know it" in fail_module("etcd_member", joined)


def test_what_would_break_the_quorum_is_refused(etcd: Etcd) -> None:
    etcd.found(["a", "b", "c"])
    before = etcd.members()
    assert "1 more may be lost" in fail_module("etcd_member", etcd.asked("c", "absent"))
    etcd.stop("c")
    assert "1 more may be lost" in fail_module("etcd_member", etcd.asked("b", "absent"), check=True)
    assert "they can decide" in fail_module("etcd_member", etcd.asked("b", "absent", spare=0))
    assert etcd.members() == before
    assert run_module("etcd_member", etcd.asked("c", "absent", spare=0))["changed"]
    assert etcd.decides()
