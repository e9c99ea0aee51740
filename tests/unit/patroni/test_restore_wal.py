# SPDX-License-Identifier: Apache-2.0
"""The restore_command of replicas, run with a repository that is played by a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "roles/patroni/files/restore-wal"
SEGMENT, NEXT, HISTORY = "000000020000000000000011", "000000020000000000000012", "00000002.history"


class Replica:
    """A data directory; calls: what the repository was asked for."""

    def __init__(self, folder: Path) -> None:
        self.data, self.repository, self._programs = folder / "data", folder / "repository", folder / "bin"
        for path in (self.data, self.repository, self._programs):
            path.mkdir()
        self._log = folder / "calls"
        self._state = folder / "state"
        fake = self._programs / "pgbackrest"
        fake.write_text(
            f'#!/bin/sh\necho "$3" >> {self._log}\n[ -e {self.repository}/$3 ] || exit 1\ncp {self.repository}/$3 "$4"\n'
        )
        fake.chmod(0o755)
        (self.data / "standby.signal").touch()

    @property
    def calls(self) -> list[str]:
        return self._log.read_text().split() if self._log.exists() else []

    def ask(self, name: str) -> bool:
        done = subprocess.run(
            ["sh", PROGRAM, "lab", name, "got"],
            cwd=self.data,
            env={"PATH": f"{self._programs}:/usr/bin:/bin", "HOLDFAST_STATE": str(self._state)},
            check=False,
        )
        return done.returncode == 0


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path)


def test_a_segment_is_looked_for_when_it_is_asked_for_again(replica: Replica) -> None:
    (replica.repository / SEGMENT).write_text("wal")
    assert not replica.ask(SEGMENT)
    assert replica.calls == []
    assert replica.ask(SEGMENT)
    assert (replica.data / "got").read_text() == "wal"


def test_once_the_repository_has_it_the_following_ones_come_at_once_until_one_is_missing(replica: Replica) -> None:
    (replica.repository / SEGMENT).write_text("wal")
    replica.ask(SEGMENT)
    assert replica.ask(SEGMENT)
    (replica.repository / NEXT).write_text("wal")
    assert replica.ask(NEXT)
    missing = "000000020000000000000013"
    assert not replica.ask(missing)
    assert replica.calls == [SEGMENT, NEXT, missing]
    assert not replica.ask(missing)
    assert replica.calls == [SEGMENT, NEXT, missing]


def test_histories_are_looked_for_at_once(replica: Replica) -> None:
    (replica.repository / HISTORY).write_text("1")
    assert replica.ask(HISTORY)
    assert not replica.ask("00000003.history")


def test_outside_of_standby_mode_nothing_is_held_back(replica: Replica) -> None:
    (replica.data / "standby.signal").unlink()
    (replica.repository / SEGMENT).write_text("wal")
    assert replica.ask(SEGMENT)
    assert not replica.ask(NEXT)
    assert replica.calls == [SEGMENT, NEXT]
