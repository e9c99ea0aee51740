# SPDX-License-Identifier: Apache-2.0
"""The patch that leads from one dynamic configuration to another, and what is refused."""

from __future__ import annotations

import copy

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.config import (
    KEPT_KEYS,
    apply_patch,
    check,
    patch_for,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals
from hypothesis import given
from hypothesis import strategies as st

KEYS = st.sampled_from(["a", "b", "c", "pause", "standby_cluster"])
SCALARS = st.one_of(st.booleans(), st.integers(0, 3), st.sampled_from(["on", "1", "True", "x"]), st.just([1]))
TREES = st.recursive(
    st.dictionaries(KEYS, SCALARS, max_size=4),
    lambda inner: st.dictionaries(KEYS, SCALARS | inner, max_size=4),
    max_leaves=8,
)
WISHES = st.recursive(
    st.dictionaries(KEYS, SCALARS | st.none(), max_size=4),
    lambda inner: st.dictionaries(KEYS, SCALARS | st.none() | inner, max_size=4),
    max_leaves=8,
)


def patronis_patch(config: dict, data: dict) -> bool:
    """What patch_config() of Patroni 4.0 does to config; written anew from its documented rules."""
    changed = False
    for name, value in data.items():
        if value is None:
            changed = config.pop(name, None) is not None or changed
        elif isinstance(value, dict) and isinstance(config.get(name), dict):
            changed = patronis_patch(config[name], value) or changed
        elif name not in config or isinstance(value, dict) or str(config[name]) != str(value):
            config[name] = value
            changed = True
    return changed


def has(config: dict, wish: dict) -> bool:
    """Whether config is as wished, values compared as Patroni compares them."""
    for key, value in wish.items():
        if value is None:
            if config.get(key) is not None:
                return False
        elif isinstance(value, dict):
            if not isinstance(config.get(key), dict) or not has(config[key], value):
                return False
        elif isinstance(config.get(key), dict) or key not in config or str(config[key]) != str(value):
            return False
    return True


@given(TREES, WISHES)
def test_the_patch_leads_to_the_wish(current: dict, wish: dict) -> None:
    after = copy.deepcopy(current)
    patronis_patch(after, patch_for(current, wish))
    assert has(after, wish)


@given(TREES, WISHES, st.booleans())
def test_a_second_patch_is_empty(current: dict, wish: dict, purge: bool) -> None:
    after = copy.deepcopy(current)
    patronis_patch(after, patch_for(current, wish, purge=purge))
    assert patch_for(after, wish, purge=purge) == {}


@given(TREES, WISHES, st.booleans())
def test_an_empty_patch_is_the_only_one_that_changes_nothing(current: dict, wish: dict, purge: bool) -> None:
    patch = patch_for(current, wish, purge=purge)
    assert patronis_patch(copy.deepcopy(current), patch) is bool(patch)


@given(TREES, WISHES, st.booleans())
def test_the_prediction_is_what_patroni_does(current: dict, wish: dict, purge: bool) -> None:
    patch = patch_for(current, wish, purge=purge)
    after = copy.deepcopy(current)
    patronis_patch(after, patch)
    assert apply_patch(current, patch) == after


@given(TREES, WISHES)
def test_without_purge_only_declared_keys_are_touched(current: dict, wish: dict) -> None:
    after = apply_patch(current, patch_for(current, wish))
    assert {key: value for key, value in after.items() if key not in wish} == {
        key: value for key, value in current.items() if key not in wish
    }


@given(TREES, WISHES)
def test_purge_leaves_only_what_is_declared_or_kept(current: dict, wish: dict) -> None:
    after = apply_patch(current, patch_for(current, wish, purge=True))
    assert set(after) <= set(wish) | KEPT_KEYS
    for key in KEPT_KEYS - set(wish):
        assert after.get(key) == current.get(key)


@given(TREES, WISHES)
def test_nothing_given_is_changed(current: dict, wish: dict) -> None:
    before = copy.deepcopy((current, wish))
    apply_patch(current, patch_for(current, wish, purge=True))
    assert (current, wish) == before


def test_patch_is_the_smallest() -> None:
    current = {"ttl": 30, "postgresql": {"use_slots": True, "parameters": {"max_connections": 100, "work_mem": "4MB"}}}
    wish = {"ttl": 30, "postgresql": {"use_slots": True, "parameters": {"max_connections": 200}}}
    assert patch_for(current, wish) == {"postgresql": {"parameters": {"max_connections": 200}}}
    assert patch_for(current, wish, purge=True) == {
        "postgresql": {"parameters": {"max_connections": 200, "work_mem": None}}
    }


def test_patroni_takes_five_and_the_text_five_for_the_same() -> None:
    assert patch_for({"max_connections": 5}, {"max_connections": "5"}) == {}


def test_a_mapping_replaces_a_scalar() -> None:
    assert patch_for({"slots": "x"}, {"slots": {"a": {"type": "physical", "plugin": None}}}) == {
        "slots": {"a": {"type": "physical"}}
    }


LEGAL = {"ttl": 20, "loop_wait": 5, "retry_timeout": 5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ttl": 19}, "ttl is 19 s, allowed is 20 s or more"),
        ({"loop_wait": 0}, "loop_wait is 0 s, allowed is 1 s or more"),
        ({"retry_timeout": 2}, "retry_timeout is 2 s, allowed is 3 s or more"),
        ({"loop_wait": 11}, "11 + 2 * 5 = 21 s, allowed is at most ttl = 20 s"),
        ({"ttl": "soon"}, "ttl is 'soon', allowed is a whole number of seconds"),
        ({"retry_timeout": None}, "5 + 2 * 10 = 25 s, allowed is at most ttl = 20 s"),
    ],
)
def test_illegal_timings_are_refused(change: dict, said: str) -> None:
    result = {key: value for key, value in {**LEGAL, **change}.items() if value is not None}
    with pytest.raises(Refusals) as caught:
        check({}, result)
    assert said in str(caught.value)


@pytest.mark.parametrize("result", [LEGAL, {**LEGAL, "loop_wait": 10}, {}, {"ttl": "30"}])
def test_legal_timings_pass(result: dict) -> None:
    check({}, result)


@given(st.integers(0, 80), st.integers(0, 40), st.integers(0, 40))
def test_what_passes_is_what_patroni_would_not_change(ttl: int, loop_wait: int, retry_timeout: int) -> None:
    legal = ttl >= 20 and loop_wait >= 1 and retry_timeout >= 3 and loop_wait + 2 * retry_timeout <= ttl
    config = {"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout}
    if legal:
        check({}, config)
    else:
        with pytest.raises(Refusals):
            check({}, config)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"sinchronous_mode": True}, "did you mean synchronous_mode?"),
        ({"postgresql": {"paramters": {}}}, "postgresql.paramters is not a key"),
        ({"postgresql": {"paramters": {}}}, "did you mean postgresql.parameters?"),
        ({"standby_cluster": {"hosts": "x"}}, "did you mean standby_cluster.host?"),
        ({"zzz": 1}, "known are check_timeline, "),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(wish: dict, said: str) -> None:
    with pytest.raises(Refusals, match="is not a key of Patroni's dynamic configuration") as caught:
        check(wish, {})
    assert said in str(caught.value)


def test_the_section_of_a_replica_method_is_known() -> None:
    check({"postgresql": {"create_replica_methods": ["pgbackrest"], "pgbackrest": {"command": "x"}}}, {})


def test_all_problems_come_at_once() -> None:
    with pytest.raises(Refusals) as caught:
        check({"tll": 20}, {"ttl": 1, "loop_wait": 0})
    assert len(caught.value.problems) == 4
