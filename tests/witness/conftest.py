# SPDX-License-Identifier: Apache-2.0
"""The program that reads and writes event stores through the real libraries, and a server for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from events.conftest import server

__all__ = ["server"]


class Witness:
    """The judge: what it reads is what an application reads."""

    def __init__(self, program: str) -> None:
        self.program = program

    def run(self, server, database: str, *words: str, seconds: float = 600) -> str:
        """Run one of its verbs against a database; return what it printed."""
        connection = f"Host=127.0.0.1;Port={server.port};Database={database};Username=postgres;Password=unused"
        done = subprocess.run(
            [self.program, *words],
            env={**os.environ, "WITNESS_CONNECTION": connection},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="session")
def witness() -> Witness:
    """The program that HOLDFAST_WITNESS names."""
    program = os.environ.get("HOLDFAST_WITNESS", "")
    if not Path(program).is_file():
        pytest.fail(
            "HOLDFAST_WITNESS names no program that reads event stores through the real libraries; set it, then run again"
        )
    return Witness(program)
