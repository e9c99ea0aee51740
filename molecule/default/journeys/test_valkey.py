# SPDX-License-Identifier: Apache-2.0
"""Journeys of a Valkey cluster's operator, each under a cluster client that reads and writes, in this order on one lab.

`make journeys` brings the hosts up and removes them. The client may not see one error, save in the moments after a host was
killed; what it wrote and got acknowledged has to be there. After each journey site.yml has nothing left to do.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests/module"))
import valkey
import valkey_load

LAB = os.environ["HOLDFAST_LAB"]
SECRETS = Path(os.environ["HOLDFAST_LAB_DIR"]) / "secrets"
KEYS = 2000
SMALL = [HERE / "inventory"]
GROWN = [HERE / "inventory", HERE / "grown"]
RESTART = ["-e", json.dumps({"valkey_settings": {"tcp-backlog": 600}})]
LIVE = ["-e", json.dumps({"valkey_settings": {"tcp-backlog": 600, "slowlog-max-len": 200}})]
NEXT = [
    "-e",
    json.dumps({"valkey_settings": {"tcp-backlog": 600, "slowlog-max-len": 200}, "host_valkey_suite": "forky"}),
]
# Seconds after a host's death in which clients may see errors: cluster-node-timeout, the election, the client's own timeout.
FAILOVER = 5.0 + 2.0 + valkey_load.TIMEOUT


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


@functools.cache
def address(node: str) -> str:
    """Return the address of a host, which the engine forgets while that is down."""
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


def server(node: str, port: int, *command: str) -> str:
    """Ask an instance as its administrator."""
    password = (SECRETS / "valkey_admin").read_text(encoding="utf-8").strip()
    tls = ["--tls", "--cacert", "/etc/ssl/holdfast/ca.crt", "--cert", "/etc/ssl/holdfast/valkey.pem"]
    tls += ["--key", "/etc/ssl/holdfast/valkey.pem"]
    ask = ["valkey-cli", "--no-auth-warning", "--user", "admin", *tls, "-p", str(port), *command]
    return on(node, "env", f"REDISCLI_AUTH={password}", *ask)


def nodes() -> list[str]:
    """Return CLUSTER NODES of one instance, a line each."""
    return server("node1", 7001, "CLUSTER", "NODES").splitlines()


def primaries() -> set[str]:
    """Return the ids of the nodes that own slots."""
    return {line.split()[0] for line in nodes() if len(line.split()) > 8}


def leading(node: str) -> int:
    """Return how many primaries a host has."""
    return sum(f" {address(node)}:" in line and len(line.split()) > 8 for line in nodes())


def take_old_lists(node: str) -> None:
    """Let apt use a suite whose mirror is older than its Release file is valid for, as copies of testing often are."""
    on(node, "sh", "-c", "echo 'Acquire::Check-Valid-Until \"false\";' > /etc/apt/apt.conf.d/99lab")


def versions(*hosts: str) -> set[str]:
    """Return the versions, as 8.1, of the servers that run."""
    texts = [server(node, port, "INFO", "server") for node in hosts for port in (7001, 7002)]
    return {found for text in texts for found in re.findall(r"valkey_version:(\d+\.\d+)", text)}


def processes() -> dict[str, str]:
    """Return the process ids of all instances of the three hosts."""
    show = ["systemctl", "show", "--property=MainPID", "--value", "valkey-server@7001", "valkey-server@7002"]
    return {node: on(node, *show) for node in ("node1", "node2", "node3")}


@contextmanager
def client() -> Iterator[None]:
    """A client beside the block, that may see no error and lose nothing."""
    with valkey_load.Load(7001, KEYS, login()) as load:
        yield
    tell(load.seen)
    assert load.seen["errors"] == []
    assert load.seen["wrong"] == []
    assert load.seen["operations"] > 100
    assert valkey_load.missing(7001, KEYS, 0, login()) == []


def tell(seen: dict[str, Any]) -> None:
    """Print what a client saw."""
    print(json.dumps({name: value for name, value in seen.items() if not name.startswith("wrong")}))


def connections() -> dict[str, tuple[valkey.Valkey, int]]:
    """Open a connection to each instance that never connects anew. Returns each with the id that the server gave it."""
    words = login()
    tls = {
        "ssl": True,
        "ssl_ca_certs": words["ca_cert"],
        "ssl_certfile": words["client_cert"],
        "ssl_keyfile": words["client_key"],
    }
    found = {}
    for node in ("node1", "node2", "node3"):
        for port in (7001, 7002):
            link = valkey.Valkey(
                host=address(node),
                port=port,
                username="orderapp",
                password=words["password"],
                single_connection_client=True,
                **tls,
            )
            found[f"{node}:{port}"] = (link, int(link.execute_command("CLIENT", "ID")))
    return found


@pytest.fixture(scope="module", autouse=True)
def lab() -> None:
    """Hosts that stand, the cluster on three of them, data in it. A lab that stands already is taken as it is."""
    play(GROWN, "molecule/default/create.yml")
    if not (SECRETS / "valkey_admin").exists():
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


def test_settings_that_servers_take_are_set_live() -> None:
    """Check mode says so and touches nothing; no process restarts, no client is disconnected."""
    before, held = processes(), connections()
    told = run(SMALL, "playbooks/site.yml", "--tags", "valkey", "--check", "--diff", *LIVE)
    assert told.returncode == 0
    assert "slowlog-max-len 200" in told.stdout
    assert not re.findall(r"node\d:700\d: ", told.stdout), "no restart is announced"
    assert server("node1", 7001, "CONFIG", "GET", "slowlog-max-len").split()[-1] == "128"
    with client():
        play(SMALL, "playbooks/site.yml", "--tags", "valkey", *LIVE)
    assert server("node1", 7001, "CONFIG", "GET", "slowlog-max-len").split()[-1] == "200"
    assert processes() == before
    assert {name: link.client_id() for name, (link, _id) in held.items()} == {
        name: id for name, (_link, id) in held.items()
    }
    unchanged(SMALL, *LIVE)


def test_passwords_rotate() -> None:
    """Old and new are valid until the rotation is finished; no connection drops, not even one that logged in with the old."""
    old, held = login()["password"], connections()
    with client():
        play(SMALL, "playbooks/rotate_passwords.yml", "--tags", "valkey", *LIVE)
    assert login()["password"] != old
    with valkey_load.Load(7001, KEYS, {**login(), "password": old}) as late:
        unchanged(SMALL, *LIVE)
    assert late.seen["errors"] == []
    with client():
        play(SMALL, "playbooks/rotate_passwords.yml", "--tags", "valkey", "-e", "rotate_passwords_finish=true", *LIVE)
    assert not list(SECRETS.glob("*.previous")) + list(SECRETS.glob("*.next"))
    with pytest.raises(Exception, match=r"(?i)password|auth|cluster"):
        valkey_load.cluster_client(7001, {**login(), "password": old}).ping()
    assert {name: link.client_id() for name, (link, _id) in held.items()} == {
        name: id for name, (_link, id) in held.items()
    }
    unchanged(SMALL, *LIVE)


def test_a_host_is_added() -> None:
    """One more host in the inventory and site.yml: its instances take their share."""
    with client():
        play(GROWN, "playbooks/site.yml", *LIVE)
    assert len(nodes()) == 8
    assert len(primaries()) == 4
    unchanged(GROWN, *LIVE)


def test_a_host_is_removed() -> None:
    """It is drained and forgotten, its units are gone; without it the inventory is right."""
    refused = run(GROWN, "playbooks/remove_node.yml")
    assert refused.returncode != 0
    assert "remove_node_host" in refused.stdout
    with client():
        play(GROWN, "playbooks/remove_node.yml", "-e", "remove_node_host=node4", *LIVE)
    assert len(nodes()) == 6
    assert len(primaries()) == 3
    assert on("node4", "sh", "-c", "ls /var/lib/valkey").split() == []
    unchanged(SMALL, *LIVE)
    refused = run(SMALL, "playbooks/remove_node.yml", "-e", "remove_node_host=node3", *LIVE)
    assert refused.returncode != 0, "two hosts cannot hold three primaries and their replicas"
    assert len(nodes()) == 6


def test_a_killed_host_is_replaced() -> None:
    """Refused while it answers; after its death a fresh machine of its name takes its place.

    Clients see errors only until the replicas have taken over, and lose of what was acknowledged at most the last second before.
    """
    alive = run(SMALL, "playbooks/replace_node.yml", "-e", "replace_node_host=node3", *LIVE)
    assert alive.returncode != 0
    assert "still answers" in alive.stdout
    lost = {line.split()[0] for line in nodes() if f" {address('node3')}:" in line}
    assert len(lost) == 2
    with valkey_load.Load(7001, KEYS, login()) as load:
        time.sleep(2)
        killed = time.time()
        subprocess.run(["docker", "rm", "--force", f"{LAB}-node3"], check=True, capture_output=True)
        play(GROWN, "molecule/default/create.yml")
        play(SMALL, "playbooks/replace_node.yml", "-e", "replace_node_host=node3", *LIVE)
    tell(load.seen)
    assert [when for when in load.seen["error_times"] if not killed <= when <= killed + FAILOVER] == []
    assert [when for when in load.seen["wrong_times"] if not killed - 1 <= when <= killed + FAILOVER] == []
    assert valkey_load.missing(7001, KEYS, 0, login()) == []
    now = nodes()
    assert len(now) == 6
    assert lost.isdisjoint(line.split()[0] for line in now)
    unchanged(SMALL, *LIVE)


def test_primaries_spread_again_without_a_controller() -> None:
    """After a host's death another may lead two of three shards; the timer hands one back, which no client notices."""
    hosts = ("node1", "node2", "node3")
    assert [leading(node) for node in hosts] == [1, 1, 1]
    subprocess.run(["docker", "kill", f"{LAB}-node2"], check=True, capture_output=True)
    try:
        _until(lambda: len(primaries()) == 3 and not leading("node2"), 30)
        assert max(leading(node) for node in hosts) == 2
    finally:
        subprocess.run(["docker", "start", f"{LAB}-node2"], check=True, capture_output=True)
    begin = time.monotonic()
    with client():
        _until(lambda: [leading(node) for node in hosts] == [1, 1, 1], 120)
    print(f"primaries were spread again {time.monotonic() - begin:.0f} s after the host's return")
    unchanged(SMALL, *LIVE)


def _until(holds: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition, AssertionError when it does not come."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_the_next_release_is_rolled_in_place() -> None:
    """8.1 to 9.1, on hosts that stay what they are: replicas first, every server with its data, primaries where they were."""
    for node in ("node1", "node2", "node3"):
        take_old_lists(node)
    assert versions("node1", "node2", "node3") == {"8.1"}
    led = primaries()
    release = on("node1", "cat", "/etc/debian_version")
    with client():
        play(SMALL, "playbooks/update.yml", "--tags", "valkey", *NEXT)
    assert versions("node1", "node2", "node3") == {"9.1"}
    assert primaries() == led
    assert on("node1", "cat", "/etc/debian_version") == release
    assert "failover" in server("node1", 7001, "CONFIG", "GET", "shutdown-on-sigterm")
    unchanged(SMALL, *NEXT)


def test_a_host_is_added_to_the_next_release() -> None:
    """The servers move whole ranges of slots by themselves; then the host leaves again."""
    subprocess.run(["docker", "rm", "--force", f"{LAB}-node4"], check=True, capture_output=True)
    play(GROWN, "molecule/default/create.yml")
    take_old_lists("node4")
    with client():
        grown = run(GROWN, "playbooks/site.yml", *NEXT)
    assert grown.returncode == 0, grown.stdout[-6000:]
    assert '"migration": "atomic"' in grown.stdout
    assert len(primaries()) == 4
    unchanged(GROWN, *NEXT)
    with client():
        play(GROWN, "playbooks/remove_node.yml", "-e", "remove_node_host=node4", *NEXT)
    assert len(primaries()) == 3
    unchanged(SMALL, *NEXT)
