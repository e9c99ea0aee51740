# SPDX-License-Identifier: Apache-2.0
"""restore_valkey.yml as an operator runs it, against real servers: refuses, restores, goes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import valkey_load
from run_module import ROOT, run_module
from valkey_servers import PASSWORD, ValkeyServers

KEYS = 1500
SECRETS = (
    *(
        "etcd_root",
        "etcd_patroni",
        "pgbouncer",
        "valkey_admin",
        "valkey_replication",
        "valkey_backup",
        "valkey_respread",
    ),
    *("postgresql_superuser", "postgresql_replication", "postgresql_rewind", "postgresql_dump"),
)


def inventory(servers: ValkeyServers, folder: Path) -> Path:
    """Write an inventory of this machine as backup host and as the host of all servers."""
    assert servers.certificates is not None
    tls = folder / "tls"
    tls.mkdir()
    (tls / "ca.crt").symlink_to(servers.certificates.ca)
    (tls / "backup.pem").symlink_to(servers.certificates.combined)
    # A cluster that stands has its secrets: only site.yml makes them.
    (folder / "secrets").mkdir(mode=0o700)
    for name in SECRETS:
        (folder / "secrets" / name).write_text("a-secret-of-a-cluster-that-stands\n")
        (folder / "secrets" / name).chmod(0o600)
    content = {
        "all": {
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "ansible_become": False,
                "cluster_name": "test",
                "cluster_address": "127.0.0.1",
                "cluster_tls_dir": str(tls),
                "cluster_secrets_dir": str(folder / "secrets"),
                "cluster_valkey_admin_password": PASSWORD,
                "valkey_instances": [{"port": port} for port in servers.ports],
                "valkey_replicas": 0,
                "backup_dir": str(folder / "backups"),
            },
            "children": {"valkey": {"hosts": {"node1": {}}}, "backup": {"hosts": {"backup1": {}}}},
        }
    }
    path = folder / "hosts.json"
    path.write_text(json.dumps(content))
    return path


def test_the_playbook_refuses_restores_and_goes_back(tmp_path: Path) -> None:
    with ValkeyServers("8.1", 3, True, {"maxmemory": "0"}) as servers:
        run_module("valkey_cluster", {"nodes": servers.nodes(), "replicas": 0, **servers.login})
        valkey_load.fill(servers.ports[0], KEYS, 5, servers.login)
        hosts = inventory(servers, tmp_path)
        nodes = [f"127.0.0.1:{port}" for port in servers.ports]
        wish = {"nodes": nodes, "cluster": "test", "backup_dir": str(tmp_path / "backups"), **servers.login}
        made = run_module("valkey_backup", wish)

        def play(*words: str) -> tuple[int, str]:
            command = [str(Path(sys.executable).parent / "ansible-playbook"), "--inventory", str(hosts)]
            path = f"{servers.programs}:{os.environ['PATH']}"
            environment = {
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "PATH": path,
                "ANSIBLE_NOCOLOR": "1",
            }
            options = [option for word in words for option in (("-e", word) if "=" in word else (word,))]
            done = subprocess.run(
                [*command, str(ROOT / "playbooks/restore_valkey.yml"), *options],
                cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            return done.returncode, done.stdout + done.stderr

        status, text = play()
        assert status != 0
        assert "run the playbook again with: -e confirm_restore=test" in text
        status, text = play("confirm_restore=test")
        assert status != 0
        assert f"the cluster holds {KEYS + 5} keys" in text
        status, text = play("confirm_restore=test", "restore_exsting=flush")
        assert status != 0
        assert "restore_exsting is not known, the nearest name is restore_existing" in text
        status, text = play("--check", "restore_existing=flush")
        assert status == 0, text
        assert f"Would restore {made['label']}" in text
        client = valkey_load.cluster_client(servers.ports[0], servers.login)
        client.set("after", "the backup")
        status, text = play(
            "confirm_restore=test", "restore_existing=flush", f"restore_label={made['label']}", "restore_compare=0"
        )
        assert status == 0, text
        assert f"Restored {made['label']}" in text
        assert client.get("after") is None
        assert valkey_load.missing(servers.ports[0], KEYS, 5, servers.login) == []
        status, text = play("confirm_restore=test", "restore_action=back")
        assert status == 0, text
        assert client.get("after") == "the backup"
        assert valkey_load.missing(servers.ports[0], KEYS, 5, servers.login) == []
        client.close()
