"""The faults: each strikes, shows that it happened, and is healed. Real ones only: signals, dead hosts, cut networks, full disks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from faults.lab import Lab, LabError, Machine, await_true, run

CHAIN = "holdfast-faults"
ETCD_PORTS = "2379,2380"
ASIDE = "/run/holdfast-faults"


@dataclass(frozen=True)
class Wound:
    """What a strike did. target: where. happened: returns an empty text once it shows. heal: takes it back."""

    target: str
    happened: Callable[[], str]
    heal: Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """One way to break the lab. hold: seconds until it is healed. limit: seconds for full health after that."""

    name: str
    about: str
    strike: Callable[[Lab], Wound]
    hold: float = 5.0
    limit: float = 120.0
    # Whether it freezes what has to end the old primary: without a watchdog device that one stays open, though with
    # nobody to confirm its commits.
    freezes: bool = False


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
            machine.shell(f"kill -CONT {process}")

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


def power_loss(lab: Lab) -> Wound:
    """Kill all hosts at once."""
    machines = list(lab.machines.values())
    run("docker", "kill", *(machine.container for machine in machines))

    def happened() -> str:
        return ", ".join(machine.name for machine in machines if machine.state == "running")

    def heal() -> None:
        run("docker", "start", *(machine.container for machine in machines))

    return Wound("all", happened, heal)


# Networks


def _rules(machine: Machine, rules: list[str]) -> Wound:
    """Put rules in front of a host's own firewall, in chains of our own."""
    for side in ("INPUT", "OUTPUT"):
        machine.network("iptables", "-N", f"{CHAIN}-{side}")
        machine.network("iptables", "-I", side, "-j", f"{CHAIN}-{side}")
    for rule in rules:
        side, rest = rule.split(" ", 1)
        machine.network("iptables", "-A", f"{CHAIN}-{side}", *rest.split(), "-j", "DROP")

    def happened() -> str:
        counted = "".join(machine.network("iptables", "-nvxL", f"{CHAIN}-{side}") for side in ("INPUT", "OUTPUT"))
        dropped = [int(count) for count in re.findall(r"^\s*(\d+)\s+\d+ DROP", counted, re.MULTILINE)]
        return "" if any(dropped) else f"no packet of {machine.name} was dropped"

    return Wound(machine.name, happened, lambda: _no_rules(machine))


def _no_rules(machine: Machine) -> None:
    if machine.state != "running":
        return
    for side in ("INPUT", "OUTPUT"):
        if f"{CHAIN}-{side}" in machine.network("iptables", "-S", side):
            machine.network("iptables", "-D", side, "-j", f"{CHAIN}-{side}")
            machine.network("iptables", "-F", f"{CHAIN}-{side}")
            machine.network("iptables", "-X", f"{CHAIN}-{side}")


def _peers(lab: Lab, machine: Machine) -> list[str]:
    return [other.address for other in lab.others(machine)]


def cut_off(lab: Lab) -> Wound:
    """Cut the primary's host from everybody, both ways."""
    machine = lab.primary()
    return _rules(machine, ["INPUT -i eth0", "OUTPUT -o eth0"])


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
            machine.shell("systemctl start --no-block etcd")

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
        machine.answers(f"dd if=/dev/zero of=$(readlink -f {directory})/filler bs=64k status=none")

        def happened() -> str:
            free = machine.answers(f"df --output=avail $(readlink -f {directory}) | tail -1")
            return "" if free.strip() == "0" else f"{free} KiB are free on {machine.name}"

        return Wound(machine.name, happened, lambda: _whole(machine, unit, directory))

    return strike


# Two at once


def both(first: Callable[[Lab], Wound], second: Callable[[Lab], Wound], between: float = 0.0) -> Callable[[Lab], Wound]:
    """Strike twice; what the second hits is found before the first strikes if both strike at once."""

    def strike(lab: Lab) -> Wound:
        one = first(lab)
        time.sleep(between)
        two = second(lab)

        def heal() -> None:
            one.heal()
            two.heal()

        return Wound(f"{one.target}, {two.target}", lambda: one.happened() or two.happened(), heal)

    return strike


def primary_and_etcd_leader(lab: Lab) -> Wound:
    """Kill the hosts of the primary and of etcd's leader; where that is one host, only that."""
    machines = {machine.name: machine for machine in (lab.primary(), lab.etcd_leader())}
    if len(machines) == 2:
        # Two of three hosts have no quorum: kill the host of one and the process of the other.
        return both(host("kill", Lab.primary), service("etcd", Lab.etcd_leader, "KILL"))(lab)
    return host("kill", Lab.primary)(lab)


def kill_during_switchover(lab: Lab) -> Wound:
    """Ask Patroni for a switchover and kill the candidate's host at once."""
    primary, candidate = lab.primary(), lab.replica()
    primary.shell(
        "systemd-run --quiet --collect patronictl -c /etc/patroni/config.yml switchover --force"
        f" --leader {primary.name} --candidate {candidate.name}"
    )
    time.sleep(1.5)
    return host("kill", lambda _lab: candidate)(lab)


POSTGRESQL_WAL = "/var/lib/postgresql/*/*/pg_wal"
ETCD_DATA = "/var/lib/etcd/*"

FAULTS = [
    Fault("postmaster killed", "kill -9 of the primary's postmaster", postmaster("KILL")),
    Fault("patroni killed", "kill -9 of the primary's Patroni", service("patroni", Lab.primary, "KILL")),
    Fault(
        "etcd follower killed",
        "kill -9 of etcd on a host that does not lead",
        service("etcd", lambda lab: lab.others(lab.etcd_leader())[0], "KILL"),
    ),
    Fault("etcd leader killed", "kill -9 of etcd's leader", service("etcd", Lab.etcd_leader, "KILL")),
    Fault("pgbouncer killed", "kill -9 of PgBouncer at the virtual address", service("pgbouncer", balancer, "KILL")),
    Fault("haproxy killed", "kill -9 of HAProxy at the virtual address", service("haproxy", balancer, "KILL")),
    Fault("keepalived killed", "kill -9 of keepalived at the virtual address", service("keepalived", balancer, "KILL")),
    Fault("valkey primary killed", "kill -9 of a Valkey primary", valkey_server("master", "KILL")),
    Fault("valkey replica killed", "kill -9 of a Valkey replica", valkey_server("slave", "KILL")),
    Fault("replica killed", "kill -9 of a replica's postmaster", replica_postmaster("KILL")),
    Fault(
        "patroni stopped", "SIGSTOP of the primary's Patroni", service("patroni", Lab.primary, "STOP"), 30, freezes=True
    ),
    Fault("etcd leader stopped", "SIGSTOP of etcd's leader", service("etcd", Lab.etcd_leader, "STOP"), 10),
    Fault(
        "pgbouncer stopped", "SIGSTOP of PgBouncer at the virtual address", service("pgbouncer", balancer, "STOP"), 10
    ),
    Fault("haproxy stopped", "SIGSTOP of HAProxy at the virtual address", service("haproxy", balancer, "STOP"), 10),
    Fault("valkey primary stopped", "SIGSTOP of a Valkey primary", valkey_server("master", "STOP"), 15),
    Fault("replica stopped", "SIGSTOP of a replica's postmaster", replica_postmaster("STOP"), 10),
    Fault("primary host killed", "power loss of the primary's host", host("kill", Lab.primary), 30),
    Fault("replica host killed", "power loss of a replica's host", host("kill", Lab.replica), 10),
    Fault("balancer killed", "power loss of the host with the virtual address", host("kill", balancer), 30),
    Fault("primary host paused", "the primary's host stands still", host("pause", Lab.primary), 30, freezes=True),
    Fault("primary cut off", "no packet in or out of the primary's host", cut_off, 35),
    Fault("primary half cut", "the primary's host is cut from the others, clients reach it", half_cut, 35),
    Fault("primary deaf", "the primary's host hears nothing of the others", one_way("INPUT"), 35),
    Fault("primary mute", "the others hear nothing of the primary's host", one_way("OUTPUT"), 35),
    Fault("primary cut from etcd", "only etcd's ports are cut", from_etcd, 35),
    Fault("balancer cut from clients", "clients cannot reach the host with the virtual address", from_clients, 10),
    Fault("lossy network", "one packet in five of the primary's host is lost", lossy, 15),
    Fault("slow network", "the primary's host sends 1 Mbit/s", slow, 15),
    Fault("etcd quorum lost", "two of three etcd members are gone", etcd_quorum, 20),
    Fault(
        "etcd disk full",
        "not a byte is free for etcd's leader",
        full_disk("etcd", ETCD_DATA, "200m", Lab.etcd_leader),
        10,
    ),
    Fault(
        "WAL disk full",
        "not a byte is free for the primary's WAL",
        full_disk("patroni", POSTGRESQL_WAL, "2g", Lab.primary),
        20,
    ),
    Fault(
        "primary and etcd leader killed", "the primary's host and etcd's leader at once", primary_and_etcd_leader, 35
    ),
    Fault(
        "replica lost, then primary killed",
        "a replica's host is killed, then the primary's postmaster",
        both(host("kill", Lab.replica), postmaster("KILL"), 3.0),
        20,
    ),
    Fault(
        "candidate killed during switchover",
        "the candidate's host dies while it takes over",
        kill_during_switchover,
        20,
    ),
    Fault("power loss", "all hosts at once, cold start", power_loss, 3, 180),
]

NOT_RUN = {
    "clock step": "containers share the machine's clock, and its kernel lets nobody set it for one of them",
    "latency and jitter": "the kernel of this machine may lack netem; loss and bandwidth stand for a bad network",
    "etcd member's data lost": "a member that comes back empty has to be added anew by a person: replace_node.yml",
}
