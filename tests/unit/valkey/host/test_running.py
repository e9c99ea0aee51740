# SPDX-License-Identifier: Apache-2.0
"""A server whose program was replaced on disk is seen."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.running import program_replaced


def test_a_program_that_was_replaced(tmp_path: Path) -> None:
    """As dpkg does it: the new file takes the name of the old one."""
    program = tmp_path / "server"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        assert not program_replaced(process.pid)
        newer = tmp_path / "server.dpkg-new"
        shutil.copy(program, newer)
        newer.replace(program)
        assert program_replaced(process.pid)
        process.kill()
