# SPDX-License-Identifier: Apache-2.0
"""The finished lab as the tests see it: its hosts, its secrets on this machine, ways to talk to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import testinfra
import valkey
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
INVENTORY = ROOT / "inventories/lab"
TLS = "/etc/ssl/holdfast"
Value = TypeVar("Value")

# What a test needs to know of the inventory, as Ansible itself templates it.
QUESTION = {
    "container": "{{ lab_container }}",
    "address": "{{ cluster_address }}",
    "vip": "{{ cluster_vip }}",
    "name": "{{ cluster_name }}",
    "secrets": "{{ cluster_secrets_dir }}",
    "folder": "{{ lab_dir }}",
    "suite": "{{ lab_suite }}",
    "backup": "{{ 'backup' in group_names }}",
}


@dataclass(frozen=True)
class Lab:
    """Names, addresses and secrets of the lab. hosts maps inventory names to shells on them, the backup host apart."""

    cluster: str
    suite: str
    vip: str
    addresses: dict[str, str]
    hosts: dict[str, Host]
    backup: Host
    folder: Path
    secrets: Path

    @property
    def environment(self) -> dict[str, str]:
        """What people have after reading connection.env, with the passwords of this moment."""
        return sourced(self.folder / "connection.env")

    def secret(self, name: str) -> str:
        """Return a generated secret."""
        return (self.secrets / name).read_text(encoding="utf-8").strip()

    @property
    def certificate_authority(self) -> Path:
        """The certificate of the cluster's own CA."""
        return self.secrets / "tls/ca.crt"

    @property
    def client_certificate(self) -> tuple[Path, Path]:
        """Certificate and private key of the lab's application."""
        folder = self.secrets / "tls/clients"
        return folder / "orderapp.crt", folder / "orderapp.key"

    def sql(self, address: str, port: int, database: str, **options: Any) -> psycopg.Connection[Any]:
        """Connect as the lab's application does, with full verification; options replace any of that."""
        certificate, key = self.client_certificate
        settings: dict[str, Any] = {
            "host": address,
            "port": port,
            "dbname": database,
            "user": self.environment["PGUSER"],
            "password": self.environment["PGPASSWORD"],
            "sslmode": "verify-full",
            "sslrootcert": str(self.certificate_authority),
            "sslcert": str(certificate),
            "sslkey": str(key),
            "connect_timeout": 5,
            "autocommit": True,
        }
        return psycopg.connect(**{**settings, **options})

    def valkey_options(self, user: str, password: str) -> dict[str, Any]:
        """Return how a Valkey client logs in, with full verification."""
        certificate, key = self.client_certificate
        return {
            "username": user,
            "password": password,
            "ssl": True,
            "ssl_ca_certs": str(self.certificate_authority),
            "ssl_certfile": str(certificate),
            "ssl_keyfile": str(key),
            "socket_timeout": 10,
            "decode_responses": True,
        }

    def valkey_admin(self, host: str, port: int) -> valkey.Valkey:
        """Connect to one Valkey instance as its administrator."""
        options = self.valkey_options("admin", self.secret("valkey_admin"))
        return valkey.Valkey(host=self.addresses[host], port=port, **options)


def ansible_playbook(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook against the lab and return what came of it; standard output is JSON."""
    return subprocess.run(
        [BIN / "ansible-playbook", "--inventory", INVENTORY, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_NOCOLOR": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON of a run; a playbook that writes for people does so before it."""
    _text, brace, rest = ("\n" + done.stdout).partition("\n{\n")
    assert brace, done.stdout[-3000:] + done.stderr
    result: dict[str, Any] = json.loads("{" + rest)
    return result


def failures(done: subprocess.CompletedProcess[str]) -> str:
    """Return what failed in a run, a line for each host and task."""
    found = [
        f"{host}: {task['task']['name']}: {result.get('msg') or result}"
        for play in outcome(done)["plays"]
        for task in play["tasks"]
        for host, result in task["hosts"].items()
        if result.get("failed") or result.get("unreachable")
    ]
    return "\n".join(found) + done.stderr


def changes(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return how many tasks changed something, by host where any did. AssertionError where the playbook failed."""
    assert done.returncode == 0, failures(done)
    return {host: count["changed"] for host, count in outcome(done)["stats"].items() if count["changed"]}


def segment_number(name: str) -> int:
    """Return the running number of a WAL segment of 16 MiB, whatever its timeline."""
    return int(name[8:16], 16) * 256 + int(name[16:24], 16)


def eventually(read: Callable[[], Value], accept: Callable[[Value], bool], seconds: float = 20) -> Value:
    """Read until the value is accepted or the time is over; return the last value, for the test to judge."""
    deadline = time.monotonic() + seconds
    while not accept(value := read()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return value


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The lab of HOLDFAST_LAB, which must stand."""
    playbook = tmp_path_factory.mktemp("question") / "question.json"
    task = {"ansible.builtin.debug": {"msg": QUESTION}}
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    done = ansible_playbook(playbook)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = {host: result["msg"] for host, result in outcome(done)["plays"][0]["tasks"][0]["hosts"].items()}
    shells = {host: testinfra.get_host(f"docker://{answer['container']}") for host, answer in sorted(answers.items())}
    apart = [host for host, answer in answers.items() if answer.pop("backup")]
    backup = [(answers.pop(host), shells.pop(host)) for host in apart]
    one = next(iter(answers.values()))
    return Lab(
        cluster=one["name"],
        suite=one["suite"],
        vip=one["vip"],
        addresses={host: answer["address"] for host, answer in sorted(answers.items())},
        hosts=shells,
        backup=backup[0][1],
        folder=Path(one["folder"]),
        secrets=Path(one["secrets"]),
    )


def sourced(path: Path) -> dict[str, str]:
    """Return the variables that a shell has after reading the file as the lab tells people to."""
    shell = subprocess.run(
        ["bash", "-euc", 'set -a; . "$1"; exec env --null', "bash", path],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (pair.partition("=") for pair in shell.stdout.split("\0") if pair)
    return {name: value for name, _equals, value in pairs if name.startswith(("PG", "VALKEY"))}


@pytest.fixture(params=["node1", "node2", "node3"])
def node(request: pytest.FixtureRequest) -> str:
    """The name of each host."""
    name: str = request.param
    return name


@pytest.fixture
def host(lab: Lab, node: str) -> Host:
    """A shell on each host."""
    return lab.hosts[node]


@pytest.fixture
def superuser(lab: Lab) -> Iterator[Callable[[str], str]]:
    """A function that runs SQL on the primary as the superuser, through its own host's socket."""
    leader = lab.hosts[patroni_leader(lab)]

    def run(statement: str, database: str = "postgres") -> str:
        return psql(leader, statement, database)

    yield run


def psql(host: Host, statement: str, database: str = "postgres") -> str:
    """Run SQL on a host as the superuser, through the socket."""
    output: str = host.check_output("psql -XAtq -v ON_ERROR_STOP=1 -U postgres -d %s -c %s", database, statement)
    return output


def patroni_members(lab: Lab) -> list[dict[str, Any]]:
    """Return what patronictl lists."""
    host = next(iter(lab.hosts.values()))
    members: list[dict[str, Any]] = json.loads(
        host.check_output("patronictl -c /etc/patroni/config.yml list --format json")
    )
    return members


def patroni_leader(lab: Lab) -> str:
    """Return the name of the host whose member leads."""
    leaders = [member["Member"] for member in patroni_members(lab) if member["Role"] == "Leader"]
    assert len(leaders) == 1, leaders
    name: str = leaders[0]
    return name
