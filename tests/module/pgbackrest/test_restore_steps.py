# SPDX-License-Identifier: Apache-2.0
"""pgbackrest_restore after a run that was killed: its step may be at work still, and what it filled may be half."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_module import fail_module, finish, run_module, start


def look(folder: Path, timeout: int) -> dict[str, Any]:
    """Return the arguments of a look at a host."""
    return {
        "step": "look",
        "stanza": "lab",
        "data_dir": str(folder / "17"),
        "bin_dir": "/usr/lib/postgresql/17/bin",
        "state_file": str(folder / "restore.json"),
        "timeout": timeout,
    }


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[int]:
    """A step that is at work: the lock that it holds."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_a_step_waits_for_one_that_was_left_at_work(tmp_path: Path, at_work: int) -> None:
    waiting = start("pgbackrest_restore", look(tmp_path, 60))
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    fcntl.flock(at_work, fcntl.LOCK_UN)
    assert finish(waiting)["kept"] == []


def test_a_step_that_does_not_end_is_told(tmp_path: Path, at_work: int) -> None:
    told = fail_module("pgbackrest_restore", look(tmp_path, 1))
    assert "a step of an earlier run is still at work after 1 s (restore_timeout)" in told
    assert str(tmp_path) in told


def test_a_directory_that_was_not_filled_to_its_end_is_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "17").mkdir()
    (tmp_path / "17/PG_VERSION").write_text("17\n")
    found = run_module("pgbackrest_restore", look(tmp_path, 60))
    assert (found["primary"], found["kept"]) == (False, [])


def test_what_cannot_be_moved_aside_is_told_by_a_look(tmp_path: Path) -> None:
    wal = tmp_path / "wal/lab"
    (tmp_path / "17").mkdir()
    (tmp_path / "17/pg_wal").symlink_to(wal)
    options = look(tmp_path, 60)
    assert f"is a link to {wal}" in run_module("pgbackrest_restore", options)["obstacle"]
    assert run_module("pgbackrest_restore", {**options, "wal_dir": str(wal)})["obstacle"] == ""
    mounted = run_module("pgbackrest_restore", {**options, "data_dir": "/dev/shm"})
    assert mounted["obstacle"].startswith("/dev/shm is a mount point")


def test_data_goes_aside_with_its_wal_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "disk/17").mkdir(parents=True)
    (tmp_path / "wal/lab").mkdir(parents=True)
    (tmp_path / "wal/lab/000000010000000000000001").write_text("old")
    (tmp_path / "disk/17/pg_wal").symlink_to(tmp_path / "wal/lab")
    options = {**look(tmp_path / "disk", 60), "wal_dir": str(tmp_path / "wal/lab"), "id": "1", "step": "aside"}
    assert run_module("pgbackrest_restore", options)["changed"]
    assert not run_module("pgbackrest_restore", options)["changed"]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["17.before-1"]
    assert (tmp_path / "disk/17.before-1/pg_wal/000000010000000000000001").read_text() == "old"
    assert run_module("pgbackrest_restore", {**options, "step": "back"})["changed"]
    assert (tmp_path / "disk/17/pg_wal").resolve() == tmp_path / "wal/lab"
