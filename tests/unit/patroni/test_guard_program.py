# SPDX-License-Identifier: Apache-2.0
"""What the guard's program writes to look at a disk, and where it writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(name="program")
def _program(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("patroni_guard")


def test_a_folder_in_use_is_written_to(program: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").touch()
    assert program.write_probe(str(tmp_path), 0) == ""
    assert (tmp_path / program.PROBE).stat().st_size == 0


@pytest.mark.parametrize("left", [False, True], ids=["empty", "with a probe of before"])
def test_a_folder_that_is_to_be_filled_stays_empty(program: ModuleType, tmp_path: Path, left: bool) -> None:
    """pgBackRest and pg_basebackup refuse a folder with anything in it."""
    if left:
        (tmp_path / program.PROBE).touch()
    assert program.write_probe(str(tmp_path), 1 << 62) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_full_file_system_is_told(program: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").touch()
    assert program.write_probe(str(tmp_path), 1 << 62).startswith("is full")


def test_a_folder_that_is_not_there_is_no_finding(program: ModuleType, tmp_path: Path) -> None:
    assert program.write_probe(str(tmp_path / "lab"), 0) == ""


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_patroni_is_woken_once_for_a_clock_that_was_set(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    offset, answers, woken = 0.0, [False, True], []
    monkeypatch.setattr(program, "clock", lambda: offset)
    settings = {"failures": 3, "rest": 30, "stop_timeout": 8, "minimum_free": 1, "data_dir": str(tmp_path)}
    guard = program.Guard(settings, str(tmp_path))

    def wake() -> bool:
        woken.append(offset)
        return answers.pop(0)

    monkeypatch.setattr(guard, "_wake", wake)
    for _look in range(20):
        offset += 0.2
        guard.mind_the_clock()
    assert woken == [], "a clock that is slewed"
    offset += step
    for _look in range(5):
        guard.mind_the_clock()
    assert len(woken) == 2, "again where Patroni did not answer, then no more"
