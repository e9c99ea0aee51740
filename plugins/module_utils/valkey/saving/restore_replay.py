# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Writes what a shard's server holds into a cluster, key by key, each to the owner of its slot.

The server sends the keys itself (MIGRATE with COPY): values never pass through this process. Batches may be sent twice, so a
replay may be interrupted at any point and continues from its last cursor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Client,
    Endpoint,
    Fleet,
    ValkeyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.keywise import authentication
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.reading import Value, raw, read
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import restore
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore import Part
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import View

SCAN = 1000
# Keys whose values are compared at once.
COMPARE = 200
MIGRATE_MILLISECONDS = 300_000
RETRIES = 60
RETRY_SECONDS = 0.5
# What passes when a failover or a move of slots is over.
PASSING = ("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "READONLY", "IOERR", "NOREPLICAS", "OOM")


@dataclass(frozen=True)
class Target:
    """The cluster: its view, and for each slot the node that owns it."""

    view: View
    owners: tuple[str, ...]

    @classmethod
    def of(cls, view: View) -> Target:
        """Return the target of a view whose slots all have an owner."""
        return cls(view, tuple(view.owners[slot] for slot in range(len(view.owners))))

    def address(self, node: str) -> tuple[str, int]:
        """Where the others reach a node."""
        return self.view.by_id[node].address, self.view.by_id[node].port


class Replay:
    """Replays one shard.

    Parameters: source, connection to the shard's server; fleet, of the cluster; look, which returns the cluster as it is now.
    """

    def __init__(self, source: Client, fleet: Fleet, look: Callable[[], View]) -> None:
        self._source = source
        self._fleet = fleet
        self._look = look
        self._target = Target.of(look())

    def run(self, part: Part, databases: Sequence[int], over: Callable[[], bool], keep: Callable[[Part], None]) -> Part:
        """Write keys from where part is; over says when to stop, keep gets each step. Raises Refusal, ValkeyError."""
        if not part.begun:
            part = replace(part, begun=True, database=databases[0] if databases else 0)
        for database in [number for number in databases if number >= part.database]:
            if database != part.database:
                part = replace(part, database=database, cursor=0)
            checked(raw(self._source, [("SELECT", database)])[0])
            while True:
                cursor, keys = checked(raw(self._source, [("SCAN", part.cursor, "COUNT", SCAN)])[0])
                self._send(keys, database)
                part = replace(part, cursor=int(cursor), keys=part.keys + len(keys))
                keep(part)
                if part.cursor == 0:
                    break
                if over():
                    return part
        self._functions()
        return replace(part, done=True)

    def _send(self, keys: Sequence[bytes], database: int) -> None:
        """Have the server send keys to their owners. Raises Refusal when it can't for long."""
        left = list(keys)
        for attempt in range(RETRIES):
            groups = restore.by_owner(left, self._target.owners)
            answers = raw(self._source, [self._migrate(node, group, database) for node, group in groups.items()])
            failed = {
                node: answer for node, answer in zip(groups, answers, strict=True) if isinstance(answer, Exception)
            }
            if not failed:
                return
            lasting = [str(error) for error in failed.values() if not _passes(error)]
            if lasting or attempt == RETRIES - 1:
                raise Refusal(
                    f"a server did not take keys: {(lasting or [str(next(iter(failed.values())))])[0]}",
                    "Run again when it is repaired: the restore continues where it stopped",
                )
            left = [key for node in failed for key in groups[node]]
            time.sleep(RETRY_SECONDS)
            self._target = Target.of(self._look())

    def _migrate(self, node: str, keys: Sequence[bytes], database: int) -> list[Any]:
        address, port = self._target.address(node)
        words = ["MIGRATE", address, port, "", database, MIGRATE_MILLISECONDS, "COPY", "REPLACE"]
        return [*words, *authentication(self._fleet), "KEYS", *keys]

    def _functions(self) -> None:
        """Give every primary the functions that the file has."""
        [payload] = raw(self._source, [("FUNCTION", "DUMP")])
        [libraries] = raw(self._source, [("FUNCTION", "LIST")])
        if isinstance(payload, Exception) or not libraries:
            return
        for node in self._target.view.primaries:
            client = self._fleet.client(Endpoint(node.address, node.port))
            checked(raw(client, [("FUNCTION", "RESTORE", payload, "REPLACE")])[0])

    def compare(self, number: int, databases: Sequence[int]) -> tuple[int, list[str]]:
        """Compare keys of the file with the cluster's: a random number of each database, all where it is 0.

        Returns how many were compared, and the names of those that differ (50 at most).
        """
        total, wrong = 0, []
        for database in databases:
            checked(raw(self._source, [("SELECT", database)])[0])
            cursor: Any = b"0"
            while True:
                if number:
                    keys = sorted({key for key in raw(self._source, [("RANDOMKEY",)] * number) if key})
                    cursor = b"0"
                else:
                    cursor, keys = checked(raw(self._source, [("SCAN", cursor, "COUNT", SCAN)])[0])
                for start in range(0, len(keys), COMPARE):
                    wrong += self._differing(keys[start : start + COMPARE], database)
                total += len(keys)
                if cursor == b"0" or len(wrong) > 50:
                    break
        return total, wrong[:50]

    def _differing(self, keys: Sequence[bytes], database: int) -> list[str]:
        mine = read(self._source, keys, database)
        wrong = []
        for node, group in restore.by_owner(keys, self._target.owners).items():
            client = self._fleet.client(Endpoint(*self._target.address(node)))
            theirs = read(client, group, database)
            wrong += [key for key in group if not _same(mine.get(key), theirs.get(key))]
        if not wrong:
            return []
        # What has come to its end between the two looks is gone from the file's server now, too.
        still = read(self._source, wrong, database)
        return [repr(key) for key in wrong if key in still]


def _same(one: Value | None, other: Value | None) -> bool:
    if one is None or other is None:
        return one is None
    return one[0] == other[0] and restore.same_expiry(one[1], other[1])


def _passes(error: Any) -> bool:
    text = str(error)
    return isinstance(error, ValkeyError) and any(word in text for word in PASSING)
