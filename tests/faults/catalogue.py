# SPDX-License-Identifier: Apache-2.0
"""The faults by name: how each strikes, how long it lasts, and what may follow from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from faults import breakage as b
from faults import operations as o
from faults.breakage import Wound
from faults.lab import Lab

# What a primary writes to, and what only its tables are in.
POSTGRESQL_WAL = "/var/lib/postgresql/*/*/pg_wal"
POSTGRESQL_TABLES = "/var/lib/postgresql/*/*/base"
ETCD_DATA = "/var/lib/etcd/*"
# A Patroni that sleeps too long shows when its lease (ttl, 20 s) has run out.
CLOCK_HOLD = 25.0


class Until(Enum):
    """What ends a fault early.

    SERVED: clients of PostgreSQL write again by every way. MOVED: another server took over, then that. KEYS: clients of
    Valkey write to every shard again.
    """

    TIME = "time"
    SERVED = "served"
    MOVED = "moved"
    KEYS = "keys"


@dataclass(frozen=True)
class Fault:
    """One way to break the lab.

    hold: seconds until it is healed, at most; until: what ends it earlier. limit: seconds for full health after that.
    freezes: it stops what has to end the old primary: without a watchdog device that one stays open, though with nobody
    to confirm its commits. crowding: it takes a host, so none may have most of Valkey's primaries.
    chance: whether schedules by chance may choose it.
    """

    name: str
    about: str
    strike: Callable[[Lab], Wound]
    hold: float = 3.0
    until: Until = Until.TIME
    limit: float = 120.0
    freezes: bool = False
    crowding: bool = False
    chance: bool = True


def _service(name: str, unit: str, where: Callable[[Lab], b.Machine], signal: str, **more: Any) -> Fault:
    words = {"KILL": ("killed", "kill -9"), "STOP": ("stopped", "SIGSTOP")}[signal]
    return Fault(f"{name} {words[0]}", f"{words[1]} of {name}", b.service(unit, where, signal), **more)


def _follower(lab: Lab) -> b.Machine:
    return lab.others(lab.etcd_leader())[0]


PROCESSES = [
    Fault("postmaster killed", "kill -9 of the primary's postmaster", b.postmaster("KILL"), 30, Until.MOVED),
    _service("primary's Patroni", "patroni", Lab.primary, "KILL"),
    _service("etcd follower", "etcd", _follower, "KILL"),
    _service("etcd leader", "etcd", Lab.etcd_leader, "KILL"),
    _service("PgBouncer", "pgbouncer", b.balancer, "KILL"),
    _service("HAProxy", "haproxy", b.balancer, "KILL"),
    _service("keepalived", "keepalived", b.balancer, "KILL"),
    Fault("replica killed", "kill -9 of a replica's postmaster", b.replica_postmaster("KILL")),
    Fault("Valkey primary killed", "kill -9 of a Valkey primary", b.valkey_server("master", "KILL"), 15, Until.KEYS),
    Fault("Valkey primary gone", "kill -9 of a Valkey primary that stays down", b.valkey_gone, 20, Until.KEYS),
    Fault("Valkey replica killed", "kill -9 of a Valkey replica", b.valkey_server("slave", "KILL")),
    Fault("postmaster stopped", "SIGSTOP of the primary's postmaster", b.postmaster("STOP"), 10),
    _service("primary's Patroni", "patroni", Lab.primary, "STOP", hold=40, until=Until.MOVED, freezes=True),
    _service("etcd follower", "etcd", _follower, "STOP", hold=6),
    _service("etcd leader", "etcd", Lab.etcd_leader, "STOP", hold=6),
    _service("PgBouncer", "pgbouncer", b.balancer, "STOP", hold=8),
    _service("HAProxy", "haproxy", b.balancer, "STOP", hold=8),
    _service("keepalived", "keepalived", b.balancer, "STOP", hold=8),
    Fault("replica stopped", "SIGSTOP of a replica's postmaster", b.replica_postmaster("STOP"), 8),
    Fault("Valkey primary stopped", "SIGSTOP of a Valkey primary", b.valkey_server("master", "STOP"), 20, Until.KEYS),
    Fault("Valkey replica stopped", "SIGSTOP of a Valkey replica", b.valkey_server("slave", "STOP"), 8),
]

HOSTS = [
    Fault(
        "primary's host killed",
        "power loss of the primary's host",
        b.host("kill", Lab.primary),
        40,
        Until.MOVED,
        crowding=True,
    ),
    Fault("replica's host killed", "power loss of a replica's host", b.host("kill", Lab.replica), 8, crowding=True),
    Fault(
        "balancer killed",
        "power loss of the host with the virtual address",
        b.host("kill", b.balancer),
        40,
        Until.SERVED,
        crowding=True,
    ),
    Fault(
        "primary's host paused",
        "the primary's host stands still",
        b.host("pause", Lab.primary),
        40,
        Until.MOVED,
        freezes=True,
        crowding=True,
    ),
    Fault("replica's host paused", "a replica's host stands still", b.host("pause", Lab.replica), 8, crowding=True),
]

NETWORKS = [
    Fault(
        "primary cut off",
        "no packet in or out of the primary's host",
        b.cut_off(Lab.primary),
        40,
        Until.MOVED,
        crowding=True,
    ),
    Fault(
        "primary half cut",
        "the primary's host is cut from the others, clients reach it",
        b.half_cut,
        40,
        Until.MOVED,
        crowding=True,
    ),
    Fault(
        "primary deaf",
        "the primary's host hears nothing of the others",
        b.one_way("INPUT"),
        40,
        Until.MOVED,
        crowding=True,
    ),
    Fault(
        "primary mute",
        "the others hear nothing of the primary's host",
        b.one_way("OUTPUT"),
        40,
        Until.MOVED,
        crowding=True,
    ),
    Fault("primary cut from etcd", "only etcd's ports are cut", b.from_etcd, 40, Until.MOVED),
    Fault("replica cut off", "no packet in or out of a replica's host", b.cut_off(Lab.replica), 8, crowding=True),
    Fault("balancer cut from clients", "clients cannot reach the host with the virtual address", b.from_clients, 10),
    Fault("lossy network", "one packet in five of the primary's host is lost", b.lossy, 12),
    Fault("slow network", "the primary's host sends 1 Mbit/s", b.slow, 12),
]

STORES = [
    Fault("etcd quorum lost", "two of three etcd members are gone", b.etcd_quorum, 12),
    Fault(
        "etcd member's data lost",
        "a follower's data are deleted, site.yml lets it join anew",
        o.etcd_data_lost,
        5,
        limit=180,
        chance=False,
    ),
    Fault(
        "etcd disk full",
        "not a byte is free for etcd's leader",
        b.full_disk("etcd", ETCD_DATA, "200m", Lab.etcd_leader),
        8,
        chance=False,
    ),
    Fault(
        "WAL disk full",
        "not a byte is free for the primary's WAL",
        b.full_disk("patroni", POSTGRESQL_WAL, "2g", Lab.primary),
        12,
        chance=False,
    ),
    Fault(
        "data disk full",
        "not a byte is free for the primary's tables",
        b.full_disk("patroni", POSTGRESQL_TABLES, "1g", Lab.primary),
        12,
        chance=False,
    ),
    Fault(
        "clock stepped forward",
        "the clock of the primary's Patroni, guard and PostgreSQL is an hour ahead",
        b.clock("+1h"),
        CLOCK_HOLD,
        chance=False,
    ),
    Fault(
        "clock stepped back",
        "the clock of the primary's Patroni, guard and PostgreSQL is an hour behind",
        b.clock("-1h"),
        CLOCK_HOLD,
        chance=False,
    ),
]

WORK = [
    Fault(
        "planned switchover",
        "switchover.yml, with nothing broken: what an operator does",
        o.planned_switchover,
        2,
        chance=False,
    ),
    Fault(
        "candidate killed during switchover",
        "the candidate's host dies while it takes over",
        o.switchover("candidate"),
        40,
        Until.SERVED,
        crowding=True,
        chance=False,
    ),
    Fault(
        "primary killed during switchover",
        "the old primary's host dies while its pools are paused",
        o.switchover("primary"),
        40,
        Until.MOVED,
        crowding=True,
        chance=False,
    ),
    Fault(
        "switchover killed",
        "the playbook dies while the pools are paused",
        o.switchover("playbook"),
        25,
        Until.SERVED,
        chance=False,
    ),
    Fault(
        "primary killed during backup",
        "the primary's postmaster dies while pgBackRest copies",
        o.backup,
        30,
        Until.MOVED,
        chance=False,
    ),
    Fault(
        "Valkey primary killed during reshard",
        "the source of the slots dies while they move",
        o.reshard,
        8,
        limit=180,
        crowding=True,
        chance=False,
    ),
    Fault(
        "primary killed during rolling update",
        "the primary's postmaster dies while update.yml restarts the replicas",
        o.rolling_update,
        30,
        Until.MOVED,
        chance=False,
    ),
    Fault(
        "host killed during rolling restart",
        "a host dies while another one's Valkey servers restart",
        o.rolling_restart,
        10,
        limit=300,
        crowding=True,
        chance=False,
    ),
]

TWO = [
    Fault(
        "primary and etcd leader killed",
        "the primary's host and etcd's leader at once",
        b.primary_and_etcd_leader,
        40,
        Until.MOVED,
        crowding=True,
    ),
    Fault(
        "replica lost, then primary killed",
        "a replica's host is killed, then the primary's postmaster",
        b.both(b.host("kill", Lab.replica), b.postmaster("KILL"), 3.0),
        30,
        Until.MOVED,
        crowding=True,
    ),
]

POWER_LOSS = Fault("power loss", "all hosts at once, cold start", b.power_loss, 2, limit=180, crowding=True)


def _interleaved(crowding: Sequence[Fault], calm: Sequence[Fault]) -> list[Fault]:
    """Put faults that take a host apart: while Valkey's primaries are spread again, others can have their turn."""
    ratio = len(calm) / max(1, len(crowding))
    placed = [((n + 0.5) * ratio, fault) for n, fault in enumerate(crowding)] + list(enumerate(calm))
    return [fault for _place, fault in sorted(placed, key=lambda pair: pair[0])]


_EVERY = [*PROCESSES, *HOSTS, *NETWORKS, *STORES, *TWO, *WORK]
# The last one ends what the others left.
FAULTS = [*_interleaved([f for f in _EVERY if f.crowding], [f for f in _EVERY if not f.crowding]), POWER_LOSS]

NOT_RUN = {
    "clock of a whole host": "containers share the machine's clock, and its kernel lets nobody set it for one of them; etcd and"
    " HAProxy cannot be shown another one",
    "latency and jitter": "the kernel of this machine may lack netem; loss and bandwidth stand for a bad network",
}
