# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about the machines themselves: release, PID 1, time, memory and disks. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Host,
    Inventory,
    Probe,
    Problem,
    as_float,
    as_int,
    rule,
)

_MIB = 1024 * 1024

# PostgreSQL's units are powers of 1024 (documentation, 19.1.1); its plain numbers for shared_buffers are 8 KiB blocks.
_POSTGRESQL_UNITS = {"B": 1, "kB": 1024, "MB": _MIB, "GB": 1024 * _MIB, "TB": _MIB * _MIB}
_POSTGRESQL_BLOCK = 8192

# Valkey tells k (1000) from kb (1024) (valkey.conf, "Note on units"); case does not matter.
_VALKEY_UNITS = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1024,
    "m": 1000**2,
    "mb": _MIB,
    "g": 1000**3,
    "gb": 1024 * _MIB,
}

# What the kernel, etcd, HAProxy, connections and fork-time copies need beside the limits, of the whole memory.
_USABLE = 0.9

_OLDEST_PYTHON = (3, 11)

# Where each tier writes.
DATA_PATHS = {
    "etcd": "/var/lib/etcd",
    "postgresql": "/var/lib/postgresql",
    "valkey": "/var/lib/valkey",
    "backup": "/var/lib/pgbackrest",
}


def postgresql_mib(text: Any) -> float | None:
    """Return a PostgreSQL memory setting in MiB, None if it isn't one."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB)?\s*", str(text))
    if match is None:
        return None
    unit = _POSTGRESQL_UNITS[match[2]] if match[2] else _POSTGRESQL_BLOCK
    return float(match[1]) * unit / _MIB


def valkey_mib(text: Any) -> float | None:
    """Return a Valkey memory setting in MiB, None if it isn't one."""
    match = re.fullmatch(r"\s*(\d+)\s*([a-z]*)\s*", str(text).lower())
    if match is None or match[2] not in _VALKEY_UNITS:
        return None
    return int(match[1]) * _VALKEY_UNITS[match[2]] / _MIB


@rule("os_release", "python_version", "systemd")
def releases(inventory: Inventory) -> Iterator[Problem]:
    """Refuse releases that the collection has no platform for, hosts without systemd, and too old Pythons."""
    known = ", ".join(f"Debian {name}" for name in inventory.collection.platforms)
    for host, probe in inventory.probed():
        if inventory.platform(host) is None:
            yield _problem(
                "os_release",
                host,
                "operating system",
                probe.os_name or "unknown",
                known,
                "install one of these releases",
            )
        if not probe.systemd:
            yield _problem(
                "systemd",
                host,
                "process 1",
                "a process other than systemd",
                "systemd, which runs and supervises all services",
                "boot the host with systemd",
            )
        version = tuple(int(part) for part in re.findall(r"\d+", probe.python)[:2])
        if version and version < _OLDEST_PYTHON:
            yield _problem(
                "python_version",
                host,
                "python",
                probe.python,
                "3.11 or newer",
                "point ansible_python_interpreter to the release's own Python",
            )


@rule("postgresql_version", "postgresql_version_mixed")
def postgresql_versions(inventory: Inventory) -> Iterator[Problem]:
    """Refuse a PostgreSQL version that a host's release doesn't have, and different versions in one cluster."""
    versions: dict[str, list[str]] = {}
    for host, probe in inventory.probed():
        platform = inventory.platform(host)
        if "postgresql" not in host.groups or platform is None:
            continue
        has = str(platform["postgresql"]["version"])
        versions.setdefault(has, []).append(host.name)
        wanted = str(host.value("cluster_postgresql_version") or has)
        if wanted != has:
            yield _problem(
                "postgresql_version",
                host,
                "cluster_postgresql_version",
                wanted,
                f"{has}, the version that Debian {probe.os_codename} has",
                f"set it to {has} or leave it out, or use the release that has {wanted}",
            )
    if len(versions) > 1:
        found = "; ".join(f"PostgreSQL {version} on {', '.join(names)}" for version, names in sorted(versions.items()))
        yield Problem(
            rule="postgresql_version_mixed",
            hosts=(),
            subject="group postgresql",
            found=found,
            allowed="one major version: a replica can't follow a primary of another",
            remedy="use the same Debian release on all hosts of the group postgresql",
        )


@rule("time_sync", reads=("host_time_sync",))
def time_synchronisation(inventory: Inventory) -> Iterator[Problem]:
    """Refuse hosts whose kernel says that nothing keeps its clock right, unless that is about to change.

    A warning is enough in containers, which have their host's clock, and where the role `host` installs chrony.
    """
    for host, probe in inventory.probed():
        if probe.synchronized is False:
            will_be = host.value("host_time_sync", False) is True
            yield Problem(
                rule="time_sync",
                hosts=(host.name,),
                subject="clock",
                found="the kernel's clock is not synchronised" + (f" ({probe.container})" if probe.container else ""),
                allowed="a clock that chrony, ntpd or systemd-timesyncd keeps",
                remedy=_time_remedy(probe, will_be),
                warning=bool(probe.container) or will_be,
            )


def _time_remedy(probe: Probe, will_be: bool) -> str:
    if probe.container:
        return "synchronise the clock of the container's host"
    if will_be:
        return "see that chrony, which the role host installs, reaches its servers (host_time_servers)"
    return "set host_time_sync to true, or install chrony and let it reach its servers"


@rule("memory", reads=("patroni_host_parameters", "patroni_memory", "valkey_instances", "valkey_memory_fraction"))
def memory(inventory: Inventory) -> Iterator[Problem]:
    """Refuse limits of Valkey and PostgreSQL that together exceed what a host has."""
    for host, probe in inventory.probed():
        if not probe.memory_mib:
            continue
        parts = [*_valkey_limits(host, probe.memory_mib), *_postgresql_buffers(host)]
        total = sum(size for _name, size in parts)
        usable = probe.memory_mib * _USABLE
        if total > usable:
            listed = ", ".join(f"{name} {size:.0f} MiB" for name, size in parts)
            yield _problem(
                "memory",
                host,
                "memory limits",
                f"{listed}; together {total:.0f} MiB",
                f"{usable:.0f} MiB, nine tenths of the host's {probe.memory_mib} MiB",
                "lower the limits, move a service to another host, or give the host more memory",
            )


def _valkey_limits(host: Host, memory_mib: int) -> Iterator[tuple[str, float]]:
    """An instance without a limit of its own gets an equal part of `valkey_memory_fraction`."""
    fraction = as_float(host.value("valkey_memory_fraction"))
    instances = host.value("valkey_instances", [])
    if "valkey" not in host.groups or not isinstance(instances, list):
        return
    for instance in instances:
        if isinstance(instance, Mapping):
            limit = instance.get("maxmemory")
            size = valkey_mib(limit) if limit else memory_mib * fraction / len(instances)
            if size:
                yield f"Valkey {instance.get('port')}", size


def _postgresql_buffers(host: Host) -> Iterator[tuple[str, float]]:
    """As the role `patroni` does it: the operator's own value, else a quarter of `patroni_memory`."""
    if "postgresql" not in host.groups:
        return
    planned = as_int(host.value("patroni_memory"))
    size: float | None = max(128, planned // 4) if planned else None
    for variable in ("patroni_parameters", "patroni_host_parameters"):
        parameters = host.value(variable)
        if isinstance(parameters, Mapping) and "shared_buffers" in parameters:
            size = postgresql_mib(parameters["shared_buffers"])
    if size:
        yield "shared_buffers", size


@rule("disk_read_only", "disk_space", reads=("etcd_data_dir", "patroni_data_dir"))
def disks(inventory: Inventory) -> Iterator[Problem]:
    """Refuse data paths on file systems that are read-only or nearly full."""
    for host, probe in inventory.probed():
        paths = {path for group, path in DATA_PATHS.items() if group in host.groups}
        if "postgresql" in host.groups:
            paths.add(str(host.value("patroni_data_dir", "")))
        if "etcd" in host.groups:
            paths.add(str(host.value("etcd_data_dir", "")))
        seen: set[str] = set()
        for item in probe.filesystems:
            if item.path not in paths or item.mount in seen:
                continue
            seen.add(item.mount)
            if item.read_only:
                yield _problem(
                    "disk_read_only",
                    host,
                    item.path,
                    f"a read-only file system ({item.mount})",
                    "a writable one",
                    "mount it read-write; look for disk errors in the kernel's log first",
                )
            elif item.free_mib < inventory.free_mib:
                yield _problem(
                    "disk_space",
                    host,
                    item.path,
                    f"{item.free_mib} MiB free of {item.size_mib} MiB ({item.mount})",
                    f"{inventory.free_mib} MiB free or more (preflight_free_mib)",
                    "free space, or mount a larger file system there",
                )


@rule("etcd_data_dir", "valkey_data_dir", reads=("etcd_data_dir", "valkey_instances"))
def data_directories(inventory: Inventory) -> Iterator[Problem]:
    """Refuse data directories that hold something else; nothing of ours may ever overwrite them."""
    for host, probe in inventory.probed():
        if "etcd" in host.groups:
            yield from _etcd_directories(host, probe)
        if "valkey" in host.groups:
            yield from _valkey_directories(host, probe)


def _etcd_directories(host: Host, probe: Probe) -> Iterator[Problem]:
    """Our directory may only hold our member, and the member that the host is configured for must be ours."""
    name = str(host.value("cluster_name", ""))
    wanted = str(host.value("etcd_data_dir") or f"{DATA_PATHS['etcd']}/{name}")
    for item in probe.etcd_dirs:
        ours = item.path == wanted and item.configured and item.owner == name
        if name and item.populated and not ours and (item.path == wanted or item.configured):
            owner = f"of the cluster {item.owner}" if item.owner else "that is not known to be this cluster's"
            yield _foreign(
                "etcd_data_dir", host, item.path, f"an etcd member {owner}", f"a member of {name}, or nothing"
            )


def _valkey_directories(host: Host, probe: Probe) -> Iterator[Problem]:
    ports = {
        str(as_int(item.get("port"))) for item in host.value("valkey_instances", []) or [] if isinstance(item, Mapping)
    }
    for item in probe.valkey_dirs:
        if item.path.rsplit("/", 1)[-1] in ports and item.populated and item.owner != "cluster":
            yield _foreign(
                "valkey_data_dir",
                host,
                item.path,
                "data that no cluster instance on the host owns",
                "data of our instance, or nothing",
            )


def _foreign(rule: str, host: Host, path: str, found: str, allowed: str) -> Problem:
    return _problem(
        rule, host, path, found, allowed, "find out what it is; move it away if nobody needs it, or choose another name"
    )


def _problem(rule: str, host: Host, subject: str, *said: str) -> Problem:
    """Build a problem of one host; said are found, allowed and remedy."""
    found, allowed, remedy = said
    return Problem(rule=rule, hosts=(host.name,), subject=subject, found=found, allowed=allowed, remedy=remedy)
