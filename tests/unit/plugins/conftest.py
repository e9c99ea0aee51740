# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests that go through Ansible itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """A function that evaluates one template in a fresh Ansible process and returns the task's result."""

    def run(template: str, **variables: object) -> dict[str, Any]:
        task = {"ansible.builtin.debug": {"msg": template}}
        play = [{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [task]}]
        playbook = tmp_path / "evaluate.json"
        playbook.write_text(json.dumps(play))
        done = subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                "--inventory",
                "localhost,",
                "--connection",
                "local",
                playbook,
            ],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout, done.stderr
        output = json.loads(done.stdout)
        result: dict[str, Any] = output["plays"][0]["tasks"][0]["hosts"]["localhost"]
        return result

    return run
