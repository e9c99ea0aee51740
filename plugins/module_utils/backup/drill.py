"""Restores the newest backup of each engine on this host, looks whether it is good, and writes down what was found.

Nothing of the cluster is touched: PostgreSQL runs on a Unix socket in a folder of its own, so does Valkey.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import instance, physical, store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.proofs import Check, Proof
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.repository import newest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import reading
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Options, ValkeyError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup, restore
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore import Shard
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore_source import Source

POSTGRESQL = "postgresql"
VALKEY = backup.ENGINE
PORT = 5434
RECOVERY_SECONDS = 24 * 3600.0
CHECK_SECONDS = 12 * 3600.0


@dataclass(frozen=True)
class Seen:
    """What a drill saw of one backup."""

    engine: str
    label: str
    repository: str
    checks: tuple[Check, ...]
    rto: float | None
    rpo: float | None


def run(context: Context, job: Job) -> Result:
    """Drill the newest backup of each engine. Raises Refusal where one is not proved; the verdicts are written then, too."""
    engines = job.options.get("engines") or [
        name for name, section in ((POSTGRESQL, "pgbackrest"), (VALKEY, "valkey")) if context.config.get(section)
    ]
    drills: Mapping[str, Callable[[Context, Job], list[Seen]]] = {POSTGRESQL: _postgresql, VALKEY: _valkey}
    seen: list[Seen] = []
    missing: list[str] = []
    for engine in engines:
        try:
            seen += drills[engine](context, job)
        except Refusal as error:
            missing.append(f"{engine}: {error}")
    for item in seen:
        store.write_proof(context.backup_dir, proof_of(item, job.name, contexts.stamp()))
    failed = [f"{item.engine} {item.label}: {_failures(item)}" for item in seen if not _passed(item)]
    if failed or missing:
        raise Refusal("not proved: " + "; ".join([*failed, *missing]))
    labels: dict[str, list[str]] = {}
    for item in seen:
        labels.setdefault(item.engine, []).append(item.label)
    return Result("proved " + ", ".join(_told(item) for item in seen), labels)


def proof_of(seen: Seen, drill: str, moment: str) -> Proof:
    """Return the verdict over what was seen."""
    return Proof(
        engine=seen.engine,
        label=seen.label,
        drill=drill,
        proved=moment,
        verdict="proved" if _passed(seen) else "failed",
        repository=seen.repository,
        rto_seconds=None if seen.rto is None else round(seen.rto, 1),
        rpo_seconds=None if seen.rpo is None else round(seen.rpo, 1),
        checks=seen.checks,
    )


def _passed(seen: Seen) -> bool:
    return bool(seen.checks) and all(check.ok for check in seen.checks)


def _failures(seen: Seen) -> str:
    return ", ".join(f"{check.name} ({check.detail})" for check in seen.checks if not check.ok) or "nothing was checked"


def _told(seen: Seen) -> str:
    return f"{seen.engine} {seen.label} (served after {seen.rto or 0:.1f} s)"


# PostgreSQL


def _postgresql(context: Context, job: Job) -> list[Seen]:
    """Drill the newest backup in each repository that this host restores from. Raises Refusal where there is none."""
    found = []
    for repository in context.section("pgbackrest")["repositories"]:
        if not repository["own"]:
            continue
        stanza = physical.look(context, repository["number"])
        item = newest([entry for entry in stanza.backups if entry.repository == repository["number"]])
        if item is None:
            raise Refusal(f"repository {repository['name']} has no backup")
        begin = contexts.now().timestamp()
        try:
            checks, rto, rpo = _recovered(context, job, repository["number"], item.label, begin)
        except Refusal as error:
            checks, rto, rpo = (Check("restore", False, str(error)[:400]),), None, None
        found.append(Seen(POSTGRESQL, item.label, repository["name"], checks, rto, rpo))
    if not found:
        raise Refusal("this host restores from no repository")
    return found


def _recovered(
    context: Context, job: Job, number: int, label: str, begin: float
) -> tuple[tuple[Check, ...], float, float | None]:
    """Restore a backup, recover to the end of the archive, look at all of it. Returns checks, RTO and RPO."""
    arguments = [f"--repo={number}", f"--set={label}", "--type=default"]
    parent = os.path.join(context.backup_dir, "drill")
    with instance.restored(context, arguments, parent=parent, port=PORT, timeout=RECOVERY_SECONDS) as server:
        checks = [Check("recovery", server.query("SELECT NOT pg_is_in_recovery()") == "t", "to the end of the archive")]
        # What was committed last, by the clock of the primary. An idle cluster has nothing newer.
        last = server.query("SELECT extract(epoch FROM pg_last_xact_replay_timestamp())")
        checks.append(
            _program("pg_amcheck", server, ["--all", "--install-missing", "--heapallindexed", "--no-strict-names"])
        )
        checks += [
            Check(f"probe {name}", ok, detail)
            for name, ok, detail in instance.probes(server, job.options.get("probes", []))
        ]
        if server.query("SHOW data_checksums") == "on":
            checks.append(_checksums(server))
    rpo = max(0.0, begin - float(last)) if last else None
    return tuple(checks), server.restore_seconds + server.start_seconds, rpo


def _program(name: str, server: instance.Instance, options: Sequence[str]) -> Check:
    reach = [f"--host={server.folder}", f"--port={server.port}", f"--username={instance.USER}"]
    try:
        contexts.run([f"{server.bin_dir}/{name}", *reach, *options], user=instance.USER, seconds=CHECK_SECONDS)
    except Refusal as error:
        return Check(name, False, str(error)[:400])
    return Check(name, True, "every table and index")


def _checksums(server: instance.Instance) -> Check:
    """Stop the server and compare every page with its checksum."""
    try:
        stop = [f"{server.bin_dir}/pg_ctl", f"--pgdata={server.data_dir}", "--mode=fast", "--wait", "stop"]
        contexts.run(stop, user=instance.USER, seconds=CHECK_SECONDS)
        command = [f"{server.bin_dir}/pg_checksums", "--check", f"--pgdata={server.data_dir}"]
        told = contexts.run(command, user=instance.USER, seconds=CHECK_SECONDS)
    except Refusal as error:
        return Check("pg_checksums", False, str(error)[:400])
    blocks = [line.strip() for line in told.splitlines() if "locks scanned" in line]
    return Check("pg_checksums", True, "; ".join(blocks))


# Valkey


def _valkey(context: Context, _job: Job) -> list[Seen]:
    """Drill the newest backup, good or not: what claims to be one has to be one. Raises Refusal where there is none."""
    known = store.labels(context.backup_dir, VALKEY)
    if not known:
        raise Refusal(f"{context.backup_dir} has no backup of Valkey")
    begin = contexts.now().timestamp()
    found = store.look(context.backup_dir, VALKEY, known[-1], deep=True)
    if found.problems or found.manifest is None:
        return [Seen(VALKEY, found.label, "local", (Check("files", False, "; ".join(found.problems)),), None, None)]
    checks = [Check("files", True, f"{len(found.manifest.files)} files have the SHA-256 they were written with")]
    rpo = begin - manifests.seconds(found.manifest.position["moment"])
    rto = 0.0
    try:
        for shard in restore.shards_of(found.manifest):
            start = time.monotonic()
            source = Source(found.path, shard, found.manifest.kind, Options())
            try:
                with contextlib.closing(source.client()) as client:
                    source.wait(client, None)
                    rto += time.monotonic() - start
                    checks += _shard(source, client, shard, found.manifest.kind)
            finally:
                source.stop()
    except (Refusal, ValkeyError) as error:
        checks.append(Check("load", False, str(error)[:400]))
        return [Seen(VALKEY, found.label, "local", tuple(checks), None, rpo)]
    return [Seen(VALKEY, found.label, "local", tuple(checks), rto, rpo)]


def _shard(source: Source, client: Any, shard: Shard, kind: str) -> list[Check]:
    """Compare one shard's keys with what its servers had."""
    keys, expired, spaces = source.loaded(client)
    there = keys + expired
    ends = any(number for _keys, number in spaces.values())
    exact = kind == backup.RDB or not ends
    ok = there == shard.keys if exact else there <= shard.keys
    checks = [Check(f"{shard.name} keys", ok, f"{there} of {shard.keys}")]
    now = contexts.now().timestamp() * 1000
    lasting = {
        (sample.database, sample.key.encode("utf-8", "surrogateescape")): sample
        for sample in shard.samples
        if sample.expires < 0 or sample.expires > now + 60_000
    }
    found = {
        (database, key): value
        for database in sorted({database for database, _key in lasting})
        for key, value in reading.read(client, [key for at, key in lasting if at == database], database).items()
    }
    wrong = [repr(key[1]) for key, sample in lasting.items() if found.get(key) != (sample.sha256, sample.expires)]
    detail = f"{len(lasting) - len(wrong)} of {len(lasting)} as clients read them"
    return [*checks, Check(f"{shard.name} samples", not wrong, detail + (f", not {wrong[0]}" if wrong else ""))]
