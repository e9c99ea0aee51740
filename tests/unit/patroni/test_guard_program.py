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
