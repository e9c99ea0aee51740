# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules over the replication of a PostgreSQL cluster: its state in, findings out. No I/O.

Source: PostgreSQL's manual, "Preventing Transaction ID Wraparound Failures", beside those of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.findings import Finding, by_severity
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.state import (
    PatroniView,
    Server,
    StandbyNames,
    WalSender,
    parse_standby_names,
)

MEBIBYTE = 1024 * 1024
RUNNING_STATES = ("running", "streaming")
PASSING_STATES = ("creating replica", "starting", "restarting", "in archive recovery", "initializing new cluster")
ANYBODY = {"*", "__patroni_strict_sync_replica_placeholder__"}
SYNCHRONOUS_ROLES = {"on": "sync_standby", "quorum": "quorum_standby"}


@dataclass(frozen=True)
class Limits:
    """Thresholds: from the first number of a pair on a finding is a warning, from the second on it is critical."""

    lag_bytes: tuple[int, int] = (16 * MEBIBYTE, 256 * MEBIBYTE)
    lag_seconds: tuple[float, float] = (10, 60)
    retained_wal_bytes: tuple[int, int] = (1024 * MEBIBYTE, 8192 * MEBIBYTE)
    archive_backlog: tuple[int, int] = (16, 128)
    xid_age: tuple[int, int] = (500_000_000, 1_500_000_000)
    prepared_seconds: tuple[float, float] = (300, 3600)


@dataclass(frozen=True)
class Declared:
    """What the inventory says: names of members (none: not declared), synchronous mode (None: whatever Patroni has).

    rewinds: whether the user who asked is the one of pg_rewind, so that his rights count.
    """

    members: tuple[str, ...] = ()
    synchronous_mode: str | None = None
    rewinds: bool = False


REMEDIES = {
    "server_reachable": "Start the server (read its log and Patroni's), or check address, password, certificate.",
    "patroni_answers": "Start Patroni there (systemctl status patroni), or check the URL and the certificates.",
    "one_primary": "Look at patronictl list and Patroni's logs: nobody holds the leader lock, or etcd is out of reach.",
    "split_brain": "Stop the clients and the server that is not Patroni's leader, then run patronictl reinit for it.",
    "one_leader": "Look at Patroni's log and at etcd (etcdctl endpoint health --cluster).",
    "member_known": "Start Patroni on the host (systemctl status patroni), or take the host out of the inventory.",
    "member_undeclared": "Add the member to the inventory, or stop Patroni there.",
    "member_state": "Read PostgreSQL's and Patroni's logs there; patronictl reinit rebuilds a broken copy.",
    "pending_restart": "Run patronictl restart --pending: replicas first, the primary after a switchover.",
    "automatic_failover": "Run patronictl resume when the work is done: until then a failed primary is not replaced.",
    "replica_streaming": "Read PostgreSQL's log on the replica; patronictl reinit rebuilds a diverged copy.",
    "same_timeline": "If it does not follow within a minute, run patronictl reinit: pg_rewind was refused.",
    "rewind_rights": "Run site.yml --tags patroni, which grants them; until then a diverged member has to be copied anew.",
    "lag_bytes": "Look for a slow disk or network, and for long queries on the replica that hold replay back.",
    "lag_seconds": "Look for long queries on the replica that hold replay back, then for a slow disk or network.",
    "synchronous_mode": "Run site.yml, which puts the declared dynamic configuration back, or declare what is wanted.",
    "synchronous_standbys": "Bring replicas back, read Patroni's log; only Patroni sets synchronous_standby_names.",
    "synchronous_commit": "Do not set synchronous_commit: so commits are acknowledged before a standby has them.",
    "commits_can_end": "Bring a listed standby back; Patroni takes a lost one off the list in its next loop.",
    "slot_usable": "Rebuild its consumer: patronictl reinit for a member; else drop and make the slot again.",
    "slot_active": "Bring its consumer back, or drop the slot: it keeps WAL until the disk is full.",
    "slot_retained_wal": "Bring its consumer up to date or drop the slot; max_slot_wal_keep_size bounds it.",
    "archiving_off": "Configure backups: without archived WAL no restore to a point in time is possible.",
    "archiving": "Run archive_command by hand and read PostgreSQL's log: WAL piles up until the disk is full.",
    "archive_backlog": "Look at the speed and the errors of archive_command.",
    "xid_age": "VACUUM FREEZE that database; look for old or prepared transactions and slots that hold xmin back.",
    "multixact_age": "VACUUM FREEZE that database; look for old transactions that hold row locks.",
    "prepared_transactions": "COMMIT PREPARED or ROLLBACK PREPARED it, see pg_prepared_xacts.",
    "replay_paused": "Run SELECT pg_wal_replay_resume() on the replica.",
    "data_checksums": "The disk returned wrong data: fail over if it is the primary's, replace it, rebuild the member.",
}


def check(
    servers: Iterable[Server], patroni: PatroniView | None, declared: Declared, limits: Limits | None = None
) -> list[Finding]:
    """Return every rule that does not hold, the gravest first.

    Parameters: servers, what each server said; patroni, its view (None: not managed by Patroni, or Patroni is silent);
    declared, what the inventory says; limits, thresholds. Raises Refusal for settings that make no sense.
    """
    limits = limits or Limits()
    servers = list(servers)
    findings = [*_reachable(servers), *_one_primary(servers, patroni)]
    if patroni is not None:
        findings += _members(patroni, declared, servers)
    primary = find_primary(servers, patroni)
    if primary is not None:
        findings += _replicas(primary, servers, patroni, limits)
        findings += _synchronous(primary, patroni, declared)
        findings += _rewind_rights(primary, declared)
        findings += _slots(primary, limits)
        findings += _archiver(primary, limits)
        findings += _ages(primary, limits)
    for server in servers:
        findings += _each_server(server)
    return by_severity(findings)


def patroni_silent(errors: Mapping[str, str], *, answered: bool) -> list[Finding]:
    """Return a finding for each URL of Patroni that gave an error; a warning when another one answered."""
    severity = "warning" if answered else "critical"
    return [_broken("patroni_answers", severity, url, error, "an answer") for url, error in errors.items()]


def summarize(servers: Iterable[Server], patroni: PatroniView | None) -> list[dict[str, Any]]:
    """Return what a person wants to know of each server, as plain data."""
    servers = list(servers)
    primary = find_primary(servers, patroni)
    return [_summary(server, primary, find_sender(server.name, servers)) for server in servers]


def _summary(server: Server, primary: Server | None, sender: WalSender | None) -> dict[str, Any]:
    follows = primary is not None and server.is_replica
    behind, seconds = lag_of(primary, server, sender) if primary is not None and follows else (None, None)
    received = server.receiver.timeline if server.receiver else None
    return {
        "name": server.name,
        "address": server.address,
        "role": "primary" if server.is_primary else "replica" if server.is_replica else "unknown",
        "timeline": received if received is not None else server.timeline,
        "lag_bytes": behind,
        "lag_seconds": seconds,
        "sync_state": sender.sync_state if sender and follows else None,
    }


def find_primary(servers: Iterable[Server], patroni: PatroniView | None) -> Server | None:
    """Return the server whose replicas are judged: the one that takes writes; of several or none Patroni's leader."""
    servers = list(servers)
    primaries = [server for server in servers if server.is_primary]
    if len(primaries) == 1:
        return primaries[0]
    leaders = {member.name for member in patroni.cluster.members if member.is_leader} if patroni else set()
    return next((server for server in servers if server.error is None and server.name in leaders), None)


def replica_names(primary: Server, servers: Iterable[Server], patroni: PatroniView | None) -> list[str]:
    """Return the names of all that must follow the primary: servers in their order, then other members of Patroni."""
    names = [server.name for server in servers] + (
        [member.name for member in patroni.cluster.members] if patroni else []
    )
    return [name for name in dict.fromkeys(names) if name != primary.name]


def find_sender(name: str, servers: Iterable[Server]) -> WalSender | None:
    """Return the WAL sender that serves a member, a streaming one first. A replica may feed another: any server's."""
    senders = [sender for server in servers for sender in server.senders if sender.application_name == name]
    return next((sender for sender in senders if sender.state == "streaming"), senders[0] if senders else None)


def lag_of(primary: Server, server: Server | None, sender: WalSender | None) -> tuple[int | None, float | None]:
    """Return how far a replica's replay is behind the primary: bytes and seconds, None where nobody knows."""
    replayed = server.lsn if server and server.is_replica else sender.replay_lsn if sender else None
    behind = None if replayed is None else max(0, primary.lsn - replayed)
    if behind == 0:
        return 0, 0.0
    seconds = sender.replay_lag_seconds if sender else None
    if server and (server.replay_stalled or server.replay_paused) and server.replay_age_seconds is not None:
        seconds = max(seconds or 0.0, server.replay_age_seconds)
    return behind, seconds


def _broken(rule: str, severity: str, where: str, found: str, allowed: str) -> Finding:
    return Finding(rule, severity, where, found, allowed, REMEDIES[rule])


def _reachable(servers: list[Server]) -> Iterator[Finding]:
    for server in servers:
        if server.error is not None:
            yield _broken(
                "server_reachable", "critical", server.name, server.error, f"a connection to {server.address}"
            )


def _one_primary(servers: list[Server], patroni: PatroniView | None) -> Iterator[Finding]:
    primaries = [server.name for server in servers if server.is_primary]
    wanted = 0 if patroni is not None and patroni.standby_cluster else 1
    if len(primaries) != wanted:
        rule = "split_brain" if len(primaries) > wanted else "one_primary"
        yield _broken(rule, "critical", "cluster", ", ".join(primaries) or "none", f"{wanted} server that takes writes")
    if patroni is None:
        return
    leaders = [member.name for member in patroni.cluster.members if member.is_leader]
    if len(leaders) != 1:
        yield _broken("one_leader", "critical", "Patroni", ", ".join(leaders) or "none", "1 leader")
    elif len(primaries) == 1 and primaries != leaders:
        found = f"{primaries[0]} takes writes, Patroni's leader is {leaders[0]}"
        yield _broken(
            "split_brain", "critical", primaries[0], found, "Patroni's leader is the server that takes writes"
        )


def _members(patroni: PatroniView, declared: Declared, servers: list[Server]) -> Iterator[Finding]:
    known = {member.name for member in patroni.cluster.members}
    for name in declared.members:
        if name not in known:
            yield _broken("member_known", "critical", name, "not in Patroni's cluster", "every declared member")
    told = {server.name for server in servers if _waiting_for_restart(server)}
    for member in patroni.cluster.members:
        if declared.members and member.name not in declared.members:
            found = "in Patroni's cluster, not in the inventory"
            yield _broken("member_undeclared", "warning", member.name, found, ", ".join(declared.members))
        if member.state not in RUNNING_STATES:
            severity = "warning" if member.state in PASSING_STATES else "critical"
            yield _broken("member_state", severity, member.name, member.state, " or ".join(RUNNING_STATES))
        if member.pending_restart and member.name not in told:
            yield _broken("pending_restart", "warning", member.name, "a changed setting waits for it", "none pending")
    if patroni.cluster.paused:
        yield _broken("automatic_failover", "warning", "Patroni", "paused (maintenance mode)", "not paused")


def _replicas(primary: Server, servers: list[Server], patroni: PatroniView | None, limits: Limits) -> Iterator[Finding]:
    timelines = {member.name: member.timeline for member in patroni.cluster.members} if patroni else {}
    for name in replica_names(primary, servers, patroni):
        server = next((server for server in servers if server.name == name), None)
        if server is not None and server.is_primary:
            continue
        sender = find_sender(name, servers)
        if sender is None:
            yield _broken("replica_streaming", "critical", name, "streams from no server", "state streaming")
        elif sender.state != "streaming":
            yield _broken("replica_streaming", "warning", name, f"state {sender.state}", "state streaming")
        received = server.receiver.timeline if server and server.receiver else None
        found = timelines.get(name) if received is None else received
        if found is not None and primary.timeline is not None and found != primary.timeline:
            allowed = f"timeline {primary.timeline}, as {primary.name}"
            yield _broken("same_timeline", "critical", name, f"timeline {found}", allowed)
        behind, seconds = lag_of(primary, server, sender)
        yield from _over("lag_bytes", name, behind, limits.lag_bytes, "bytes behind the primary")
        yield from _over("lag_seconds", name, seconds, limits.lag_seconds, "seconds behind the primary")


def _over(rule: str, where: str, value: float | None, limit: tuple[float, float], unit: str) -> Iterator[Finding]:
    warning, critical = limit
    if value is None or value < warning:
        return
    severity = "critical" if value >= critical else "warning"
    allowed = f"under {_number(warning)} (critical from {_number(critical)})"
    yield _broken(rule, severity, where, f"{_number(value)} {unit}", allowed)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or value >= 100 else f"{value:.1f}"


def _synchronous(primary: Server, patroni: PatroniView | None, declared: Declared) -> Iterator[Finding]:
    names = parse_standby_names(primary.synchronous_standby_names)
    if patroni is not None:
        wanted, mode = declared.synchronous_mode, patroni.synchronous_mode
        if wanted not in (None, mode):
            yield _broken("synchronous_mode", "critical" if mode == "off" else "warning", "Patroni", mode, str(wanted))
        if not patroni.standby_cluster:
            yield from _names_fit(primary, names, patroni)
    if names.count:
        yield from _commits_can_end(primary, names)
        if primary.synchronous_commit in ("off", "local"):
            allowed = "on, remote_write or remote_apply"
            yield _broken("synchronous_commit", "warning", primary.name, primary.synchronous_commit, allowed)


def _names_fit(primary: Server, names: StandbyNames, patroni: PatroniView) -> Iterator[Finding]:
    """Compare what the primary waits for with what Patroni's mode says it should wait for."""
    mode = patroni.synchronous_mode
    replicas = [member.name for member in patroni.cluster.members if not member.is_leader]
    found = f"synchronous_standby_names = '{primary.synchronous_standby_names}'"
    if mode == "off":
        if names.count:
            yield _broken("synchronous_standbys", "warning", primary.name, found, "empty, as synchronous_mode is off")
        return
    if not names.count:
        if replicas:
            allowed = f"standbys to wait for, as synchronous_mode is {mode}"
            yield _broken("synchronous_standbys", "critical", primary.name, found, allowed)
        return
    method = {"on": "first", "quorum": "any"}[mode]
    if names.method != method:
        allowed = f"{method.upper()} n (...), as synchronous_mode is {mode}"
        yield _broken("synchronous_standbys", "critical", primary.name, found, allowed)
    wanted = min(patroni.synchronous_node_count, len(replicas))
    if names.count < wanted:
        allowed = f"waits for {wanted}, as synchronous_node_count says"
        yield _broken("synchronous_standbys", "warning", primary.name, found, allowed)
    voters = {member.name for member in patroni.cluster.members if member.role == SYNCHRONOUS_ROLES[mode]}
    if set(names.names) != voters and not set(names.names) & ANYBODY:
        allowed = f"{SYNCHRONOUS_ROLES[mode]} in Patroni: {', '.join(sorted(voters)) or 'nobody'}"
        yield _broken("synchronous_standbys", "warning", primary.name, found, allowed)


def _commits_can_end(primary: Server, names: StandbyNames) -> Iterator[Finding]:
    listed = {name.lower() for name in names.names}
    able = {
        sender.application_name
        for sender in primary.senders
        if sender.state == "streaming" and ("*" in listed or sender.application_name.lower() in listed)
    }
    if len(able) < names.count:
        found = f"{len(able)} of '{primary.synchronous_standby_names}' stream: {', '.join(sorted(able)) or 'none'}"
        yield _broken(
            "commits_can_end", "critical", primary.name, found, f"at least {names.count}, or every commit hangs"
        )


def _rewind_rights(primary: Server, declared: Declared) -> Iterator[Finding]:
    if declared.rewinds and primary.rewind_lacks:
        found = f"may not execute {', '.join(primary.rewind_lacks)}"
        yield _broken(
            "rewind_rights", "warning", f"{primary.name}, the user of pg_rewind", found, "all that pg_rewind needs"
        )


def _slots(primary: Server, limits: Limits) -> Iterator[Finding]:
    for slot in primary.slots:
        where = f"{primary.name}, slot {slot.name}"
        if slot.wal_status in ("lost", "unreserved"):
            yield _broken("slot_usable", "critical", where, f"WAL {slot.wal_status}", "WAL reserved or extended")
        if not slot.active:
            yield _broken("slot_active", "warning", where, f"a {slot.kind} slot that nobody uses", "active")
        retained = None if slot.restart_lsn is None else max(0, primary.lsn - slot.restart_lsn)
        yield from _over("slot_retained_wal", where, retained, limits.retained_wal_bytes, "bytes of WAL kept for it")


def _archiver(primary: Server, limits: Limits) -> Iterator[Finding]:
    archiver = primary.archiver
    if not archiver.enabled:
        yield _broken("archiving_off", "info", primary.name, "archive_mode off", "on")
        return
    if archiver.last_failed is not None and archiver.last_failed > (archiver.last_archived or 0):
        found = f"failed on {archiver.last_failed_wal}, {archiver.failed} failures in all"
        yield _broken("archiving", "critical", primary.name, found, "the last attempt succeeded")
    backlog = limits.archive_backlog
    yield from _over("archive_backlog", primary.name, archiver.backlog, backlog, "WAL files wait to be archived")


def _ages(primary: Server, limits: Limits) -> Iterator[Finding]:
    for rule, ages in (("xid_age", primary.xid_ages), ("multixact_age", primary.multixact_ages)):
        for database, age in ages.items():
            where = f"{primary.name}, database {database}"
            yield from _over(rule, where, age, limits.xid_age, "transactions since the last freeze")
    oldest = primary.prepared_seconds
    yield from _over(
        "prepared_transactions", primary.name, oldest, limits.prepared_seconds, "seconds, the oldest prepared one"
    )


def _waiting_for_restart(server: Server) -> list[str]:
    # What steers a recovery says nothing to a primary: a promoted one keeps what it recovered with until it starts again.
    return [name for name in server.pending_restart if not (server.is_primary and name.startswith("recovery_target"))]


def _each_server(server: Server) -> Iterator[Finding]:
    if server.replay_paused:
        yield _broken("replay_paused", "warning", server.name, "replay is paused", "replay runs")
    waiting = _waiting_for_restart(server)
    if waiting:
        yield _broken("pending_restart", "warning", server.name, ", ".join(waiting), "none pending")
    for database, failures in server.checksum_failures.items():
        where = f"{server.name}, database {database}"
        yield _broken("data_checksums", "critical", where, f"{failures} pages failed their checksum", "0")
