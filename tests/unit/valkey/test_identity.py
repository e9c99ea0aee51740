# SPDX-License-Identifier: Apache-2.0
"""When a nodes.conf can be used, and what it is made of again."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Endpoint
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host import identity
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import parse_nodes
from hypothesis import given
from hypothesis import strategies as st

ONE, TWO, THREE = "1" * 40, "2" * 40, "3" * 40
TEXT = f"""{ONE} 10.0.0.1:7001@17001,node1 myself,master - 0 0 3 connected 0-8191 [5->-{TWO}]
{TWO} 10.0.0.2:7001@17001 master,fail - 1 2 2 disconnected 8192-16383
{THREE} 10.0.0.2:7002@17002 slave {ONE} 0 0 3 connected
"""
VARS = "vars currentEpoch 3 lastVoteEpoch 2\n"


def told(text: str = TEXT, epoch: int = 7) -> dict[Endpoint, identity.Told]:
    where = Endpoint("10.0.0.1", 7001)
    return {where: identity.Told(where, parse_nodes(text), epoch)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is missing"),
        ("\n", "is empty"),
        (TEXT[:60], "can't be read"),
        (TEXT, "has no epochs"),
        (TEXT.replace("myself,", "") + VARS, "does not say which node this is"),
        (TEXT + VARS, ""),
    ],
)
def test_a_file_can_be_used_or_not(text: str | None, reason: str) -> None:
    assert identity.problem(text).startswith(reason)
    assert bool(identity.problem(text)) == bool(reason)


@given(st.text())
def test_nothing_in_a_file_breaks_the_judgement(text: str) -> None:
    assert isinstance(identity.problem(text), str)


def test_a_file_is_made_of_what_a_member_knows() -> None:
    """With its slots, whom it follows and the epochs; marks and what was seen of a moment are left out."""
    best = identity.known(told(), Endpoint("10.0.0.2", 7001))
    assert best is not None
    text = identity.rebuilt(*best)
    assert identity.problem(text) == ""
    assert text.splitlines() == [
        f"{ONE} 10.0.0.1:7001@17001,node1 master - 0 0 3 connected 0-8191",
        f"{TWO} 10.0.0.2:7001@17001 myself,master - 0 0 2 connected 8192-16383",
        f"{THREE} 10.0.0.2:7002@17002 slave {ONE} 0 0 3 connected",
        "vars currentEpoch 7 lastVoteEpoch 7",
    ]
    view = parse_nodes("\n".join(text.splitlines()[:-1]))
    assert view.myself.id == TWO


def test_the_member_that_knows_most_is_believed() -> None:
    older, newer = Endpoint("10.0.0.1", 7001), Endpoint("10.0.0.3", 7001)
    said = {**told(), newer: identity.Told(newer, parse_nodes(TEXT.replace("8192-16383", "")), 8)}
    best = identity.known(said, Endpoint("10.0.0.2", 7001))
    assert best is not None
    assert best[0].asked == newer
    assert identity.known(told(), older) is None
    assert identity.known({}, older) is None


def test_an_owner_without_data_stays_down() -> None:
    view = parse_nodes(TEXT)
    with pytest.raises(Refusal, match="owns slots 8192-16383 and has no data"):
        identity.refuse_empty(view.by_id[TWO], "10.0.0.2:7001")
    identity.refuse_empty(view.by_id[THREE], "10.0.0.2:7002")
