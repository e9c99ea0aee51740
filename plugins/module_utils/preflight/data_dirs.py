# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about PostgreSQL's data directory: whose it is, where it lies, and the locales that a new one needs. No I/O."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.machine import DATA_PATHS
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Host,
    Inventory,
    PostgresqlDir,
    Probe,
    Problem,
    rule,
)


def wanted_directory(host: Host, version: str) -> str:
    """Return the data directory that the inventory asks for on a host."""
    name = str(host.value("cluster_name", ""))
    path = str(host.value("patroni_data_dir") or f"{DATA_PATHS['postgresql']}/{version}/{name}")
    return posixpath.normpath(path)


@rule("postgresql_data_dir", "postgresql_data_dir_mount", "postgresql_data_dir_moved", reads=("patroni_data_dir",))
def directories(inventory: Inventory) -> Iterator[Problem]:
    """Refuse data directories that hold something else, that are a mount point, or that the cluster's data is not in."""
    for host, probe in inventory.probed():
        platform, name = inventory.platform(host), str(host.value("cluster_name", ""))
        if "postgresql" not in host.groups or platform is None or not name:
            continue
        version = str(platform["postgresql"]["version"])
        wanted = wanted_directory(host, version)
        yield from _moved(host, probe, wanted, version)
        for item in probe.postgresql_dirs:
            if item.path == wanted:
                yield from _wanted(host, probe, item, version)
            elif item.path.endswith(f"/{name}") and item.version and item.version != version:
                yield _foreign(
                    host,
                    item.path,
                    f"the cluster {name} in PostgreSQL {item.version}, while the release has {version}",
                    f"one version of the cluster, in {wanted}",
                )


def _moved(host: Host, probe: Probe, wanted: str, version: str) -> Iterator[Problem]:
    """Patroni would make an empty directory a replica, or a second cluster, beside the one with the data."""
    known = {item.path: item for item in probe.postgresql_dirs}
    there = known.get(probe.patroni_data_dir)
    if probe.patroni_scope != host.value("cluster_name") or there is None or there.version != version:
        return
    here = known.get(wanted)
    if there.path != wanted and not (here and here.real and here.real == there.real):
        yield Problem(
            rule="postgresql_data_dir_moved",
            hosts=(host.name,),
            subject="patroni_data_dir",
            found=f"{wanted}, while the cluster's data is in {there.path}",
            allowed="the directory that the data is in",
            remedy=f"set patroni_data_dir to {there.path}; to move the data, take the host out (remove_node.yml), change the "
            "variable for it, and put it in again (site.yml), one host after the other",
        )


def _wanted(host: Host, probe: Probe, item: PostgresqlDir, version: str) -> Iterator[Problem]:
    name = str(host.value("cluster_name", ""))
    ours = item.version == version and probe.patroni_scope == name and probe.patroni_data_dir == item.path
    if item.mount:
        yield Problem(
            rule="postgresql_data_dir_mount",
            hosts=(host.name,),
            subject=item.path,
            found="a mount point" + (f" (behind a symbolic link to {item.real})" if item.real != item.path else ""),
            allowed="a folder on the file system: a mount point can be neither renamed nor made anew, which replicas and restores need",
            remedy=f"set patroni_data_dir to a folder below it, such as {item.path}/data, before the first installation",
            # A cluster that lives there keeps working; what can't be done is refused where it is asked for.
            warning=ours,
        )
    elif not item.empty and item.version != version:
        found = f"data of PostgreSQL {item.version}" if item.version else "files that are not PostgreSQL's"
        yield _foreign(host, item.path, found, f"PostgreSQL {version}'s data, or nothing")
    elif not item.empty and not ours:
        found = f"a cluster (system identifier {item.system_identifier or 'unreadable'}) that {_owner(probe)}"
        yield _foreign(host, item.path, found, f"data of the cluster {name}, or nothing")


def _owner(probe: Probe) -> str:
    if probe.patroni_scope:
        return f"Patroni's configuration gives to {probe.patroni_scope} in {probe.patroni_data_dir or 'no directory'}"
    return "no Patroni configuration on the host owns"


def _foreign(host: Host, path: str, found: str, allowed: str) -> Problem:
    return Problem(
        rule="postgresql_data_dir",
        hosts=(host.name,),
        subject=path,
        found=found,
        allowed=allowed,
        remedy="find out what it is; move it away if nobody needs it, or choose another name",
    )


@rule("postgresql_wal_dir", reads=("patroni_data_dir", "patroni_wal_dir"))
def wal_folders(inventory: Inventory) -> Iterator[Problem]:
    """Refuse a folder for WAL that lies in the data directory; mention a member whose WAL is elsewhere than declared."""
    for host, probe in inventory.probed():
        platform, declared = inventory.platform(host), str(host.value("patroni_wal_dir") or "")
        if "postgresql" not in host.groups or platform is None:
            continue
        data = wanted_directory(host, str(platform["postgresql"]["version"]))
        folder = posixpath.normpath(declared) if declared else ""
        if folder and (
            not folder.startswith("/") or f"{data}/".startswith(f"{folder}/") or folder.startswith(f"{data}/")
        ):
            yield _wal_dir(
                host,
                declared,
                f"an absolute path that is neither in {data} nor above it",
                "choose a folder on another file system",
            )
            continue
        wished = f"{folder}/{host.value('cluster_name')}" if folder else f"{data}/pg_wal"
        for item in probe.postgresql_dirs:
            if (
                item.path == data
                and item.wal
                and item.wal not in (wished, f"{item.real}/pg_wal" if not folder else wished)
            ):
                yield _wal_dir(
                    host,
                    f"WAL in {item.wal}",
                    wished,
                    f"copy the member anew when convenient: patronictl reinit {host.value('cluster_name')} {host.name}, replicas first",
                    warning=True,
                )


def _wal_dir(host: Host, found: str, allowed: str, remedy: str, warning: bool = False) -> Problem:
    return Problem(
        rule="postgresql_wal_dir",
        hosts=(host.name,),
        subject="patroni_wal_dir",
        found=found,
        allowed=allowed,
        remedy=remedy,
        warning=warning,
    )


@rule("locale_missing")
def locales(inventory: Inventory) -> Iterator[Problem]:
    """Refuse locales that a host lacks: initdb would fail there, and a server could not open the databases of another host's copy."""
    for host, probe in inventory.probed():
        if "postgresql" in host.groups:
            for name in probe.missing_locales:
                yield Problem(
                    rule="locale_missing",
                    hosts=(host.name,),
                    subject="patroni_initdb",
                    found=f"the locale {name}, which the host does not have",
                    allowed="a locale of every host of the group postgresql (locale -a)",
                    remedy=f"install the package locales there, write a line for {name} into /etc/locale.gen and run locale-gen, "
                    "or choose C.UTF-8",
                )
