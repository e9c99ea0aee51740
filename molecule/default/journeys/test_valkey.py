"""Journeys of a Valkey cluster's operator, each under a cluster client that reads and writes, in this order on one lab.

`make journeys` brings the hosts up and removes them. The client may not see one error; what it wrote has to be there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests/module"))
import valkey_load

LAB = os.environ["HOLDFAST_LAB"]
SECRETS = Path(os.environ["HOLDFAST_LAB_DIR"]) / "secrets"
KEYS = 2000
SMALL = [HERE / "inventory"]
GROWN = [HERE / "inventory", HERE / "grown"]
RESTART = ["-e", json.dumps({"valkey_settings": {"tcp-backlog": 600}})]


def play(inventories: list[Path], playbook: str, *options: str) -> dict[str, dict[str, int]]:
    """Run a playbook. Returns Ansible's own counts by host; AssertionError with the end of its output when it fails."""
    done = run(inventories, playbook, *options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    stats: dict[str, dict[str, int]] = json.loads("{" + ("\n" + done.stdout).partition("\n{\n")[2])["stats"]
    return stats


def run(inventories: list[Path], playbook: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook, successful or not."""
    command = [str(Path(sys.executable).parent / "ansible-playbook")]
    command += [word for path in inventories for word in ("--inventory", str(path))]
    return subprocess.run(
        [*command, str(ROOT / playbook), *options],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def unchanged(inventories: list[Path], *options: str) -> None:
    """The tier as it stands is what site.yml wants."""
    counts = play(inventories, "playbooks/site.yml", "--tags", "valkey", *options)
    assert {host: count["changed"] for host, count in counts.items() if count["changed"]} == {}


def on(node: str, *command: str) -> str:
    """Run a command on a host."""
    found = subprocess.run(["docker", "exec", f"{LAB}-{node}", *command], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def address(node: str) -> str:
    """Return the address of a host."""
    found = subprocess.run(["docker", "inspect", f"{LAB}-{node}"], capture_output=True, check=True).stdout
    where: str = json.loads(found)[0]["NetworkSettings"]["Networks"][LAB]["IPAddress"]
    return where


def login() -> dict[str, Any]:
    """Return how the application logs in now."""
    clients = SECRETS / "tls/clients"
    return {
        "host": address("node1"),
        "ca_cert": str(SECRETS / "tls/ca.crt"),
        "client_cert": str(clients / "orderapp.crt"),
        "client_key": str(clients / "orderapp.key"),
        "username": "orderapp",
        "password": (SECRETS / "valkey_user_orderapp").read_text(encoding="utf-8").strip(),
    }


def nodes() -> list[str]:
    """Return CLUSTER NODES of one instance, a line each."""
    password = (SECRETS / "valkey_admin").read_text(encoding="utf-8").strip()
    tls = ["--tls", "--cacert", "/etc/ssl/holdfast/ca.crt", "--cert", "/etc/ssl/holdfast/valkey.pem"]
    tls += ["--key", "/etc/ssl/holdfast/valkey.pem"]
    ask = ["valkey-cli", "--no-auth-warning", "--user", "admin", *tls, "-p", "7001", "CLUSTER", "NODES"]
    return on("node1", "env", f"REDISCLI_AUTH={password}", *ask).splitlines()


def primaries() -> set[str]:
    """Return the ids of the nodes that own slots."""
    return {line.split()[0] for line in nodes() if len(line.split()) > 8}


def processes() -> dict[str, str]:
    """Return the process ids of all instances of the three hosts."""
    show = ["systemctl", "show", "--property=MainPID", "--value", "valkey-server@7001", "valkey-server@7002"]
    return {node: on(node, *show) for node in ("node1", "node2", "node3")}


@contextmanager
def client() -> Iterator[None]:
    """A client beside the block, that may see no error and lose nothing."""
    with valkey_load.Load(7001, KEYS, login()) as load:
        yield
    seen = load.seen
    print(json.dumps({name: value for name, value in seen.items() if name != "wrong"}))
    assert seen["errors"] == []
    assert seen["wrong"] == []
    assert seen["operations"] > 100
    assert valkey_load.missing(7001, KEYS, 0, login()) == []


@pytest.fixture(scope="module", autouse=True)
def lab() -> None:
    """Hosts that stand, the cluster on three of them, data in it."""
    play(GROWN, "molecule/default/create.yml")
    play(SMALL, "playbooks/site.yml")
    valkey_load.fill(7001, KEYS, 0, login())


def test_settings_that_need_a_restart_are_rolled() -> None:
    """Check mode tells it and touches nothing; then every instance restarts once and primaries stand where they stood."""
    before, led = processes(), primaries()
    told = run(SMALL, "playbooks/site.yml", "--tags", "valkey", "--check", *RESTART)
    assert told.returncode == 0
    assert len(set(re.findall(r"node\d:700\d: tcp-backlog", told.stdout))) == 6
    assert processes() == before
    with client():
        play(SMALL, "playbooks/site.yml", "--tags", "valkey", *RESTART)
    after = processes()
    assert all(set(before[node].split()).isdisjoint(after[node].split()) for node in before)
    assert primaries() == led
    unchanged(SMALL, *RESTART)


def test_passwords_rotate() -> None:
    """Old and new are valid until the rotation is finished; no connection drops."""
    old = login()["password"]
    with client():
        play(SMALL, "playbooks/rotate_passwords.yml", *RESTART)
    assert login()["password"] != old
    with valkey_load.Load(7001, KEYS, {**login(), "password": old}) as late:
        unchanged(SMALL, *RESTART)
    assert late.seen["errors"] == []
    with client():
        play(SMALL, "playbooks/rotate_passwords.yml", "-e", "rotate_passwords_finish=true", *RESTART)
    assert not list(SECRETS.glob("*.previous")) + list(SECRETS.glob("*.next"))
    with pytest.raises(Exception, match=r"(?i)password|auth|cluster"):
        valkey_load.cluster_client(7001, {**login(), "password": old}).ping()
    unchanged(SMALL, *RESTART)


def test_a_host_is_added() -> None:
    """One more host in the inventory and site.yml: its instances take their share."""
    with client():
        play(GROWN, "playbooks/site.yml", *RESTART)
    assert len(nodes()) == 8
    assert len(primaries()) == 4
    unchanged(GROWN, *RESTART)


def test_a_host_is_removed() -> None:
    """It is drained and forgotten, its units are gone; without it the inventory is right."""
    refused = run(GROWN, "playbooks/remove_node.yml")
    assert refused.returncode != 0
    assert "remove_node_host" in refused.stdout
    with client():
        play(GROWN, "playbooks/remove_node.yml", "-e", "remove_node_host=node4", *RESTART)
    assert len(nodes()) == 6
    assert len(primaries()) == 3
    assert on("node4", "sh", "-c", "ls /var/lib/valkey").split() == []
    unchanged(SMALL, *RESTART)
    refused = run(SMALL, "playbooks/remove_node.yml", "-e", "remove_node_host=node3", *RESTART)
    assert refused.returncode != 0, "two hosts cannot hold three primaries and their replicas"
    assert len(nodes()) == 6


def test_a_killed_host_is_replaced() -> None:
    """Refused while it answers; after its death a fresh machine of its name takes its place."""
    alive = run(SMALL, "playbooks/replace_node.yml", "-e", "replace_node_host=node3", *RESTART)
    assert alive.returncode != 0
    assert "still answers" in alive.stdout
    lost = {line.split()[0] for line in nodes() if f" {address('node3')}:" in line}
    assert len(lost) == 2
    subprocess.run(["docker", "rm", "--force", f"{LAB}-node3"], check=True, capture_output=True)
    play(GROWN, "molecule/default/create.yml")
    with client():
        play(SMALL, "playbooks/replace_node.yml", "-e", "replace_node_host=node3", *RESTART)
    now = nodes()
    assert len(now) == 6
    assert lost.isdisjoint(line.split()[0] for line in now)
    unchanged(SMALL, *RESTART)
