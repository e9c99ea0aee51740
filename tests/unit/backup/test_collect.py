# SPDX-License-Identifier: Apache-2.0
"""What is not as it should be with jobs and archives, told by what the host found."""

from __future__ import annotations

import datetime
import pathlib
from typing import Any

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import collect
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.gaps import Gap

DUE = datetime.datetime(2026, 11, 29, 1, 30, tzinfo=datetime.UTC).timestamp()
ELAPSE = """  Original form: Sun 01:30
Normalized form: Sun *-*-* 01:30:00
    Next elapse: Sun 2026-11-29 01:30:00 UTC
       From now: 1 day ago
"""


def job(**changes: Any) -> dict[str, Any]:
    return {
        "name": "full",
        "since": DUE - 9e4,
        "scheduled": True,
        "next": DUE + 6e5,
        "last": None,
        "due": DUE,
        **changes,
    }


def rules(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, now: float, **changes: Any) -> list[tuple[str, str]]:
    monkeypatch.setattr(contexts, "now", lambda: datetime.datetime.fromtimestamp(now, datetime.UTC))
    host = contexts.Context({"cluster": "lab", "backup_dir": str(tmp_path), "state_dir": str(tmp_path)})
    gaps = changes.pop("gaps", {})
    found = collect.findings(host, collect.Collected([], {}, gaps=gaps), [job(**changes)])
    return [(finding.rule, finding.severity) for finding in found]


def test_the_first_time_of_a_job_is_what_systemd_says() -> None:
    assert collect.parse_elapse(ELAPSE) == DUE
    assert collect.parse_elapse("    Next elapse: never\n") is None
    # As the timer itself counts on a host in Pacific/Chatham: 13:45 earlier than the same words in UTC.
    local = "    Next elapse: Sun 2026-12-06 01:30:00 +1345\n       (in UTC): Sat 2026-12-05 11:45:00 UTC\n       From now: 4 days left\n"
    assert collect.parse_elapse(local) == datetime.datetime(2026, 12, 5, 11, 45, tzinfo=datetime.UTC).timestamp()


def test_a_job_that_missed_its_first_time_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = DUE + collect.LATE_SECONDS + 1
    assert rules(tmp_path, monkeypatch, late) == [("backup_job_never_ran", "warning")]
    assert rules(tmp_path, monkeypatch, late - 2) == []
    assert rules(tmp_path, monkeypatch, late, due=None) == []
    assert rules(tmp_path, monkeypatch, late, last={"ok": True, "state": "done"}, due=None) == []


def test_wal_that_is_missing_in_a_repository_is_critical(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rules(tmp_path, monkeypatch, DUE, gaps={"main": [Gap(1, 5, 9)], "second": []})
    assert found == [("backup_archive_gap", "critical")]
