# SPDX-License-Identifier: Apache-2.0
"""Playbooks that are killed at a moment by chance, as when the machine they are run from is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab_access import BIN, INVENTORY, ROOT


@dataclass(frozen=True)
class Killed:
    """How far a playbook came. ended: it was through before it could be killed; task: the one it was at."""

    ended: bool
    seconds: float
    task: str

    def __str__(self) -> str:
        return f"{'ended before' if self.ended else 'killed after'} {self.seconds:.1f} s: {self.task or 'no task yet'}"


def chance() -> random.Random:
    """Return a source of chance, and tell its seed."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def kill(seconds: float, *arguments: str) -> Killed:
    """Start a playbook and kill it, after so many seconds; what it has at work on hosts continues. One that ends must end well."""
    process = subprocess.Popen(
        [BIN / "ansible-playbook", "--inventory", INVENTORY, *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _nothing = process.communicate(timeout=seconds)
        assert process.returncode == 0, said[-3000:]
    except subprocess.TimeoutExpired:
        # Its workers are in sessions of their own.
        family = [process.pid, *map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())]
        for member in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        said, _nothing = process.communicate()
    tasks = [line.rstrip("* ") for line in said.splitlines() if line.startswith(("TASK [", "RUNNING HANDLER ["))]
    return Killed(process.returncode == 0, seconds, tasks[-1] if tasks else "")
