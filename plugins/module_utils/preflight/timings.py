# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about Patroni's timings and the values that all hosts must share. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Inventory,
    Problem,
    as_int,
    rule,
)

# Patroni raises smaller values without a word (patroni/config.py, validators of the dynamic configuration).
MINIMUM = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3}

# Variables that describe the cluster, not a host.
CLUSTER_WIDE = (
    "cluster_client_certificates",
    "cluster_name",
    "cluster_port_etcd_client",
    "cluster_port_etcd_peer",
    "cluster_port_haproxy_read_only",
    "cluster_port_haproxy_read_write",
    "cluster_port_haproxy_statistics",
    "cluster_port_haproxy_synchronous",
    "cluster_port_patroni",
    "cluster_port_pgbackrest",
    "cluster_port_pgbouncer",
    "cluster_postgresql_version",
    "cluster_vip",
    "patroni_dynamic_config",
    "patroni_parameters",
    "patroni_synchronous_mode",
    "patroni_timing",
    "valkey_replicas",
)


def timing_faults(timing: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Judge ttl, loop_wait and retry_timeout, in seconds.

    Returns (name, found, allowed) for each fault; an empty list means that Patroni uses the values as they are.
    """
    read = {name: as_int(timing.get(name)) for name in MINIMUM}
    values = {name: value for name, value in read.items() if value is not None}
    faults = [
        (name, str(timing.get(name)), f"a whole number of seconds, at least {least}")
        for name, least in MINIMUM.items()
        if name not in values or values[name] < least
    ]
    if len(values) < len(MINIMUM):
        return faults
    ttl, loop_wait, retry_timeout = (values[name] for name in ("ttl", "loop_wait", "retry_timeout"))
    if loop_wait + 2 * retry_timeout > ttl:
        faults.append(
            (
                "ttl",
                f"loop_wait {loop_wait} + 2 x retry_timeout {retry_timeout} = {loop_wait + 2 * retry_timeout}"
                f", more than ttl {ttl}",
                "loop_wait + 2 x retry_timeout <= ttl, or a primary may lose its lock while it still retries",
            )
        )
    return faults


@rule("timing_profile", "timing_range")
def timings(inventory: Inventory) -> Iterator[Problem]:
    """Refuse unknown timing profiles, and values that Patroni would silently replace."""
    profiles = inventory.collection.timings
    for host in inventory.members("postgresql", "etcd", "balancer"):
        profile = host.value("patroni_timing", "fast")
        if not isinstance(profile, str) or profile not in profiles:
            yield Problem(
                rule="timing_profile",
                hosts=(host.name,),
                subject="patroni_timing",
                found=repr(profile),
                allowed=", ".join(profiles),
                remedy="choose one of the profiles; each sets Patroni, etcd and HAProxy together",
            )
            continue
        timing = {**profiles[profile]["patroni"], **_overrides(host.variables)}
        for name, found, allowed in timing_faults(timing):
            yield Problem(
                rule="timing_range",
                hosts=(host.name,),
                subject=f"{name} of patroni_timing {profile}",
                found=found,
                allowed=allowed,
                remedy="correct the value, or use a profile as it is; otherwise Patroni replaces it silently",
            )


def _overrides(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Timings that the operator set one by one, which win over the profile."""
    dynamic = variables.get("patroni_dynamic_config")
    return {name: dynamic[name] for name in MINIMUM if name in dynamic} if isinstance(dynamic, Mapping) else {}


@rule("cluster_wide", reads=CLUSTER_WIDE)
def cluster_wide(inventory: Inventory) -> Iterator[Problem]:
    """Refuse values that differ between hosts although they describe the cluster as a whole."""
    for variable in CLUSTER_WIDE:
        holders: dict[str, list[str]] = {}
        for host in inventory.stack:
            if variable in host.variables:
                holders.setdefault(str(host.value(variable)), []).append(host.name)
        if len(holders) > 1:
            found = "; ".join(f"{value or 'empty'} on {', '.join(names)}" for value, names in holders.items())
            yield Problem(
                rule="cluster_wide",
                hosts=(),
                subject=variable,
                found=found,
                allowed="one value in the whole inventory",
                remedy="set it once, in group_vars/all",
            )
