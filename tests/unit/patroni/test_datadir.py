# SPDX-License-Identifier: Apache-2.0
"""Whose data directory it is."""

from __future__ import annotations

import sys

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.datadir import (
    DataDirectory,
    judge,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

SYSTEM = "7711149091995491723"
OPTIONS = '/usr/lib/postgresql/17/bin/postgres "-D" "/data" "--cluster_name=lab" "--port=5432"'


def directory(**changes: object) -> DataDirectory:
    fields = {
        "path": "/data",
        "entries": frozenset({"PG_VERSION", "global", "postmaster.opts"}),
        "version": "17",
        "control": int(SYSTEM).to_bytes(8, sys.byteorder) + b"rest",
        "postmaster_opts": OPTIONS,
    }
    return DataDirectory(**{**fields, **changes})


@pytest.mark.parametrize("system", [None, SYSTEM])
def test_ours(system: str | None) -> None:
    assert judge(directory(), "lab", "17", system) == "ours"


def test_a_new_copy_of_the_running_cluster_is_ours() -> None:
    assert judge(directory(postmaster_opts=""), "lab", "17", SYSTEM) == "ours"


def test_a_copy_made_under_patroni_is_ours_without_the_others() -> None:
    copied = directory(postmaster_opts="", entries=frozenset({"PG_VERSION", "patroni.dynamic.json"}))
    assert judge(copied, "lab", "17", None) == "ours"


def test_empty() -> None:
    assert judge(DataDirectory("/data"), "lab", "17", SYSTEM) == "empty"


@pytest.mark.parametrize(
    ("changes", "system", "said"),
    [
        ({"version": "", "entries": frozenset({"holiday.jpg"})}, None, r"other files \(holiday.jpg\)"),
        ({"version": "15"}, None, "is of PostgreSQL 15; allowed is version 17"),
        ({}, "42", f"belongs to the database system {SYSTEM}; allowed is the system 42"),
        ({"postmaster_opts": OPTIONS.replace("lab", "orders")}, None, "ran as cluster orders; allowed is cluster lab"),
        ({"postmaster_opts": OPTIONS.replace("lab", "orders")}, SYSTEM, "ran as cluster orders"),
        ({"postmaster_opts": '/usr/bin/postgres "-D" "/data"'}, None, "never ran under Patroni"),
        ({"postmaster_opts": ""}, None, "never ran under Patroni"),
        ({"control": b""}, SYSTEM, "belongs to the database system ;"),
    ],
)
def test_foreign(changes: dict, system: str | None, said: str) -> None:
    with pytest.raises(Refusal, match=said) as caught:
        judge(directory(**changes), "lab", "17", system)
    assert "Nothing was changed" in str(caught.value)
