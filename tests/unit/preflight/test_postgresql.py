# SPDX-License-Identifier: Apache-2.0
"""Databases, pg_hba lines and pools that can't work."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.postgresql import hba_fault


@pytest.mark.parametrize("name", ["orderdb", "order-db", "order.db", "order_db2", "2026", "postgres"])
def test_names_that_pgbouncers_file_holds(sample, name):
    assert "database_name" not in sample.variables(patroni_databases=[{"name": name}]).rules()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("order db", "can't begin with"),
        ("order=db", "can't begin with"),
        ("bücher", "can't begin with"),
        ("-order", "can't begin with"),
        ("", "can't begin with"),
        ("a;b", "can't begin with"),
        ("o" * 64, "which has 64 bytes"),
        ("pgbouncer", "PgBouncer's own console"),
    ],
)
def test_names_that_it_cannot_hold_are_refused(sample, name, found):
    problem = sample.variables(patroni_databases=[{"name": "fine"}, {"name": name}]).only("database_name")
    assert problem.subject == "patroni_databases[1].name"
    assert found in problem.found


def test_pgbouncers_own_names_are_judged_too(sample):
    problem = sample.variables(pgbouncer_databases=[{"name": "two words", "database": "orderdb"}]).only("database_name")
    assert problem.subject == "pgbouncer_databases[0].name"


@pytest.mark.parametrize(
    "line",
    [
        "hostssl orderdb orderuser 192.0.2.0/24 scram-sha-256",
        "hostssl orderdb,other +readers 192.0.2.0 255.255.255.0 scram-sha-256 clientcert=verify-full",
        "host orderdb all 0.0.0.0/0 reject",
        "local orderdb orderuser peer",
        "hostssl all all 203.0.113.0/24 reject",
    ],
)
def test_lines_for_applications(line):
    assert hba_fault(line) == ""


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("", "no rule"),
        ("# a note", "no rule"),
        ("include more.conf", "an include"),
        ("hostls all all 192.0.2.0/24 reject", "the type hostls is none of"),
        ("hostssl orderdb orderuser", "3 words, at least 5 are needed"),
        ("local orderdb", "2 words, at least 4 are needed"),
        ("hostssl orderdb orderuser 192.0.2.0/24 scram", "the method scram is none of"),
        ("host replication all 192.0.2.0/24 reject", "replication is the cluster's own"),
        ("hostssl all replicator 192.0.2.0/24 reject", "replicator: users of the cluster itself"),
        ("hostssl all postgres,orderuser 192.0.2.0/24 scram-sha-256", "postgres: users of the cluster itself"),
        ("hostssl all pgbouncer 0.0.0.0/0 reject", "pgbouncer: users of the cluster itself"),
        ("local all all reject", "local connections of all users"),
        ("host all all 0.0.0.0/0 reject", "it would lock out everybody"),
        ("host all all all reject", "it would lock out everybody"),
        ("hostssl all all 192.0.2.0/24 trust", "trust for all users"),
    ],
)
def test_lines_that_lock_out_or_cannot_be_read(sample, line, fault):
    assert fault in hba_fault(line)
    problem = sample.variables(patroni_hba=[line]).only("hba_line")
    assert problem.subject == "patroni_hba[0]"


POOLS = {
    "patroni_max_connections": 200,
    "patroni_databases": [{"name": "orderdb"}],
    "patroni_users": [{"name": "orderuser"}, {"name": "reader"}, {"name": "batch"}],
    "pgbouncer_max_database_connections": 60,
    "pgbouncer_default_pool_size": 20,
    "pgbouncer_reserve_pool_size": 5,
}


def test_pools_that_fit(sample):
    verdict = sample.variables(**POOLS).verdict()
    assert [item for item in (*verdict.problems, *verdict.warnings) if item.rule.startswith("pool_")] == []


def test_pools_of_one_database_that_do_not_fit_are_refused(sample):
    problem = sample.variables(**{**POOLS, "patroni_max_connections": 150}).only("pool_size")
    assert problem.found == "180 connections that the pools of one database may open on 3 balancers"
    assert problem.allowed.startswith("at most 132: max_connections 150 less 18")


def test_pools_of_many_databases_are_a_warning(sample):
    problem = sample.variables(**{**POOLS, "patroni_databases": [{"name": "a"}, {"name": "b"}]}).only("pool_sizes")
    assert problem.warning
    assert problem.found.startswith("360 connections")


def test_few_users_need_fewer_connections(sample):
    verdict = sample.variables(**{**POOLS, "patroni_users": [{"name": "x"}], "patroni_max_connections": 100}).verdict()
    assert "pool_size" not in [item.rule for item in verdict.problems]


def test_own_sizes_of_a_database_count(sample):
    wide = {**POOLS, "pgbouncer_databases": [{"name": "orderdb", "max_connections": 100}]}
    assert sample.variables(**wide).only("pool_size").found.startswith("300 connections")
    replicas = {
        **POOLS,
        "pgbouncer_databases": [{"name": "orderdb_ro", "max_connections": 1000, "target": "read_only"}],
    }
    assert "pool_size" not in sample.variables(**replicas).rules()


def test_a_database_whose_name_the_pools_answer_with_another_one_is_refused(sample):
    both = [{"name": "orderdb"}, {"name": "orderdb_ro"}]
    problem = sample.variables(patroni_databases=both).only("database_shadowed")
    assert "orderdb_ro, whose name the pools answer with orderdb" in problem.found
    pool = [{"name": "orderdb_session", "database": "orderdb"}]
    declared = [{"name": "orderdb"}, {"name": "orderdb_session"}]
    assert "database_shadowed" in sample.variables(patroni_databases=declared, pgbouncer_databases=pool).rules()


def test_a_database_that_its_own_name_leads_to_is_taken(sample):
    both = [{"name": "orderdb"}, {"name": "orderdb_ro"}]
    own = [{"name": "orderdb_ro", "database": "orderdb_ro"}]
    assert "database_shadowed" not in sample.variables(patroni_databases=both, pgbouncer_databases=own).rules()
    fewer = sample.variables(patroni_databases=both, pgbouncer_read_only_databases=["orderdb_ro"])
    assert "database_shadowed" not in fewer.rules()


SESSIONS = {"pgbouncer_session_pool_size": 10, "pgbouncer_session_max_connections": 10}


def test_sessions_are_added_to_the_pools_of_their_database(sample):
    problem = sample.variables(**{**POOLS, **SESSIONS}).only("pool_size")
    assert (
        problem.found
        == "210 connections that the pools of one database may open on 3 balancers, 30 of them for sessions"
    )
    assert "pgbouncer_session_max_connections" in problem.remedy
    assert (
        "pool_size" not in sample.variables(**{**POOLS, **SESSIONS, "pgbouncer_max_database_connections": 50}).rules()
    )


def test_databases_without_sessions_need_no_room_for_them(sample):
    assert "pool_size" not in sample.variables(**{**POOLS, **SESSIONS, "pgbouncer_session_databases": []}).rules()


def test_sessions_under_a_name_of_the_operators_count_once(sample):
    own = {"pgbouncer_databases": [{"name": "orderdb_session", "database": "orderdb", "max_connections": 1}]}
    assert sample.variables(**{**POOLS, **SESSIONS, **own}).only("pool_size").found.startswith("183 connections")


def test_a_database_with_the_session_name_of_another_one_is_refused(sample):
    both = [{"name": "orderdb"}, {"name": "orderdb_session"}]
    assert "database_shadowed" in sample.variables(patroni_databases=both).rules()
    fewer = sample.variables(patroni_databases=both, pgbouncer_session_databases=["orderdb_session"])
    assert "database_shadowed" not in fewer.rules()
