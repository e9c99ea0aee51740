# SPDX-License-Identifier: Apache-2.0
"""Which pools are renewed."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.renew import known, to_renew

DATABASES = [
    {"name": "orderdb_ro", "database": "orderdb"},
    {"name": "orderdb_session", "database": "orderdb"},
    {"name": "orderdb", "database": "orderdb"},
    {"name": "other", "database": "other"},
]
POOLS = [
    {"database": "orderdb", "pool_mode": "transaction"},
    {"database": "orderdb_ro", "pool_mode": "transaction"},
    {"database": "orderdb_session", "pool_mode": "session"},
    {"database": "other", "pool_mode": "statement"},
    {"database": "pgbouncer", "pool_mode": "statement"},
]


def test_a_database_under_all_its_names_but_not_its_sessions():
    assert to_renew(DATABASES, POOLS, "orderdb") == ["orderdb", "orderdb_ro"]


def test_all():
    assert to_renew(DATABASES, POOLS) == ["orderdb", "orderdb_ro", "other"]


def test_without_pools_there_is_nothing_to_renew():
    assert to_renew(DATABASES, [], "orderdb") == []


def test_what_is_known():
    assert known(DATABASES, "orderdb")
    assert known(DATABASES, "orderdb_ro")
    assert not known(DATABASES, "ordrdb")
