# SPDX-License-Identifier: Apache-2.0
"""What hosts say of themselves in one look, and the first thing in it that is not as it should be. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Instance:
    """One Valkey instance. role: as INFO calls it, empty where it does not answer."""

    port: int
    role: str = ""
    linked: bool = False
    cluster_ok: bool = False
    sees_failed: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """One host at one moment. etcd: None where it was not asked. postgresql: what its server says, empty where it does not answer."""

    etcd: bool | None = None
    postgresql: Mapping[str, Any] = field(default_factory=dict)
    services: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    instances: tuple[Instance, ...] = ()


def parse(text: str) -> Look:
    """Return a look out of lines `WORD REST` as LOOK (lab.py) prints them."""
    facts: dict[str, str] = {}
    instances = []
    for line in text.splitlines():
        word, _space, rest = line.partition(" ")
        if word == "valkey":
            port, _space, answers = rest.partition(" ")
            instances.append(_instance(int(port), answers))
        else:
            facts[word] = rest
    return Look(
        etcd=None if facts.get("etcd", "unasked") == "unasked" else facts["etcd"] == "ok",
        postgresql=json.loads(facts.get("postgresql") or "{}"),
        services=frozenset(facts.get("services", "").split()),
        addresses=frozenset(facts.get("addresses", "").split()),
        instances=tuple(instances),
    )


def _instance(port: int, answers: str) -> Instance:
    words = answers.split()
    return Instance(
        port,
        role=next((word.removeprefix("role:") for word in words if word.startswith("role:")), ""),
        linked="master_link_status:up" in words,
        cluster_ok="cluster_state:ok" in words,
        # Flags of CLUSTER NODES: `fail`, `fail?`, `slave,fail`, `noaddr`.
        sees_failed=any("fail" in word.replace("?", "").split(",") for word in words),
    )


def sickness(looks: Mapping[str, Look | None], vip: str, spread: bool = True) -> str:
    """Return the first thing that is not as it should be, an empty text if everything serves with full redundancy.

    A host without a look is one that cannot be asked. spread: whether a host with most of Valkey's primaries is sick.
    """
    absent = [name for name, look in looks.items() if look is None]
    if absent:
        return f"{', '.join(absent)} cannot be asked"
    present = {name: look for name, look in looks.items() if look is not None}
    found = _etcd(present) or _postgresql(present) or _balancers(present, vip) or _valkey(present)
    return found or (crowded(present) if spread else "")


def _etcd(looks: Mapping[str, Look]) -> str:
    sick = [name for name, look in looks.items() if look.etcd is False]
    return f"etcd is not healthy on {', '.join(sick)}" if sick else ""


def _postgresql(looks: Mapping[str, Look]) -> str:
    silent = [name for name, look in looks.items() if not look.postgresql]
    if silent:
        return f"PostgreSQL does not answer on {', '.join(silent)}"
    primaries = [look.postgresql for look in looks.values() if look.postgresql["primary"]]
    if len(primaries) != 1:
        return f"{len(primaries)} primaries"
    have, want = primaries[0]["standbys"], len(looks) - 1
    return "" if have == want else f"{have} of {want} replicas count for commits"


def _balancers(looks: Mapping[str, Look], vip: str) -> str:
    down = [name for name, look in looks.items() if look.services != {"active"}]
    if down:
        return f"a balancer's services are down on {', '.join(down)}"
    holders = [name for name, look in looks.items() if vip in look.addresses]
    return "" if len(holders) == 1 else f"{len(holders)} hosts have the virtual address"


def _valkey(looks: Mapping[str, Look]) -> str:
    for name, look in looks.items():
        for instance in look.instances:
            who = f"Valkey {name}:{instance.port}"
            if not instance.role:
                return f"{who} does not answer"
            if not instance.cluster_ok:
                return f"{who}: the cluster is not ok"
            if instance.role == "slave" and not instance.linked:
                return f"{who}: the link to its primary is down"
            if instance.sees_failed:
                return f"{who} sees a failed node"
    return ""


def crowded(looks: Mapping[str, Look]) -> str:
    """Say which host has most of Valkey's primaries: its loss would stop the cluster until they are spread again."""
    counts = {name: sum(i.role == "master" for i in look.instances) for name, look in looks.items()}
    most = [name for name, count in counts.items() if 2 * count > sum(counts.values())]
    return f"{most[0]} has most of Valkey's primaries" if most else ""
