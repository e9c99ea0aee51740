# SPDX-License-Identifier: Apache-2.0
"""Clients of the Valkey cluster that record all they do, each a thread that ends when `over` is set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from valkey.cluster import ClusterNode, ValkeyCluster
from valkey.crc import key_slot
from valkey.exceptions import ResponseError, ValkeyClusterException, ValkeyError

from faults.history import History, Operation, Outcome
from faults.lab import Lab

PAUSE = 0.03
COUNTERS = 12
SHARDS = 3
BATCH = 500
TIMEOUT = 2.0
WAIT_MS = 1000
# Replies that say that the server refused the command; MOVED and ASK come as ResponseError too.
REFUSALS = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS")


def connect(lab: Lab) -> ValkeyCluster:
    """Return a cluster client that tells every error instead of trying again by itself."""
    words = lab.environment
    return ValkeyCluster(
        startup_nodes=[ClusterNode(machine.address, int(words["VALKEY_PORT"])) for machine in lab.machines.values()],
        username=words["VALKEY_USER"],
        password=words["VALKEY_PASSWORD"],
        ssl=True,
        ssl_ca_certs=words["VALKEY_CACERT"],
        ssl_certfile=words["VALKEY_CERT"],
        ssl_keyfile=words["VALKEY_KEY"],
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        decode_responses=True,
    )


def shard_of(key: str) -> int:
    """Return which of the lab's shards a key is in; a failover lets another server lead, the shard stays."""
    return key_slot(key.encode()) * SHARDS // 16384


class Client:
    """Writes by one way: plain writes, or writes that wait for a replica on the same connection."""

    def __init__(self, lab: Lab, name: str, workload: str, history: History, over: threading.Event) -> None:
        self._lab = lab
        self.name = name
        self.workload = workload
        self._history = history
        self._over = over
        self._cluster: ValkeyCluster | None = None

    def loop(self, turn: Callable[[int], None]) -> None:
        """Call turn with 1, 2, … until it is over."""
        number = 0
        while not self._over.is_set():
            number += 1
            turn(number)
            time.sleep(PAUSE)

    def write(self, key: str, value: Any, command: tuple[Any, ...], wait: bool) -> None:
        """Send a command to the owner of its key and record it; with wait, acknowledged means on a replica too."""
        start = time.monotonic()
        problem, outcome = "", Outcome.FAILED
        try:
            if self._cluster is None:
                self._cluster = connect(self._lab)
            node = self._cluster.get_node_from_key(key)
            pipe = self._cluster.get_valkey_connection(node).pipeline(transaction=False)
            pipe.execute_command(*command)
            if wait:
                pipe.wait(1, WAIT_MS)
            outcome = Outcome.UNKNOWN
            replies = pipe.execute(raise_on_error=False)
            outcome, problem = _judged(replies, wait)
        except (ValkeyError, ValkeyClusterException, OSError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}".strip()
        if problem:
            self._again()
        words = (self.name, self.workload, f"valkey {self.workload}", "write", key, value)
        now = time.monotonic()
        self._history.operations.append(Operation(*words, start, now, outcome, None, problem, shard_of(key)))

    def _again(self) -> None:
        """Ask for the topology anew; a client that cannot even do that starts from the seeds next time."""
        try:
            if self._cluster is not None:
                self._cluster.nodes_manager.initialize()
        except (ValkeyError, ValkeyClusterException, OSError):
            self._cluster = None
        time.sleep(0.1)


def _judged(replies: list[Any], wait: bool) -> tuple[Outcome, str]:
    first = replies[0]
    if isinstance(first, ResponseError) or (isinstance(first, ValkeyError) and not isinstance(first, OSError)):
        text = str(first)
        refused = any(word in f"{type(first).__name__} {text}".upper() for word in REFUSALS)
        return (Outcome.FAILED if refused else Outcome.UNKNOWN), f"{type(first).__name__}: {text}"
    if isinstance(first, Exception):
        return Outcome.UNKNOWN, f"{type(first).__name__}: {first}"
    if wait and not (isinstance(replies[1], int) and replies[1] >= 1):
        return Outcome.UNKNOWN, f"WAIT: {replies[1]} replicas"
    return Outcome.ACKNOWLEDGED, ""


def set_writer(client: Client, wait: bool) -> None:
    """Write keys that nobody else writes, once each."""

    def turn(number: int) -> None:
        key = f"fault:{client.workload}:{client.name}:{number}"
        client.write(key, key, ("SET", key, number), wait)

    client.loop(turn)


def counter(client: Client, wait: bool) -> None:
    """Count up."""

    def turn(number: int) -> None:
        key = f"fault:counter:{client.name}:{number % COUNTERS}"
        client.write(key, number, ("INCR", key), wait)

    client.loop(turn)


def prepare(lab: Lab) -> None:
    """Remove what an earlier campaign left."""
    with connect(lab) as cluster:
        for some in _batches(cluster):
            pipe = cluster.pipeline()
            for key in some:
                pipe.delete(key)
            pipe.execute()


def final(lab: Lab) -> dict[str, str]:
    """Read all keys of the campaign."""
    found: dict[str, str] = {}
    with connect(lab) as cluster:
        for some in _batches(cluster):
            pipe = cluster.pipeline()
            for key in some:
                pipe.get(key)
            found.update(zip(some, pipe.execute(), strict=True))
    return found


def _batches(cluster: ValkeyCluster) -> Iterator[list[str]]:
    keys = sorted(set(cluster.scan_iter("fault:*", count=1000, target_nodes=ValkeyCluster.PRIMARIES)))
    for first in range(0, len(keys), BATCH):
        yield keys[first : first + BATCH]


def all_clients(lab: Lab, history: History, over: threading.Event) -> list[threading.Thread]:
    """Return every client as a thread to be started."""

    def client(name: str, workload: str) -> Client:
        return Client(lab, name, workload, history, over)

    work: list[tuple[Callable[[Client, bool], None], Client, bool]] = [
        (set_writer, client("setter1", "plain"), False),
        (set_writer, client("setter2", "waited"), True),
        (set_writer, client("setter3", "waited"), True),
        (counter, client("counter1", "counter"), True),
    ]
    return [threading.Thread(target=task, args=(who, wait), daemon=True) for task, who, wait in work]
