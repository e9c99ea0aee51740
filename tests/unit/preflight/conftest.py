# SPDX-License-Identifier: Apache-2.0
"""A sound inventory to break, with the collection's real ports, platforms, timings and specifications."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import judge
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Collection,
    Filesystem,
    Host,
    Interface,
    Inventory,
    Probe,
)
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import RoleFiles

# Options as the roles specify them, kept here so that a change of a role doesn't change what a rule is tested on.
OPTIONS: dict[str, Any] = {
    "cluster_name": {"type": "str"},
    "cluster_address": {"type": "str"},
    "cluster_vip": {"type": "str"},
    "cluster_vip_prefix": {"type": "int"},
    "cluster_client_certificates": {"type": "bool"},
    "cluster_etcd_root_password": {"type": "str", "no_log": True},
    "host_firewall": {"type": "bool"},
    "etcd_quota_mebibytes": {"type": "int"},
    "patroni_timing": {"type": "str", "choices": ["fast", "standard", "patient"]},
    "cluster_postgresql_version": {"type": "str"},
    "patroni_dynamic_config": {"type": "dict"},
    "patroni_parameters": {"type": "dict"},
    "patroni_host_parameters": {"type": "dict"},
    "patroni_memory": {"type": "int"},
    "patroni_data_dir": {"type": "path"},
    "patroni_wal_dir": {"type": "str"},
    "etcd_data_dir": {"type": "path"},
    "patroni_users": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "password": {"type": "str", "no_log": True},
            "superuser": {"type": "bool"},
        },
    },
    "valkey_instances": {
        "type": "list",
        "elements": "dict",
        "options": {"port": {"type": "int", "required": True}, "maxmemory": {"type": "str"}},
    },
    "valkey_replicas": {"type": "int"},
    "valkey_memory_fraction": {"type": "float"},
}


@dataclass
class Sample:
    """A sound three-machine inventory; the methods return changed copies of it."""

    inventory: Inventory
    extra: dict[str, Any] = field(default_factory=dict)

    def variables(self, *names: str, **values: Any) -> Sample:
        """Set variables as an operator would: on the named hosts, or on all."""
        return self._map(
            lambda host: replace(host, variables={**host.variables, **values}, given=host.given | frozenset(values)),
            names,
        )

    def probe(self, *names: str, **values: Any) -> Sample:
        """Change what was seen, on the named hosts or on all."""
        return self._map(lambda host: replace(host, probe=replace(host.probe, **values)), names)

    def host(self, name: str, **values: Any) -> Sample:
        """Change a host itself."""
        return self._map(lambda host: replace(host, **values), (name,))

    def groups(self, **groups: tuple[str, ...]) -> Sample:
        """Change the members of groups; hosts that are new come with a sound probe."""
        merged = {**self.inventory.groups, **groups}
        known = {host.name: host for host in self.inventory.hosts}
        names = list(dict.fromkeys(name for members in merged.values() for name in members))
        hosts = tuple(
            replace(
                known.get(name) or sound_host(name, 20 + position),
                groups=frozenset(group for group, members in merged.items() if name in members),
            )
            for position, name in enumerate(names)
        )
        return Sample(replace(self.inventory, hosts=hosts, groups=merged))

    def options(self, **values: Any) -> Sample:
        """Change the inventory's own fields."""
        return Sample(replace(self.inventory, **values))

    def rules(self, *skip: str) -> list[str]:
        """Names of the rules that refuse it."""
        return [problem.rule for problem in self.verdict(*skip).problems]

    def only(self, rule: str):
        """Return the one problem or warning of a rule."""
        verdict = self.verdict()
        (problem,) = (item for item in (*verdict.problems, *verdict.warnings) if item.rule == rule)
        return problem

    def verdict(self, *skip: str) -> judge.Verdict:
        """Judge it."""
        return judge.judge(self.inventory, skip)

    def _map(self, change, names: tuple[str, ...]) -> Sample:
        hosts = tuple(change(host) if not names or host.name in names else host for host in self.inventory.hosts)
        return Sample(replace(self.inventory, hosts=hosts))


def sound_host(name: str, last: int) -> Host:
    """Return a host against which nothing can be said."""
    return Host(
        name=name,
        variables={
            "ansible_host": f"192.0.2.{last}",
            "cluster_name": "orders",
            "patroni_timing": "fast",
            "valkey_instances": [{"port": 7001}, {"port": 7002}],
            "valkey_replicas": 1,
        },
        given=frozenset({"ansible_host", "cluster_name"}),
        probe=Probe(
            os_id="debian",
            os_codename="trixie",
            os_name="Debian GNU/Linux 13 (trixie)",
            memory_mib=8000,
            python="3.13.5",
            synchronized=True,
            clock=(-0.02, 0.03),
            interfaces=(Interface("eth0", f"192.0.2.{last}", 24),),
            filesystems=(
                Filesystem("/var/lib/etcd", "/", 40000, 50000, False),
                Filesystem("/var/lib/postgresql", "/var/lib/postgresql", 400000, 500000, False),
                Filesystem("/var/lib/valkey", "/", 40000, 50000, False),
            ),
        ),
    )


@pytest.fixture(scope="session")
def roles() -> RoleFiles:
    """The collection's roles as they are on disk."""
    return RoleFiles(DataLoader())


@pytest.fixture
def sample(roles) -> Sample:
    """Three machines that run everything, without a fault."""
    real = roles.collection
    collection = Collection(
        platforms=real.platforms,
        ports=real.ports,
        timings=real.timings,
        options=OPTIONS,
        roles=frozenset({"cluster", "patroni", "valkey"}),
        fixed=frozenset({"cluster_ports"}),
    )
    names = ("node1", "node2", "node3")
    groups = dict.fromkeys(("all", "etcd", "postgresql", "balancer", "valkey"), names)
    hosts = tuple(
        replace(sound_host(name, 10 + position), groups=frozenset(groups))
        for position, name in enumerate(names, start=1)
    )
    return Sample(Inventory(hosts=hosts, groups={**groups, "ungrouped": ()}, collection=collection))
