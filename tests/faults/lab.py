# SPDX-License-Identifier: Apache-2.0
"""The lab as the campaign sees it: hosts that can be broken, who leads what, and when everything is well again."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from faults import health
from faults.health import Look

Answer = TypeVar("Answer")
ROOT = Path(__file__).resolve().parents[2]
TLS = "/etc/ssl/holdfast"
# Debian's `psql` is a Perl program that takes longer than the question.
PSQL = "/usr/lib/postgresql/*/bin/psql -h /var/run/postgresql -XAtq -U postgres"
STATE_QUERY = (
    "select json_build_object('primary', not pg_is_in_recovery(), 'standbys', (select count(*) from pg_stat_replication"
    " where state = 'streaming' and sync_state in ('quorum', 'sync')))"
)
# One shell for all that a host can say: starting one costs more than the questions.
LOOK = """
tls="--cacert {tls}/ca.crt --cert {tls}/valkey.pem --key {tls}/valkey.pem"
export ETCDCTL_API=3
if [ "$ASK_ETCD" ]; then
  timeout 8 etcdctl --command-timeout=6s --endpoints=https://127.0.0.1:2379 --cacert={tls}/ca.crt --cert={tls}/etcd-client.pem \\
    --key={tls}/etcd-client.pem endpoint health >/dev/null 2>&1 && echo etcd ok || echo etcd sick
fi
echo postgresql $(timeout 5 {psql} -c "{query}" 2>/dev/null)
echo services $(systemctl is-active pgbouncer haproxy keepalived | sort -u)
echo addresses $(ip -4 -o address show | sed 's/.*inet //; s,/.*,,')
for port in $(ls /var/lib/valkey | grep -x '[0-9]*'); do
  answers=$(printf 'CLUSTER INFO\nINFO replication\nCLUSTER NODES\n' |
    timeout 5 valkey-cli --no-auth-warning --user admin --tls $tls -h {address} -p $port 2>/dev/null |
    tr -d '\r' | grep -E '^(cluster_state|role|master_link_status):|fail' | tr '\n' ' ')
  echo valkey $port $answers
done
"""


class LabError(Exception):
    """The lab is not as the campaign needs it."""


def run(*words: str | Path, timeout: float = 60, secrets: Mapping[str, str] | None = None) -> str:
    """Run a command here, with secrets in its environment, and return what it wrote. Raises LabError."""
    environment = {**os.environ, **(secrets or {})}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{words[0]} took longer than {timeout:.0f} s") from error
    if done.returncode:
        raise LabError(f"{' '.join(map(str, words))[:200]}: {done.stderr.strip()[-500:]}")
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """One host of the lab. container: its name on the engine."""

    name: str
    container: str
    address: str

    def shell(self, script: str, timeout: float = 30, secrets: Mapping[str, str] | None = None) -> str:
        """Run a shell script on the host, with secrets in its environment. Raises LabError."""
        names = [word for name in secrets or {} for word in ("--env", name)]
        command = ["docker", "exec", *names, self.container, "bash", "-ec", script]
        return run(*command, timeout=timeout, secrets=secrets).strip()

    def answers(self, script: str, timeout: float = 10, secrets: Mapping[str, str] | None = None) -> str:
        """Run a shell script; return an empty text where that fails, as on a host that is down."""
        try:
            return self.shell(script, timeout, secrets)
        except LabError:
            return ""

    @property
    def state(self) -> str:
        """What the engine says: running, paused, exited."""
        return run("docker", "inspect", "--format", "{{.State.Status}}", self.container).strip()

    def network(self, *words: str) -> str:
        """Run a command of this machine in the network of the host, even when the host is cut off."""
        process = run("docker", "inspect", "--format", "{{.State.Pid}}", self.container).strip()
        return run("nsenter", "--target", process, "--net", *words)

    def main_process(self, unit: str) -> int:
        """Return the main process of a unit; 0 if it does not run."""
        return int(self.answers(f"systemctl show --property MainPID --value {unit}") or 0)

    def postmaster(self) -> int:
        """Return the postmaster; 0 if none runs."""
        return int(self.answers('p=$(head -1 /var/lib/postgresql/*/*/postmaster.pid); kill -0 "$p"; echo "$p"') or 0)


class Lab:
    """The lab of HOLDFAST_LAB, which must stand."""

    def __init__(self, name: str = "", folder: Path | None = None) -> None:
        self.name = name or os.environ.get("HOLDFAST_LAB") or "holdfast"
        self.folder = folder or Path(os.environ.get("HOLDFAST_LAB_DIR") or ROOT / ".lab")
        if not (self.folder / "connection.env").exists():
            raise LabError(f"there is no lab in {self.folder}: run make lab first")
        self.machines = {m.name: m for m in self._find()}

    def _find(self) -> list[Machine]:
        members = json.loads(run("docker", "network", "inspect", self.name))[0]["Containers"].values()
        names = [member["Name"] for member in members if member["Name"].startswith(f"{self.name}-node")]
        addresses = {member["Name"]: member["IPv4Address"].split("/")[0] for member in members}
        found = [Machine(name.removeprefix(f"{self.name}-"), name, addresses[name]) for name in names]
        if len(found) < 3:
            raise LabError(f"lab {self.name} has {len(found)} running hosts, the campaign needs 3: run make lab")
        return sorted(found, key=lambda machine: machine.name)

    @cached_property
    def clients(self) -> str:
        """The address from which clients on this machine come."""
        route = run("ip", "-4", "-json", "route", "get", next(iter(self.machines.values())).address)
        return str(json.loads(route)[0]["prefsrc"])

    @cached_property
    def environment(self) -> dict[str, str]:
        """What connection.env tells clients."""
        lines = (self.folder / "connection.env").read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def secret(self, name: str) -> str:
        """Return a generated secret."""
        return (self.folder / "secrets" / name).read_text(encoding="utf-8").strip()

    def certificates(self) -> dict[str, str]:
        """Return paths of the application's certificate: ca, certificate, key."""
        words = self.environment
        return {"ca": words["PGSSLROOTCERT"], "certificate": words["PGSSLCERT"], "key": words["PGSSLKEY"]}

    def others(self, machine: Machine) -> list[Machine]:
        """Return all hosts but one."""
        return [other for other in self.machines.values() if other != machine]

    def ask_all(self, question: Callable[[Machine], Answer]) -> dict[str, Answer]:
        """Ask all hosts at once."""
        with ThreadPoolExecutor(len(self.machines)) as pool:
            return dict(zip(self.machines, pool.map(question, self.machines.values()), strict=True))

    def primary(self) -> Machine:
        """Return the host whose PostgreSQL takes writes."""
        found = [name for name, state in self.ask_all(self._database).items() if state.get("primary")]
        if len(found) != 1:
            raise LabError(f"{len(found)} primaries: {', '.join(found) or 'none'}")
        return self.machines[found[0]]

    def replica(self) -> Machine:
        """Return a host whose PostgreSQL is a replica, and which does not hold the virtual address if there is one."""
        holder = self.balancer()
        return sorted(self.others(self.primary()), key=lambda machine: machine == holder)[0]

    def _database(self, machine: Machine) -> dict[str, Any]:
        answer = machine.answers(f'timeout 5 {PSQL} -c "{STATE_QUERY}"')
        return json.loads(answer) if answer else {}

    def balancer(self) -> Machine | None:
        """Return the host that has the virtual address."""
        vip = self.environment["PGHOST"]
        said = self.ask_all(lambda machine: machine.answers("ip -4 -o address show"))
        return next((self.machines[name] for name, text in said.items() if f" {vip}/" in text), None)

    @cached_property
    def secrets(self) -> dict[str, str]:
        """What etcdctl and valkey-cli find in their environment to be administrators."""
        valkey = self.secret("valkey_admin")
        return {
            "ETCDCTL_USER": f"root:{self.secret('etcd_root')}",
            "VALKEYCLI_AUTH": valkey,
            "REDISCLI_AUTH": valkey,
        }

    def etcdctl(self, machine: Machine, command: str) -> str:
        """Run etcdctl as root's user on a host."""
        certificate = f"{TLS}/etcd-client.pem"
        return machine.shell(
            f"export ETCDCTL_API=3; etcdctl --command-timeout=10s --endpoints=https://127.0.0.1:2379"
            f" --cacert={TLS}/ca.crt --cert={certificate} --key={certificate} {command}",
            secrets=self.secrets,
        )

    def etcd_leader(self) -> Machine:
        """Return the host whose etcd member leads."""
        leading = [name for name, leads in self.ask_all(self._leads_etcd).items() if leads]
        if len(leading) != 1:
            raise LabError(f"{len(leading)} members say that they lead etcd")
        return self.machines[leading[0]]

    def _leads_etcd(self, machine: Machine) -> bool:
        try:
            [status] = json.loads(self.etcdctl(machine, "endpoint status --write-out=json"))
        except LabError:
            return False
        return bool(status["Status"]["leader"] == status["Status"]["header"]["member_id"])

    def valkey_command(self, words: str) -> str:
        """Return the shell's command that runs valkey-cli; as the administrator where secrets are in its environment."""
        return (
            f"valkey-cli --no-auth-warning --user admin --tls --cacert {TLS}/ca.crt --cert {TLS}/valkey.pem"
            f" --key {TLS}/valkey.pem {words}"
        )

    def valkey(self, machine: Machine, port: int, command: str) -> str:
        """Run a command on a Valkey instance as its administrator."""
        words = self.valkey_command(f"-h {machine.address} -p {port} {command}")
        return machine.answers(words, secrets=self.secrets)

    def valkey_ports(self, machine: Machine) -> list[int]:
        """Return the ports of a host's instances."""
        text = machine.answers("ls /var/lib/valkey")
        return sorted(int(word) for word in text.split() if word.isdigit())

    def valkey_role(self, role: str) -> tuple[Machine, int]:
        """Return one instance with a role, `master` or `slave` as INFO calls them."""
        for machine in self.machines.values():
            for port in self.valkey_ports(machine):
                if f"role:{role}" in self.valkey(machine, port, "INFO replication"):
                    return machine, port
        raise LabError(f"no Valkey instance is {role}")

    def versions(self) -> str:
        """Return what runs on the hosts, as Debian's packages."""
        machine = next(iter(self.machines.values()))
        packages = "'postgresql-1[0-9]' patroni etcd-server haproxy pgbouncer valkey-server"
        listed = machine.shell(
            f"dpkg-query --show --showformat='${{Package}} ${{Version}}\\n' {packages} 2>/dev/null || true"
        )
        return ", ".join(line for line in listed.splitlines() if len(line.split()) == 2)

    def look(self, machine: Machine, etcd: bool = True) -> Look | None:
        """Ask a host for all it can say, of etcd only where that is asked for; None if it cannot be asked."""
        script = LOOK.format(tls=TLS, psql=PSQL, query=STATE_QUERY, address=machine.address)
        asked = {"ASK_ETCD": "yes" if etcd else ""}
        try:
            return health.parse(machine.shell(f"set +e; {script}true", secrets=self.secrets | asked))
        except LabError:
            return None

    def sickness(self, spread: bool = True) -> str:
        """Return the first thing that is not as it should be; an empty text if everything serves with full redundancy.

        etcd is asked when all else is well: every question costs it the hash of a password.
        """
        vip = self.environment["PGHOST"]
        try:
            found = health.sickness(self.ask_all(lambda machine: self.look(machine, etcd=False)), vip, spread)
            return found or health.sickness(self.ask_all(self.look), vip, spread)
        except (ValueError, KeyError) as error:
            return f"{type(error).__name__}: {error}"

    def await_health(self, seconds: float, spread: bool = True) -> float:
        """Wait until nothing is sick. Returns the seconds that took. Raises LabError with what still is."""
        return await_true(lambda: self.sickness(spread), seconds, pause=0.5)


def await_true(problem: Callable[[], str], seconds: float, pause: float = 0.2) -> float:
    """Wait until problem returns an empty text. Returns the seconds that took. Raises LabError with the last text."""
    start = time.monotonic()
    while found := problem():
        if time.monotonic() - start > seconds:
            raise LabError(f"after {seconds:.0f} s: {found}")
        time.sleep(pause)
    return time.monotonic() - start
