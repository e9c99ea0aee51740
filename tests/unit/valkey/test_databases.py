# SPDX-License-Identifier: Apache-2.0
"""How keys of slots are counted in all databases."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint, ReplyError
from hypothesis import given
from hypothesis import strategies as st


@given(
    st.dictionaries(st.integers(0, 15), st.dictionaries(st.integers(0, 99), st.integers(1, 9)), max_size=4),
    st.sets(st.integers(0, 99), max_size=8),
)
def test_all_databases_are_counted(held: dict[int, dict[int, int]], slots: set[int]) -> None:
    """A server that answers for the database that is selected: every database's keys count, and database 0 is selected at the end."""
    selected, replies = 0, []
    for name, *words in databases.counting(slots, held):
        if name == "SELECT":
            selected = words[0]
            replies.append("OK")
        else:
            replies.append(held[selected].get(words[1], 0))
    assert selected == 0
    found = databases.counted(slots, held, replies)
    assert found == {slot: {n: keys[slot] for n, keys in held.items() if slot in keys} for slot in slots}
    assert {s: databases.total(numbers) for s, numbers in found.items()} == {
        slot: sum(keys.get(slot, 0) for keys in held.values()) for slot in slots
    }


def test_a_database_that_can_not_be_selected_is_an_error() -> None:
    refused = ReplyError(Endpoint("127.0.0.1", 7001), ("SELECT", 3), "ERR DB index is out of range")
    with pytest.raises(ReplyError, match="out of range"):
        databases.counted([1], [3], [refused, 0, "OK"])


def test_a_server_without_the_setting_has_one_database() -> None:
    assert databases.limit([]) == 1
    assert databases.limit(["cluster-databases", "16"]) == 16
