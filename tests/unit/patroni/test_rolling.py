# SPDX-License-Identifier: Apache-2.0
"""In which order members are updated."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rolling import order

MEMBERS = [
    {"name": "node1", "role": "leader", "pending_restart": False},
    {"name": "node2", "role": "quorum_standby", "pending_restart": True,
     "pending_restart_reason": {"max_connections": {"old_value": "200", "new_value": "210"}}},
    {"name": "node3", "role": "replica", "pending_restart": True, "pending_restart_reason": None},
    {"name": "node4", "role": "sync_standby", "pending_restart": False},
]  # fmt: skip
NEWER = {"newer": ["patroni"], "outdated": [], "reasons": ["patroni 4.0 -> 4.1"]}
OLD = {"newer": [], "outdated": ["postgresql"], "reasons": ["postgresql runs a program that was replaced on disk"]}
NOTHING = {"newer": [], "outdated": [], "reasons": []}


def test_replicas_first_and_those_on_which_commits_wait_after_the_others():
    steps = order(MEMBERS, {"node1": NEWER, "node2": NOTHING, "node3": NOTHING, "node4": OLD})
    assert [(step["name"], step["restart"], step["leads"]) for step in steps] == [
        ("node3", "postgresql", False),
        ("node2", "postgresql", False),
        ("node4", "patroni", False),
        ("node1", "patroni", True),
    ]
    assert steps[1]["why"] == ["waits for a restart: max_connections 200 -> 210"]
    assert steps[0]["why"] == ["waits for a restart: settings"]
    assert steps[3]["upgrade"] == ["patroni"]


def test_nothing_to_do_is_no_step():
    calm = [{**member, "pending_restart": False} for member in MEMBERS]
    assert order(calm, {member["name"]: NOTHING for member in calm}) == []
