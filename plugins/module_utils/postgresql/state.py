# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The state of a PostgreSQL cluster's replication, read out of what servers and Patroni say. No I/O.

Sources: PostgreSQL's manual, "The Cumulative Statistics System" (pg_stat_replication, pg_stat_wal_receiver, pg_stat_archiver),
"pg_replication_slots", "synchronous_standby_names"; Patroni's REST API (/cluster, /config). Sizes are bytes, times seconds, ages
transactions; LSNs are integers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, parse_cluster
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


@dataclass(frozen=True)
class WalSender:
    """A row of pg_stat_replication."""

    application_name: str
    client_address: str
    state: str
    sync_state: str
    replay_lsn: int | None
    replay_lag_seconds: float | None


@dataclass(frozen=True)
class Slot:
    """A row of pg_replication_slots."""

    name: str
    kind: str
    active: bool
    restart_lsn: int | None
    wal_status: str | None


@dataclass(frozen=True)
class Archiver:
    """pg_stat_archiver with its settings; times are seconds since the epoch, backlog counts WAL files that wait."""

    enabled: bool
    failed: int = 0
    last_failed: float | None = None
    last_failed_wal: str | None = None
    last_archived: float | None = None
    backlog: int = 0


@dataclass(frozen=True)
class WalReceiver:
    """pg_stat_wal_receiver; there is no row while nothing is received."""

    status: str
    timeline: int | None
    sender: str


@dataclass(frozen=True)
class Server:
    """What one PostgreSQL server says of itself, or why it could not be asked (error; the rest is default)."""

    name: str
    address: str
    error: str | None = None
    in_recovery: bool = False
    timeline: int | None = None
    lsn: int = 0
    received_lsn: int | None = None
    replay_paused: bool = False
    replay_age_seconds: float | None = None
    replay_stalled: bool = False
    synchronous_standby_names: str = ""
    synchronous_commit: str = "on"
    senders: tuple[WalSender, ...] = ()
    slots: tuple[Slot, ...] = ()
    archiver: Archiver = field(default_factory=lambda: Archiver(enabled=False))
    receiver: WalReceiver | None = None
    xid_ages: Mapping[str, int] = field(default_factory=dict)
    multixact_ages: Mapping[str, int] = field(default_factory=dict)
    checksum_failures: Mapping[str, int] = field(default_factory=dict)
    prepared_seconds: float | None = None
    pending_restart: tuple[str, ...] = ()
    rewind_lacks: tuple[str, ...] = ()

    @property
    def is_primary(self) -> bool:
        """Whether the server answered and takes writes."""
        return self.error is None and not self.in_recovery

    @property
    def is_replica(self) -> bool:
        """Whether the server answered and replays the WAL of another."""
        return self.error is None and self.in_recovery


@dataclass(frozen=True)
class PatroniView:
    """Patroni's /cluster and the part of /config that replication depends on."""

    cluster: Cluster
    synchronous_mode: str = "off"
    synchronous_node_count: int = 1

    @property
    def standby_cluster(self) -> bool:
        """Whether this whole cluster follows another one, so that no server of it takes writes."""
        return any(member.role == "standby_leader" for member in self.cluster.members)


@dataclass(frozen=True)
class StandbyNames:
    """synchronous_standby_names, parsed: method is any, first or empty (nobody is waited for)."""

    method: str = ""
    count: int = 0
    names: tuple[str, ...] = ()


def parse_lsn(text: str | None) -> int | None:
    """Turn an LSN such as 16/B374D848 into a number of bytes; None stays None. Raises Refusal."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", text)
    if not found:
        raise Refusal(f"{text!r} is not an LSN of the form 16/B374D848")
    return (int(found[1], 16) << 32) + int(found[2], 16)


def parse_standby_names(text: str) -> StandbyNames:
    """Parse the setting synchronous_standby_names in each of its forms. Raises Refusal."""
    text = text.strip()
    if not text:
        return StandbyNames()
    found = re.fullmatch(
        r"(?:(?P<method>ANY|FIRST)\s+)?(?P<count>\d+)\s*\((?P<names>.*)\)", text, re.IGNORECASE | re.DOTALL
    )
    if found:
        method = (found["method"] or "first").lower()
        return StandbyNames(method, int(found["count"]), _names(found["names"]))
    return StandbyNames("first", 1, _names(text))


def _names(text: str) -> tuple[str, ...]:
    name = r'\s*(?:"((?:[^"]|"")+)"|([^\s,"()]+))\s*'
    if not re.fullmatch(f"{name}(?:,{name})*", text):
        raise Refusal(f"{text!r} is not a list of names of synchronous_standby_names")
    pairs = re.findall(f"{name}(?:,|$)", text)
    return tuple(quoted.replace('""', '"') or plain for quoted, plain in pairs)


def server_from_row(name: str, address: str, row: Mapping[str, Any]) -> Server:
    """Build a Server from the object that reader.QUERY returns. Raises Refusal."""
    try:
        return Server(
            name=name,
            address=address,
            in_recovery=row["in_recovery"],
            timeline=row["timeline"],
            lsn=parse_lsn(row["lsn"]) or 0,
            received_lsn=parse_lsn(row["received_lsn"]),
            replay_paused=row["replay_paused"],
            replay_age_seconds=row["replay_age_seconds"],
            synchronous_standby_names=row["synchronous_standby_names"],
            synchronous_commit=row["synchronous_commit"],
            senders=tuple(_sender(sender) for sender in row["senders"]),
            slots=tuple(_slot(slot) for slot in row["slots"]),
            archiver=Archiver(**row["archiver"]),
            receiver=WalReceiver(**row["receiver"]) if row["receiver"] else None,
            xid_ages=row["xid_ages"],
            multixact_ages=row["multixact_ages"],
            checksum_failures=row["checksum_failures"],
            prepared_seconds=row["prepared_seconds"],
            pending_restart=tuple(row["pending_restart"]),
            rewind_lacks=tuple(row["rewind_lacks"]),
        )
    except (KeyError, TypeError) as error:
        raise Refusal(f"the state of the server {name} at {address} lacks or has an unexpected {error}") from error


def _sender(row: Mapping[str, Any]) -> WalSender:
    return WalSender(**{**row, "replay_lsn": parse_lsn(row["replay_lsn"])})


def _slot(row: Mapping[str, Any]) -> Slot:
    return Slot(**{**row, "restart_lsn": parse_lsn(row["restart_lsn"])})


def patroni_from_rest(cluster: Any, config: Mapping[str, Any]) -> PatroniView:
    """Build a PatroniView from the JSON of GET /cluster and GET /config. Raises Refusal."""
    return PatroniView(
        cluster=parse_cluster(cluster),
        synchronous_mode=normalize_mode(config.get("synchronous_mode", False)),
        synchronous_node_count=int(config.get("synchronous_node_count", 1)),
    )


def normalize_mode(value: object) -> str:
    """Turn Patroni's synchronous_mode (a boolean, or text such as on, off, quorum) into off, on or quorum."""
    text = str(value).strip().lower()
    if text == "quorum":
        return "quorum"
    return "on" if text in ("on", "true", "yes", "1") else "off"


def mark_stalled(first: Iterable[Server], second: Iterable[Server]) -> list[Server]:
    """Return the second reading, with replay_stalled where WAL waited in both and replay did not move between them.

    A primary reports the last lag it measured. When replay hangs that number stands still; the replica's clock tells.
    """
    before = {server.name: server for server in first}
    return [replace(server, replay_stalled=_stands_still(before.get(server.name), server)) for server in second]


def _stands_still(first: Server | None, second: Server) -> bool:
    if first is None or not (first.is_replica and second.is_replica):
        return False
    return waits_for_replay(first) and waits_for_replay(second) and first.lsn == second.lsn


def waits_for_replay(server: Server) -> bool:
    """Whether a replica has received WAL that it has not replayed."""
    return server.is_replica and server.received_lsn is not None and server.received_lsn > server.lsn
