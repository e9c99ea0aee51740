# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Where backups go: an object store of the inventory as the Barman Cloud plugin has it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes.model import (
    Manifest,
    Postgresql,
    Tier,
    manifest,
    secret,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PLUGIN = "barman-cloud.cloudnative-pg.io"
NONE = "none"
OBJECT_STORES = ("s3", "azure")


def chosen(tier: Tier, postgresql: Postgresql) -> Mapping[str, Any] | None:
    """Return the repository that backups go to, None where none is wanted. Raises Refusal."""
    name = tier.options["kubernetes_backup_repository"]
    if name == NONE:
        return None
    fitting = {r["name"]: r for r in postgresql.repositories if r["type"] in OBJECT_STORES}
    if name and name not in fitting:
        raise Refusal(
            f"kubernetes_backup_repository is {name}: allowed is {', '.join([*fitting, NONE])}",
            "Only repositories of the types s3 and azure can be reached from Kubernetes",
        )
    if not fitting:
        raise Refusal(
            "pgbackrest_repositories has no repository of the type s3 or azure, so there is no place for backups of Kubernetes",
            f"Add one, or accept a cluster without backups by kubernetes_backup_repository={NONE}",
        )
    return fitting[name] if name else next(iter(fitting.values()))


def manifests(tier: Tier, postgresql: Postgresql) -> list[Manifest]:
    """Return Secret, ObjectStore and ScheduledBackup, none where no backup is wanted. Raises Refusal."""
    repository = chosen(tier, postgresql)
    if repository is None:
        return []
    name, key_type = f"{tier.name}-backup", repository.get("key_type") or "shared"
    # Never the folder of pgBackRest: the two formats know nothing of each other.
    folder = f"kubernetes/{tier.name}"
    content: dict[str, str] = {}
    if repository["type"] == "s3":
        where, access = _s3(repository, key_type, name, folder, content)
    else:
        where, access = _azure(repository, key_type, name, folder, content)
    configuration = {**where, **access, "wal": {"compression": "gzip"}, "data": {"compression": "gzip"}}
    days = repository.get("retention_full") if repository.get("retention_full_type") == "time" else None
    retention = f"{days}d" if days else tier.options["kubernetes_backup_retention"]
    scheduled = {
        "cluster": {"name": tier.name},
        "schedule": tier.options["kubernetes_backup_schedule"],
        "method": "plugin",
        "pluginConfiguration": {"name": PLUGIN},
        "target": "prefer-standby",
        "backupOwnerReference": "self",
        "immediate": True,
    }
    store = {"retentionPolicy": retention, "configuration": configuration}
    return [
        *([secret(tier, name, content)] if content else []),
        manifest("barmancloud.cnpg.io/v1", "ObjectStore", tier, name, spec=store),
        manifest("postgresql.cnpg.io/v1", "ScheduledBackup", tier, name, spec=scheduled),
    ]


Part = dict[str, Any]


def _s3(
    repository: Mapping[str, Any], key_type: str, name: str, folder: str, content: dict[str, str]
) -> tuple[Part, Part]:
    where = {
        "destinationPath": f"s3://{repository['bucket']}/{folder}",
        "endpointURL": f"https://{repository['endpoint']}:{repository.get('port') or 443}",
    }
    if key_type != "shared":
        return where, {"s3Credentials": {"inheritFromIAMRole": True}}
    content.update(ACCESS_KEY_ID=repository["key"], ACCESS_SECRET_KEY=repository["key_secret"])
    credentials = {
        "accessKeyId": {"name": name, "key": "ACCESS_KEY_ID"},
        "secretAccessKey": {"name": name, "key": "ACCESS_SECRET_KEY"},
    }
    if repository.get("region"):
        content["REGION"] = repository["region"]
        credentials["region"] = {"name": name, "key": "REGION"}
    return where, {"s3Credentials": credentials}


def _azure(
    repository: Mapping[str, Any], key_type: str, name: str, folder: str, content: dict[str, str]
) -> tuple[Part, Part]:
    account = repository["account"]
    host = repository.get("endpoint") or "blob.core.windows.net"
    where = {"destinationPath": f"https://{account}.{host}/{repository['container']}/{folder}"}
    if key_type == "auto":
        return where, {"azureCredentials": {"inheritFromAzureAD": True}}
    key = "storageSasToken" if key_type == "sas" else "storageKey"
    content.update(ACCOUNT=account, KEY=repository["key"])
    return where, {
        "azureCredentials": {"storageAccount": {"name": name, "key": "ACCOUNT"}, key: {"name": name, "key": "KEY"}}
    }
