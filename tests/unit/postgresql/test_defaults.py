# SPDX-License-Identifier: Apache-2.0
"""Session defaults of databases and roles."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.defaults import (
    Default,
    affected,
    differing,
    nearest,
    parse,
    values_of,
    wished,
)


@pytest.mark.parametrize(
    ("name", "value", "values"),
    [
        ("statement_timeout", "30s", ("30s",)),
        ("statement_timeout", 0, ("0",)),
        ("default_transaction_read_only", True, ("on",)),
        ("jit", False, ("off",)),
        ("search_path", ["sales", "public"], ("sales", "public")),
        ("search_path", 'sales, "$user"', ("sales", "$user")),
        ("DateStyle", "ISO, DMY", ("ISO, DMY",)),
        ("jit", None, None),
    ],
)
def test_values_as_set_takes_them(name, value, values):
    assert values_of(name, value) == values


def test_what_is_declared():
    found = wished(
        [{"name": "orderdb", "settings": {"jit": False}}, {"name": "plain"}],
        [{"name": "reporter", "settings": {"jit": True}, "database_settings": {"orderdb": {"work_mem": "1GB"}}}],
    )
    assert [(default.owner, default.name, default.values) for default in found] == [
        ("database orderdb", "jit", ("off",)),
        ("role reporter", "jit", ("on",)),
        ("role reporter in database orderdb", "work_mem", ("1GB",)),
    ]


def test_only_what_differs_is_set():
    have = parse([("orderdb", "", ["search_path=sales, public", "TimeZone=UTC", "application_name=a=b"])])
    assert have["orderdb", ""]["application_name"] == "a=b"
    same = [
        Default("orderdb", "", "search_path", ("sales", "public")),
        Default("orderdb", "", "timezone", ("UTC",)),
        Default("orderdb", "", "jit", None),
    ]
    other = [Default("orderdb", "", "search_path", None), Default("orderdb", "x", "jit", ("on",))]
    assert differing([*same, *other], have) == other


def test_whose_connections_are_renewed():
    assert affected([("orderdb", ""), ("orderdb", "reporter"), ("a", "")]) == ["a", "orderdb"]
    assert affected([("orderdb", ""), ("", "reporter")]) == [""]
    assert affected([]) == []


def test_the_nearest_name():
    assert nearest("statment_timeout", ["statement_timeout", "lock_timeout"]) == "statement_timeout"
    assert nearest("zzz", ["statement_timeout"]) == ""
