"""HAProxy of each Debian release."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[3]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=["trixie", "forky"])
def suite(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def haproxy(suite: str) -> str:
    """Path of that release's HAProxy."""
    found = run("tools/servers", suite, "haproxy")
    assert found.returncode == 0, found.stderr
    return f"{found.stdout.strip()}/run/haproxy"
