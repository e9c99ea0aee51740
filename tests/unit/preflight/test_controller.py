# SPDX-License-Identifier: Apache-2.0
"""The controller's folder of secrets: the cluster's own, or nothing is touched."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.action import preflight as action
from ansible_collections.holdfast.persistence.plugins.modules import host_probe

OURS, OTHERS, NEXT = "11" * 32, "22" * 32, "33" * 32


def folder(sample, *, authorities=(), secrets=()):
    """The sample with what the controller has."""
    for host in sample.inventory.hosts:
        paths = {"tls_folder": "/home/op/.secrets/tls", "cluster_secrets_dir": "/home/op/.secrets"}
        has = {"authorities": frozenset(authorities), "secrets": frozenset(secrets)}
        sample = sample.host(host.name, variables={**host.variables, **paths}, **has)
    return sample


def test_bare_hosts_and_no_folder_are_a_new_cluster(sample):
    assert folder(sample).rules() == []


@pytest.mark.parametrize(("has", "words"), [((), "has none"), ((OTHERS,), "knows another authority")])
def test_hosts_of_an_authority_that_the_folder_does_not_know_are_refused(sample, has, words):
    problem = folder(sample, authorities=has).probe(authorities=frozenset({OURS})).only("authority")
    assert problem.hosts == ("node1", "node2", "node3")
    assert words in problem.found
    assert "bring the folder /home/op/.secrets" in problem.remedy


@pytest.mark.parametrize(
    ("on_hosts", "has"), [({OURS}, {OURS}), ({OURS}, {OURS, NEXT}), ({OURS, NEXT}, {NEXT}), (set(), {OURS})]
)
def test_an_authority_in_common_is_enough_as_in_a_rotation(sample, on_hosts, has):
    assert folder(sample, authorities=has).probe(authorities=frozenset(on_hosts)).rules() == []


def test_one_host_of_another_cluster_is_refused_alone(sample):
    found = (
        folder(sample, authorities=[OURS])
        .probe(authorities=frozenset({OURS}))
        .probe("node2", authorities=frozenset({OTHERS}))
    )
    assert found.only("authority").hosts == ("node2",)


def test_no_authority_is_made_while_hosts_are_left_out(sample):
    problem = folder(sample).host("node3", probe=None).only("authority")
    assert "node3" in problem.found
    assert "without --limit" in problem.remedy
    assert folder(sample, authorities=[OURS]).host("node3", probe=None).rules() == []


USED = frozenset(
    {"etcd_root", "postgresql_user_orders", "valkey_user_app", "pgbackrest_main", "valkey_respread", "notes"}
)


def test_each_secret_that_is_missing_is_named(sample):
    declared = folder(sample, authorities=[OURS], secrets=["other"]).variables(
        patroni_users=[{"name": "orders"}], valkey_users=[{"name": "app"}], pgbackrest_repositories=[{"name": "main"}]
    )
    problems = [
        problem for problem in declared.probe(secrets=USED).verdict().problems if problem.rule == "missing_secret"
    ]
    assert sorted(problem.found.split()[2] for problem in problems) == sorted(USED - {"notes"})


def test_a_secret_that_the_inventory_gives_or_no_longer_names_is_not_missing(sample):
    given = folder(sample, authorities=[OURS], secrets=["valkey_respread"]).variables(
        cluster_etcd_root_password="Tr0ub4dor-and-3-more",
        patroni_users=[{"name": "orders", "password": "Tr0ub4dor-and-3-more"}],
        pgbackrest_repositories=[{"name": "main", "passphrase": "Tr0ub4dor-and-3-more"}],
    )
    assert "missing_secret" not in [problem.rule for problem in given.probe(secrets=USED).verdict().problems]


CERTIFICATE = """-----BEGIN CERTIFICATE-----
bm90IGEgY2VydGlmaWNhdGUgYnV0IGJ5dGVz
-----END CERTIFICATE-----
"""


def test_host_and_controller_read_a_bundle_alike(tmp_path):
    (tmp_path / "ca.crt").write_text("# old\n" + CERTIFICATE + "# new\n" + CERTIFICATE.replace("bm90", "bm91"))
    here = action.read_authorities(str(tmp_path / "ca.crt"))
    assert len(here) == 2
    parameters = {name: str(tmp_path) for name in ("postgresql_root", "etcd_root", "valkey_root", "etc", "tls_dir")}
    parameters |= {"paths": [], "postgresql_data_dirs": [], "etcd_data_dirs": [], "initdb": []}
    assert frozenset(host_probe.probe(parameters)["authorities"]) == here
    assert host_probe.probe({**parameters, "tls_dir": "/none"})["authorities"] == []
    assert action.read_authorities(str(tmp_path / "none")) == frozenset()


def test_names_in_the_folder(tmp_path):
    (tmp_path / "etcd_root").touch()
    (tmp_path / "tls").mkdir()
    assert action.read_names(str(tmp_path)) == {"etcd_root"}
    assert action.read_names(str(tmp_path / "none")) == frozenset()
