# SPDX-License-Identifier: Apache-2.0
"""Which nodes give a backup's files, when they are one moment, what is complete."""

from __future__ import annotations

from itertools import pairwise

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import digest, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup, restore
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup import Fork
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Server, parse_nodes
from hypothesis import given
from hypothesis import strategies as st

A, B, C, R = (letter * 40 for letter in "abcd")
VIEW = parse_nodes(
    f"""{A} 198.18.0.1:7001@17001 myself,master - 0 0 1 connected 0-5460
{B} 198.18.0.2:7001@17001 master - 0 0 2 connected 5461-10922
{C} 198.18.0.3:7001@17001 master - 0 0 3 connected 10923-16383
{R} 198.18.0.2:7002@17002 slave {A} 0 0 1 connected"""
)


def server(role: str = "primary", offset: int = 1000, **more: object) -> Server:
    return Server(version=(8, 1, 1), run_id="x", role=role, offset=offset, **more)  # type: ignore[arg-type]


PRIMARIES = {A: server(), B: server(), C: server()}


def sources(wish: str, replica: Server | None) -> list[str]:
    servers = {**PRIMARIES, **({R: replica} if replica else {})}
    return [giver.source.id for giver in backup.choose(VIEW, servers, wish)]


def test_a_replica_that_has_caught_up_gives_the_file():
    assert sources(backup.AUTO, server("replica")) == [R, B, C]
    assert sources(backup.PRIMARY, server("replica")) == [A, B, C]


@pytest.mark.parametrize(
    "replica",
    [
        None,
        server("replica", link_up=False),
        server("replica", loading=True),
        server("replica", syncing=True),
        server("primary"),
        server("replica", offset=1000 - backup.READY_LAG - 1),
    ],
)
def test_one_that_has_not_does_not(replica):
    assert sources(backup.AUTO, replica) == [A, B, C]
    with pytest.raises(Refusal, match="no replica of"):
        sources(backup.REPLICA, replica)


def test_a_primary_that_does_not_answer_ends_it():
    with pytest.raises(Refusal, match=r"198\.18\.0\.2:7001 \(slots 5461-10922\) does not answer"):
        backup.choose(VIEW, {A: server(), C: server()}, backup.AUTO)


def test_what_a_cluster_must_be():
    assert backup.unready([VIEW]) == ""
    text = f"{A} 198.18.0.1:7001@17001 myself,master - 0 0 1 connected 0-5460"
    assert "slots 5461-16383 have no owner" in backup.unready([parse_nodes(text)])
    lines = [
        f"{A} 198.18.0.1:7001@17001 myself,master - 0 0 1 connected 0-9",
        f"{B} 198.18.0.2:7001@17001 master,fail - 0 0 2 connected 10-16383",
    ]
    assert "198.18.0.2:7001 failed" in backup.unready([parse_nodes("\n".join(lines))])
    open_slot = f"{A} 198.18.0.1:7001@17001 myself,master - 0 0 1 connected 0-16383 [5->-{B}]"
    assert "on their way" in backup.unready([parse_nodes(open_slot)])
    assert "agree" in backup.unready([VIEW, parse_nodes(open_slot)])


def test_a_moment():
    good = [Fork(10, 10, True, 0.01), Fork(20, 20, True, 0.02)]
    assert backup.torn(good, 0.5) == ""
    assert "after 20 ms" in backup.torn(good, 0.02)
    assert "1 shard(s) went on" in backup.torn([*good, Fork(10, 11, True, 0.01)], 0.5)
    # Without a replica a primary does not count, the pause alone holds.
    assert backup.torn([Fork(0, 1, False, 0.01)], 0.5) == ""


@given(st.sets(st.integers(1, 16383), max_size=20), st.data())
def test_each_slot_is_in_exactly_one_file(bounds, data):
    edges = [0, *sorted(bounds), 16384]
    owned = [(ranges.SlotRange(first, end - 1),) for first, end in pairwise(edges)]
    assert backup.uncovered(owned) == ""
    index = data.draw(st.integers(0, len(owned) - 1))
    assert "are in no file" in backup.uncovered(owned[:index] + owned[index + 1 :])
    assert "are in two files" in backup.uncovered([*owned, owned[index]])


def test_headers_and_ends():
    assert backup.rdb_version(b"REDIS0011\xfa") == 11
    assert backup.rdb_version(b"VALKEY080\xfa") == 80
    with pytest.raises(ValueError, match="begins"):
        backup.rdb_version(b"-ERR whatever")
    assert backup.is_rdb_end(b"\xff12345678")
    assert not backup.is_rdb_end(b"\xff1234567")
    assert not backup.is_rdb_end(b"x12345678")


def test_secrets_are_not_kept():
    kept = backup.kept_settings({"primaryauth": "x", "tls-key-file-pass": "y", "requirepass": "", "maxmemory": "1"})
    assert kept == {
        "maxmemory": "1",
        "primaryauth": backup.REDACTED,
        "requirepass": "",
        "tls-key-file-pass": backup.REDACTED,
    }


@given(st.lists(st.tuples(st.binary(), st.binary()), unique_by=lambda pair: pair[0]), st.randoms())
def test_digests_know_no_order_where_there_is_none(pairs, chance):
    other = list(pairs)
    chance.shuffle(other)
    flat = [item for pair in pairs for item in pair]
    mixed = [item for pair in other for item in pair]
    assert digest.digest("hash", flat) == digest.digest("hash", mixed)
    assert (digest.digest("list", flat) == digest.digest("list", mixed)) == (flat == mixed)


@given(st.lists(st.binary()), st.lists(st.binary()))
def test_digests_tell_values_apart(one, other):
    assert (digest.digest("list", one) == digest.digest("list", other)) == (one == other)


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"123456789", 12739), (b"{user1000}.following", restore.slot_of(b"user1000")), (b"foo{}{bar}", 8363)],
)
def test_slots_of_keys(key, slot):
    assert restore.slot_of(key) == slot


@given(st.lists(st.binary(min_size=1)), st.integers(1, 7))
def test_each_key_goes_to_whom_its_slot_belongs(keys, number):
    owners = [str(slot * number // 16384) for slot in range(16384)]
    groups = restore.by_owner(keys, owners)
    assert sorted(key for group in groups.values() for key in group) == sorted(keys)
    assert all(owners[restore.slot_of(key)] == owner for owner, group in groups.items() for key in group)


def test_older_servers_are_refused():
    assert restore.versions_problem("8.1.1", (8, 1, 4), {"a": (8, 1, 1), "b": (9, 1, 2)}) == ""
    assert "on this host is 8.1.1" in restore.versions_problem("9.1.2", (8, 1, 1), {"a": (9, 1, 2)})
    assert "b is 8.1.1" in restore.versions_problem("9.1.2", (9, 1, 2), {"a": (9, 1, 2), "b": (8, 1, 1)})
    assert "can't read" in restore.versions_problem("8.1.1", (9, 1, 2), {"a": (8, 1, 1)})


def test_as_many_shards_at_once_as_fit():
    assert restore.at_once([100, 200, 300], 10_000, 2) == 2
    assert restore.at_once([100, 200, 300], 600, 2) == 2
    assert restore.at_once([100, 200, 300], 400, 2) == 1
    assert restore.at_once([100, 200, 300], 300, 2) == 0


@given(st.integers(0, 16383), st.integers(0, 10**6), st.booleans(), st.text())
def test_a_state_is_read_as_it_was_written(cursor, keys, begun, name):
    part = restore.Part(cursor=cursor, keys=keys, begun=begun)
    state = restore.State("20260101T000000Z", ("a", "b"), restore.FLUSH, restore.READY, parts={name: part})
    assert restore.load_state(restore.dump_state(state)) == state


def test_ends_of_keys():
    assert restore.same_expiry(-1, -1)
    assert not restore.same_expiry(-1, 5)
    assert restore.same_expiry(10_000, 11_999)
    assert not restore.same_expiry(10_000, 12_001)
