# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Restoring a Valkey cluster into any number of shards: what is possible, what is left to do, what was proved. No I/O."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import SLOT_COUNT
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup

REFUSE = "refuse"
REPLACE = "replace"
FLUSH = "flush"
EXISTING = (REFUSE, REPLACE, FLUSH)

# How far a restore is: what is there was kept aside, was deleted, keys are written, all is there and compared.
PLANNED = "planned"
KEPT = "kept"
READY = "ready"
DONE = "done"

# What restoring takes beside the data that a file held when it was written.
MEMORY_FACTOR = 1.2
# Milliseconds by which the end of a key may differ: a server passes on how long it has left.
EXPIRY_SLACK = 2000


@dataclass(frozen=True)
class Shard:
    """One shard of a backup: its file below the backup's folder, its slots, the keys that it had and the memory they took.

    databases: those that held keys; None in a backup that was made before backups said so.
    """

    file: str
    slots: ranges.Ranges
    keys: int
    memory: int
    samples: tuple[backup.Sample, ...]
    databases: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Name of the shard: of its file, or of the folder of its append-only file."""
        return self.file.split("/", 1)[0].removesuffix(".rdb")


def shards_of(manifest: Manifest) -> tuple[Shard, ...]:
    """Return the shards of a backup, each slot in exactly one of them. Raises Refusal."""
    try:
        found = tuple(
            Shard(
                item["file"],
                ranges.parse_ranges(item["slots"]),
                int(item["keys"]),
                int(item["memory"]),
                tuple(backup.Sample(**sample) for sample in item["samples"]),
                tuple(map(int, item["databases"])) if "databases" in item else None,
            )
            for item in manifest.position["shards"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(
            f"{manifest.label}: its manifest does not say which file has which slots ({error!r})",
            "Restore another backup",
        ) from error
    listed = {file.path for file in manifest.files}
    lost = [shard.file for shard in found if shard.file not in listed]
    problem = backup.uncovered(shard.slots for shard in found)
    if lost:
        problem = f"{', '.join(lost)} is not among its files"
    if problem:
        raise Refusal(f"{manifest.label}: {problem}", "Restore another backup")
    return found


def needed_databases(shards: Iterable[Shard], declared: Mapping[str, Any]) -> int:
    """Return how many databases a cluster needs to take a backup.

    Those up to the last in which a shard has keys; of a backup that does not say which, as many as its servers had. declared: what
    the servers of the backup were told, see backup.SERVERS_FILE.
    """
    told = [server["settings"].get(databases.SETTING, 1) for server in declared.get("servers", ())]
    had = max(map(int, told), default=1)
    return max((max(s.databases, default=0) + 1 if s.databases is not None else had for s in shards), default=1)


def databases_problem(needed: int, targets: Mapping[str, int]) -> str:
    """Return which server lacks a database of the backup, empty when none does. targets: how many each has, by address."""
    small = [
        f"{where} has {databases.SETTING} {number}" for where, number in sorted(targets.items()) if number < needed
    ]
    return f"the backup needs {needed} databases, {', '.join(small)}" if small else ""


def versions_problem(snapshot: str, own: Sequence[int], targets: Mapping[str, Sequence[int]]) -> str:
    """Return which server can't take the data, empty when all can.

    Parameters: snapshot, version of the servers of the backup; own, of the server on this host, that reads the files; targets, of
    the cluster's servers by address.
    """
    wanted = tuple(int(part) for part in snapshot.split("."))
    if tuple(own)[:2] < wanted[:2]:
        return f"the snapshot is of Valkey {snapshot}, valkey-server on this host is {_text(own)}"
    for where, version in sorted(targets.items()):
        if tuple(version)[:2] < wanted[:2]:
            return f"the snapshot is of Valkey {snapshot}, {where} is {_text(version)}"
        if backup.written_by(version) < backup.written_by(own):
            return f"valkey-server on this host is {_text(own)} and writes what {where}, {_text(version)}, can't read"
    return ""


def _text(version: Sequence[int]) -> str:
    return ".".join(str(part) for part in version)


def at_once(memory: Iterable[int], available: int, most: int) -> int:
    """Return how many shards may be loaded side by side, 0 where not even one fits.

    Parameters: memory that each shard's data took; available, bytes of this host; most, how many at most.
    """
    largest = sorted((int(size * MEMORY_FACTOR) for size in memory), reverse=True)
    for number in range(min(most, len(largest)), 0, -1):
        if sum(largest[:number]) <= available:
            return number
    return 0


def slot_of(key: bytes) -> int:
    """Return the hash slot of a key (https://valkey.io/topics/cluster-spec/): of what stands in its first braces, if anything."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOT_COUNT


def by_owner(keys: Iterable[bytes], owners: Sequence[str]) -> dict[str, list[bytes]]:
    """Return keys by the node that owns their slot; owners: by slot."""
    found: dict[str, list[bytes]] = {}
    for key in keys:
        found.setdefault(owners[slot_of(key)], []).append(key)
    return found


def same_expiry(one: int, other: int) -> bool:
    """Whether two keys end at the same time, as PEXPIRETIME says it."""
    if one < 0 or other < 0:
        return one == other
    return abs(one - other) <= EXPIRY_SLACK


@dataclass(frozen=True)
class Part:
    """How far one shard is.

    server: run id of the server that has the file; another one scans in another order. cursor: of the scan, in database. keys:
    written. lasting: keys without an end, of the file. loaded, expired: of the file. compared: with the cluster's.
    """

    server: str = ""
    database: int = 0
    cursor: int = 0
    begun: bool = False
    done: bool = False
    keys: int = 0
    lasting: int = 0
    loaded: int = 0
    expired: int = 0
    compared: int = 0


@dataclass(frozen=True)
class State:
    """How far a restore is, kept on the backup host until the next one.

    label: the backup. cluster: ids of the members it goes to. existing: EXISTING. reached: PLANNED to DONE. before: backup of
    what was there. returning: whether it goes back to such a backup. parts: by shard.
    """

    label: str
    cluster: tuple[str, ...]
    existing: str
    reached: str = PLANNED
    before: str = ""
    returning: bool = False
    seconds: float = 0.0
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def keys(self) -> int:
        """Keys written so far."""
        return sum(part.keys for part in self.parts.values())

    def with_part(self, name: str, part: Part) -> State:
        """Return the state with another part."""
        return replace(self, parts={**self.parts, name: part})


def dump_state(state: State) -> dict[str, Any]:
    """Return a state as plain data."""
    return {**asdict(state), "cluster": list(state.cluster)}


def load_state(content: Mapping[str, Any]) -> State:
    """Return a state from plain data. Raises Refusal where it is none."""
    try:
        parts = {name: Part(**part) for name, part in content["parts"].items()}
        return State(**{**content, "cluster": tuple(content["cluster"]), "parts": parts})
    except (KeyError, TypeError, AttributeError) as error:
        raise Refusal(f"the state of the last restore can't be understood: {error!r}", "Delete it") from error


def is_same(state: State | None, label: str, members: Iterable[str]) -> bool:
    """Whether an unfinished restore is of this backup into this cluster."""
    return (
        state is not None
        and state.reached != DONE
        and state.label == label
        and bool(set(state.cluster).intersection(members))
    )


def lost_keys(state: State, lasting: int) -> int:
    """Return how many keys without an end the cluster lacks of those that the files have. lasting: the cluster's."""
    return max(0, sum(part.lasting for part in state.parts.values()) - lasting)
