# SPDX-License-Identifier: Apache-2.0
"""Tiers that tests render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes.model import Postgresql, Tier, Valkey

ROOT = Path(__file__).resolve().parents[3]
SPEC = yaml.safe_load((ROOT / "playbooks/specs/kubernetes.yml").read_text())["argument_specs"]["main"]["options"]
STORE = {
    "name": "offsite",
    "type": "s3",
    "bucket": "orders",
    "endpoint": "s3.example.com",
    "region": "eu-central-1",
    "key": "id",
    "key_secret": "s3-secret",
    "retention_full": 30,
    "retention_full_type": "time",
}
CERTIFICATES = {name: {"ca.crt": "ca", "tls.crt": "crt", "tls.key": "key"} for name in ("valkey", "machines")}


def postgresql(**changes: Any) -> Postgresql:
    """Return three members with a database."""
    usual: dict[str, Any] = {
        "instances": 3,
        "major": 17,
        "release": "trixie",
        "parameters": {"max_connections": 200, "archive_command": "/bin/true", "ssl": "on", "log_lock_waits": True},
        "users": [
            {"name": "orderuser", "password": "user-secret", "flags": ["CREATEDB", "NOSUPERUSER"]},
            {"name": "streaming_replica", "password": "unused", "flags": ["LOGIN", "REPLICATION"]},
        ],
        "databases": [
            {"name": "order_db", "owner": "orderuser", "extensions": ["pg_trgm"], "schemas": ["akka_journal"]}
        ],
        "hosts": ["192.0.2.31", "192.0.2.32", "192.0.2.33"],
        "repositories": [{"name": "main", "type": "host"}, STORE],
        "replication_networks": ["198.51.100.0/24"],
        "application_networks": ["198.51.100.0/24"],
        "replication_password": "replication-secret",
        "pools": {"max_client_conn": 1000},
    }
    return Postgresql(**{**usual, **changes})


def valkey(**changes: Any) -> Valkey:
    """Return six servers with a user."""
    usual: dict[str, Any] = {
        "instances": 6,
        "replicas": 1,
        "version": "8.1",
        "users": [{"name": "orderapp", "password": "app-secret"}],
        "default_rules": "~* &* +@all -@admin",
        "node_timeout": 5000,
        "full_coverage": False,
        "policy": "noeviction",
        "appendonly": True,
        "appendfsync": "everysec",
        "save": ["900 1"],
        "admin_password": "admin-secret",
        "replication_password": "link-secret",
    }
    return Valkey(**{**usual, **changes})


def tier(**options: Any) -> Tier:
    """Return both engines with options of kubernetes.yml."""
    defaults = {name: option["default"] for name, option in SPEC.items()}
    chosen = {**defaults, "kubernetes_image": "example/holdfast:0.2.0", **options}
    return Tier("orders", chosen, postgresql(), valkey())


def variants() -> dict[str, Tier]:
    """Return a tier for every branch of the rendering."""
    found = {f"bootstrap {kind}": tier(kubernetes_bootstrap=kind) for kind in ("new", "import", "replica")}
    found["promoted"] = tier(kubernetes_bootstrap="replica", kubernetes_promoted=True)
    found["no backups"] = tier(kubernetes_backup_repository="none")
    chosen = {"kubernetes_spread": "preferred", "kubernetes_storage_class": "fast", "kubernetes_pod_monitor": True}
    found["options"] = tier(
        **chosen, kubernetes_postgresql_image="example/postgresql:17", kubernetes_valkey_image="example/valkey:8"
    )
    azure = {"name": "blob", "type": "azure", "account": "a", "container": "c", "key": "azure-secret"}
    for kind in ("shared", "sas", "auto"):
        repositories = [{**azure, "key_type": kind}]
        found[f"azure {kind}"] = Tier(
            "orders", tier().options, postgresql(repositories=repositories), valkey(version="9.1")
        )
    found["one member"] = Tier("orders", tier().options, postgresql(instances=1, databases=[]), None)
    found["synchronous"] = Tier(
        "orders", tier().options, postgresql(synchronous_mode="synchronous", synchronous_strict=True), None
    )
    found["valkey alone"] = Tier("orders", tier().options, None, valkey())
    return found
