# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What the preflight knows of an inventory, and what it says about it. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.apt.availability import Unavailable

KNOWN_GROUPS = ("etcd", "postgresql", "balancer", "valkey", "backup", "monitoring")

# Added to an instance's port for the cluster bus (the server's default for `cluster-port`).
VALKEY_BUS_OFFSET = 10000

_SHOWN_HOSTS = 6


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Parameters: rule, its name as `preflight_skip_rules` takes it; hosts, names, empty for the inventory as a whole;
    subject, the variable, group, path or thing; found, allowed, remedy, sentences without a full stop;
    warning, true if the run may continue.
    """

    rule: str
    hosts: tuple[str, ...]
    subject: str
    found: str
    allowed: str
    remedy: str
    warning: bool = False

    @property
    def where(self) -> str:
        """Host and variable in one short string."""
        separator = ":" if self.subject.startswith("/") else "/"
        return separator.join(part for part in (_host_list(self.hosts), self.subject) if part)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a task's result."""
        return {
            "rule": self.rule,
            "where": self.where,
            "hosts": list(self.hosts),
            "subject": self.subject,
            "found": self.found,
            "allowed": self.allowed,
            "remedy": self.remedy,
            "severity": "warning" if self.warning else "problem",
        }


def _host_list(hosts: tuple[str, ...]) -> str:
    if len(hosts) <= _SHOWN_HOSTS:
        return ", ".join(hosts)
    return f"{', '.join(hosts[:_SHOWN_HOSTS])} and {len(hosts) - _SHOWN_HOSTS} more"


@dataclass(frozen=True)
class Interface:
    """An address of a host: interface name, address, prefix length in bits."""

    name: str
    address: str
    prefix: int


@dataclass(frozen=True)
class Listener:
    """A TCP port somebody listens on; process and directory are empty where they can't be read."""

    port: int
    address: str
    process: str
    directory: str


@dataclass(frozen=True)
class Filesystem:
    """Room under a path: path, its mount point, free and whole size in MiB, whether it is read-only."""

    path: str
    mount: str
    free_mib: int
    size_mib: int
    read_only: bool


@dataclass(frozen=True)
class PostgresqlDir:
    """A directory that is or could be a PostgreSQL data directory; version is empty without PG_VERSION.

    real is the place behind symbolic links, wal that of its pg_wal, empty where there is none; mount tells whether real is a file
    system's own folder.
    """

    path: str
    version: str
    system_identifier: str
    empty: bool
    real: str = ""
    mount: bool = False
    wal: str = ""


@dataclass(frozen=True)
class ServiceDir:
    """A data directory of etcd or Valkey; populated means that it holds the service's own data.

    configured tells whether a configuration of the service names the directory; owner is what it says about it:
    etcd's cluster token, `cluster` for a Valkey instance in cluster mode.
    """

    path: str
    populated: bool
    configured: bool
    owner: str


@dataclass(frozen=True)
class Probe:
    """What `host_probe` saw on a host. clock is the offset to the controller's clock as an interval, in seconds."""

    os_id: str = ""
    os_codename: str = ""
    os_name: str = ""
    memory_mib: int = 0
    systemd: bool = True
    container: str = ""
    python: str = ""
    synchronized: bool | None = None
    clock: tuple[float, float] | None = None
    interfaces: tuple[Interface, ...] = ()
    listeners: tuple[Listener, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    postgresql_dirs: tuple[PostgresqlDir, ...] = ()
    etcd_dirs: tuple[ServiceDir, ...] = ()
    valkey_dirs: tuple[ServiceDir, ...] = ()
    patroni_scope: str = ""
    patroni_data_dir: str = ""
    patroni_real_dir: str = ""
    authorities: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    missing_locales: tuple[str, ...] = ()

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Probe:
        """Build a probe from the result of the module `host_probe`. Raises KeyError where a field is missing."""
        clock = result.get("clock")
        return cls(
            os_id=result["os"]["id"],
            os_codename=result["os"]["codename"],
            os_name=result["os"]["name"],
            memory_mib=result["memory_mib"],
            systemd=result["systemd"],
            container=result["container"],
            python=result["python"],
            synchronized=result["time"]["synchronized"],
            clock=(clock["low"], clock["high"]) if clock else None,
            interfaces=tuple(Interface(**item) for item in result["interfaces"]),
            listeners=tuple(Listener(**item) for item in result["listeners"]),
            filesystems=tuple(Filesystem(**item) for item in result["filesystems"]),
            postgresql_dirs=tuple(PostgresqlDir(**item) for item in result["postgresql_dirs"]),
            etcd_dirs=tuple(ServiceDir(**item) for item in result["etcd_dirs"]),
            valkey_dirs=tuple(ServiceDir(**item) for item in result["valkey_dirs"]),
            patroni_scope=result["patroni"]["scope"],
            patroni_data_dir=result["patroni"]["data_dir"],
            patroni_real_dir=result["patroni"]["real_dir"],
            authorities=frozenset(result["authorities"]),
            secrets=frozenset(result["secrets"]),
            missing_locales=tuple(result["missing_locales"]),
        )


@dataclass(frozen=True)
class Host:
    """A host: its groups, the values of its variables (role defaults included) and what its probe saw.

    given holds the names of the variables that the operator set; failed maps variables that can't be evaluated
    to the reason. authorities are the digests of the certificates in ca.crt of the controller's folder, secrets the names
    in its folder of secrets; unavailable are the packages that the host needs and can't get.
    """

    name: str
    groups: frozenset[str] = frozenset()
    variables: Mapping[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)
    probe: Probe | None = None
    authorities: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    unavailable: tuple[Unavailable, ...] = ()

    def value(self, name: str, default: Any = None) -> Any:
        """Return a variable's value, or default where it is unset or could not be evaluated."""
        return self.variables.get(name, default)

    @property
    def address(self) -> str:
        """Address that the other hosts use, as the filter `addresses` finds it."""
        return str(self.value("cluster_address") or self.value("ansible_host") or self.name)

    @property
    def zone(self) -> str:
        """Failure domain of the host, empty if none is declared."""
        return str(self.value("cluster_zone") or self.value("zone") or "")


@dataclass(frozen=True)
class Collection:
    """What the collection itself fixes: platforms, ports and timings of the role `cluster`, and all argument specs.

    options maps every role variable to its specification; roles are the role names; fixed are the names of variables
    that roles set themselves.
    """

    platforms: Mapping[str, Any] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    roles: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Inventory:
    """A whole inventory. groups maps each group to its hosts' names, in order."""

    hosts: tuple[Host, ...]
    groups: Mapping[str, tuple[str, ...]]
    collection: Collection = field(default_factory=Collection)
    extra_groups: frozenset[str] = frozenset()
    extra_variables: frozenset[str] = frozenset()
    free_mib: int = 2048

    def members(self, *groups: str) -> tuple[Host, ...]:
        """Return the hosts that are in any of the groups, in the inventory's order."""
        return tuple(host for host in self.hosts if host.groups.intersection(groups))

    @property
    def stack(self) -> tuple[Host, ...]:
        """The hosts on which the collection runs anything."""
        return self.members(*KNOWN_GROUPS)

    def probed(self) -> Iterator[tuple[Host, Probe]]:
        """Yield the hosts of the stack that were looked at, with what was seen."""
        for host in self.stack:
            if host.probe is not None:
                yield host, host.probe

    def platform(self, host: Host) -> Mapping[str, Any] | None:
        """Return what the host's release has, or None if the host was not probed or its release isn't known."""
        if host.probe is None or host.probe.os_id != "debian":
            return None
        return self.collection.platforms.get(host.probe.os_codename)


# What the properties of a host read, for any rule.
HOST_READS = ("ansible_host", "cluster_address", "cluster_zone", "zone")


@dataclass(frozen=True)
class Rule:
    """A rule over an inventory.

    Parameters: find yields its problems; names, those that its problems carry and `preflight_skip_rules` may list;
    reads, the variables whose defaults in the roles it needs where the inventory does not set them.
    """

    find: Callable[[Inventory], Iterator[Problem]]
    names: frozenset[str]
    reads: frozenset[str]

    def __call__(self, inventory: Inventory) -> Iterator[Problem]:
        """Yield the problems of an inventory."""
        return self.find(inventory)


def rule(*names: str, reads: Iterable[str] = ()) -> Callable[[Callable[[Inventory], Iterator[Problem]]], Rule]:
    """Make a function a rule: nothing else registers it. Parameters: see Rule."""
    return lambda find: Rule(find, frozenset(names), frozenset(reads))


def valkey_ports(host: Host) -> list[int]:
    """Return the ports of a host's Valkey instances; entries that are malformed are left to the rule bad_value."""
    instances = host.value("valkey_instances", [])
    if not isinstance(instances, list):
        return []
    ports = (as_int(item.get("port")) for item in instances if isinstance(item, Mapping))
    return [port for port in ports if port is not None]


def archives(inventory: Inventory, host: Host) -> bool:
    """Return whether pgBackRest runs on a host: as a source of WAL and backups, or as a repository."""
    if not host.groups.intersection(("postgresql", "backup")):
        return False
    declared = host.value("pgbackrest_repositories")
    return bool(declared) if isinstance(declared, list) else bool(inventory.members("backup"))


def as_float(value: Any) -> float:
    """Return a number that may be written as a string, 0 for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as "1 host" or "3 hosts"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def as_int(value: Any) -> int | None:
    """Return an integer that may be written as a string, None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
