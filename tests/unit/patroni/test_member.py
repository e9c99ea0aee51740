# SPDX-License-Identifier: Apache-2.0
"""What a Patroni member says of itself, and its tags in its configuration file."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.member import (
    describe_pending,
    effective_tags,
    parse_member,
    with_tags,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

# Patroni 4.0.7, shortened.
REPLICA = {
    "state": "running",
    "postmaster_start_time": "2026-11-26 04:23:01.511101+00:00",
    "role": "replica",
    "replication_state": "streaming",
    "pending_restart": True,
    "pending_restart_reason": {"max_connections": {"old_value": "200", "new_value": "210"}},
    "tags": {"nofailover": True},
    "patroni": {"version": "4.0.7", "scope": "lab", "name": "node2"},
}


def test_a_replica():
    found = parse_member(REPLICA)
    assert (found.name, found.leads, found.works, found.pending_restart) == ("node2", False, True, True)
    assert describe_pending(found) == ["max_connections: 200 -> 210"]
    assert not parse_member({**REPLICA, "replication_state": "starting"}).works


def test_a_member_before_4_0_does_not_tell_why():
    assert describe_pending(parse_member({**REPLICA, "pending_restart_reason": None})) == ["settings"]
    assert describe_pending(parse_member({**REPLICA, "pending_restart": False, "pending_restart_reason": {}})) == []


@pytest.mark.parametrize("answer", [None, [], {}, {"state": "running"}, {"state": "running", "patroni": "4.0"}])
def test_other_answers_are_refused(answer):
    with pytest.raises(Refusal):
        parse_member(answer)


@pytest.mark.parametrize(
    "text",
    [
        "scope: lab\n\ntags: {}\n",
        "scope: lab\ntags:\n  nofailover: true\n  # why\n  zone: a\nlog:\n  level: INFO\n",
        "scope: lab\n",
        "scope: lab",
        "",
    ],
)
def test_tags_are_replaced_and_nothing_else(text):
    before = yaml.safe_load(text) or {}
    done = with_tags(text, {"nosync": True, "zone": "b"})
    assert yaml.safe_load(done) == {**before, "tags": {"nosync": True, "zone": "b"}}
    assert with_tags(done, {"nosync": True, "zone": "b"}) == done


# A key of YAML's ends with its 1024th character, escapes counted.
WORDS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), min_size=1, max_size=100)


@given(st.dictionaries(WORDS, st.booleans() | st.integers() | WORDS))
def test_any_tags_come_back(tags):
    text = "scope: lab\ntags: {old: 1}\nwatchdog:\n  mode: off\n"
    assert yaml.safe_load(with_tags(text, tags))["tags"] == tags


def test_own_tags_that_are_off_are_none():
    assert effective_tags({"nofailover": False, "zone": "", "nosync": True}) == {"zone": "", "nosync": True}
