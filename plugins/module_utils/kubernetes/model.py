# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What an inventory and the options of kubernetes.yml say, as far as manifests need it. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

Manifest = dict[str, Any]

# An RFC 1123 label, as names of services have to be.
LABEL = re.compile(r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")
QUANTITY = re.compile(r"^([0-9]+)(Mi|Gi|Ti)$")
MEBIBYTES = {"Mi": 1, "Gi": 1024, "Ti": 1024 * 1024}


@dataclass(frozen=True)
class Postgresql:
    """PostgreSQL of the inventory.

    instances: number of members. parameters: those of the whole cluster. users, databases and repositories: as the roles patroni and
    pgbackrest have them, a password in every user. hosts: addresses of the members, for the way over. pools: settings of PgBouncer.
    """

    instances: int
    major: int
    release: str
    parameters: Mapping[str, Any]
    users: Sequence[Mapping[str, Any]]
    databases: Sequence[Mapping[str, Any]]
    hosts: Sequence[str]
    repositories: Sequence[Mapping[str, Any]] = ()
    synchronous_mode: str = "quorum"
    synchronous_strict: bool = False
    synchronous_number: int = 1
    replication_networks: Sequence[str] = ()
    application_networks: Sequence[str] = ()
    replication_password: str = field(default="", repr=False)
    pool_mode: str = "transaction"
    pools: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Valkey:
    """Valkey of the inventory. instances: number of all; users: as the role valkey has them, a password in every user."""

    instances: int
    replicas: int
    version: str
    users: Sequence[Mapping[str, Any]]
    default_rules: str
    node_timeout: int
    full_coverage: bool
    policy: str
    appendonly: bool
    appendfsync: str
    save: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    admin_password: str = field(default="", repr=False)
    replication_password: str = field(default="", repr=False)


@dataclass(frozen=True)
class Tier:
    """All of it. options: those of kubernetes.yml, each with its value. An engine that the inventory lacks is None."""

    name: str
    options: Mapping[str, Any]
    postgresql: Postgresql | None = None
    valkey: Valkey | None = None

    @property
    def namespace(self) -> str:
        """The namespace of everything."""
        return self.options["kubernetes_namespace"] or self.name

    def valkey_names(self) -> list[str]:
        """Return the names that a certificate for Valkey needs: its services', and every pod's by one pattern."""
        service = f"{self.name}-valkey"
        inside = f"{self.namespace}.svc.{self.options['kubernetes_domain']}"
        names = [service, f"{service}.{self.namespace}", f"{service}.{self.namespace}.svc", f"{service}.{inside}"]
        return [*names, f"*.{service}.{inside}", f"{service}-clients.{inside}", "localhost"]


def mebibytes(name: str, quantity: str) -> int:
    """Return how many MiB a quantity is. Raises Refusal with the name of its option."""
    found = QUANTITY.match(quantity)
    if not found or not int(found[1]):
        raise Refusal(f"{name} is {quantity!r}: allowed is a whole number of Mi, Gi or Ti, such as 4Gi")
    return int(found[1]) * MEBIBYTES[found[2]]


def manifest(api: str, kind: str, tier: Tier, name: str, **content: Any) -> Manifest:
    """Return a manifest in the tier's namespace."""
    labels = {"app.kubernetes.io/part-of": tier.name, "app.kubernetes.io/managed-by": "holdfast"}
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": tier.namespace, "labels": labels},
        **content,
    }


def secret(tier: Tier, name: str, content: Mapping[str, str], kind: str = "Opaque") -> Manifest:
    """Return a Secret."""
    return manifest("v1", "Secret", tier, name, type=kind, stringData=dict(content))


def object_name(*words: str) -> str:
    """Return a name that Kubernetes takes, made of words of PostgreSQL or of an inventory."""
    return re.sub(r"[^a-z0-9-]+", "-", "-".join(words).lower()).strip("-")
