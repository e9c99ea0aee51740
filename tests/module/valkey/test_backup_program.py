# SPDX-License-Identifier: Apache-2.0
"""The program of the backup host against a real cluster: its job, its drill, and what a broken backup does to all that tell of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey_load
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore_source import left
from run_module import ROOT, run_module
from valkey_servers import PASSWORD, ValkeyServers

KEYS = 2000


class Program:
    """holdfast-backup with a configuration of its own."""

    def __init__(self, servers: ValkeyServers, folder: Path) -> None:
        assert servers.certificates is not None
        self.backups = folder / "backups"
        self.metrics = folder / "metrics.prom"
        self._config = folder / "backup.json"
        # The drill's server is the one of PATH, as on a host.
        self._path = f"{servers.programs}:{os.environ['PATH']}"
        content = {
            "cluster": "test",
            "backup_dir": str(self.backups),
            "state_dir": str(folder / "state"),
            "metrics_file": str(self.metrics),
            "retention": {},
            "offsite": [],
            "limits": {"valkey": {"good": 3600, "proved": 3600}},
            "valkey": {
                "username": "admin",
                "password": PASSWORD,
                "ca_cert": str(servers.certificates.ca),
                "client_cert": str(servers.certificates.combined),
                "nodes": [{"address": "127.0.0.1", "port": port} for port in servers.ports],
            },
        }
        self._config.write_text(json.dumps(content))

    def __call__(self, *words: str) -> tuple[int, str]:
        """Run it; return its status and what it wrote."""
        command = [sys.executable, str(ROOT / "roles/backup/files/holdfast_backup.py"), "--config", str(self._config)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / ".link"), "PATH": self._path}
        done = subprocess.run(
            [*command, *words], env=environment, capture_output=True, text=True, timeout=180, check=False
        )
        return done.returncode, done.stdout or done.stderr

    def job(self, kind: str, **options: Any) -> tuple[int, str]:
        """Run a job that is not declared."""
        return self("run", f"{kind}-now", "--kind", kind, "--options", json.dumps(options))

    def valkey(self) -> dict[str, Any]:
        """What the catalogue says of Valkey."""
        status, text = self("catalogue")
        assert status == 0, text
        return next(entry for entry in json.loads(text)["summary"] if entry["engine"] == "valkey")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program beside a cluster with data."""
    with ValkeyServers("8.1", 6, True, {"maxmemory": "0", "repl-diskless-sync-delay": "0"}) as servers:
        run_module("valkey_cluster", {"nodes": servers.nodes(), "replicas": 1, **servers.login})
        valkey_load.fill(servers.ports[0], KEYS, 5, servers.login)
        yield Program(servers, tmp_path_factory.mktemp("program"))


def drill_failed(program: Program) -> str:
    """The metric of the last drill."""
    lines = program.metrics.read_text().splitlines()
    return next(line.split()[-1] for line in lines if line.startswith('holdfast_backup_drill_failed{engine="valkey"}'))


@pytest.mark.parametrize("kind", ["rdb", "aof"])
def test_a_drill_proves_what_the_job_made(program: Program, kind: str) -> None:
    status, text = program.job("valkey", type=kind)
    assert status == 0, text
    [label] = json.loads(text)["labels"]["valkey"]
    assert program.valkey()["good"]["label"] == label
    status, text = program.job("drill")
    assert status == 0, text
    proof = json.loads((program.backups / f"proofs/valkey/{label}.json").read_text())
    assert proof["verdict"] == "proved"
    assert proof["rto_seconds"] > 0
    assert proof["rpo_seconds"] > 0
    names = [check["name"] for check in proof["checks"]]
    assert names[0] == "files"
    assert len([name for name in names if name.endswith("samples")]) == 3
    assert program.valkey()["proved"]["label"] == label
    assert drill_failed(program) == "0"
    assert left(str(program.backups / "valkey" / label)) == []


def test_a_broken_backup_is_told_by_drill_catalogue_and_metric(program: Program) -> None:
    status, text = program.job("valkey")
    assert status == 0, text
    [label] = json.loads(text)["labels"]["valkey"]
    file = program.backups / "valkey" / label / "shard-00000.rdb"
    content = bytearray(file.read_bytes())
    content[300] ^= 1
    file.write_bytes(content)
    status, text = program.job("drill", engines=["valkey"])
    assert status == 1
    assert "shard-00000.rdb has another content than was written (SHA-256)" in text
    assert json.loads((program.backups / f"proofs/valkey/{label}.json").read_text())["verdict"] == "failed"
    assert drill_failed(program) == "1"
    status, text = program("catalogue")
    assert any(label in json.dumps(finding) for finding in json.loads(text)["findings"]), text


def test_without_a_backup_nothing_is_proved(program: Program, tmp_path: Path) -> None:
    config = json.loads(program._config.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**config, "backup_dir": str(tmp_path / "none")}))
    before, program._config = program._config, other
    try:
        status, text = program.job("drill", engines=["valkey"])
    finally:
        program._config = before
    assert status == 1
    assert "has no backup of Valkey" in text
