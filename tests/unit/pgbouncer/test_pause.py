# SPDX-License-Identifier: Apache-2.0
"""The order of a pause, against a console that does what PgBouncer's does."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.pause import (
    kinds,
    pause_all,
    quoted,
    resume_single,
)
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.sampled_from(["orderdb", "orderdb_session", "a-b", 'with "quotes"', "orderdb_ro"])
POOLS = st.dictionaries(NAMES, st.lists(st.sampled_from(["transaction", "session", "statement"]), min_size=1))


class RefusedError(Exception):
    """What a console says no with, or its end in the middle."""


class Console:
    """PgBouncer's rules: KILL pauses its database and is refused under PAUSE, as is PAUSE itself; RESUME wants a pause."""

    def __init__(self, pools, by_hand=(), ends_after=1000, hidden=()):
        self.pools, self.single, self.paused, self.killed = pools, set(by_hand), False, []
        self.hidden = set(hidden)
        self.ends_after = ends_after

    def ask(self, command):
        self.ends_after -= 1
        if self.ends_after < 0:
            raise RefusedError("the connection was closed")
        if command == "SHOW DATABASES":
            return [
                {"name": name, "paused": int(name in self.single)} for name in self.pools if name not in self.hidden
            ]
        if command == "SHOW POOLS":
            rows = [{"database": name, "pool_mode": mode} for name, modes in self.pools.items() for mode in modes]
            return [*rows, {"database": "pgbouncer", "pool_mode": "statement"}]
        word, _blank, name = command.partition(" ")
        name = name[1:-1].replace('""', '"')
        if word == "RESUME":
            if name not in self.single:
                raise RefusedError(f"database {name} is not paused")
            self.single.remove(name)
            return []
        if self.paused:
            raise RefusedError("already suspended/paused")
        if not name:
            self.paused = True
            return []
        if word == "KILL":
            # Everything that shares connections waits by now.
            assert {other for other, modes in self.pools.items() if "session" not in modes} <= self.single
            self.killed.append(name)
        self.single.add(name)
        return []


@given(pools=POOLS, by_hand=st.sets(NAMES))
def test_all_are_paused_once_and_only_sessions_are_ended(pools, by_hand):
    by_hand &= set(pools)
    console = Console(pools, by_hand)
    ended = pause_all(console.ask, RefusedError)
    assert console.paused
    assert console.single == by_hand
    assert list(ended) == console.killed == sorted(name for name in set(pools) - by_hand if "session" in pools[name])


@given(pools=POOLS, by_hand=st.sets(NAMES), commands=st.integers(0, 20), hidden=st.sets(NAMES))
def test_cut_off_anywhere_all_can_be_resumed(pools, by_hand, commands, hidden):
    by_hand &= set(pools)
    # Databases without a line of their own come and go in SHOW DATABASES.
    console = Console(pools, by_hand, commands, hidden - by_hand)
    try:
        pause_all(console.ask, RefusedError)
    except RefusedError:
        console.ends_after = 1000
    else:
        console.ends_after = 1000
    resume_single(console.ask, by_hand, RefusedError)
    assert console.single == by_hand


def test_a_database_with_pools_of_both_kinds_counts_among_the_sessions():
    rows = [{"database": "a", "pool_mode": "session"}, {"database": "a", "pool_mode": "transaction"}]
    assert kinds(rows).sessions == ("a",)
    assert kinds(rows).shared == ()


@pytest.mark.parametrize(("name", "read"), [("a", '"a"'), ("a-b", '"a-b"'), ('a"b', '"a""b"')])
def test_names_as_the_console_reads_them(name, read):
    assert quoted(name) == read
