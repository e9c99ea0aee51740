# SPDX-License-Identifier: Apache-2.0
"""Ways to break a host: each strikes, shows that it happened, and is healed. Real ones: signals, dead hosts, cut networks, full disks."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from faults.lab import Lab, LabError, Machine, await_true, run

CHAIN = "holdfast-faults"
NUMBERS = itertools.count(1)
ETCD_PORTS = "2379,2380"
ASIDE = "/run/holdfast-faults"
FAKED = "/run/holdfast-clock"
# Whose clocks these are, PostgreSQL as a child of the first.
CLOCKED = ("patroni", "patroni-guard")


@dataclass(frozen=True)
class Wound:
    """What a strike did. target: where. happened: returns an empty text once it shows. heal: takes it back.

    begun: when it struck, for those that need preparations; 0 for those that strike at once.
    """

    target: str
    happened: Callable[[], str]
    heal: Callable[[], None]
    begun: float = 0.0


def nothing() -> None:
    """Heal by doing nothing: what broke has to come back by itself."""


# Processes


def _kill(machine: Machine, process: int, what: str, signal: str = "KILL") -> Wound:
    if not process:
        raise LabError(f"{what} does not run on {machine.name}")
    started = _start_of(machine, process)
    machine.shell(f"kill -{signal} {process}")

    def happened() -> str:
        if signal == "STOP":
            state = machine.answers(f"cut -d' ' -f3 /proc/{process}/stat")
            return "" if state == "T" else f"{what} is in state {state}"
        return f"{what} still runs" if _start_of(machine, process) == started else ""

    def heal() -> None:
        if signal == "STOP" and _start_of(machine, process) == started:
            # The guard may end it in this very moment.
            machine.shell(f"kill -CONT {process} || ! kill -0 {process}")

    return Wound(machine.name, happened, heal)


def _start_of(machine: Machine, process: int) -> str:
    """Return when a process began, by its kernel: tells two processes of one number apart."""
    return machine.answers(f"cut -d' ' -f22 /proc/{process}/stat")


def postmaster(signal: str) -> Callable[[Lab], Wound]:
    """Signal the primary's postmaster."""

    def strike(lab: Lab) -> Wound:
        machine = lab.primary()
        return _kill(machine, machine.postmaster(), "the postmaster", signal)

    return strike


def replica_postmaster(signal: str) -> Callable[[Lab], Wound]:
    """Signal a replica's postmaster."""

    def strike(lab: Lab) -> Wound:
        machine = lab.replica()
        return _kill(machine, machine.postmaster(), "the replica's postmaster", signal)

    return strike


def service(unit: str, where: Callable[[Lab], Machine], signal: str) -> Callable[[Lab], Wound]:
    """Signal the main process of a unit."""

    def strike(lab: Lab) -> Wound:
        machine = where(lab)
        return _kill(machine, machine.main_process(unit), unit, signal)

    return strike


def valkey_server(role: str, signal: str) -> Callable[[Lab], Wound]:
    """Signal a Valkey server of a role."""

    def strike(lab: Lab) -> Wound:
        machine, port = lab.valkey_role(role)
        unit = f"valkey-server@{port}"
        return _kill(machine, machine.main_process(unit), unit, signal)

    return strike


def valkey_gone(lab: Lab) -> Wound:
    """Kill a Valkey primary and keep it down: its replica has to take over."""
    machine, port = lab.valkey_role("master")
    unit = f"valkey-server@{port}"
    machine.shell(f"systemctl kill --signal KILL {unit}; systemctl stop {unit}")
    begun = time.monotonic()

    def happened() -> str:
        return "" if machine.answers(f"systemctl is-active {unit}") != "active" else f"{unit} runs"

    return Wound(machine.name, happened, lambda: _start(machine, unit), begun)


def _start(machine: Machine, unit: str) -> None:
    machine.shell(f"systemctl start --no-block {unit}")


def balancer(lab: Lab) -> Machine:
    """Return the host with the virtual address."""
    machine = lab.balancer()
    if machine is None:
        raise LabError("nobody has the virtual address")
    return machine


# Hosts


def host(action: str, where: Callable[[Lab], Machine]) -> Callable[[Lab], Wound]:
    """Kill (power loss) or pause a host."""
    state, back = {"kill": ("exited", "start"), "pause": ("paused", "unpause")}[action]

    def strike(lab: Lab) -> Wound:
        machine = where(lab)
        run("docker", action, machine.container)

        def happened() -> str:
            return "" if machine.state == state else f"{machine.name} is {machine.state}"

        return Wound(machine.name, happened, lambda: _bring(machine, back))

    return strike


def _bring(machine: Machine, back: str) -> None:
    if machine.state != "running":
        run("docker", back, machine.container)


# Networks


def _rules(machine: Machine, rules: list[str]) -> Wound:
    """Put rules in front of a host's own firewall, in chains of this strike."""
    chains = {side: f"{CHAIN}-{next(NUMBERS)}" for side in ("INPUT", "OUTPUT")}
    for side, chain in chains.items():
        machine.network("iptables", "-N", chain)
        machine.network("iptables", "-I", side, "-j", chain)
    for rule in rules:
        side, rest = rule.split(" ", 1)
        machine.network("iptables", "-A", chains[side], *rest.split(), "-j", "DROP")

    def happened() -> str:
        counted = "".join(machine.network("iptables", "-nvxL", chain) for chain in chains.values())
        dropped = [int(count) for count in re.findall(r"^\s*(\d+)\s+\d+ DROP", counted, re.MULTILINE)]
        return "" if any(dropped) else f"no packet of {machine.name} was dropped"

    def heal() -> None:
        if machine.state != "running":
            return
        for side, chain in chains.items():
            # A host that has been down in between has forgotten them.
            if chain in machine.network("iptables", "-S", side).split():
                machine.network("iptables", "-D", side, "-j", chain)
                machine.network("iptables", "-F", chain)
                machine.network("iptables", "-X", chain)

    return Wound(machine.name, happened, heal)


def _peers(lab: Lab, machine: Machine) -> list[str]:
    return [other.address for other in lab.others(machine)]


def cut_off(where: Callable[[Lab], Machine]) -> Callable[[Lab], Wound]:
    """Cut a host from everybody, both ways."""
    return lambda lab: _rules(where(lab), ["INPUT -i eth0", "OUTPUT -o eth0"])


def half_cut(lab: Lab) -> Wound:
    """Cut the primary's host from the other hosts; clients still reach it."""
    machine = lab.primary()
    rules = [f"INPUT -s {a}" for a in _peers(lab, machine)] + [f"OUTPUT -d {a}" for a in _peers(lab, machine)]
    return _rules(machine, rules)


def one_way(side: str) -> Callable[[Lab], Wound]:
    """Cut one direction between the primary's host and the others: INPUT, it hears nothing; OUTPUT, it says nothing."""

    def strike(lab: Lab) -> Wound:
        machine = lab.primary()
        letter = "s" if side == "INPUT" else "d"
        return _rules(machine, [f"{side} -{letter} {address}" for address in _peers(lab, machine)])

    return strike


def from_etcd(lab: Lab) -> Wound:
    """Cut the primary's host from the other members of etcd, and its own member from them."""
    machine = lab.primary()
    rules = []
    for address in _peers(lab, machine):
        for ports in ("--dports", "--sports"):
            rules.append(f"OUTPUT -d {address} -p tcp -m multiport {ports} {ETCD_PORTS}")
            rules.append(f"INPUT -s {address} -p tcp -m multiport {ports} {ETCD_PORTS}")
    return _rules(machine, rules)


def from_clients(lab: Lab) -> Wound:
    """Cut the balancer that has the virtual address from the clients."""
    machine = balancer(lab)
    return _rules(machine, [f"INPUT -s {lab.clients}", f"OUTPUT -d {lab.clients}"])


def lossy(lab: Lab) -> Wound:
    """Drop one packet in five between the primary's host and the others."""
    machine = lab.primary()
    chance = "-m statistic --mode random --probability 0.2"
    return _rules(machine, [f"OUTPUT -d {address} {chance}" for address in _peers(lab, machine)])


def slow(lab: Lab) -> Wound:
    """Let the primary's host send one megabit a second."""
    machine = lab.primary()
    machine.network(
        "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "32kbit", "latency", "400ms"
    )

    def happened() -> str:
        return "" if "tbf" in machine.network("tc", "qdisc", "show", "dev", "eth0") else "no queue is set"

    def heal() -> None:
        if machine.state == "running" and not happened():
            machine.network("tc", "qdisc", "del", "dev", "eth0", "root")

    return Wound(machine.name, happened, heal)


# etcd


def etcd_quorum(lab: Lab) -> Wound:
    """Kill two of three etcd members and keep them down."""
    machines = list(lab.machines.values())[:2]
    for machine in machines:
        machine.shell("systemctl kill --signal KILL etcd; systemctl stop etcd")

    def happened() -> str:
        return ", ".join(m.name for m in machines if m.answers("systemctl is-active etcd") == "active")

    def heal() -> None:
        for machine in machines:
            _start(machine, "etcd")

    return Wound(" and ".join(machine.name for machine in machines), happened, heal)


# Disks. A small file system in memory takes the place of a directory, with what is in it, and is filled.


def _small(machine: Machine, unit: str, directory: str, size: str) -> None:
    """Put a small file system with the same content over a directory; whatever happens the unit runs afterwards."""
    machine.shell(
        f"trap '! mountpoint -q {ASIDE} || umount {ASIDE}; systemctl start --no-block {unit}' EXIT;"
        f" systemctl stop {unit}; d=$(readlink -f {directory});"
        f' mkdir -p {ASIDE}; mount -t tmpfs -o size={size} tmpfs {ASIDE}; cp -a "$d/." {ASIDE}/;'
        f' chown --reference="$d" {ASIDE}; chmod --reference="$d" {ASIDE}; mount --bind {ASIDE} "$d"; umount {ASIDE}',
        timeout=120,
    )


def _whole(machine: Machine, unit: str, directory: str) -> None:
    """Put what is in the small file system back in the directory below it. The old content stays until the copy stands."""
    machine.shell(
        f"d=$(readlink -f {directory}); mountpoint -q \"$d\" || exit 0; trap 'systemctl start --no-block {unit}' EXIT;"
        f' rm -f "$d/filler"; systemctl stop {unit}; mkdir -p {ASIDE}; cp -a "$d/." {ASIDE}/; umount "$d";'
        f' find "$d" -mindepth 1 -delete; cp -a {ASIDE}/. "$d/"; rm -rf {ASIDE}',
        timeout=120,
    )


def _lead(lab: Lab, machine: Machine) -> None:
    """Let a host's PostgreSQL lead, by Patroni's own switchover."""
    leader = lab.primary()
    if leader != machine:
        names = f"--leader {leader.name} --candidate {machine.name}"
        machine.shell(f"patronictl -c /etc/patroni/config.yml switchover --force {names}", timeout=60)
        await_true(lab.sickness, 90)


def full_disk(unit: str, directory: str, size: str, where: Callable[[Lab], Machine]) -> Callable[[Lab], Wound]:
    """Fill the file system of a directory to the last byte."""

    def strike(lab: Lab) -> Wound:
        machine = where(lab)
        _small(machine, unit, directory, size)
        try:
            await_true(lab.sickness, 90)
            if unit == "patroni":
                _lead(lab, machine)
        except LabError:
            _whole(machine, unit, directory)
            raise
        begun = time.monotonic()
        machine.answers(f"dd if=/dev/zero of=$(readlink -f {directory})/filler bs=64k status=none")

        def happened() -> str:
            free = machine.answers(f"df --output=avail $(readlink -f {directory}) | tail -1")
            return "" if free.strip() == "0" else f"{free} KiB are free on {machine.name}"

        return Wound(machine.name, happened, lambda: _whole(machine, unit, directory), begun)

    return strike


# Clocks


def clock(step: str) -> Callable[[Lab], Wound]:
    """Step the clock that the primary's Patroni, its guard and PostgreSQL see, while they run."""

    def strike(lab: Lab) -> Wound:
        machine = lab.replica()
        machine.shell("dpkg --status libfaketime >/dev/null 2>&1 || apt-get -qq install --yes libfaketime", timeout=120)
        library = machine.shell("dpkg --listfiles libfaketime | grep '/libfaketime.so.1$'")
        settings = (
            f"LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={FAKED} FAKETIME_CACHE_DURATION=1 DONT_FAKE_MONOTONIC=1"
        )
        drop_ins = " ".join(f"/run/systemd/system/{unit}.service.d/zz-clock.conf" for unit in CLOCKED)
        machine.shell(
            f"echo +0 > {FAKED}; for file in {drop_ins}; do mkdir -p $(dirname $file);"
            f" printf '[Service]\\nEnvironment={settings}\\n' > $file; done; systemctl daemon-reload;"
            f" systemctl restart {' '.join(CLOCKED)}; rm {drop_ins}; systemctl daemon-reload",
            timeout=60,
        )
        await_true(lab.sickness, 90)
        _lead(lab, machine)
        begun = time.monotonic()
        machine.shell(f"echo {step} > {FAKED}")
        return Wound(
            machine.name,
            lambda: "" if _stepped(machine) else "the clock is as before",
            lambda: _step_back(machine),
            begun,
        )

    return strike


def _stepped(machine: Machine) -> bool:
    query = "select abs(extract(epoch from clock_timestamp()) - $(date +%s)) > 3000"
    return machine.answers(f'psql -XAtq -U postgres -c "{query}"') == "t"


def _step_back(machine: Machine) -> None:
    """Give the true clock back, which is a step as well, and let what follows from it begin."""
    machine.shell(f"echo +0 > {FAKED}")
    await_true(lambda: "the clock is still another" if _stepped(machine) else "", 10)
    # Where nothing follows there is nothing to wait for: what does begins within two of HAProxy's checks, of a second each.
    time.sleep(2)


# Two at once


def both(first: Callable[[Lab], Wound], second: Callable[[Lab], Wound], between: float = 0.0) -> Callable[[Lab], Wound]:
    """Strike twice. Where the second finds nothing to hit, the first is healed."""

    def strike(lab: Lab) -> Wound:
        one = first(lab)
        time.sleep(between)
        try:
            two = second(lab)
        except LabError:
            one.heal()
            raise

        def heal() -> None:
            one.heal()
            two.heal()

        return Wound(f"{one.target}, {two.target}", lambda: one.happened() or two.happened(), heal)

    return strike


def primary_and_etcd_leader(lab: Lab) -> Wound:
    """Kill the hosts of the primary and of etcd's leader; where that is one host, only that."""
    primary, leader = lab.primary(), lab.etcd_leader()
    if primary == leader:
        return host("kill", lambda _lab: primary)(lab)
    # Two of three hosts have no quorum: kill the host of one and the process of the other.
    return both(host("kill", lambda _lab: primary), service("etcd", lambda _lab: leader, "KILL"))(lab)


def power_loss(lab: Lab) -> Wound:
    """Kill all hosts at once."""
    machines = list(lab.machines.values())
    run("docker", "kill", *(machine.container for machine in machines))

    def happened() -> str:
        return ", ".join(machine.name for machine in machines if machine.state == "running")

    def heal() -> None:
        run("docker", "start", *(machine.container for machine in machines))

    return Wound("all", happened, heal)
