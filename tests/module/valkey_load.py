"""Data and clients for tests and benchmarks of a Valkey cluster.

As a program it is one client, in a process of its own: it reads and writes keys of a cluster until its standard input is
closed, then prints what it saw as JSON.

    valkey_load.py PORT KEYS [login as JSON]
"""

from __future__ import annotations

import binascii
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from valkey.cluster import ClusterNode, ValkeyCluster

ROOT = Path(__file__).resolve().parents[2]
HASH_FIELDS = 1000


def cluster_client(port: int, login: Mapping[str, Any]) -> ValkeyCluster:
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
    return ValkeyCluster(
        startup_nodes=[ClusterNode(login.get("host", "127.0.0.1"), port)], decode_responses=True, **tls
    )


def slot_of(key: str) -> int:
    """Return the hash slot of a key without a hash tag (CRC-16/XMODEM, https://valkey.io/topics/cluster-spec/)."""
    return binascii.crc_hqx(key.encode(), 0) % 16384


def name(number: int) -> str:
    """Name of a filled string key."""
    return f"key:{number}"


def value(number: int, size: int = 100) -> str:
    """Value of a filled string key."""
    return f"{number}:".ljust(size, "x")


def fill(port: int, strings: int, hashes: int, login: Mapping[str, Any] | None = None) -> None:
    """Write strings of 100 bytes, and hashes of 1,000 fields."""
    client = cluster_client(port, login or {})
    pipes = {}
    for number in range(strings):
        node = client.get_node_from_key(name(number))
        pipe = pipes.setdefault(node.name, client.get_valkey_connection(node).pipeline(transaction=False))
        pipe.set(name(number), value(number))
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


def missing(port: int, strings: int, hashes: int, login: Mapping[str, Any] | None = None) -> list[str]:
    """Return names of filled keys that are not there or have another value."""
    client = cluster_client(port, login or {})
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
            wrong += [name(n) for n, was in zip(part, found, strict=True) if was != value(n)]
    wrong += [f"hash:{n}" for n in range(hashes) if client.hlen(f"hash:{n}") != HASH_FIELDS]
    client.close()
    return wrong


class Load:
    """A client beside what is tested. After the block `seen` has what it saw.

    seen: operations, errors (texts), unknown (redirections that the library could not follow), wrong (reads of another
    value than acknowledged), p50, p99, longest (ms).
    """

    def __init__(self, port: int, keys: int, login: Mapping[str, Any] | None = None) -> None:
        self._command = [sys.executable, __file__, str(port), str(keys), json.dumps(login or {})]
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


def _client(port: int, keys: int, login: Mapping[str, Any]) -> dict[str, Any]:
    """Read filled keys and write own ones until standard input is closed."""
    client = cluster_client(port, login)
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    latencies: list[float] = []
    errors: list[str] = []
    wrong: list[str] = []
    written: dict[str, str] = {}
    turn = unknown = 0
    client.ping()
    print("ready", flush=True)
    threading.Thread(target=wait, daemon=True).start()
    while not over.is_set():
        turn += 1
        number = random.randrange(keys)
        begin = time.perf_counter()
        try:
            if turn % 2:
                if client.get(name(number)) != value(number):
                    wrong.append(name(number))
            else:
                client.set(f"own:{number}", str(turn))
                written[f"own:{number}"] = str(turn)
        except AttributeError as error:
            # valkey 6.1 follows ASK only to nodes that it knows; a new node is listed by CLUSTER SLOTS once it owns a slot.
            if "valkey_connection" not in str(error):
                raise
            unknown += 1
            client.nodes_manager.initialize()
        except Exception as error:
            # Whatever else a client of the cluster would see counts.
            errors.append(repr(error))
        latencies.append((time.perf_counter() - begin) * 1000)
    wrong += [key for key, was in _last(client, written) if was != written[key]]
    latencies.sort()
    return {
        "operations": len(latencies),
        "errors": errors,
        "unknown": unknown,
        "wrong": wrong,
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "longest": latencies[-1],
    }


def _last(client: ValkeyCluster, written: Iterable[str]) -> list[tuple[str, Any]]:
    return [(key, client.get(key)) for key in written]


if __name__ == "__main__":
    print(json.dumps(_client(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))))
