# SPDX-License-Identifier: Apache-2.0
"""pgbench at work through PgBouncer at the virtual address: eight clients at a steady rate, until they are told to end.

A client that sees an error is aborted by pgbench, which says so and exits with an error itself.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from lab_access import Lab

CLIENTS = 8
RATE = int(os.environ.get("HOLDFAST_JOURNEY_RATE", "25"))
LONGEST_SECONDS = 3600


class Pgbench:
    """Runs beside a block. mode: `prepared` or `simple`, pgbench's protocol."""

    def __init__(self, lab: Lab, mode: str) -> None:
        self._environment = {**os.environ, **lab.environment}
        self._mode = mode
        self._folder = tempfile.TemporaryDirectory(prefix="pgbench-")
        self.said = ""
        self.status = -1

    @staticmethod
    def fill(lab: Lab) -> None:
        """Make pgbench's tables."""
        command = ["pgbench", "--initialize", "--quiet", "--scale=2"]
        subprocess.run(command, env={**os.environ, **lab.environment}, check=True, capture_output=True)

    def __enter__(self) -> Pgbench:
        self._process = subprocess.Popen(
            ["pgbench", "--no-vacuum", f"--client={CLIENTS}", f"--time={LONGEST_SECONDS}", f"--rate={RATE}", f"--protocol={self._mode}",
             "--builtin=simple-update", "--log", "--log-prefix=transactions"],
            cwd=self._folder.name, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        time.sleep(3)
        assert self._process.poll() is None, self._process.communicate()[0]
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        time.sleep(2)
        # The signal by which pgbench itself learns that its time is over.
        self._process.send_signal(signal.SIGALRM)
        try:
            self.said, _nothing = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.said, _nothing = self._process.communicate()
        self.status = self._process.returncode

    @property
    def failed(self) -> int:
        """How many transactions failed; AssertionError where a client was aborted or pgbench did not end well."""
        assert self.status == 0, self.said
        found = re.search(r"number of failed transactions: (\d+)", self.said)
        assert found, self.said
        return int(found[1])

    @property
    def transactions(self) -> int:
        """How many succeeded."""
        found = re.search(r"number of transactions actually processed: (\d+)", self.said)
        assert found, self.said
        return int(found[1])

    def longest(self) -> float:
        """Return how long a client waited at most for a transaction, from when it was due, in seconds."""
        lines = [
            line.split()
            for path in Path(self._folder.name).glob("transactions.*")
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        return max(int(fields[2]) for fields in lines) / 1e6
