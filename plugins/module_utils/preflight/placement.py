# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about the shape of the Valkey cluster, and whether its replicas can be kept apart. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Host,
    Inventory,
    Problem,
    as_int,
    count,
    rule,
    valkey_ports,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.primaries import (
    FEWEST,
    majority_safe,
    separable,
    wished,
)

# Users of the collection's own; `default` is the server's.
RESERVED_USERS = ("admin", "backup", "default", "replication", "respread")


@rule("valkey_user_reserved", reads=("valkey_users",))
def valkey_users(inventory: Inventory) -> Iterator[Problem]:
    """Refuse application users that have the name of a user of the collection's own."""
    taken: dict[str, list[str]] = {}
    for host in inventory.members("valkey"):
        users = host.value("valkey_users", []) or []
        for user in users if isinstance(users, list) else []:
            if isinstance(user, Mapping) and user.get("name") in RESERVED_USERS:
                taken.setdefault(str(user["name"]), []).append(host.name)
    for name, hosts in sorted(taken.items()):
        yield Problem(
            rule="valkey_user_reserved",
            hosts=tuple(hosts),
            subject="valkey_users",
            found=f"a user named {name}",
            allowed=f"any name but {', '.join(RESERVED_USERS)}, which the role itself uses",
            remedy="choose another name",
        )


@rule(
    "valkey_majority",
    "valkey_placement",
    "valkey_primaries",
    "valkey_remainder",
    "valkey_zones",
    reads=("valkey_instances",),
)
def valkey_shape(inventory: Inventory) -> Iterator[Problem]:
    """Refuse too few primaries, replicas that must share their primary's host, and lonely instances."""
    hosts = inventory.members("valkey")
    replicas = as_int(hosts[0].value("valkey_replicas", 1)) if hosts else None
    if replicas is None or replicas < 0 or any("valkey_instances" not in host.variables for host in hosts):
        return  # unset without a default, or not a number: other rules say so
    instances = {host.name: len(valkey_ports(host)) for host in hosts}
    total = sum(instances.values())
    primaries = wished(instances, replicas)
    rest = (total - primaries) % max(primaries, 1)
    shape = (
        f"{count(total, 'instance')} on {count(len(hosts), 'host')} with {count(replicas, 'replica')} for each primary"
    )
    if primaries < FEWEST:
        yield Problem(
            rule="valkey_primaries",
            hosts=(),
            subject="group valkey",
            found=f"{shape}: {count(primaries, 'primary', 'primaries')}",
            allowed="3 primaries or more: a failover needs the votes of a majority of them",
            remedy=f"declare {FEWEST * (replicas + 1)} instances or more (hosts x valkey_instances), "
            "or lower valkey_replicas",
        )
    elif not separable(instances, primaries, replicas):
        yield Problem(
            rule="valkey_placement",
            hosts=(),
            subject="valkey_replicas",
            found=f"{shape}: some replica must share the host of its primary or of a sister",
            allowed=f"at most {primaries} instances a host, on {replicas + 1} hosts or more",
            remedy="add hosts to the group valkey, spread valkey_instances evenly, or lower valkey_replicas",
        )
    elif replicas > 0 and not majority_safe(instances, primaries):
        yield Problem(
            rule="valkey_majority",
            hosts=(),
            subject="group valkey",
            found=f"{shape}: one host must hold half of the {primaries} primaries or more",
            allowed="no host with half of the primaries: the others could not elect a replacement",
            remedy="spread the instances over 3 hosts or more",
        )
    yield from _zones(hosts, instances, primaries, replicas)
    if rest:
        yield Problem(
            rule="valkey_remainder",
            hosts=(),
            subject="valkey_instances",
            found=f"{shape}: {count(rest, 'instance')} left over",
            allowed="as many replicas for each primary",
            remedy="add or remove instances so that every primary has the same number of replicas",
            warning=True,
        )


def _zones(hosts: tuple[Host, ...], instances: Mapping[str, int], primaries: int, replicas: int) -> Iterator[Problem]:
    """Warn where zones are declared but can't keep every replica apart from its primary."""
    zones: dict[str, int] = {}
    for host in hosts:
        zones[host.zone] = zones.get(host.zone, 0) + instances[host.name]
    if len(zones) < 2 or not separable(instances, primaries, replicas) or separable(zones, primaries, replicas):
        return
    listed = ", ".join(f"{zone or 'no zone'}: {count(number, 'instance')}" for zone, number in zones.items())
    yield Problem(
        rule="valkey_zones",
        hosts=(),
        subject="zone",
        found=f"{listed}; some replica must share the zone of its primary",
        allowed=f"at most {count(primaries, 'instance')} a zone, in {replicas + 1} zones or more",
        remedy="spread the instances evenly over the zones, and declare zone on every Valkey host",
        warning=True,
    )
