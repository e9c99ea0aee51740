# SPDX-License-Identifier: Apache-2.0
"""From found to wished users and roles of etcd."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.etcd.access import (
    ROOT,
    State,
    User,
    parse_permissions,
    plan,
    prefix,
)
from hypothesis import given
from hypothesis import strategies as st

RIGHT = prefix("/service/lab/", "readwrite")
PATRONI = User("patroni", "secret", (RIGHT,))
DONE = State(
    enabled=True,
    users={ROOT: (ROOT,), "patroni": ("patroni",)},
    roles={ROOT: (), "patroni": (RIGHT,)},
    known_passwords=frozenset({ROOT, "patroni"}),
)


def texts(state, users=(PATRONI,)):
    return [step.text for step in plan("root-secret", users, state)]


def test_prefix_ends_after_its_last_key():
    assert base64.b64decode(RIGHT.range_end) == b"/service/lab0"
    assert base64.b64decode(prefix("a\x7f", "read").range_end) == b"a\x80"


@pytest.mark.parametrize(("path", "kind"), [("", "read"), ("/a", "admin")])
def test_senseless_permissions_are_refused(path, kind):
    with pytest.raises(ValueError, match="permission"):
        prefix(path, kind)


@given(st.text(min_size=1).filter(lambda text: text.isascii()), st.text(max_size=20))
def test_prefix_holds_exactly_the_keys_that_begin_with_it(path, rest):
    right = prefix(path, "read")
    low, high = base64.b64decode(right.key), base64.b64decode(right.range_end)
    assert low <= (path + rest).encode() < high
    assert not low <= path[:-1].encode() < high


def test_empty_cluster_gets_all_and_authentication_last():
    assert texts(State()) == [
        "add role root",
        "add user root",
        "grant role root to user root",
        "add role patroni",
        "grant READWRITE on /service/lab/* to role patroni",
        "add user patroni",
        "grant role patroni to user patroni",
        "turn authentication on",
    ]


def test_finished_cluster_needs_nothing():
    assert texts(DONE) == []


def test_run_killed_before_the_end_sets_passwords_it_cannot_know():
    state = State(users={ROOT: (ROOT,), "patroni": ("patroni",)}, roles=DONE.roles)
    assert texts(state) == [
        "change the password of user root",
        "change the password of user patroni",
        "turn authentication on",
    ]


def test_wrong_password_and_permissions_are_corrected():
    state = State(
        enabled=True,
        users={ROOT: (ROOT,), "patroni": ("root",)},
        roles={ROOT: (), "patroni": (prefix("/", "readwrite"),)},
        known_passwords=frozenset({ROOT}),
    )
    assert texts(state) == [
        "revoke READWRITE on /* from role patroni",
        "grant READWRITE on /service/lab/* to role patroni",
        "change the password of user patroni",
        "grant role patroni to user patroni",
        "revoke role root from user patroni",
    ]


def test_steps_never_show_a_secret():
    assert "secret" not in repr(plan("root-secret", [PATRONI], State()))
    assert "secret" not in repr(PATRONI)


def test_permissions_of_the_gateway_leave_out_the_default():
    assert parse_permissions({"perm": [{"key": "YQ==", "range_end": "Yg=="}]}) == (prefix("a", "read"),)
    assert parse_permissions({}) == ()


def test_roots_password_changes_last_as_it_ends_the_session():
    state = State(enabled=True, users=DONE.users, roles=DONE.roles)
    assert texts(state) == ["change the password of user patroni", "change the password of user root"]


def test_users_that_stood_in_are_removed_with_their_roles():
    users = {**DONE.users, "patroni-rotating": ("patroni-rotating",)}
    roles = {**DONE.roles, "patroni-rotating": (RIGHT,)}
    state = State(enabled=True, users=users, roles=roles, known_passwords=DONE.known_passwords)
    steps = plan("root-secret", [PATRONI], state, ["patroni-rotating"])
    assert [step.text for step in steps] == ["remove user patroni-rotating", "remove role patroni-rotating"]
    assert plan("root-secret", [PATRONI], DONE, ["patroni-rotating"]) == []
    assert texts(state) == []
