# SPDX-License-Identifier: Apache-2.0
"""The names that PgBouncer offers."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.filter.pgbouncer_lines import pgbouncer_lines
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.databases import entries, lines
from hypothesis import given
from hypothesis import strategies as st

PORTS = {"read_write": 5000, "read_only": 5001, "synchronous": 5002}
NAMES = st.lists(st.sampled_from(["a", "b", "a_ro", "a_session", "b_session", "a_session_session"]), unique=True)


def test_second_names_of_a_database():
    found = pgbouncer_lines(
        [], ports=PORTS, real=["orderdb"], read_only=["orderdb"], sessions=["orderdb"], session_options={"pool_size": 10},
        transaction_options={"server_lifetime": 900},
    )  # fmt: skip
    assert found == [
        "orderdb = host=127.0.0.1 port=5000 dbname='orderdb' server_lifetime=900",
        "orderdb_ro = host=127.0.0.1 port=5001 dbname='orderdb' server_lifetime=900",
        "orderdb_session = host=127.0.0.1 port=5000 dbname='orderdb' pool_mode=session pool_size=10",
        "* = host=127.0.0.1 port=5000 server_lifetime=900",
    ]


def test_a_line_of_the_operator_comes_first_and_wins():
    own = [{"name": "orderdb_session", "database": "orderdb", "pool_mode": "transaction", "max_connections": 3}]
    found = pgbouncer_lines(own, ports=PORTS, real=["orderdb"], sessions=["orderdb"])
    assert found == [
        "orderdb_session = host=127.0.0.1 port=5000 dbname='orderdb' pool_mode=transaction max_db_connections=3",
        "orderdb = host=127.0.0.1 port=5000 dbname='orderdb'",
        "* = host=127.0.0.1 port=5000",
    ]


def test_where_all_pools_are_sessions_none_gets_the_options_of_shared_ones():
    assert lines(entries([]), PORTS, {"server_lifetime": 900}, "session") == ["* = host=127.0.0.1 port=5000"]


@given(real=NAMES, read_only=NAMES, sessions=NAMES)
def test_a_real_database_is_never_shadowed_and_every_other_wish_is_met(real, read_only, sessions):
    found = entries([], real, read_only, sessions)
    by_name = {entry.name: entry.database for entry in found}
    assert all(by_name[name] == name for name in real)
    wished = {f"{name}_ro" for name in read_only} | {f"{name}_session" for name in sessions}
    assert set(by_name) == wished | set(real)
    assert len({entry.name for entry in found}) == len(found)
