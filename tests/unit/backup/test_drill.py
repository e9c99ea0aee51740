# SPDX-License-Identifier: Apache-2.0
"""A drill says what it proved, and never success over nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import drill
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


@pytest.mark.parametrize("options", [{}, {"engines": []}])
def test_a_host_without_backups_proves_nothing(options) -> None:
    drills = {"postgresql": lambda _context, _job: [], "valkey": lambda _context, _job: []}
    with pytest.raises(Refusal, match="nothing to restore"):
        drill.run(drills, SimpleNamespace(config={}), SimpleNamespace(options=options, name="drill"))


def test_an_engine_without_a_backup_is_not_proved() -> None:
    def none(_context, _job):
        raise Refusal("there is no backup")

    with pytest.raises(Refusal, match="not proved: valkey: there is no backup"):
        drill.run(
            {"valkey": none},
            SimpleNamespace(config={"valkey": {"port": 7001}}),
            SimpleNamespace(options={}, name="drill"),
        )


def test_a_drill_without_a_verdict_is_not_proved() -> None:
    silent = {"valkey": lambda _context, _job: []}
    with pytest.raises(Refusal, match="valkey: nothing was restored"):
        drill.run(silent, SimpleNamespace(config={"valkey": {"port": 7001}}), SimpleNamespace(options={}, name="drill"))
