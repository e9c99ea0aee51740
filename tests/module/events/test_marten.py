# SPDX-License-Identifier: Apache-2.0
"""Stores of Marten go out and come in again: every row of every table is there."""

from __future__ import annotations

import pytest
from event_stores import STORES


@pytest.mark.parametrize("store", STORES)
def test_a_store_comes_back_whole_and_a_second_run_adds_nothing(server, tmp_path, store):
    server.make("source", store)
    server.make("target", store, rows=False)
    assert server.export("source", tmp_path)["changed"]
    assert not server.export("source", tmp_path)["changed"]
    before = server.tables("target")
    planned = server.load("target", tmp_path, check=True)
    assert server.tables("target") == before
    done = server.load("target", tmp_path)
    assert done["changed"]
    assert {name: planned[name] for name in ("inserted", "present", "streams", "documents", "sequences")} == {
        name: done[name] for name in ("inserted", "present", "streams", "documents", "sequences")
    }
    assert server.tables("target") == server.tables("source")
    assert server.sequences("target") == server.sequences("source")
    again = server.load("target", tmp_path)
    assert (again["changed"], again["inserted"], again["streams"]) == (False, 0, 0)
    assert server.tables("target") == server.tables("source")
