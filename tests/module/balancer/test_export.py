# SPDX-License-Identifier: Apache-2.0
"""The balancers' files, as the roles render them, give back what the inventory says, and nothing else."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory import balancer, configuration
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import Host, Part
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import RoleFiles
from ansible_collections.holdfast.persistence.plugins.plugin_utils.templates import plain

from .conftest import ROOT, render

CHANGED: dict[str, Any] = {
    "cluster_port_haproxy_read_only": 5101,
    "cluster_port_pgbouncer": 6532,
    "cluster_vip": "192.0.2.10",
    "haproxy_max_connections": 5000,
    "haproxy_read_only_max_lag": "64MB",
    "haproxy_vip_router_id": 77,
    "pgbouncer_admin_users": ["operator"],
    "pgbouncer_databases": [{"name": "reports", "database": "orderdb", "target": "read_only", "pool_size": 5}],
    "pgbouncer_default_pool_size": 30,
    "pgbouncer_max_client_connections": 3000,
    "pgbouncer_pool_mode": "statement",
    "pgbouncer_read_only_databases": [],
    "pgbouncer_server_lifetime": 600,
    "pgbouncer_session_pool_size": 4,
}


def planned(folder: pathlib.Path) -> Part:
    facts = {
        "pgbouncer": configuration.pgbouncer((folder / "pgbouncer.ini").read_text()),
        "haproxy": configuration.haproxy((folder / "haproxy.cfg").read_text()),
        "keepalived": configuration.keepalived((folder / "keepalived.conf").read_text()),
    }
    databases = yaml.safe_load((ROOT / "inventories/lab/group_vars/all/cluster.yml").read_text())["patroni_databases"]
    return balancer.plan(
        {"node1": Host("node1", facts)}, [each["name"] for each in databases], plain(RoleFiles(DataLoader()).defaults)
    )


def test_defaults_come_back_as_nothing(rendered: pathlib.Path) -> None:
    found = planned(rendered)
    assert found.variables == {}
    assert found.notes == ()


def test_what_was_changed_comes_back(suite: str, certificates: pathlib.Path, tmp_path: pathlib.Path) -> None:
    wish = json.dumps(CHANGED)
    assert planned(render(suite, certificates, tmp_path, "-e", wish)).variables == CHANGED


def test_the_life_of_connections_is_not_seen_where_all_pools_are_of_sessions(
    suite: str, certificates: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    wish = {"pgbouncer_pool_mode": "session"}
    assert planned(render(suite, certificates, tmp_path, "-e", json.dumps(wish))).variables == wish
