# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about groups and their sizes. No I/O."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    KNOWN_GROUPS,
    Inventory,
    Problem,
    count,
    rule,
)

_BUILT_IN = frozenset({"all", "ungrouped"})

# Names that other projects and people use for what our groups do.
_SYNONYMS = {
    "cache": "valkey",
    "database": "postgresql",
    "databases": "postgresql",
    "db": "postgresql",
    "dcs": "etcd",
    "grafana": "monitoring",
    "haproxy": "balancer",
    "keepalived": "balancer",
    "lb": "balancer",
    "load_balancer": "balancer",
    "load_balancers": "balancer",
    "loadbalancer": "balancer",
    "patroni": "postgresql",
    "pg": "postgresql",
    "pgbackrest": "backup",
    "pgbouncer": "balancer",
    "pgsql": "postgresql",
    "postgres": "postgresql",
    "postgres_cluster": "postgresql",
    "prometheus": "monitoring",
    "redis": "valkey",
}


def nearest_group(name: str) -> str:
    """Return the group of the collection that a name was probably meant to be, or an empty string."""
    lowered = name.lower()
    if lowered in _SYNONYMS:
        return _SYNONYMS[lowered]
    close = difflib.get_close_matches(lowered, KNOWN_GROUPS, n=1, cutoff=0.75)
    return close[0] if close else ""


@rule("unknown_group")
def unknown_groups(inventory: Inventory) -> Iterator[Problem]:
    """Refuse groups that look like ours but aren't, and groups with hosts on which nothing of ours runs.

    A group that contains one of ours, or is contained in one, is a view of it and welcome; so is any group whose
    hosts all have a role here (racks, rooms, environments).
    """
    with_role = {name for group in KNOWN_GROUPS for name in inventory.groups.get(group, ())}
    for group, names in inventory.groups.items():
        if group in _BUILT_IN or group in KNOWN_GROUPS or group in inventory.extra_groups:
            continue
        meant = nearest_group(group)
        if meant and not _is_view(set(names), set(inventory.groups.get(meant, ()))):
            yield Problem(
                rule="unknown_group",
                hosts=(),
                subject=f"group {group}",
                found=f"a group that no role knows, with {count(len(names), 'host')}",
                allowed=", ".join(KNOWN_GROUPS),
                remedy=f"rename it to {meant}, or list it in preflight_extra_groups if it means something else",
            )
        elif set(names) - with_role:
            strangers = sorted(set(names) - with_role)
            yield Problem(
                rule="unknown_group",
                hosts=(),
                subject=f"group {group}",
                found=f"a group that no role knows, with hosts that have no other role: {', '.join(strangers)}",
                allowed=f"{', '.join(KNOWN_GROUPS)}, and groups of their hosts",
                remedy=(f"move them to the group {meant}" if meant else "move these hosts to an inventory of their own")
                + ", or list the group in preflight_extra_groups",
            )


def _is_view(names: set[str], known: set[str]) -> bool:
    return bool(known) and (names <= known or names >= known)


@rule("host_without_role")
def hosts_without_role(inventory: Inventory) -> Iterator[Problem]:
    """Warn of hosts on which nothing would be installed."""
    grouped = {name for group, names in inventory.groups.items() if group not in _BUILT_IN for name in names}
    for host in inventory.hosts:
        if host.name not in grouped:
            yield Problem(
                rule="host_without_role",
                hosts=(host.name,),
                subject="",
                found="a host that is in no group of the collection",
                allowed=f"a member of at least one of {', '.join(KNOWN_GROUPS)}",
                remedy="put the host into a group, or take it out of the inventory",
                warning=True,
            )


@rule("etcd_members", "etcd_single")
def etcd_members(inventory: Inventory) -> Iterator[Problem]:
    """Refuse an even or missing etcd; one member is refused under a name of its own."""
    members = len(inventory.members("etcd"))
    if members == 0 and not inventory.members("postgresql"):
        return
    if members % 2 == 0:
        yield Problem(
            rule="etcd_members",
            hosts=(),
            subject="group etcd",
            found=count(members, "member"),
            allowed="an odd number, 3 or 5: a majority must survive the loss of a host",
            remedy="add a host to the group etcd"
            + (", or remove one" if members else ": Patroni keeps its lock there"),
        )
    elif members == 1:
        yield Problem(
            rule="etcd_single",
            hosts=(),
            subject="group etcd",
            found="1 member, whose loss makes PostgreSQL read-only",
            allowed="3 or 5 members",
            remedy="add two hosts to the group etcd",
        )


@rule("empty_inventory", "group_needs", "postgresql_single")
def group_needs(inventory: Inventory) -> Iterator[Problem]:
    """Refuse tiers that lack the tier they stand on, and an inventory that asks for nothing."""
    if not inventory.stack:
        yield Problem(
            rule="empty_inventory",
            hosts=(),
            subject="groups",
            found="no host in any group of the collection",
            allowed=f"hosts in {', '.join(KNOWN_GROUPS)}",
            remedy="put hosts into the groups; inventories/converged is a complete example",
        )
    elif inventory.members("balancer") and not inventory.members("postgresql"):
        yield Problem(
            rule="group_needs",
            hosts=(),
            subject="group balancer",
            found=f"{count(len(inventory.members('balancer')), 'balancer')} and no PostgreSQL host",
            allowed="balancers in front of at least one host in the group postgresql",
            remedy="fill the group postgresql, or empty the group balancer",
        )
    if len(inventory.members("postgresql")) == 1:
        yield Problem(
            rule="postgresql_single",
            hosts=(),
            subject="group postgresql",
            found="1 host: no replica to fail over to",
            allowed="2 hosts or more, 3 for synchronous commits that survive the loss of one",
            remedy="add hosts to the group postgresql",
            warning=True,
        )
