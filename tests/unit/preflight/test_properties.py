# SPDX-License-Identifier: Apache-2.0
"""Properties that hold for all inputs: timings, clocks, placement, ports, nearest names."""

from __future__ import annotations

from itertools import combinations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import clock, groups, machine
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import KNOWN_GROUPS
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.timings import timing_faults
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.variables import secret_fault
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.primaries import (
    majority_safe,
    separable,
    wished,
)
from hypothesis import example, given
from hypothesis import strategies as st

seconds = st.integers(-5, 60)
letters = "0123456789 -.aAeEzZ!\u00e9\u0663"


@given(ttl=seconds, loop_wait=seconds, retry_timeout=seconds)
@example(ttl=20, loop_wait=10, retry_timeout=5)
@example(ttl=20, loop_wait=1, retry_timeout=10)
def test_timings_pass_exactly_where_patroni_leaves_them_alone(ttl, loop_wait, retry_timeout):
    legal = ttl >= 20 and loop_wait >= 1 and retry_timeout >= 3 and loop_wait + 2 * retry_timeout <= ttl
    faults = timing_faults({"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout})
    assert (faults == []) is legal


@given(
    st.fixed_dictionaries(
        {},
        optional={"ttl": st.none() | st.text(letters), "loop_wait": st.booleans(), "retry_timeout": st.lists(seconds)},
    )
)
def test_timings_of_any_kind_are_judged_and_never_raise(values):
    assert timing_faults(values)


moments = st.floats(0, 1e6)
spans = st.floats(0, 20)


@given(start=moments, before=spans, reading=spans, after=spans, ahead=st.floats(-1e4, 1e4))
def test_the_bounds_hold_the_true_offset(start, before, reading, after, ahead):
    """A call starts, the host reads its clock `before` later, works for `reading`, and the answer takes `after`."""
    low, high = clock.offset(start, start + before + reading + after, start + before + ahead, reading)
    assert low <= ahead + 1e-6
    assert high >= ahead - 1e-6
    assert high - low == pytest.approx(before + after, abs=1e-6)


@given(
    offsets=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    slack=st.tuples(spans, spans, spans, spans),
)
def test_no_skew_is_claimed_that_is_not_there(offsets, slack):
    one = (offsets[0] - slack[0], offsets[0] + slack[1])
    other = (offsets[1] - slack[2], offsets[1] + slack[3])
    skew = clock.proven_skew(one, other)
    assert 0 <= skew <= abs(offsets[0] - offsets[1]) + 1e-9
    assert skew == clock.proven_skew(*reversed((one, other)))


def test_two_readings_bound_better_than_one_unless_they_contradict():
    assert clock.narrowest([(-1.0, 0.5), (-0.1, 3.0)]) == (-0.1, 0.5)
    assert clock.narrowest([(0.0, 1.0), (5.0, 6.0)]) == (0.0, 6.0)


def test_a_controllers_clock_that_was_set_back_bounds_nothing():
    with pytest.raises(ValueError, match="went back"):
        clock.offset(100.0, 90.0, 95.0)


def possible(counts: tuple[int, ...], primaries: int, size: int) -> bool:
    """Try everything: can `primaries` shards of `size` instances be made, none with two of the same host?"""
    if primaries == 0:
        return True
    usable = [host for host, number in enumerate(counts) if number]
    return any(
        possible(tuple(number - (host in shard) for host, number in enumerate(counts)), primaries - 1, size)
        for shard in combinations(usable, size)
    )


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=4), replicas=st.integers(0, 2))
@example(counts=[4, 1, 1], replicas=1)
@example(counts=[2, 2, 2], replicas=1)
def test_separable_agrees_with_trying_everything(counts, replicas):
    primaries = sum(counts) // (replicas + 1)
    hosts = {f"host{number}": value for number, value in enumerate(counts)}
    assert separable(hosts, primaries, replicas) is possible(tuple(counts), primaries, replicas + 1)


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=6), primaries=st.integers(1, 9))
def test_a_safe_majority_survives_the_loss_of_any_host(counts, primaries):
    hosts = {f"host{number}": value for number, value in enumerate(counts)}
    if not majority_safe(hosts, primaries):
        return
    spread, left = [], primaries
    for number in counts:
        spread.append(min(number, (primaries - 1) // 2, left))
        left -= spread[-1]
    assert left == 0
    assert all(2 * (primaries - lost) > primaries for lost in spread)


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=6), replicas=st.integers(1, 3))
@example(counts=[3, 3, 3], replicas=1)
@example(counts=[3, 3, 2], replicas=1)
def test_primaries_are_as_many_as_are_safe(counts, replicas):
    hosts = {f"host{number}": value for number, value in enumerate(counts)}
    most = sum(counts) // (replicas + 1)
    number = wished(hosts, replicas)
    if number == most:
        safe = [fewer for fewer in range(3, most) if majority_safe(hosts, fewer)]
        assert majority_safe(hosts, most) or not safe
    else:
        assert 3 <= number < most
        assert majority_safe(hosts, number)
        assert not majority_safe(hosts, number + 1)
        # Fewer primaries never make it harder to keep replicas apart.
        assert separable(hosts, number, replicas) >= separable(hosts, most, replicas)


@given(st.sampled_from(KNOWN_GROUPS), st.data())
def test_a_group_with_one_letter_lost_is_recognised(group, data):
    position = data.draw(st.integers(0, len(group) - 1))
    assert groups.nearest_group(group[:position] + group[position + 1 :]) == group


@pytest.mark.parametrize("name", ["webservers", "mail", "production", "rack_a", "dc1"])
def test_names_of_others_are_not_ours(name):
    assert groups.nearest_group(name) == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1GB", 1024),
        ("256MB", 256),
        ("524288kB", 512),
        ("16384", 128),
        (16384, 128),
        ("0.5GB", 512),
        ("1 GB", 1024),
        ("lots", None),
        ("1gb", None),
    ],
)
def test_postgresql_sizes(text, size):
    assert machine.postgresql_mib(text) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1gb", 1024), ("256MB", 256), ("1048576", 1), ("1g", 1e9 / 2**20), ("0", 0), ("much", None), ("-1", None)],
)
def test_valkey_sizes(text, size):
    assert machine.valkey_mib(text) == size


@given(st.text(letters, max_size=40), st.lists(st.text(letters, max_size=20), max_size=3))
def test_a_secret_never_appears_in_what_is_said_about_it(secret, names):
    fault = secret_fault(secret, names)
    said = {"", "an empty secret", "a well-known default", "the name of the user, the cluster or the variable"}
    said |= {"a secret of hardly any different characters", f"a secret of {len(secret.strip())} characters"}
    assert fault in said
    if len(secret.strip()) < 12:
        assert fault
