# SPDX-License-Identifier: Apache-2.0
"""Which databases samples of a backup are of."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup_take import picked


@pytest.mark.parametrize(
    ("filled", "number", "wanted"),
    [
        ((), 8, []),
        ((), 0, []),
        ((3,), 0, []),
        ((0,), 3, [0, 0, 0]),
        ((0, 5), 3, [0, 5, 0]),
        ((0, 5), 2, [0, 5]),
    ],
    ids=str,
)
def test_every_database_in_turn(filled: tuple[int, ...], number: int, wanted: list[int]) -> None:
    assert picked(filled, number) == wanted


def test_some_of_more_databases_than_samples() -> None:
    found = picked(range(100), 8)
    assert len(set(found)) == 8
    assert set(found) <= set(range(100))
