# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What an exported inventory is made of. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What becomes of a thing that the inventory does not simply keep, in the order in which a reader needs it.
KINDS = {
    "secret": "Secrets that have to be brought",
    "decide": "To be decided before the first run",
    "lost": "What this collection does not keep",
}
# Files of group_vars/all, in the order of a reader.
AREAS = ("cluster", "postgresql", "balancer", "valkey")


@dataclass(frozen=True)
class Note:
    """A sentence for the operator. area: one of AREAS; kind: one of KINDS; about: a variable of the inventory, or a thing on a host."""

    area: str
    kind: str
    about: str
    text: str


@dataclass(frozen=True)
class Part:
    """What one planner found. variables: for all hosts, by name; hosts: variables of single hosts."""

    variables: Mapping[str, Any] = field(default_factory=dict)
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Host:
    """One host that was looked at.

    Parameters: name, as the inventory called it; facts, of the module cluster_facts; memory in MiB; cpus; codename of its release;
    addresses of its interfaces; connection, the variables by which Ansible reaches it.
    """

    name: str
    facts: Mapping[str, Any]
    memory: int = 0
    cpus: int = 1
    codename: str = ""
    addresses: tuple[str, ...] = ()
    connection: Mapping[str, Any] = field(default_factory=dict)

    @property
    def patroni(self) -> Mapping[str, Any]:
        """What Patroni says, empty where it does not run."""
        return self.facts.get("patroni") or {}

    @property
    def postgresql(self) -> Mapping[str, Any]:
        """What PostgreSQL says, empty where it does not run or was not asked."""
        return self.facts.get("postgresql") or {}

    @property
    def valkey(self) -> Sequence[Mapping[str, Any]]:
        """Its Valkey servers."""
        return self.facts.get("valkey") or ()


@dataclass(frozen=True)
class Plan:
    """The inventory. hosts: variables by host; groups: hosts by group; variables by area; notes for the operator."""

    name: str
    hosts: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, tuple[str, ...]]
    variables: Mapping[str, Mapping[str, Any]]
    notes: tuple[Note, ...]


def is_template(value: Any) -> bool:
    """Return whether a default of a role is computed."""
    return isinstance(value, str) and "{{" in value


def unlike_default(found: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables whose values are not those of the roles."""
    return {name: value for name, value in found.items() if value is not None and value != defaults.get(name)}


def common(values: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split variables by host into those that all hosts share, and those that remain with each."""
    hosts = list(values.values())
    first = hosts[0] if hosts else {}
    shared = {
        name: value for name, value in first.items() if all(name in other and other[name] == value for other in hosts)
    }
    rest = {host: {name: value for name, value in own.items() if name not in shared} for host, own in values.items()}
    return shared, {host: own for host, own in rest.items() if own}


def listing(names: Iterable[Any]) -> str:
    """Return names as a sentence has them."""
    return ", ".join(str(name) for name in names)
