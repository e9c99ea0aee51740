# SPDX-License-Identifier: Apache-2.0
"""One run at a time: who has the lock, when it is void, what becomes of it when a run ends or dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.action import run_lock as action
from ansible_collections.holdfast.persistence.plugins.modules.run_lock import take

ROOT = Path(__file__).resolve().parents[3]
ANNA, BERT = {"id": "a:1:1", "who": "anna"}, {"id": "b:2:2", "who": "bert"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "run.lock")


def test_the_second_is_told_who_works(path: str) -> None:
    assert take(path, ANNA, 60) == (True, {})
    assert take(path, BERT, 60) == (False, ANNA)
    assert take(path, ANNA, 60) == (False, {})
    assert json.loads(Path(path).read_text()) == ANNA


@pytest.mark.parametrize("age", [61, -61])
def test_a_note_that_nobody_renews_is_void(path: str, age: int) -> None:
    take(path, ANNA, 60)
    os.utime(path, (time.time() - age,) * 2)
    assert take(path, BERT, 60) == (True, {})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "x"}', "null"])
def test_a_note_that_cannot_be_read_is_void(path: str, content: str) -> None:
    take(path, ANNA, 60)
    Path(path).write_text(content)
    assert take(path, BERT, 60) == (True, {})


def test_a_run_that_is_known_to_be_dead_is_forgotten_at_once(path: str) -> None:
    take(path, ANNA, 60)
    assert take(path, BERT, 60, dead="c:3:3") == (False, ANNA)
    assert take(path, BERT, 60, dead=ANNA["id"]) == (True, {})


def test_only_a_run_of_this_controller_is_known_to_be_dead() -> None:
    mine = f"{socket.gethostname()}:{os.getpid()}"
    assert not action.is_dead(f"{mine}:{action.started(os.getpid())}")
    assert action.is_dead(f"{mine}:1")
    assert not action.is_dead("another:1:1")
    assert not action.is_dead("")


def playbook(folder: Path, *tasks: dict[str, object]) -> list[str]:
    """Return the command that runs tasks on this machine."""
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": list(tasks)}]
    file = folder / f"play{len(list(folder.glob('play*')))}.json"
    file.write_text(json.dumps(play))
    return [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "--inventory",
        "localhost,",
        "--connection",
        "local",
        str(file),
    ]


ENVIRONMENT = {
    **os.environ,
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
    "ANSIBLE_NOCOLOR": "1",
}


def wait_for(path: Path, there: bool) -> None:
    """Wait until a file is there, or gone."""
    deadline = time.monotonic() + 120
    while path.exists() != there:
        assert time.monotonic() < deadline, f"{path} is {'not ' if there else ''}there"
        time.sleep(0.1)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, None], ids=["killed", "interrupted", "ended"])
def test_the_lock_lives_as_long_as_its_run(tmp_path: Path, end: signal.Signals | None) -> None:
    path, gate = tmp_path / "run.lock", tmp_path / "gate"
    lock = {"holdfast.persistence.run_lock": {"path": str(path)}}
    wait: dict[str, object] = {"ansible.builtin.wait_for": {"path": str(gate), "timeout": 300}}
    with subprocess.Popen(playbook(tmp_path, lock, lock, wait), env=ENVIRONMENT, stdout=subprocess.DEVNULL) as first:
        wait_for(path, there=True)
        second = subprocess.run(playbook(tmp_path, lock), env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert second.returncode != 0
        assert f"process {first.pid}) is changing this" in " ".join(second.stdout.split())
        checking = subprocess.run(
            [*playbook(tmp_path, lock), "--check"], env=ENVIRONMENT, capture_output=True, check=False
        )
        assert checking.returncode == 0
        if end is None:
            gate.touch()
        else:
            first.send_signal(end)
        first.wait(timeout=120)
    wait_for(path, there=False)
