# SPDX-License-Identifier: Apache-2.0
"""Manifests: core kinds against the schemas of Kubernetes, the shape of the rest, secrets, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes import parameters, render
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

from .tiers import CERTIFICATES, postgresql, tier, valkey, variants

VERSION = "1.35"
PASSWORDS = (
    "user-secret",
    "s3-secret",
    "azure-secret",
    "replication-secret",
    "app-secret",
    "admin-secret",
    "link-secret",
)
VARIANTS = [pytest.param(each, id=name) for name, each in variants().items()]


def everything(wish: Any) -> list[dict[str, Any]]:
    return [item for part in render.files(wish, CERTIFICATES).values() for item in part]


def one(wish: Any, kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [m for m in everything(wish) if m["kind"] == kind and name in ("", m["metadata"]["name"])]
    return found


@pytest.mark.parametrize("wish", VARIANTS)
def test_core_kinds_fit_the_schema_of_kubernetes(wish: Any) -> None:
    core = [item for item in everything(wish) if "cnpg.io" not in item["apiVersion"]]
    assert len(core) > 2
    for item in core:
        kubernetes_validate.validate(item, VERSION, strict=True)


def test_the_schema_refuses_what_is_wrong() -> None:
    wrong = one(tier(), "StatefulSet")
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.parametrize("wish", VARIANTS)
def test_nothing_secret_stands_outside_of_secrets(wish: Any) -> None:
    for name, manifests in render.files(wish, CERTIFICATES).items():
        assert (
            {item["kind"] for item in manifests} == {"Secret"}
            if name == render.SECRETS
            else {"Secret"}.isdisjoint(item["kind"] for item in manifests)
        )
        text = json.dumps(manifests)
        assert name == render.SECRETS or not [word for word in PASSWORDS if word in text]


@pytest.mark.parametrize("wish", VARIANTS)
def test_every_secret_that_is_named_exists_and_names_are_unique(wish: Any) -> None:
    manifests = everything(wish)
    names = [(item["kind"], item["metadata"]["name"]) for item in manifests]
    assert len(names) == len(set(names))
    secrets = {name for kind, name in names if kind == "Secret"}
    used = set()
    for item in manifests:
        if item["kind"] == "Cluster":
            used |= {role["passwordSecret"]["name"] for role in item["spec"]["managed"]["roles"]}
            for source in item["spec"].get("externalClusters", []):
                used |= {source[key]["name"] for key in ("password", "sslCert", "sslKey", "sslRootCert")}
        if item["kind"] == "StatefulSet":
            used |= {v["secret"]["secretName"] for v in item["spec"]["template"]["spec"]["volumes"]}
    assert used <= secrets


def test_the_cluster_has_what_the_inventory_declares() -> None:
    spec = one(tier(), "Cluster")["spec"]
    assert spec["instances"] == 3
    assert spec["imageCatalogRef"] == {
        "apiGroup": "postgresql.cnpg.io",
        "kind": "ClusterImageCatalog",
        "name": "postgresql-standard-trixie",
        "major": 17,
    }
    quorum = {"method": "any", "number": 1, "dataDurability": "preferred", "failoverQuorum": True}
    assert spec["postgresql"]["synchronous"] == quorum
    found = spec["postgresql"]["parameters"]
    assert (found["max_connections"], found["shared_buffers"], found["log_lock_waits"]) == ("200", "1024MB", "on")
    assert not parameters.MANAGED & found.keys()
    (role,) = spec["managed"]["roles"]
    assert (role["name"], role["createdb"], role["superuser"]) == ("orderuser", True, False)
    assert one(tier(), "ObjectStore")["spec"]["retentionPolicy"] == "30d"
    assert one(tier(), "ScheduledBackup")["spec"]["method"] == "plugin"
    assert one(tier(), "Database")["metadata"]["name"] == "orders-order-db"


def test_the_way_over_follows_whoever_takes_writes_and_is_promoted() -> None:
    spec = one(tier(kubernetes_bootstrap="replica"), "Cluster")["spec"]
    (source,) = spec["externalClusters"]
    assert source["connectionParameters"] == {
        "host": "192.0.2.31,192.0.2.32,192.0.2.33",
        "port": "5432,5432,5432",
        "target_session_attrs": "read-write",
        "sslmode": "verify-full",
        "user": "replicator",
        "dbname": "postgres",
    }
    assert spec["replica"] == {"enabled": True, "source": "machines"}
    spec = one(tier(kubernetes_bootstrap="replica", kubernetes_promoted=True), "Cluster")["spec"]
    assert spec["replica"] == {"enabled": False, "source": "machines"}


def test_pods_announce_where_and_who_they_are_at_each_start() -> None:
    pod = one(tier(), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert pod["args"][1:5] == [
        "--cluster-announce-ip",
        "$(POD_IP)",
        "--cluster-announce-hostname",
        "$(POD_NAME).orders-valkey.orders.svc.cluster.local",
    ]
    service = one(tier(), "Service", "orders-valkey")["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert "--cluster create" not in json.dumps(everything(tier()))


def test_another_password_starts_pods_anew() -> None:
    other = replace(tier(), valkey=valkey(admin_password="new"))
    digests = {
        one(t, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["holdfast/config"] for t in (tier(), other)
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (tier(kubernetes_image=""), "kubernetes_image is empty"),
        (tier(kubernetes_namespace="My_Space"), "kubernetes_namespace is 'My_Space'"),
        (tier(kubernetes_valkey_memory="lots"), "kubernetes_valkey_memory is 'lots': allowed is"),
        (tier(kubernetes_backup_repository="main"), "allowed is offsite, none"),
        (replace(tier(), postgresql=postgresql(repositories=[])), "no repository of the type s3 or azure"),
        (replace(tier(), postgresql=postgresql(pool_mode="statement")), "pgbouncer_pool_mode is statement"),
        (replace(tier(), postgresql=postgresql(databases=[{"name": "a"}])), "a without an owner"),
        (replace(tier(), postgresql=postgresql(databases=[{"name": "a", "owner": "x"}])), "patroni_users lacks x"),
        (
            replace(
                tier(), postgresql=postgresql(databases=[{"name": n, "owner": "orderuser"} for n in ("a_b", "a-b")])
            ),
            "a_b, a-b, whose names are one",
        ),
        (
            replace(tier(kubernetes_bootstrap="replica"), postgresql=postgresql(replication_networks=[])),
            "patroni_replication_networks is empty",
        ),
        (
            replace(tier(kubernetes_bootstrap="replica"), postgresql=postgresql(users=postgresql().users[:1])),
            "no streaming_replica with LOGIN and REPLICATION",
        ),
        (
            replace(tier(kubernetes_bootstrap="import"), postgresql=postgresql(application_networks=[])),
            "patroni_application_networks is empty",
        ),
        (replace(tier(kubernetes_bootstrap="import"), postgresql=postgresql(databases=[])), "takes over one database"),
        (replace(tier(), valkey=valkey(instances=4)), "that is 2 primaries"),
        (replace(tier(), valkey=None, postgresql=None), "nothing to render"),
    ],
)
def test_what_cannot_work_is_refused_in_words(wish: Any, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        render.files(wish, {})
    assert said in str(refused.value)


@given(
    st.dictionaries(
        st.sampled_from(sorted(parameters.MANAGED | {"work_mem", "Max_Connections", "a.b"})),
        st.one_of(st.booleans(), st.integers(), st.text()),
    )
)
def test_parameters_are_text_and_none_is_cnpgs(declared: dict[str, Any]) -> None:
    found, _libraries, left = parameters.split(declared)
    assert all(isinstance(value, str) for value in found.values())
    assert not parameters.MANAGED & found.keys()
    assert set(left) | found.keys() >= {name.lower() for name in declared} - {"shared_preload_libraries"}
