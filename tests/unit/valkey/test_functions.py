# SPDX-License-Identifier: Apache-2.0
"""Which libraries nodes get before they get slots."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.functions import (
    Load,
    parse_libraries,
    plan,
)
from hypothesis import given
from hypothesis import strategies as st

LIBRARIES = st.dictionaries(st.sampled_from(["one", "two", "three"]), st.sampled_from(["a", "b"]))


def test_the_reply_of_a_server() -> None:
    """As 8.1 and 9.1 answer FUNCTION LIST WITHCODE in RESP2."""
    code = "#!lua name=one\nserver.register_function('f', function() return 1 end)"
    functions = [["name", "f", "description", None, "flags", []]]
    reply = [["library_name", "one", "engine", "LUA", "functions", functions, "library_code", code]]
    assert parse_libraries(reply) == {"one": code}


def test_a_new_shard_gets_what_the_others_have() -> None:
    libraries = {"a": {"one": "x", "two": "y"}, "b": {"one": "x"}, "new": {"one": "old"}}
    assert plan(libraries, {"a", "b"}, {"new"}) == (Load("new", "one", "x", replace=True), Load("new", "two", "y"))


@given(st.dictionaries(st.sampled_from("abcd"), LIBRARIES, min_size=4), st.sets(st.sampled_from("abc"), min_size=1))
def test_afterwards_nobody_lacks_a_library(libraries: dict[str, dict[str, str]], owners: set[str]) -> None:
    """A node that serves keeps its own code; one without slots has that of the owners; a second plan has nothing to do."""
    targets = {"a", "d"}
    before = {node: dict(found) for node, found in libraries.items()}
    for item in plan(libraries, owners, targets):
        assert item.replace == (item.name in libraries[item.node])
        libraries[item.node][item.name] = item.code
    names = {name for owner in owners for name in before[owner]}
    for node in targets:
        assert names <= libraries[node].keys()
        if node in owners:
            assert before[node].items() <= libraries[node].items()
    assert plan(libraries, owners, targets) == ()
