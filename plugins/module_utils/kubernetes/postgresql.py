# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""PostgreSQL as a cluster of CloudNativePG, and the way over from machines. No I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes import parameters, stores
from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes.model import (
    Manifest,
    Postgresql,
    Tier,
    manifest,
    mebibytes,
    object_name,
    secret,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

API = "postgresql.cnpg.io/v1"
MACHINES = "machines"
STREAMING = "streaming_replica"
# Source: IsRoleReserved in pkg/postgres/roles.go of CloudNativePG 1.30.
RESERVED = re.compile(r"^(postgres|streaming_replica|cnpg_.*|pg_.*)$")
FLAGS = ("LOGIN", "SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS", "INHERIT")
TIMESTAMP = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:\d{2})$")


def manifests(tier: Tier) -> list[Manifest]:
    """Return everything but the secrets of certificates. Raises Refusal."""
    postgresql = tier.postgresql
    if postgresql is None:
        return []
    _refuse(tier, postgresql)
    users = [user for user in postgresql.users if not RESERVED.match(user["name"])]
    return [
        *(_password(tier, user["name"], user["password"]) for user in users),
        *_way_over_secrets(tier, postgresql),
        *stores.manifests(tier, postgresql),
        manifest(API, "Cluster", tier, tier.name, spec=_spec(tier, postgresql, users)),
        *(_database(tier, database) for database in postgresql.databases),
        *(_pooler(tier, postgresql, kind) for kind in ("rw", "ro")),
    ]


def promoted(tier: Tier) -> bool:
    """Return whether the cluster takes writes: it does not follow the machines, or no longer."""
    return tier.options["kubernetes_bootstrap"] != "replica" or tier.options["kubernetes_promoted"]


def user_secret(tier: Tier, user: str) -> str:
    """Return the name of the Secret with a user's password."""
    return object_name(tier.name, "user", user)


def _refuse(tier: Tier, postgresql: Postgresql) -> None:
    """Refuse what CloudNativePG would refuse, or silently do without. Raises Refusal."""
    names = Counter(object_name(item["name"]) for item in postgresql.databases)
    twice = [item["name"] for item in postgresql.databases if names[object_name(item["name"])] > 1]
    if twice:
        raise Refusal(
            f"patroni_databases has {', '.join(twice)}, whose names are one for Kubernetes", "Rename one of them"
        )
    ownerless = [database["name"] for database in postgresql.databases if not database.get("owner")]
    if ownerless:
        raise Refusal(
            f"patroni_databases has {', '.join(ownerless)} without an owner, which a Database of CloudNativePG must have",
            "Name the owner",
        )
    users = {user["name"]: user for user in postgresql.users}
    strangers = sorted({d["owner"] for d in postgresql.databases} - users.keys())
    if strangers:
        raise Refusal(f"patroni_users lacks {', '.join(strangers)}, owner of a database", "Declare the user")
    if postgresql.pool_mode not in ("session", "transaction"):
        raise Refusal(f"pgbouncer_pool_mode is {postgresql.pool_mode}: allowed on Kubernetes is session, transaction")
    {"new": _nothing, "import": _refuse_import, "replica": _refuse_replica}[tier.options["kubernetes_bootstrap"]](
        postgresql, users
    )


def _nothing(_postgresql: Postgresql, _users: Mapping[str, Any]) -> None:
    """A new cluster needs nothing of the machines."""


def _refuse_import(postgresql: Postgresql, _users: Mapping[str, Any]) -> None:
    if len(postgresql.databases) != 1:
        raise Refusal(
            f"kubernetes_bootstrap is import, patroni_databases has {len(postgresql.databases)}: an import takes over one database",
            "Take kubernetes_bootstrap=replica, which takes over all of them",
        )
    if not postgresql.application_networks:
        raise Refusal(
            "kubernetes_bootstrap is import, but patroni_application_networks is empty: the machines would not let Kubernetes in",
            "Name the networks from which its nodes come, and run site.yml",
        )


def _refuse_replica(postgresql: Postgresql, users: Mapping[str, Any]) -> None:
    if not postgresql.replication_networks:
        raise Refusal(
            "kubernetes_bootstrap is replica, but patroni_replication_networks is empty: the machines would not let Kubernetes in",
            "Name the networks from which its nodes come, and run site.yml",
        )
    flags = [flag.upper() for flag in users.get(STREAMING, {}).get("flags") or ()]
    if not {"LOGIN", "REPLICATION"} <= set(flags):
        raise Refusal(
            f"kubernetes_bootstrap is replica, but patroni_users has no {STREAMING} with LOGIN and REPLICATION: members of"
            " CloudNativePG stream from each other as this user, and a replica has the users of what it follows",
            f"Add {{name: {STREAMING}, flags: [LOGIN, REPLICATION]}} to patroni_users, and run site.yml",
        )


def _spec(tier: Tier, postgresql: Postgresql, users: list[Mapping[str, Any]]) -> dict[str, Any]:
    options = tier.options
    memory = options["kubernetes_postgresql_memory"]
    connections = int(postgresql.parameters.get("max_connections", 200))
    sized = parameters.of_memory(mebibytes("kubernetes_postgresql_memory", memory), connections)
    declared, libraries, _left = parameters.split({**sized, **postgresql.parameters})
    mebibytes("kubernetes_postgresql_storage", options["kubernetes_postgresql_storage"])
    storage = {"size": options["kubernetes_postgresql_storage"]}
    if options["kubernetes_storage_class"]:
        storage["storageClass"] = options["kubernetes_storage_class"]
    spec: dict[str, Any] = {
        "instances": postgresql.instances,
        **_image(tier, postgresql),
        "storage": storage,
        "resources": {
            "requests": {"cpu": options["kubernetes_postgresql_cpu"], "memory": memory},
            "limits": {"memory": memory},
        },
        "affinity": {
            "enablePodAntiAffinity": True,
            "topologyKey": "kubernetes.io/hostname",
            "podAntiAffinityType": options["kubernetes_spread"],
        },
        "postgresql": {
            "parameters": declared,
            **({"shared_preload_libraries": libraries} if libraries else {}),
            **_synchronous(postgresql),
            # The last line that CloudNativePG adds lets everybody in without TLS.
            "pg_hba": ["hostnossl all all all reject"],
        },
        "managed": {"roles": [_role(tier, user) for user in users]},
        "bootstrap": _bootstrap(tier, postgresql),
        "enableSuperuserAccess": False,
        "primaryUpdateMethod": "switchover",
        "monitoring": {"enablePodMonitor": options["kubernetes_pod_monitor"]},
    }
    if options["kubernetes_bootstrap"] != "new":
        spec["externalClusters"] = [_external(tier, postgresql)]
    if options["kubernetes_bootstrap"] == "replica":
        spec["replica"] = {"enabled": not promoted(tier), "source": MACHINES}
    if stores.chosen(tier, postgresql) is not None:
        store = {"barmanObjectName": f"{tier.name}-backup"}
        spec["plugins"] = [{"name": stores.PLUGIN, "isWALArchiver": True, "parameters": store}]
    return spec


def _image(tier: Tier, postgresql: Postgresql) -> dict[str, Any]:
    """Return the image: of the machines' own Debian release, so that text sorts by the same glibc and indexes stay right."""
    if tier.options["kubernetes_postgresql_image"]:
        return {"imageName": tier.options["kubernetes_postgresql_image"]}
    catalogue = f"postgresql-standard-{postgresql.release}"
    reference = {
        "apiGroup": "postgresql.cnpg.io",
        "kind": "ClusterImageCatalog",
        "name": catalogue,
        "major": postgresql.major,
    }
    return {"imageCatalogRef": reference}


def _synchronous(postgresql: Postgresql) -> dict[str, Any]:
    standbys = postgresql.instances - 1
    if postgresql.synchronous_mode == "asynchronous" or standbys < 1:
        return {}
    quorum = postgresql.synchronous_mode == "quorum"
    wish: dict[str, Any] = {
        "method": "any" if quorum else "first",
        "number": min(postgresql.synchronous_number, standbys),
        "dataDurability": "required" if postgresql.synchronous_strict else "preferred",
    }
    if quorum and standbys > 1:
        # Without it the operator promotes by what it saw last, not by who has every commit.
        wish["failoverQuorum"] = True
    return {"synchronous": wish}


def _role(tier: Tier, user: Mapping[str, Any]) -> dict[str, Any]:
    role: dict[str, Any] = {
        "name": user["name"],
        "ensure": "present",
        "login": True,
        "passwordSecret": {"name": user_secret(tier, user["name"])},
    }
    for flag in user.get("flags") or ():
        word = flag.upper()
        positive = word if word in FLAGS else word.removeprefix("NO")
        if positive not in FLAGS:
            raise Refusal(
                f"patroni_users: {user['name']} has the flag {flag}: allowed on Kubernetes is {', '.join(FLAGS)}, or NO before one"
            )
        role[positive.lower()] = word == positive
    if user.get("member_of"):
        role["inRoles"] = list(user["member_of"])
    if user.get("expires"):
        if not TIMESTAMP.match(str(user["expires"])):
            raise Refusal(
                f"patroni_users: {user['name']} expires {user['expires']}: allowed on Kubernetes is a time such as 2027-01-31T00:00:00Z"
            )
        role["validUntil"] = str(user["expires"])
    return role


def _bootstrap(tier: Tier, postgresql: Postgresql) -> dict[str, Any]:
    if tier.options["kubernetes_bootstrap"] == "replica":
        return {"pg_basebackup": {"source": MACHINES}}
    initdb: dict[str, Any] = {"encoding": "UTF8", "locale": "C.UTF-8", "dataChecksums": True}
    if postgresql.databases:
        first = postgresql.databases[0]
        owner = {"name": user_secret(tier, first["owner"])}
        initdb.update(database=first["name"], owner=first["owner"], secret=owner)
        if tier.options["kubernetes_bootstrap"] == "import":
            initdb["import"] = {
                "type": "microservice",
                "databases": [first["name"]],
                "source": {"externalCluster": MACHINES},
            }
    return {"initdb": initdb}


def _external(tier: Tier, postgresql: Postgresql) -> dict[str, Any]:
    """Return how the machines are reached: over mTLS, with a password on top, whichever member takes writes now."""
    if tier.options["kubernetes_bootstrap"] == "import":
        first = postgresql.databases[0]
        login = {"user": first["owner"], "dbname": first["name"]}
        password = {"name": user_secret(tier, first["owner"]), "key": "password"}
    else:
        login = {"user": "replicator", "dbname": "postgres"}
        password = {"name": f"{tier.name}-machines", "key": "password"}
    certificates = f"{tier.name}-machines-tls"
    return {
        "name": MACHINES,
        "connectionParameters": {
            "host": ",".join(postgresql.hosts),
            "port": ",".join(["5432"] * len(postgresql.hosts)),
            "target_session_attrs": "read-write",
            "sslmode": "verify-full",
            **login,
        },
        "password": password,
        "sslRootCert": {"name": certificates, "key": "ca.crt"},
        "sslCert": {"name": certificates, "key": "tls.crt"},
        "sslKey": {"name": certificates, "key": "tls.key"},
    }


def _password(tier: Tier, user: str, password: str) -> Manifest:
    return secret(tier, user_secret(tier, user), {"username": user, "password": password}, "kubernetes.io/basic-auth")


def _way_over_secrets(tier: Tier, postgresql: Postgresql) -> list[Manifest]:
    if tier.options["kubernetes_bootstrap"] != "replica":
        return []
    return [secret(tier, f"{tier.name}-machines", {"password": postgresql.replication_password})]


def _database(tier: Tier, database: Mapping[str, Any]) -> Manifest:
    """Return a Database; it takes an existing one over, the one that the cluster began with and those that were copied too."""
    spec: dict[str, Any] = {
        "cluster": {"name": tier.name},
        "name": database["name"],
        "owner": database["owner"],
        "databaseReclaimPolicy": "retain",
    }
    if database.get("extensions"):
        spec["extensions"] = [{"name": name, "ensure": "present"} for name in database["extensions"]]
    if database.get("schemas"):
        spec["schemas"] = [
            {"name": name, "owner": database["owner"], "ensure": "present"} for name in database["schemas"]
        ]
    return manifest(API, "Database", tier, object_name(tier.name, database["name"]), spec=spec)


def _pooler(tier: Tier, postgresql: Postgresql, kind: str) -> Manifest:
    pools = {name: parameters.text(value) for name, value in postgresql.pools.items()}
    spec = {
        "cluster": {"name": tier.name},
        "type": kind,
        "instances": 2,
        "pgbouncer": {"poolMode": postgresql.pool_mode, "parameters": pools},
    }
    return manifest(API, "Pooler", tier, f"{tier.name}-pool-{kind}", spec=spec)
