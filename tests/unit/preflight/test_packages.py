# SPDX-License-Identifier: Apache-2.0
"""Which packages a host needs: those of its groups, and those of a feature only where it is declared."""

from __future__ import annotations

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.holdfast.persistence.plugins.action.package_probe import wanted_packages
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import HostScope

INVENTORY = """
all:
  vars: {cluster_name: orders}
  children:
    postgresql: {hosts: {node1: {}}}
    balancer: {hosts: {node1: {}}}
    valkey: {hosts: {node2: {}}}
    backup: {hosts: {backup1: {}}}
"""


@pytest.fixture
def wanted(roles, tmp_path):
    """Return a function that tells the options of package_probe for a host of a release."""

    def _wanted(host: str, release: str = "trixie", text: str = INVENTORY, **variables):
        (tmp_path / "hosts.yml").write_text(text, encoding="utf-8")
        loader = DataLoader()
        manager = InventoryManager(loader=loader, sources=[str(tmp_path / "hosts.yml")])
        known = VariableManager(loader=loader, inventory=manager)
        seen = {
            "os": {"codename": release},
            "memory_total_mib": 4000,
            "cpus": 2,
            "architecture": "x86_64",
            "python": "3.13",
        }
        groups = manager.get_groups_dict()
        facts = {"__preflight_probe": seen, "groups": groups, **variables}
        known.set_nonpersistent_facts(host, facts)
        return wanted_packages(HostScope(loader, HostVars(manager, known, loader), host, roles, "__preflight_probe"))

    return _wanted


FEATURES = [
    ("backup1", "rclone", {"backup_offsite": [{"name": "away"}]}, {}),
    ("node1", "keepalived", {"cluster_vip": "192.0.2.100"}, {}),
    ("node1", "nftables", {"host_firewall": True}, {}),
    ("node1", "chrony", {}, {"host_time_sync": False}),
]


@pytest.mark.parametrize(("host", "package", "declared", "left_out"), FEATURES)
def test_packages_of_a_feature_come_with_its_declaration(wanted, host, package, declared, left_out) -> None:
    assert package in wanted(host, **declared)["packages"]
    assert package not in wanted(host, **left_out)["packages"]


def test_a_backup_host_needs_the_servers_of_the_engines_that_there_are(wanted) -> None:
    both = wanted("backup1")["packages"]
    assert {"postgresql-17", "valkey-server", "pgbackrest", "zstd"} <= set(both)
    valkey_alone = INVENTORY.replace("    postgresql: {hosts: {node1: {}}}\n", "")
    assert "postgresql-17" not in wanted("backup1", text=valkey_alone)["packages"]
    postgresql_alone = INVENTORY.replace("    valkey: {hosts: {node2: {}}}\n", "")
    assert not {"valkey-server", "valkey-tools"} & set(wanted("backup1", text=postgresql_alone)["packages"])


def test_the_suite_that_the_role_would_add_is_asked_too(wanted) -> None:
    assert (wanted("node2", "bookworm")["suite"], wanted("node2", "trixie")["suite"]) == ("bookworm-backports", "")
    assert wanted("node1", "bookworm")["suite"] == ""
    chosen = wanted("node2", "trixie", host_valkey_suite="forky")
    assert (chosen["suite"], chosen["suite_packages"]) == ("forky", ["valkey-server", "valkey-tools"])


def test_what_cannot_be_evaluated_is_left_to_preflight_and_the_rest_is_asked(wanted) -> None:
    undefined = INVENTORY.replace("orders}", 'orders, host_packages_extra: "{{ missing_everywhere }}"}')
    assert wanted("node1", text=undefined) == wanted("node1")
    assert wanted("node1", text=INVENTORY.replace("orders}", 'orders, cluster_vip: "{{ missing_everywhere }}"}')) == {}


def test_a_release_without_a_platform_is_not_asked(wanted) -> None:
    assert wanted("node1", "sid") == {}
