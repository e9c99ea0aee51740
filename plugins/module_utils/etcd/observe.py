# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Reads an etcd cluster from its members."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.client import Client, EtcdError
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.cluster import (
    Cluster,
    Member,
    parse_alarms,
    parse_members,
    parse_status,
)


def with_status(client: Client, member: Member) -> Member:
    """Return the member with its own status, or with why there is none."""
    errors = []
    for url in member.client_urls:
        try:
            return replace(member, status=parse_status(client.ask_one(url.rstrip("/"), "/v3/maintenance/status")))
        except EtcdError as error:
            errors.append(str(error))
    return replace(member, error="; ".join(errors))


def read_cluster(client: Client, has_user: bool) -> Cluster:
    """Return the cluster as its members tell it. Raises EtcdError where none answers."""
    auth_enabled = client.log_in() if has_user else None
    members = parse_members(client.ask("/v3/cluster/member/list"))
    with ThreadPoolExecutor(max_workers=max(1, len(members))) as pool:
        told = tuple(pool.map(lambda member: with_status(client, member), members))
    alarms = parse_alarms(client.ask("/v3/maintenance/alarm", {"action": "GET"})) if has_user else ()
    return Cluster(tuple(sorted(told, key=lambda member: member.label)), alarms, auth_enabled)
