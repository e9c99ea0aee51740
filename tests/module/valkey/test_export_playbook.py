# SPDX-License-Identifier: Apache-2.0
"""playbooks/export_inventory.yml against a real Valkey cluster on loopback: check mode, the inventory, a second run, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from run_module import run_module
from valkey_servers import ValkeyServers

ROOT = Path(__file__).resolve().parents[3]


def test_an_inventory_is_written_once(tmp_path: Path) -> None:
    with ValkeyServers("8.1", 3) as servers:
        run_module("valkey_cluster", {"nodes": servers.nodes(), "replicas": 0})
        before = servers.all("CONFIG", "GET", "*")

        def play(*arguments: str, **variables: Any) -> tuple[int, dict[str, int], str]:
            (tmp_path / "hosts.yml").write_text(
                yaml.safe_dump(
                    {"all": {"vars": {"ansible_become": False}, "hosts": {"cache1": {"ansible_connection": "local"}}}}
                )
            )
            # Tests beside this one may run an HAProxy.
            extra = {
                "export_inventory_services": ["valkey"],
                "export_inventory_valkey_ports": [str(port) for port in servers.ports],
                **variables,
            }
            done = subprocess.run(
                [
                    str(Path(sys.executable).parent / "ansible-playbook"),
                    *("-i", str(tmp_path / "hosts.yml"), "-e", json.dumps(extra), *arguments),
                    str(ROOT / "playbooks/export_inventory.yml"),
                ],
                env={
                    **os.environ,
                    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                    "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
                    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                    "PATH": f"{servers.programs}:{os.environ['PATH']}",
                },
                capture_output=True, text=True, check=False, timeout=900,
            )  # fmt: skip
            text = done.stdout + done.stderr
            return done.returncode, json.loads(done.stdout[done.stdout.index("{") :])["stats"]["cache1"], text

        code, _stats, text = play()
        assert code != 0
        assert "export_inventory_dir is not given" in text

        folder = tmp_path / "made"
        code, stats, text = play("--check", export_inventory_dir=str(folder))
        assert (code, stats["changed"]) == (0, 1), text
        assert not folder.exists()

        code, stats, text = play(export_inventory_dir=str(folder))
        assert (code, stats["changed"]) == (0, 1), text
        hosts = yaml.safe_load((folder / "hosts.yml").read_text())
        assert list(hosts["all"]["children"]) == ["valkey"]
        assert "clients come without TLS" in (folder / "README.md").read_text()

        code, stats, text = play(export_inventory_dir=str(folder))
        assert (code, stats["changed"]) == (0, 0), text

        (folder / "hosts.yml").write_text("something else\n")
        code, _stats, text = play(export_inventory_dir=str(folder))
        assert code != 0
        assert "hosts.yml would change" in text
        assert (folder / "hosts.yml").read_text() == "something else\n"

        code, stats, text = play(export_inventory_dir=str(folder), export_inventory_overwrite=True)
        assert (code, stats["changed"]) == (0, 1), text
        assert yaml.safe_load((folder / "hosts.yml").read_text()) == hosts
        assert servers.all("CONFIG", "GET", "*") == before
