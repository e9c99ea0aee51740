# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL under Patroni as an inventory would keep it: what the role was told comes back from a real server."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import Host, Plan
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.plan import plan
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import RoleFiles
from ansible_collections.holdfast.persistence.plugins.plugin_utils.templates import plain
from run_module import fail_module, run_module

from .conftest import PASSWORD, ROOT, patroni

SECRET = "a-secret-of-an-application"
ADDRESSES = {"node1": "127.0.0.1", "node2": "192.0.2.12", "node3": "192.0.2.13"}
MEMORY, CPUS = 8192, 4
# What an operator declared, by the file in which the export has it.
WISH: dict[str, dict[str, Any]] = {
    "cluster": {"cluster_name": "ledger"},
    "postgresql": {
        "patroni_synchronous_node_count": 2,
        "patroni_maximum_lag_on_failover": 33554432,
        "patroni_timing": "standard",
        "patroni_dynamic_config": {"maximum_lag_on_syncnode": 4194304, "ignore_slots": [{"type": "logical"}]},
        "patroni_max_connections": 300,
        "patroni_parameters": {
            "log_min_duration_statement": "1s",
            "shared_preload_libraries": "pg_stat_statements",
            "wal_compression": "off",
        },
        "patroni_memory": 2048,
        "patroni_host_parameters": {"work_mem": "32MB"},
        "patroni_hba": ["hostssl reports analyst 198.51.100.7/32 scram-sha-256"],
        "patroni_application_networks": ["198.51.100.0/24"],
        "patroni_replication_networks": ["203.0.113.0/24"],
        "patroni_log_level": "WARNING",
        "patroni_watchdog": "off",
        "patroni_users": [
            {"name": "analyst", "member_of": ["readers"], "settings": {"statement_timeout": "5min"}},
            {
                "name": "ledger",
                "flags": ["LOGIN", "CREATEDB"],
                "database_settings": {"ledger": {"search_path": "books, public"}},
            },
            {"name": "readers", "flags": ["NOLOGIN"]},
        ],
        "patroni_databases": [
            {
                "name": "ledger",
                "owner": "ledger",
                "extensions": ["pg_trgm"],
                "schemas": ["books"],
                "settings": {"work_mem": "64MB"},
            },
            {"name": "reports", "owner": "ledger"},
        ],
    },
}
CONTENT = f"""
CREATE ROLE readers NOLOGIN;
CREATE ROLE ledger LOGIN CREATEDB PASSWORD '{SECRET}';
CREATE ROLE analyst LOGIN PASSWORD '{SECRET}' IN ROLE readers;
CREATE ROLE rewinder LOGIN PASSWORD '{SECRET}';
CREATE ROLE pgbouncer LOGIN PASSWORD '{SECRET}';
ALTER ROLE analyst SET statement_timeout = '5min';
ALTER ROLE analyst SET app.jwt_secret = '{SECRET}';
"""
INSIDE = """
CREATE EXTENSION pg_trgm;
CREATE SCHEMA books AUTHORIZATION ledger;
CREATE SCHEMA pgbouncer;
ALTER DATABASE ledger SET work_mem = '64MB';
ALTER ROLE ledger IN DATABASE ledger SET search_path = books, public;
"""


@pytest.fixture(scope="module")
def filled(cluster):
    """The primary with users and databases, as the role makes them; gone afterwards."""
    primary = cluster.primary
    made = [
        name
        for name in ("replicator", "rewinder", "pgbouncer")
        if primary.query(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'")
    ]
    for statement in CONTENT.strip().splitlines():
        if not any(f"ROLE {name} LOGIN" in statement for name in made):
            primary.query(statement)
    for name in ("ledger", "reports"):
        primary.query(f"CREATE DATABASE {name} OWNER ledger")
    for statement in INSIDE.strip().splitlines():
        primary.query(statement, "ledger")
    yield primary
    for name in ("ledger", "reports"):
        primary.query(f"DROP DATABASE {name} WITH (FORCE)")
    for name in ("analyst", "ledger", "readers", *({"rewinder", "pgbouncer"} - set(made))):
        primary.query(f"DROP ROLE {name}")


@pytest.fixture(scope="module")
def rendered(cluster, tmp_path_factory):
    """Return a function that renders the role's configuration for a port of Patroni's REST API."""
    folder = tmp_path_factory.mktemp("render")
    for name in ("templates", "files"):
        (folder / name).symlink_to(ROOT / "roles/patroni" / name)
    shutil.copy(Path(__file__).parent / "render_patroni.yml", folder / "play.yml")
    hosts = {name: {"cluster_address": address} for name, address in ADDRESSES.items()}
    groups = {
        "postgresql": {"hosts": hosts},
        "etcd": {"hosts": dict.fromkeys(hosts)},
        "balancer": {"hosts": dict.fromkeys(hosts)},
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    ports = {
        **yaml.safe_load((ROOT / "roles/cluster/vars/main/ports.yml").read_text())["cluster_ports"],
        "postgresql": cluster.primary.port,
    }

    def _rendered(port: int) -> dict[str, Any]:
        extra = {
            **WISH["cluster"],
            **WISH["postgresql"],
            "cluster_ports": {**ports, "patroni": port},
            "cluster_tls_dir": str(cluster.authority.ca.parent),
            "patroni_data_dir": str(cluster.primary.folder),
            "cluster_secrets_dir": str(folder / "secrets"),
            "cluster_postgresql_superuser_password": PASSWORD,
            "cluster_postgresql_replication_password": SECRET,
            "cluster_postgresql_rewind_password": SECRET,
            "cluster_etcd_patroni_password": SECRET,
            "ansible_facts": {"distribution_release": "trixie", "memtotal_mb": MEMORY, "processor_vcpus": CPUS},
            "roles": str(ROOT / "roles"),
            "folder": str(folder),
        }
        platform = '{"cluster_platform": "{{ cluster_platforms[\'trixie\'] }}"}'
        command = [
            Path(sys.executable).parent / "ansible-playbook",
            "-i",
            folder / "hosts.yml",
            "-e",
            json.dumps(extra),
            "-e",
            platform,
        ]
        done = subprocess.run(
            [*map(str, command), str(folder / "play.yml")],
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link")},
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return yaml.safe_load((folder / "config.yml").read_text())

    return _rendered


@pytest.fixture(scope="module")
def found(cluster, filled, rendered, tmp_path_factory):
    """What the module finds, with a Patroni that the role's configuration was given to. Returns (result, path of the configuration)."""
    answers: dict[str, Any] = {}
    with patroni(cluster.authority, answers) as url:
        config = rendered(int(url.rpartition(":")[2]))
        answers["/config"] = config["bootstrap"]["dcs"]
        answers["/cluster"] = {
            "members": [{"name": name, "role": "replica", "state": "streaming"} for name in ADDRESSES]
        }
        path = tmp_path_factory.mktemp("patroni") / "config.yml"
        path.write_text("# Written by Ansible (holdfast.persistence.patroni).\n" + yaml.safe_dump(config))
        return run_module("cluster_facts", {"patroni_config": str(path), "valkey_ports": [1]}), path


def planned(result: dict[str, Any]) -> Plan:
    """Return the plan for three members, of which node1 was asked."""
    roles = RoleFiles(DataLoader())
    hosts = []
    for name, address in ADDRESSES.items():
        facts = {
            **copy.deepcopy(result),
            "etcd": True,
            "haproxy": {"maxconn": 4000, "sections": []},
            "pgbouncer": {},
            "keepalived": {},
            "valkey": [],
        }
        config = facts["patroni"]["config"]
        config["name"] = name
        config["postgresql"]["connect_address"] = f"{address}:5432"
        if name == "node2":
            config["tags"] = {"nofailover": True}
        if name != "node1":
            facts["postgresql"] = {**facts["postgresql"], "replica": True}
        hosts.append(Host(name, facts, MEMORY, CPUS, "trixie", connection={"ansible_host": address}))
    return plan(hosts, plain(roles.defaults), plain(roles.fixed))


def test_what_the_role_was_told_comes_back(cluster, found) -> None:
    result, _path = found
    assert not result["changed"]
    assert result["patroni"]["own"]
    assert (result["patroni"]["error"], result["postgresql_error"]) == ("", "")
    made = planned(result)
    variables = {area: dict(values) for area, values in made.variables.items()}
    # Where the test keeps its data, and where its Patroni listens.
    assert variables["cluster"].pop("cluster_port_patroni") > 1024
    assert variables["postgresql"].pop("patroni_data_dir") == str(cluster.primary.folder)
    assert {area: values for area, values in variables.items() if area in WISH} == WISH
    assert made.hosts["node2"]["patroni_tags"] == {"nofailover": True}
    assert "patroni_tags" not in made.hosts["node1"]


def test_no_secret_leaves_the_host(found) -> None:
    result, path = found
    result = {name: value for name, value in result.items() if name != "invocation"}
    text = json.dumps(result) + json.dumps([note.text for note in planned(result).notes])
    assert SECRET in path.read_text()
    assert SECRET not in text
    assert PASSWORD not in text
    assert "SCRAM-SHA-256$" not in text
    assert {"postgresql.authentication.superuser.password", "etcd3.password"} <= set(result["patroni"]["hidden"])
    assert any(
        "app.jwt_secret of the user analyst" in note.text for note in planned(result).notes if note.kind == "secret"
    )


def test_a_patroni_that_does_not_answer_is_told_of(found, tmp_path) -> None:
    result, path = found
    config = yaml.safe_load(path.read_text())
    config["restapi"]["connect_address"] = "127.0.0.1:1"
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    alone = run_module("cluster_facts", {"patroni_config": str(tmp_path / "config.yml"), "valkey_ports": [1]})
    assert "127.0.0.1:1/config" in alone["patroni"]["error"]
    assert alone["patroni"]["dynamic"] == result["patroni"]["dynamic"]
    assert any("was not asked" in note.text for note in planned(alone).notes)


def test_a_server_that_is_down_is_told_of(found, tmp_path) -> None:
    _result, path = found
    config = yaml.safe_load(path.read_text())
    config["postgresql"]["data_dir"] = str(tmp_path)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    alone = run_module("cluster_facts", {"patroni_config": str(tmp_path / "config.yml"), "valkey_ports": [1]})
    assert alone["postgresql"] == {}
    assert str(tmp_path) in alone["postgresql_error"]


def test_what_is_no_configuration_is_refused(tmp_path) -> None:
    (tmp_path / "config.yml").write_text("scope: [")
    assert "not understood" in fail_module("cluster_facts", {"patroni_config": str(tmp_path / "config.yml")})
    assert "/nowhere.yml: no such configuration" in fail_module("cluster_facts", {"patroni_config": "/nowhere.yml"})
