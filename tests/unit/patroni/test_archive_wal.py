# SPDX-License-Identifier: Apache-2.0
"""The archive_command, run with a program that only notes what it is asked to archive."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "roles/patroni/files/archive-wal"
MEBIBYTE = 1 << 20


class Primary:
    """A data directory with segments of 16 MiB, or what size says; history: the lines of its timeline's file."""

    def __init__(self, folder: Path) -> None:
        self.data = folder
        (self.data / "pg_wal").mkdir()
        self._noted = folder / "noted"
        self.archiver = folder / "archiver"
        self.archiver.write_text(f'#!/bin/sh\necho "$@" >> {self._noted}\nexit 3\n')
        self.archiver.chmod(0o755)

    def history(self, timeline: int, *lines: str) -> None:
        (self.data / "pg_wal" / f"{timeline:08X}.history").write_text("".join(f"{line}\tno reason\n" for line in lines))

    def archive(self, name: str, size: int = 16 * MEBIBYTE) -> tuple[int, str]:
        with (self.data / "pg_wal" / name).open("wb") as segment:
            segment.truncate(size)
        command = ["sh", str(PROGRAM), str(self.archiver), "--stanza=lab", "archive-push", f"pg_wal/{name}"]
        code = subprocess.run(command, cwd=self.data, check=False, stdout=subprocess.DEVNULL).returncode
        return code, self._noted.read_text() if self._noted.exists() else ""


@pytest.fixture
def primary(tmp_path: Path) -> Primary:
    return Primary(tmp_path)


def test_without_a_history_everything_is_archived_and_its_failure_told(primary: Primary) -> None:
    assert primary.archive("00000001000000000000001C") == (
        3,
        "--stanza=lab archive-push pg_wal/00000001000000000000001C\n",
    )


@pytest.mark.parametrize(
    ("name", "fork", "size", "left_out"),
    [
        ("0000000E000000000000001C", "0/1C0000A0", 16, True),
        ("0000000E000000000000001D", "0/1C0000A0", 16, True),
        ("0000000E000000000000001B", "0/1C0000A0", 16, False),
        # It ended with the last byte of a segment.
        ("0000000E000000000000001B", "0/1C000000", 16, False),
        ("0000000E000000000000001C", "0/1C000000", 16, True),
        ("0000000E00000012000000FF", "12/FFFFFFF8", 16, True),
        ("0000000E00000011000000FF", "12/FFFFFFF8", 16, False),
        ("0000000E0000001200000000", "12/0", 16, True),
        ("0000000E0000000000000003", "0/F000000", 64, True),
        ("0000000E0000000000000002", "0/F000000", 64, False),
        # Another timeline than the one that ended there.
        ("0000000F000000000000001C", "0/1C0000A0", 16, False),
    ],
)
def test_what_ends_after_its_timeline_is_left_out(
    primary: Primary, name: str, fork: str, size: int, left_out: bool
) -> None:
    primary.history(14, "13\t0/1A0000A0")
    primary.history(15, "13\t0/1A0000A0", f"14\t{fork}")
    code, noted = primary.archive(name, size * MEBIBYTE)
    assert (code, noted) == ((0, "") if left_out else (3, f"--stanza=lab archive-push pg_wal/{name}\n"))


@pytest.mark.parametrize(
    "name", ["0000000E000000000000001C.partial", "0000000F.history", "0000000E000000000000001C.00000028.backup"]
)
def test_other_files_are_archived(primary: Primary, name: str) -> None:
    primary.history(15, "14\t0/1C0000A0")
    assert primary.archive(name)[0] == 3


def test_histories_are_looked_for_beside_the_segment(primary: Primary) -> None:
    primary.history(15, "14\t0/1C0000A0")
    primary.archive("0000000E000000000000001C")
    path = primary.data / "pg_wal" / "0000000E000000000000001C"
    done = subprocess.run(["sh", PROGRAM, "false", path], cwd="/", check=False, stdout=subprocess.DEVNULL)
    assert done.returncode == 0
