# SPDX-License-Identifier: Apache-2.0
"""Faults in the middle of an operator's work, or that need it: a switchover, a backup, slots that move, a rolling restart, lost data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from faults import breakage
from faults.breakage import Wound
from faults.lab import ROOT, Lab, LabError, Machine, await_true, run

INVENTORY = "inventories/lab"
# An operator's playbook on a busy machine.
PLAY_LIMIT = 400.0


class Work:
    """An operator's command in the background, in a process group of its own."""

    def __init__(self, *words: str | Path, secrets: Mapping[str, str] | None = None) -> None:
        said, name = tempfile.mkstemp(prefix="holdfast-work-")
        self._said = Path(name)
        self._process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **(secrets or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        os.close(said)

    @property
    def runs(self) -> bool:
        """Whether it is still under way."""
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """What it said so far."""
        return self._said.read_text(encoding="utf-8") if self._said.exists() else ""

    def await_moment(self, found: Callable[[], bool], what: str) -> None:
        """Wait for a moment in it. Raises LabError when it ends before that."""

        def problem() -> str:
            return "" if found() else f"{what} did not come"

        begin = time.monotonic()
        while problem():
            if not self.runs or time.monotonic() - begin > PLAY_LIMIT:
                raise LabError(f"{problem()}: {self.end()[-800:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it with all that it started here."""
        if self.runs:
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> str:
        """Wait for its end, kill it if that does not come; return what it said."""
        try:
            self._process.wait(PLAY_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        text = self.said
        self._said.unlink(missing_ok=True)
        return text


def playbook(name: str, *options: str) -> Work:
    """Start a playbook of the collection against the lab."""
    program = Path(sys.executable).parent / "ansible-playbook"
    return Work(program, "--inventory", INVENTORY, f"playbooks/{name}.yml", *options)


def _paused(machine: Machine) -> bool:
    return machine.answers("test ! -e /run/holdfast/pgbouncer-hold-paused || echo paused") == "paused"


def switchover(victim: str) -> Callable[[Lab], Wound]:
    """Run switchover.yml and kill the candidate's host, the primary's host or the playbook while the pools are paused."""

    def strike(lab: Lab) -> Wound:
        primary = lab.primary()
        candidate = lab.replica()
        hosts = {"candidate": candidate, "primary": primary}
        work = playbook("switchover", "--extra-vars", f"switchover_candidate={candidate.name}")
        watched = next(machine for machine in lab.machines.values() if machine != hosts.get(victim))
        work.await_moment(lambda: _paused(watched), "the pause")
        if victim == "playbook":
            begun, under_way = time.monotonic(), work.runs
            work.kill()
            return Wound("the controller", lambda: "" if under_way else "it had ended", lambda: _ended(work), begun)
        wound = breakage.host("kill", lambda _lab: hosts[victim])(lab)

        def heal() -> None:
            wound.heal()
            work.end()

        return Wound(wound.target, wound.happened, heal, time.monotonic())

    return strike


def planned_switchover(lab: Lab) -> Wound:
    """Let another member lead, by the playbook; clients only wait."""
    primary, candidate = lab.primary(), lab.replica()
    begun = time.monotonic()
    said = playbook("switchover", "--extra-vars", f"switchover_candidate={candidate.name}").end()

    def happened() -> str:
        return "" if lab.primary() == candidate else f"{primary.name} still leads: {said[-800:]}"

    return Wound(f"{primary.name} to {candidate.name}", happened, breakage.nothing, begun)


def _ended(work: Work) -> None:
    work.end()


def backup(lab: Lab) -> Wound:
    """Kill the primary's postmaster while pgBackRest makes a full backup; afterwards a backup has to succeed."""
    command = ["docker", "exec", backup_host(lab), "runuser", "-u", "postgres", "--", "pgbackrest", "--stanza=lab"]
    command += ["--type=full", "--log-level-console=info", "backup"]
    work = Work(*command)
    # The next thing that it does is to copy.
    work.await_moment(lambda: "check archive for prior segment" in work.said, "the copying")
    wound = breakage.postmaster("KILL")(lab)
    under_way, begun = work.runs, time.monotonic()

    def happened() -> str:
        return wound.happened() or ("" if under_way else "the backup had ended")

    def heal() -> None:
        work.end()
        await_true(lambda: lab.sickness(spread=False), 90)
        run(*command, timeout=PLAY_LIMIT)

    return Wound(wound.target, happened, heal, begun)


def backup_host(lab: Lab) -> str:
    """Return the container of the backup host."""
    return f"{lab.name}-backup1"


def reshard(lab: Lab) -> Wound:
    """Let site.yml take slots from a Valkey primary by weight and kill it meanwhile; another run heals what was left open."""
    machine, port = lab.valkey_role("master")
    weight = f"1 if inventory_hostname == '{machine.name}' else 3"
    instances = ", ".join(f"{{'port': {one}, 'weight': {weight}}}" for one in lab.valkey_ports(machine))
    # Slowly: the few keys of the workload would be somewhere else before anybody strikes.
    wish = {
        "valkey_instances": f"{{{{ [{instances}] }}}}",
        "valkey_migration": "keys",
        "valkey_migration_keys_per_second": 50,
    }
    work = playbook("site", "--tags", "valkey", "--extra-vars", json.dumps(wish))

    def open_slot() -> bool:
        return "->-" in lab.valkey(machine, port, "CLUSTER NODES")

    work.await_moment(open_slot, "a slot on its way")
    wound = breakage.service(f"valkey-server@{port}", lambda _lab: machine, "KILL")(lab)
    under_way = work.runs

    def heal() -> None:
        work.end()
        _finish("site", "--tags", "valkey")

    return Wound(
        wound.target, lambda: wound.happened() or ("" if under_way else "all slots had moved"), heal, time.monotonic()
    )


def rolling_restart(lab: Lab) -> Wound:
    """Let site.yml restart all Valkey servers one after the other, and kill a host when the first one is done."""
    first = {
        (machine.name, port): machine.main_process(f"valkey-server@{port}")
        for machine in lab.machines.values()
        for port in lab.valkey_ports(machine)
    }
    work = playbook("site", "--tags", "valkey", "--extra-vars", json.dumps({"valkey_settings": {"tcp-backlog": 600}}))
    changed: list[str] = []

    def restarted() -> bool:
        for (name, port), process in first.items():
            now = lab.machines[name].main_process(f"valkey-server@{port}")
            if now not in (0, process):
                changed.append(name)
                return True
        return False

    work.await_moment(restarted, "the first restart")
    victim = next(machine for machine in lab.machines.values() if machine.name not in changed)
    wound = breakage.host("kill", lambda _lab: victim)(lab)
    under_way = work.runs

    def heal() -> None:
        wound.heal()
        work.end()
        await_true(lambda: lab.sickness(spread=False), 120)
        _finish("site", "--tags", "valkey")

    return Wound(
        wound.target, lambda: wound.happened() or ("" if under_way else "it had ended"), heal, time.monotonic()
    )


def rolling_update(lab: Lab) -> Wound:
    """Let update.yml restart PostgreSQL for a setting and kill the primary when the first replica is done; the next run continues."""
    more = ("--tags", "patroni", "--extra-vars", json.dumps({"patroni_max_connections": 210, "update_packages": False}))
    less = ("--tags", "patroni", "--extra-vars", json.dumps({"update_packages": False}))
    _finish("site", *more)
    leader = lab.primary()
    first = {machine.name: machine.postmaster() for machine in lab.others(leader)}
    work = playbook("update", *more)

    def restarted() -> bool:
        return any(lab.machines[name].postmaster() not in (0, process) for name, process in first.items())

    work.await_moment(restarted, "the first restart")
    wound = breakage.postmaster("KILL")(lab)
    under_way, begun = work.runs, time.monotonic()

    def heal() -> None:
        work.end()
        await_true(lambda: lab.sickness(spread=False), 120)
        _finish("update", *more)
        _finish("site", *less)
        _finish("update", *less)

    return Wound(wound.target, lambda: wound.happened() or ("" if under_way else "it had ended"), heal, begun)


def etcd_data_lost(lab: Lab) -> Wound:
    """Delete what a follower of etcd has. It must not begin anew by itself; site.yml lets it join again."""
    machine = lab.others(lab.etcd_leader())[0]
    machine.shell(
        "systemctl kill --signal KILL etcd; systemctl stop etcd; find /var/lib/etcd -mindepth 2 -delete; systemctl start --no-block etcd"
    )

    def happened() -> str:
        if left := machine.shell("find /var/lib/etcd -mindepth 2"):
            return f"{machine.name} has {left}"
        said = machine.answers("journalctl --unit etcd --lines 20 --output cat --since -10s")
        return "" if "are lost" in said else f"etcd does not say what it lacks: {said}"

    return Wound(machine.name, happened, lambda: _finish("site", "--tags", "etcd"))


def _finish(name: str, *options: str) -> None:
    """Run a playbook to its end, as an operator would again whose first run was interrupted. Raises LabError."""
    said = playbook(name, *options).end()
    if "failed=0" not in said or "fatal:" in said:
        raise LabError(f"{name}.yml {' '.join(options)} did not succeed: {said[-1500:]}")
