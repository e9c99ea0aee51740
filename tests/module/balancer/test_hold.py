# SPDX-License-Identifier: Apache-2.0
"""New connections wait for a primary that can take them, and no longer."""

from __future__ import annotations

import contextlib
import csv
import pathlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from ports import free_ports

from .conftest import ROOT

# Seconds, with room for a busy machine: HAProxy's own repetitions after a refusal would take 2.5 s.
SOON = 1.5
CONFIGURATION = """
global
    stats socket {folder}/admin.sock level admin
    lua-load {script}
defaults
    mode tcp
    option redispatch 1
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout check 1s
    default-server check inter 100ms rise 1 fall 1 on-marked-down shutdown-sessions
frontend read_write
    bind 127.0.0.1:{front}
    tcp-request inspect-delay 45s
    tcp-request content lua.hold members {seconds} single none
    default_backend members
frontend read_only
    bind 127.0.0.1:{front_replicas}
    tcp-request inspect-delay 45s
    tcp-request content lua.hold replicas {seconds} any members
    use_backend members if {{ nbsrv(replicas) eq 0 }}
    default_backend replicas
backend members
    use-server %[var(txn.member)] if {{ var(txn.member) -m found }}
    server node1 127.0.0.1:{one} port {check_one}
    server node2 127.0.0.1:{two} port {check_two}
backend replicas
    balance leastconn
    use-server %[var(txn.member)] if {{ var(txn.member) -m found }}
    server node3 127.0.0.1:{three} port {check_three}
    server node4 127.0.0.1:{four} port {check_four}
"""


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    """A server that greets who connects."""
    server = socket.create_server(("127.0.0.1", port))

    def greet() -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _address = server.accept()
                with link, contextlib.suppress(OSError):
                    link.sendall(b"hello")

    thread = threading.Thread(target=greet)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@contextlib.contextmanager
def silent(port: int) -> Iterator[None]:
    """A server that answers nobody, as where its host is gone: its queue is full, and further connections wait for it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen(0)
        for _link in range(3):
            link = stack.enter_context(socket.socket())
            link.setblocking(False)
            link.connect_ex(("127.0.0.1", port))
        yield


class Balancer:
    """HAProxy with two members and two replicas, each a port that is used and one that is checked."""

    def __init__(self, program: str, folder: pathlib.Path, seconds: int = 35) -> None:
        self.front, self.front_replicas, *ports = free_ports(10)
        self.one, self.two, self.three, self.four, *checks = ports
        self.check_one, self.check_two, self.check_three, self.check_four = checks
        path = folder / "haproxy.cfg"
        script = ROOT / "roles/haproxy/files/hold.lua"
        path.write_text(CONFIGURATION.format(folder=folder, script=script, seconds=seconds, **vars(self)))
        self._folder = folder
        self._command = [program, "-db", "-f", str(path)]

    def __enter__(self) -> Balancer:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.front)).close()
                return self
            assert time.monotonic() < deadline, "HAProxy did not start"
            # A port that is not open yet refuses at once: without a rest this would take the core that HAProxy starts on.
            time.sleep(0.02)

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def connect(self, front: int = 0) -> float:
        """Connect as a client does, to the primary if not told otherwise; return how long it took until a member greeted, in seconds."""
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", front or self.front), timeout=60) as link:
            # A client that speaks first, as those of PostgreSQL do.
            link.sendall(b"startup")
            assert link.recv(5) == b"hello"
        return time.monotonic() - begun

    def servers(self, backend: str) -> dict[str, dict[str, str]]:
        """Return what HAProxy tells of each server of a backend, by its name."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self._folder / "admin.sock"))
            link.sendall(b"show stat\n")
            rows = list(csv.DictReader(link.makefile()))
        return {row["svname"]: row for row in rows if row["# pxname"] == backend and row["svname"] != "BACKEND"}

    def await_up(self, backend: str, *names: str) -> None:
        """Wait until these servers of a backend count as up, and no other one."""
        deadline = time.monotonic() + 30
        while {name for name, told in self.servers(backend).items() if told["status"].startswith("UP")} != set(names):
            assert time.monotonic() < deadline, self.servers(backend)
            time.sleep(0.02)


@pytest.fixture(name="balancer")
def _balancer(haproxy: str, tmp_path: pathlib.Path) -> Iterator[Balancer]:
    with Balancer(haproxy, tmp_path) as running:
        yield running


def waits(balancer: Balancer, act: Callable[[], object], front: int = 0) -> float:
    """Connect, do something after half a second, and return how long after that the connection was there."""
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(balancer.connect(front)))
    thread.start()
    # Time in which a connection that is not held would have been answered many times over.
    time.sleep(0.5)
    assert not found
    begun = time.monotonic()
    act()
    thread.join()
    return time.monotonic() - begun


def soon(attempt: Callable[[], float]) -> bool:
    """Whether one of three attempts took less than SOON: a busy machine may be late, HAProxy's own timers are each time."""
    return any(attempt() < SOON for _attempt in range(3))


def test_with_a_primary_nobody_waits(balancer: Balancer) -> None:
    with listening(balancer.one), listening(balancer.check_one):
        balancer.await_up("members", "node1")
        assert soon(lambda: max(balancer.connect() for _each in range(20)))


def test_a_primary_that_opens_late_is_used_at_once(balancer: Balancer) -> None:
    """It counts as up and refuses connections, as after a crash: HAProxy itself would try again after seconds only."""

    def attempt() -> float:
        with contextlib.ExitStack() as stack:
            stack.enter_context(listening(balancer.check_one))
            balancer.await_up("members", "node1")
            return waits(balancer, lambda: stack.enter_context(listening(balancer.one)))

    assert soon(attempt)


def test_another_primary_is_used_although_the_old_one_refuses(balancer: Balancer) -> None:
    def attempt() -> float:
        with contextlib.ExitStack() as stack:
            old = stack.enter_context(contextlib.ExitStack())
            old.enter_context(listening(balancer.check_one))
            balancer.await_up("members", "node1")

            def fail_over() -> None:
                old.close()
                stack.enter_context(listening(balancer.two))
                stack.enter_context(listening(balancer.check_two))

            return waits(balancer, fail_over)

    assert soon(attempt)


def test_of_two_that_count_as_up_none_is_used(balancer: Balancer) -> None:
    def attempt() -> float:
        with contextlib.ExitStack() as stack:
            for port in (balancer.one, balancer.two, balancer.check_two):
                stack.enter_context(listening(port))
            second = stack.enter_context(contextlib.ExitStack())
            second.enter_context(listening(balancer.check_one))
            balancer.await_up("members", "node1", "node2")
            return waits(balancer, second.close)

    assert soon(attempt)


def test_a_replica_whose_host_is_gone_gets_no_connection(balancer: Balancer) -> None:
    """It counts as up until its checks have failed; connections would wait for it, and be forgotten when it is marked down."""

    def attempt() -> float:
        with contextlib.ExitStack() as stack:
            for port in (balancer.four, balancer.check_four):
                stack.enter_context(listening(port))
            stack.enter_context(silent(balancer.three))
            check = stack.enter_context(contextlib.ExitStack())
            check.enter_context(listening(balancer.check_three))
            balancer.await_up("replicas", "node3", "node4")
            found: list[float] = []
            threads = [
                threading.Thread(target=lambda: found.append(balancer.connect(balancer.front_replicas)))
                for _each in range(6)
            ]
            for thread in threads:
                thread.start()
            # The member is marked down while connections to it would still be under way.
            time.sleep(0.2)
            check.close()
            for thread in threads:
                thread.join()
            assert len(found) == len(threads)
            return max(found)

    assert soon(attempt)


def test_where_the_last_replica_goes_the_primary_is_used(balancer: Balancer) -> None:
    def attempt() -> float:
        with contextlib.ExitStack() as stack:
            for port in (balancer.one, balancer.check_one):
                stack.enter_context(listening(port))
            last = stack.enter_context(contextlib.ExitStack())
            last.enter_context(listening(balancer.check_three))
            balancer.await_up("replicas", "node3")
            return waits(balancer, last.close, balancer.front_replicas)

    assert soon(attempt)


def test_connections_are_spread_over_replicas(balancer: Balancer) -> None:
    with contextlib.ExitStack() as stack:
        for port in (balancer.three, balancer.four, balancer.check_three, balancer.check_four):
            stack.enter_context(listening(port))
        balancer.await_up("replicas", "node3", "node4")
        for _each in range(20):
            balancer.connect(balancer.front_replicas)
        assert min(int(server["stot"]) for server in balancer.servers("replicas").values()) >= 8


def test_the_wait_is_bounded(haproxy: str, tmp_path: pathlib.Path) -> None:
    with Balancer(haproxy, tmp_path, seconds=2) as balancer, listening(balancer.check_one):
        begun = time.monotonic()
        with pytest.raises((AssertionError, OSError)):
            balancer.connect()
        assert 1 < time.monotonic() - begun < 20
