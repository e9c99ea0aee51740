# SPDX-License-Identifier: Apache-2.0
"""Data and clients for tests and benchmarks of a Valkey cluster.

As a program it is one client, in a process of its own: it reads and writes keys of a cluster until its standard input is
closed, then prints what it saw as JSON.

    valkey_load.py PORT KEYS LOGIN_AS_JSON DATABASES

Databases are those of a cluster of Valkey 9 and later (setting cluster-databases): each has the same keys, with values of its own.
"""

from __future__ import annotations

import binascii
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from valkey.cluster import ClusterNode, ValkeyCluster

ROOT = Path(__file__).resolve().parents[2]
HASH_FIELDS = 1000
# Seconds for which a client waits for a server that is gone.
TIMEOUT = 5.0

# Database and name.
Key = tuple[int, str]


class Client(ValkeyCluster):
    """A cluster client that follows ASK to any node, as the cluster specification has it.

    valkey 6.2 and redis fail with AttributeError where they do not know the node yet (redis/redis-py#2432): a new node is
    listed by CLUSTER SLOTS once it owns a slot. strangers: such nodes, by name. followed: how often ASK led to one.

    The library knows database 0 only, so another one is set where it keeps how it connects to nodes.
    """

    def __init__(self, database: int = 0, **options: Any) -> None:
        self.strangers: dict[str, ClusterNode] = {}
        self.followed = 0
        super().__init__(**options)
        if database:
            self.nodes_manager.connection_kwargs["db"] = database
            for node in self.get_nodes():
                node.valkey_connection = None

    def get_node(self, host: Any = None, port: Any = None, node_name: Any = None) -> ClusterNode | None:
        """Return a node of the cluster, also one that is known by a redirection alone."""
        node = super().get_node(host, port, node_name)
        if node is None and node_name is not None:
            self.followed += 1
            address, _colon, number = node_name.rpartition(":")
            node = self.strangers.setdefault(node_name, ClusterNode(address, int(number)))
        return node


def cluster_client(port: int, login: Mapping[str, Any], database: int = 0) -> Client:
    """Return a client of the library `valkey` that knows the cluster by one node. login: options of the modules, and host unless it is
    127.0.0.1."""
    tls = {}
    if login:
        tls = {
            "ssl": True,
            "ssl_ca_certs": login["ca_cert"],
            "ssl_certfile": login["client_cert"],
            "ssl_keyfile": login.get("client_key", login["client_cert"]),
            "username": login["username"],
            "password": login["password"],
        }
    return Client(
        database,
        startup_nodes=[ClusterNode(login.get("host", "127.0.0.1"), port)],
        decode_responses=True,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        **tls,
    )


def slot_of(key: str) -> int:
    """Return the hash slot of a key without a hash tag (CRC-16/XMODEM, https://valkey.io/topics/cluster-spec/)."""
    return binascii.crc_hqx(key.encode(), 0) % 16384


def name(number: int) -> str:
    """Name of a filled string key."""
    return f"key:{number}"


def value(number: int, database: int = 0) -> str:
    """Value of a filled string key, 100 bytes."""
    return f"{number}:{database or ''}".ljust(100, "x")


def fill(port: int, strings: int, hashes: int, login: Mapping[str, Any] | None = None, databases: int = 1) -> None:
    """Write strings of 100 bytes, and hashes of 1,000 fields, to each of so many databases."""
    for database in range(databases):
        client = cluster_client(port, login or {}, database)
        pipes: dict[str, Any] = {}
        for number in range(strings):
            node = client.get_node_from_key(name(number))
            pipe = pipes.setdefault(node.name, client.get_valkey_connection(node).pipeline(transaction=False))
            pipe.set(name(number), value(number, database))
            if len(pipe) >= 1000:
                pipe.execute()
        for number in range(hashes):
            node = client.get_node_from_key(f"hash:{number}")
            pipe = pipes.setdefault(node.name, client.get_valkey_connection(node).pipeline(transaction=False))
            pipe.hset(f"hash:{number}", mapping={f"field:{n}": f"value:{n}" for n in range(HASH_FIELDS)})
            if len(pipe) >= 20:
                pipe.execute()
        for pipe in pipes.values():
            pipe.execute()
        client.close()


def missing(
    port: int, strings: int, hashes: int, login: Mapping[str, Any] | None = None, databases: int = 1
) -> list[str]:
    """Return names of filled keys that are not there or have another value, as DATABASE/KEY."""
    return [
        f"{database}/{key}"
        for database in range(databases)
        for key in _missing(cluster_client(port, login or {}, database), strings, hashes, database)
    ]


def _missing(client: Client, strings: int, hashes: int, database: int) -> list[str]:
    wrong = []
    by_node: dict[str, list[int]] = {}
    for number in range(strings):
        by_node.setdefault(client.get_node_from_key(name(number)).name, []).append(number)
    for node, numbers in by_node.items():
        plain = client.get_valkey_connection(client.get_node(node_name=node))
        for first in range(0, len(numbers), 1000):
            part = numbers[first : first + 1000]
            pipe = plain.pipeline(transaction=False)
            for number in part:
                pipe.get(name(number))
            found = pipe.execute()
            wrong += [name(n) for n, was in zip(part, found, strict=True) if was != value(n, database)]
    wrong += [f"hash:{n}" for n in range(hashes) if client.hlen(f"hash:{n}") != HASH_FIELDS]
    client.close()
    return wrong


class Load:
    """A client beside what is tested, of so many databases in turn. After the block `seen` has what it saw.

    seen: operations, errors (texts), error_times, unknown (redirections to nodes that the library did not know), wrong (keys
    that had another value than acknowledged), wrong_times (when it was acknowledged, 0 for keys filled before), p50, p99,
    longest (ms). Times are seconds since the epoch.
    """

    def __init__(self, port: int, keys: int, login: Mapping[str, Any] | None = None, databases: int = 1) -> None:
        self._command = [sys.executable, __file__, str(port), str(keys), json.dumps(login or {}), str(databases)]
        self.seen: dict[str, Any] = {}

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_details: object) -> None:
        output, _errors = self._process.communicate(timeout=60)
        self.seen = json.loads(output)


def percentile(ordered: list[float], part: float) -> float:
    """Return a percentile of sorted samples."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def _client(port: int, keys: int, login: Mapping[str, Any], databases: int) -> dict[str, Any]:
    """Read filled keys and write own ones until standard input is closed."""
    clients = [cluster_client(port, login, database) for database in range(databases)]
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    latencies: list[float] = []
    errors: list[tuple[float, str]] = []
    wrong: list[tuple[float, str]] = []
    written: dict[Key, tuple[float, str]] = {}
    turn = 0
    for client in clients:
        client.ping()
    print("ready", flush=True)
    threading.Thread(target=wait, daemon=True).start()
    while not over.is_set():
        turn += 1
        number = random.randrange(keys)
        database = turn // 2 % databases
        client, own = clients[database], (database, f"own:{number}")
        begin = time.perf_counter()
        try:
            if turn % 2:
                if client.get(name(number)) != value(number, database):
                    wrong.append((0.0, name(number)))
            else:
                client.set(own[1], str(turn))
                written[own] = (time.time(), str(turn))
        except Exception as error:
            # Whatever a client of the cluster would see counts. What became of a write nobody knows.
            errors.append((time.time(), repr(error)))
            if turn % 2 == 0:
                written.pop(own, None)
        latencies.append((time.perf_counter() - begin) * 1000)
    last = {own: clients[own[0]].get(own[1]) for own in written}
    wrong += [(when, key) for (database, key), (when, was) in written.items() if last[database, key] != was]
    latencies.sort()
    return {
        "operations": len(latencies),
        "errors": [text for _when, text in errors],
        "error_times": [when for when, _text in errors],
        "unknown": sum(client.followed for client in clients),
        "wrong": [key for _when, key in wrong],
        "wrong_times": [when for when, _key in wrong],
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "longest": latencies[-1],
    }


if __name__ == "__main__":
    print(json.dumps(_client(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))))
