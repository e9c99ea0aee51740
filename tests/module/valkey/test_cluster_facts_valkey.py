# SPDX-License-Identifier: Apache-2.0
"""A Valkey cluster as an inventory would keep it: read by the module cluster_facts, planned, and compared with what was declared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import Host, Plan
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.plan import plan
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import RoleFiles
from ansible_collections.holdfast.persistence.plugins.plugin_utils.templates import plain
from run_module import run_module
from valkey_servers import PASSWORD, ValkeyServers

APPLICATION = "correct-application-horse"
WISH: dict[str, Any] = {
    "valkey_backlog_size": "8mb",
    "valkey_bind": "127.0.0.1",
    "valkey_maxmemory_policy": "allkeys-lru",
    "valkey_node_timeout": 7000,
    "valkey_replica_buffer": "256mb 64mb 30",
    "valkey_require_full_coverage": True,
    "valkey_save": ["900 1", "300 10"],
    "valkey_settings": {"hz": "25", "maxclients": "4000"},
    "valkey_users": [{"name": "shop"}, {"name": "web", "rules": "~session:* resetchannels +@all -@admin -@dangerous"}],
}
# As the role writes them. Two of three instances of 64 MiB a host are what 0.6 of so much memory gives.
SETTINGS = {
    "appendonly": "yes",
    "cluster-allow-replica-migration": "no",
    "cluster-node-timeout": "7000",
    "cluster-require-full-coverage": "yes",
    "client-output-buffer-limit": "replica 256mb 64mb 30",
    "hz": "25",
    "latency-monitor-threshold": "100",
    "maxclients": "4000",
    "maxmemory-policy": "allkeys-lru",
    "primaryuser": "replication",
    "repl-backlog-size": "8mb",
    "save": "900 1 300 10",
    "shutdown-timeout": "10",
}
MEMORY = 214
USERS = f"""user default off resetchannels -@all
user admin on >{PASSWORD} ~* &* +@all
user replication on >{PASSWORD} resetchannels -@all +psync +replconf +ping
user respread on >{PASSWORD} resetchannels -@all +cluster|nodes +cluster|failover +info
user shop on >{APPLICATION} ~* &* +@all -@admin -@dangerous +info
user web on >{APPLICATION} ~session:* resetchannels +@all -@admin -@dangerous
"""
ADMIN = {"valkey_username": "admin", "valkey_password": PASSWORD}


@pytest.fixture(scope="module")
def servers() -> Iterator[ValkeyServers]:
    """Six servers on three pretended hosts, as the role makes them."""
    with ValkeyServers("8.1", 6, secure=True, settings=SETTINGS) as found:
        (found.folder / "users.acl").write_text(USERS)
        found.all("ACL", "LOAD")
        run_module("valkey_cluster", {**found.login, "nodes": found.nodes(), "replicas": 1})
        yield found


@pytest.fixture
def read(servers: ValkeyServers, monkeypatch: pytest.MonkeyPatch):
    """Return a function that runs the module."""
    monkeypatch.setenv("PATH", f"{servers.programs}:{os.environ['PATH']}")

    def _read(**options: Any) -> dict[str, Any]:
        return {"valkey_ports": servers.ports, "valkey_config_dirs": [str(servers.folder)], **options}

    return _read


def planned(servers: ValkeyServers, found: dict[str, Any]) -> Plan:
    """Return the plan for three hosts with two servers each."""
    roles = RoleFiles(DataLoader())
    hosts = []
    for index in range(3):
        own = {servers.ports[index], servers.ports[index + 3]}
        facts = {**found, "valkey": [server for server in found["valkey"] if server["port"] in own]}
        hosts.append(
            Host(f"node{index + 1}", facts, MEMORY, 2, "trixie", connection={"ansible_host": f"192.0.2.{index + 11}"})
        )
    return plan(hosts, plain(roles.defaults), plain(roles.fixed))


def test_what_was_declared_comes_back(servers: ValkeyServers, read) -> None:
    found = run_module("cluster_facts", read(**ADMIN))
    assert not found["changed"]
    assert [server["error"] for server in found["valkey"]] == [""] * 6
    made = planned(servers, found)
    assert made.variables["valkey"] == WISH
    assert made.groups == {"valkey": ("node1", "node2", "node3")}
    ports = [
        sorted(instance["port"] for instance in made.hosts[name]["valkey_instances"])
        for name in ("node1", "node2", "node3")
    ]
    assert ports == [sorted((servers.ports[index], servers.ports[index + 3])) for index in range(3)]
    assert all(set(instance) == {"port"} for host in made.hosts.values() for instance in host["valkey_instances"])


def test_without_a_user_the_files_say_the_same_and_a_note_tells(servers: ValkeyServers, read) -> None:
    found = run_module("cluster_facts", read())
    assert all("NOPERM" in server["error"] for server in found["valkey"])
    made = planned(servers, found)
    assert made.variables["valkey"] == WISH
    assert any("nobody could log in" in note.text for note in made.notes)


def test_no_secret_leaves_the_host(servers: ValkeyServers, read) -> None:
    words = (PASSWORD, APPLICATION)
    for options in ({}, ADMIN):
        found = run_module("cluster_facts", read(**options))
        found.pop("invocation", None)
        text = json.dumps(found)
        assert [word for word in words if word in text or hashlib.sha256(word.encode()).hexdigest() in text] == []
        assert {note.about for note in planned(servers, found).notes if note.kind == "secret"} >= {"valkey_users"}


def test_a_value_that_was_set_at_run_time_counts(servers: ValkeyServers, read) -> None:
    servers.all("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    try:
        made = planned(servers, run_module("cluster_facts", read(**ADMIN)))
    finally:
        servers.all("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert made.variables["valkey"]["valkey_maxmemory_policy"] == "volatile-ttl"


def test_members_that_were_not_looked_at_are_named(servers: ValkeyServers, read) -> None:
    found = run_module("cluster_facts", read(valkey_ports=servers.ports[:5], **ADMIN))
    with pytest.raises(Exception, match=f"not looked at: 127.0.0.1:{servers.ports[5]}"):
        planned(servers, found)
