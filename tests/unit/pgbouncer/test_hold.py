# SPDX-License-Identifier: Apache-2.0
"""When held pools continue."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.hold import Step, leads, next_step
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.sets(st.sampled_from(["node1", "node2", "node3"]))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, False),
        ({"role": "primary", "state": "running"}, True),
        ({"role": "master", "state": "running"}, True),
        ({"role": "replica", "state": "running"}, False),
        ({"role": "primary", "state": "stopping"}, False),
    ],
)
def test_a_primary_is_out_of_recovery_and_runs(answer: dict[str, Any] | None, expected: bool) -> None:
    assert leads(answer) is expected


def test_haproxy_is_told_both_halves_of_the_truth() -> None:
    assert next_step("node1", ["node2"], ["node1"]) == Step(up="node2", down=("node1",))
    assert next_step("node1", ["node2"], []) == Step(up="node2")
    assert next_step("node1", ["node2"], ["node1", "node2"]) == Step(down=("node1",))


@given(st.sampled_from(["node1", "node2", "node3"]), NAMES, NAMES)
def test_pools_go_on_only_where_all_connections_lead_to_the_one_new_primary(
    old: str, leaders: set[str], routes: set[str]
) -> None:
    step = next_step(old, leaders, routes)
    assert step.resume == (len(leaders) == 1 and leaders == routes and old not in leaders)
    if step.up or step.down:
        assert not step.resume
        # Once HAProxy has done so, the pools continue.
        assert next_step(old, leaders, (routes | {step.up}) - {"", *step.down}).resume
