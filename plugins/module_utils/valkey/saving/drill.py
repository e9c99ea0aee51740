# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Loads the newest backup of Valkey on this host and compares it with what its servers had, on a socket in a folder of its own."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.drill import Seen
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.proofs import Check
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import reading
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import Options, ValkeyError
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup, restore
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore import Shard
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore_source import Source


def drill(context: Context, _job: Job) -> list[Seen]:
    """Drill the newest backup, good or not: what claims to be one has to be one. Raises Refusal where there is none."""
    known = store.labels(context.backup_dir, backup.ENGINE)
    if not known:
        raise Refusal(f"{context.backup_dir} has no backup of Valkey")
    begin = contexts.now().timestamp()
    found = store.look(context.backup_dir, backup.ENGINE, known[-1], deep=True)
    if found.problems or found.manifest is None:
        return [
            Seen(backup.ENGINE, found.label, "local", (Check("files", False, "; ".join(found.problems)),), None, None)
        ]
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
        return [Seen(backup.ENGINE, found.label, "local", tuple(checks), None, rpo)]
    return [Seen(backup.ENGINE, found.label, "local", tuple(checks), rto, rpo)]


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
