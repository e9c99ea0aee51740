# SPDX-License-Identifier: Apache-2.0
"""Retention: what every rule leaves, whatever it says."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import retention
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
DAY = 86_400.0
RULES = st.builds(
    retention.Rule, *(st.integers(0, 5) for _name in ("count", "days", "daily", "weekly", "monthly", "yearly"))
)


@st.composite
def histories(draw):
    """Backups of two series; an incremental one needs an older one of its series."""
    items = []
    for number in range(draw(st.integers(0, 20))):
        series = draw(st.sampled_from(["logical/full/a", "logical/full/b"]))
        older = [item.label for item in items if item.series == series]
        needs = (draw(st.sampled_from(older)),) if older and draw(st.booleans()) else ()
        age = (20 - number) * draw(st.sampled_from([0.1, 1.0, 1.0, 1.0]))
        items.append(
            retention.Item(
                f"label{number}",
                series,
                NOW - age * DAY,
                good=draw(st.sampled_from([True, True, True, False])),
                proved=draw(st.booleans()),
                needs=needs,
            )
        )
    return items


def kept(items, rule):
    return {decision.label for decision in retention.plan(items, rule, NOW) if decision.keep}


@given(histories(), RULES)
def test_whatever_the_rule_says(items, rule):
    decisions = retention.plan(items, rule, NOW)
    keep = {decision.label for decision in decisions if decision.keep}
    assert sorted(decision.label for decision in decisions) == sorted(item.label for item in items)
    assert all(decision.reason for decision in decisions)
    for series in {item.series for item in items}:
        own = [item for item in items if item.series == series]
        good = [item for item in own if item.good]
        newest = max(good, key=lambda item: (item.end, item.label), default=None)
        if newest:
            assert newest.label in keep, "the last good one is never deleted"
        proved = [item for item in good if item.proved]
        if proved:
            assert max(proved, key=lambda item: (item.end, item.label)).label in keep, "nor the last proved one"
        for item in own:
            if item.label in keep:
                assert set(item.needs) <= keep, "nor what a kept one needs"
            elif newest:
                assert newest.end >= item.end, "what goes is superseded by a newer good one"


@given(histories(), RULES)
def test_a_second_run_deletes_nothing(items, rule):
    keep = kept(items, rule)
    assert kept([item for item in items if item.label in keep], rule) == keep


@given(histories(), RULES, st.data())
def test_order_and_interruption_change_nothing(items, rule, data):
    gone = {decision.label for decision in retention.plan(items, rule, NOW) if not decision.keep}
    partly = data.draw(st.sets(st.sampled_from(sorted(gone)))) if gone else set()
    rest = data.draw(st.permutations([item for item in items if item.label not in partly]))
    assert kept(rest, rule) == kept(items, rule)


def day(number, **more):
    return retention.Item(f"day{number}", "s", NOW - number * DAY, **more)


def test_by_count():
    assert kept([day(number) for number in range(5)], retention.Rule(count=2)) == {"day0", "day1"}


def test_thirty_days():
    assert kept([day(number) for number in range(40)], retention.Rule(days=30)) == {f"day{n}" for n in range(31)}


def test_old_backups_stay_while_nothing_newer_is_good():
    items = [day(90), day(91), day(1, good=False)]
    assert kept(items, retention.Rule(days=30)) == {"day90", "day1"}


def test_a_grandfather_a_father_and_sons():
    keep = kept([day(number) for number in range(400)], retention.Rule(daily=7, weekly=4, monthly=12, yearly=2))
    assert {f"day{number}" for number in range(7)} <= keep
    assert 7 + 12 <= len(keep) <= 7 + 4 + 12 + 2


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ("30 days", "not a rule"),
        ({"keep": 3}, "keep is unknown"),
        ({"count": -1}, "count is -1"),
        ({"days": "30"}, "days is '30'"),
        ({"days": True}, "days is True"),
        ({"count": 0}, "keeps nothing"),
        ({}, "keeps nothing"),
    ],
)
def test_what_is_no_rule_is_refused(entry, word):
    with pytest.raises(Refusal, match=word):
        retention.parse_rule(entry)
