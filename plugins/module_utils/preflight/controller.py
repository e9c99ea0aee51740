# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about what the controller must have: the folder of the cluster's secrets. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import Host, Inventory, Problem, rule

_USERS = {"postgresql_user_": "patroni_users", "valkey_user_": "valkey_users"}
_REPOSITORY = "pgbackrest_"
# Made by roles, with no variable of its own.
_INTERNAL = {"valkey_respread": "valkey"}


@rule("authority", reads=("cluster_secrets_dir", "tls_folder"))
def authority(inventory: Inventory) -> Iterator[Problem]:
    """Refuse a controller whose folder does not know the authority by which hosts' certificates are issued."""
    for host, probe in inventory.probed():
        if not probe.authorities or probe.authorities & host.authorities:
            continue
        folder = host.value("tls_folder")
        knows = "knows another authority" if host.authorities else "has none"
        yield Problem(
            rule="authority",
            hosts=(host.name,),
            subject="tls_folder",
            found=f"certificates of an authority on the host, and {folder} of this controller {knows}",
            allowed="the folder with which this cluster was set up; another one would cut every host off from the others",
            remedy=f"bring the folder {host.value('cluster_secrets_dir')} from the controller that has it, or from its backup",
        )


@rule("authority", reads=("tls_folder",))
def first_run(inventory: Inventory) -> Iterator[Problem]:
    """Refuse to make an authority while hosts are left out, which may have one."""
    unseen = [host.name for host in inventory.stack if host.probe is None]
    seen = [host for host, _probe in inventory.probed()]
    if unseen and seen and not any(host.authorities for host in seen):
        yield Problem(
            rule="authority",
            hosts=(),
            subject="tls_folder",
            found=f"no authority in {seen[0].value('tls_folder')}, and hosts that were not looked at: {', '.join(unseen)}",
            allowed="a new authority only where no host of the inventory has one",
            remedy="bring the folder of the cluster's secrets, or run without --limit",
        )


@rule("missing_secret", reads=("cluster_secrets_dir",))
def missing_secrets(inventory: Inventory) -> Iterator[Problem]:
    """Refuse a folder that lacks a secret which the cluster uses; a new one would fit nothing."""
    for host, probe in inventory.probed():
        for name in sorted(probe.secrets - host.secrets):
            if host.secrets and needed(name, host, inventory):
                yield Problem(
                    rule="missing_secret",
                    hosts=(host.name,),
                    subject="cluster_secrets_dir",
                    found=f"no file {name} in {host.value('cluster_secrets_dir')}, with which the cluster was set up",
                    allowed="every secret that the cluster uses",
                    remedy="bring the file from the controller that has it, or from its backup",
                )


def needed(name: str, host: Host, inventory: Inventory) -> bool:
    """Return whether the inventory as it is now still takes a secret from its file."""
    variable = f"cluster_{name}_password"
    if variable in inventory.collection.options:
        return variable not in host.given
    if name in _INTERNAL:
        return bool(inventory.members(_INTERNAL[name]))
    for prefix, users in _USERS.items():
        if name.startswith(prefix):
            return any(
                _takes_file(entry, name.removeprefix(prefix), "password") for entry in _entries(inventory, users)
            )
    if name.startswith(_REPOSITORY):
        declared = _entries(inventory, "pgbackrest_repositories")
        wanted = name.removeprefix(_REPOSITORY)
        return any(_takes_file(entry, wanted, "passphrase") for entry in declared)
    return False


def _entries(inventory: Inventory, variable: str) -> Iterator[Mapping[str, object]]:
    for host in inventory.stack:
        declared = host.value(variable)
        yield from (entry for entry in (declared if isinstance(declared, list) else []) if isinstance(entry, Mapping))


def _takes_file(entry: Mapping[str, object], name: str, own: str) -> bool:
    return entry.get("name") == name and not entry.get(own)
