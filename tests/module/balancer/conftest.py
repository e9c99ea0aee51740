# SPDX-License-Identifier: Apache-2.0
"""HAProxy of each Debian release."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

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


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with ca.crt and haproxy.pem; any certificate will do, only the syntax of the configuration is judged."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key", folder / "ca.crt"
    made = run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"),
        *("-subj", "/CN=test", "-keyout", str(key), "-out", str(certificate)),
    )
    assert made.returncode == 0, made.stderr
    (folder / "haproxy.pem").write_text(key.read_text() + certificate.read_text())
    return folder


def render(suite: str, certificates: pathlib.Path, folder: pathlib.Path, *more: str) -> pathlib.Path:
    """Render the files of the roles haproxy and pgbouncer into a folder; return it."""
    playbook = shutil.which("ansible-playbook") or f"{os.path.dirname(sys.executable)}/ansible-playbook"
    variables = f'{{"cluster_tls_dir": "{certificates}", "suite": "{suite}", "folder": "{folder}"}}'
    platform = '{"cluster_platform": "{{ cluster_platforms[suite] }}"}'
    play = str(pathlib.Path(__file__).parent / "render.yml")
    # The folder of a lab is made for its secrets; this one is the test's own.
    extra = ["-e", variables, "-e", platform, "-e", f"lab_dir={folder}", *more]
    result = run(playbook, "-i", "inventories/lab", play, *extra)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def rendered(suite: str, certificates: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the files of the roles haproxy and pgbouncer."""
    return render(suite, certificates, tmp_path_factory.mktemp(suite))
