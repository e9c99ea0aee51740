# SPDX-License-Identifier: Apache-2.0
"""Libraries of functions come along when a shard is added, before a client can call one there; differences are found."""

from __future__ import annotations

import threading

import pytest
import valkey_load
from run_module import run_module
from valkey_servers import ValkeyServers

SETTINGS = {"maxmemory": "0", "cluster-allow-replica-migration": "no"}
KEYS = 4000


def library(name: str, answer: int) -> str:
    """Code of a library with one function of its name."""
    return f"#!lua name={name}\nserver.register_function('{name}', function(keys) return {answer} end)"


def wish(servers: ValkeyServers, weights: list[int]) -> dict[str, object]:
    """Primaries only, each server a host."""
    nodes = [
        {**node, "host": f"host{n}", "zone": "", "weight": weight}
        for n, (node, weight) in enumerate(zip(servers.nodes(), weights, strict=True))
    ]
    return {"nodes": nodes, "replicas": 0}


class Calls(threading.Thread):
    """A client that calls a function with one key after the other."""

    def __init__(self, servers: ValkeyServers) -> None:
        super().__init__()
        self._client = valkey_load.cluster_client(servers.ports[0], {})
        self._end = threading.Event()
        self.done = 0
        self.errors: list[str] = []

    def __enter__(self) -> Calls:
        self.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._end.set()
        self.join()
        self._client.close()

    def run(self) -> None:
        """Call until the end."""
        while not self._end.is_set():
            self.done += 1
            try:
                assert self._client.fcall("one", 1, f"key:{self.done % KEYS}") == 1
            except Exception as error:
                self.errors.append(repr(error))


@pytest.mark.parametrize(("version", "way"), [("8.1", "keys"), ("9.1", "atomic")])
def test_a_new_shard_has_the_functions_before_its_first_slot(version: str, way: str) -> None:
    """Under a client that calls them; stale code that the new server brings along is replaced; by valkey_slots as well."""
    with ValkeyServers(version, 4, settings=SETTINGS) as servers:
        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        valkey_load.fill(servers.ports[0], KEYS, 0)
        new = servers.ports[3]
        for port in servers.ports[:3]:
            servers.cli(port, "FUNCTION", "LOAD", library("one", 1))
            servers.cli(port, "FUNCTION", "LOAD", library("two", 2))
        servers.cli(new, "FUNCTION", "LOAD", library("one", 0))
        planned = run_module("valkey_cluster", wish(servers, [1, 1, 1, 1]), check=True)
        assert {"load library one on host3:" + str(new), "load library two on host3:" + str(new)} <= set(
            planned["plan"]
        )
        assert "two" not in servers.cli(new, "FUNCTION", "LIST")
        with Calls(servers) as calls:
            grown = run_module("valkey_cluster", wish(servers, [1, 1, 1, 1]))
        assert calls.errors == []
        assert calls.done > 100
        assert (grown["migration"], grown["slots_moved"]) == (way, 4096)
        for name, answer in (("one", 1), ("two", 2)):
            codes = servers.all("FUNCTION", "LIST", "LIBRARYNAME", name, "WITHCODE").values()
            assert len(set(codes)) == 1
            assert f"return {answer}" in next(iter(codes))
        again = run_module("valkey_cluster", wish(servers, [1, 1, 1, 1]))
        assert not again["changed"]

        run_module("valkey_cluster", wish(servers, [1, 1, 1, 0]))
        servers.cli(new, "FUNCTION", "FLUSH")
        me = servers.cli(new, "CLUSTER", "MYID")
        entry = {"host": "127.0.0.1", "port": servers.ports[0]}
        done = run_module("valkey_slots", {**entry, "pins": [{"node": me, "slots": "0-9"}]})["done"]
        assert [line for line in done if line.startswith("load library")] == [
            f"load library {name} on 127.0.0.1:{new}" for name in ("one", "two")
        ]
        assert done[-1].startswith("0-9 ")

        servers.cli(new, "FUNCTION", "DELETE", "two")
        servers.cli(new, "FUNCTION", "LOAD", "REPLACE", library("one", 7))
        nodes = {**wish(servers, [1, 1, 1, 1]), "fail_on": "none"}
        found = run_module("valkey_replication_check", nodes)["findings"]
        assert [(item["rule"], item["where"]) for item in found] == [
            ("functions_missing", f"host3:{new}"),
            ("functions_differ", f"host3:{new}"),
        ]
        # As the runbook has it.
        seed = f"127.0.0.1:{servers.ports[0]}"
        for name, answer in (("one", 1), ("two", 2)):
            code = library(name, answer)
            servers.cli(0, "--cluster", "call", seed, "FUNCTION", "LOAD", "REPLACE", code, "--cluster-only-masters")
        assert run_module("valkey_replication_check", nodes)["findings"] == []
