# SPDX-License-Identifier: Apache-2.0
"""Two strikes at once, without hosts."""

from __future__ import annotations

import pytest
from faults.breakage import Wound, both
from faults.lab import Lab, LabError


def test_the_first_of_two_strikes_is_healed_where_the_second_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "__init__", lambda self: None)
    healed: list[str] = []

    def first(_lab: Lab) -> Wound:
        return Wound("node1", lambda: "", lambda: healed.append("node1"))

    def second(_lab: Lab) -> Wound:
        raise LabError("nobody leads etcd")

    with pytest.raises(LabError, match="nobody leads"):
        both(first, second)(Lab())
    assert healed == ["node1"]
