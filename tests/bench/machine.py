# SPDX-License-Identifier: Apache-2.0
"""What a figure is worth depends on: the day, the machine, the versions. For the tables of the benchmarks."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path


def described(program: Path) -> str:
    """Return a line of Markdown about today, this machine and a server program."""
    text = subprocess.run([str(program), "--version"], check=True, capture_output=True, text=True).stdout
    return here("Valkey " + re.findall(r"v=(\S+)", text)[0])


def here(versions: str) -> str:
    """Return a line of Markdown about today, versions of what is measured and this machine."""
    memory = int(re.findall(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))[0]) / 1024**2
    model = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[:1]
    processor = f" ({model[0]})" if model else ""
    return (
        f"{datetime.datetime.now(datetime.UTC).date()}, {versions}, {os.cpu_count()} cores{processor}, "
        f"{memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"
    )
