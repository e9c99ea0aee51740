# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A backup of a whole Valkey cluster: who gives the files, whether they are one cut, whether they are complete. No I/O.

A backup has one file a shard. While the files begin, writes are paused on all primaries, so together they are the cluster
at one moment: whatever was acknowledged before the pause is in them, and nothing that came after it.
File format: https://valkey.io/topics/rdb-file-format/ (the header and the last nine bytes only).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import Ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import Node, Server, View

ENGINE = "valkey"
RDB = "rdb"
AOF = "aof"
KINDS = (RDB, AOF)

# An append-only file as a server with the settings of the package finds it: https://valkey.io/topics/persistence/
AOF_FOLDER = "appendonlydir"
AOF_BASE = "appendonly.aof.1.base.rdb"
AOF_INCREMENT = "appendonly.aof.1.incr.aof"
AOF_MANIFEST = "appendonly.aof.manifest"
SERVERS_FILE = "servers.json"

AUTO = "auto"
PRIMARY = "primary"
REPLICA = "replica"
SOURCES = (AUTO, PRIMARY, REPLICA)

# A replica that is farther behind would have writers wait for it.
READY_LAG = 1 << 20
REDACTED = "(not kept)"
_SECRETS = re.compile(r"pass|auth$|masterauth|primaryauth|requirepass")

_HEADER = re.compile(rb"(?:REDIS(\d{4})|VALKEY(\d{3}))")
END_BYTES = 9
_END = 0xFF


@dataclass(frozen=True)
class Giver:
    """Who gives the file of a shard: source is the node that is asked, primary the shard's own."""

    slots: Ranges
    primary: Node
    source: Node

    @property
    def name(self) -> str:
        """Name of the shard's file, without what kind of file it is."""
        return f"shard-{self.slots[0].first:05d}"

    @property
    def from_replica(self) -> bool:
        """Whether a replica gives it."""
        return self.source.id != self.primary.id


@dataclass(frozen=True)
class Sample:
    """One key as clients could read it at the moment of the backup.

    expires: milliseconds since 1970, -1 for never. sha256: of its value, see digest. database: where it is.
    """

    key: str
    type: str
    expires: int
    sha256: str
    database: int = 0


def unready(views: Iterable[View]) -> str:
    """Return why the cluster can't be backed up now, empty when it can. views: as each primary sees it."""
    views = tuple(views)
    if len({view.signature for view in views}) > 1:
        return "its members don't agree on roles and slots yet"
    for view in views:
        missing = view.unassigned
        if missing:
            return f"slots {ranges.text(missing)} have no owner"
        dead = [node.endpoint for node in view.primaries if node.failed]
        if dead:
            return f"{', '.join(dead)} failed and has not been replaced by a replica"
        if view.myself.marks:
            return f"slots are on their way ({len(view.myself.marks)} open on {view.myself.endpoint})"
    return ""


def choose(view: View, servers: Mapping[str, Server], wish: str) -> tuple[Giver, ...]:
    """Return who gives the file of each shard, in the order of slots.

    Parameters: servers, what INFO says of each node that answers, by id; wish, AUTO takes a replica that has caught up and the
    primary where there is none, PRIMARY and REPLICA take nothing else. Raises Refusal.
    """
    return tuple(Giver(node.slots, node, _source(view, servers, node, wish)) for node in view.primaries)


def _source(view: View, servers: Mapping[str, Server], primary: Node, wish: str) -> Node:
    leader = servers.get(primary.id)
    if leader is None:
        raise Refusal(
            f"{primary.endpoint} (slots {ranges.text(primary.slots)}) does not answer",
            "Repair it, or let a replica lead",
        )
    if wish == PRIMARY:
        return primary
    fit = [node for node in view.replicas_of(primary.id) if _caught_up(servers.get(node.id), leader)]
    if fit:
        return max(fit, key=lambda node: (servers[node.id].offset, node.id))
    if wish == REPLICA:
        raise Refusal(
            f"no replica of {primary.endpoint} is linked and within {READY_LAG} bytes of it",
            "Wait until one has caught up, or set source to auto",
        )
    return primary


def _caught_up(server: Server | None, leader: Server) -> bool:
    if server is None or server.role != REPLICA or not server.link_up or server.syncing or server.loading:
        return False
    return leader.offset - server.offset <= READY_LAG


@dataclass(frozen=True)
class Fork:
    """The moment of one shard's file.

    paused: replication offset of the primary after writes were paused. offset: the one that the file has (FULLRESYNC).
    counting: whether the primary counts at all; without a replica it does not. at: seconds since the pause was asked for.
    """

    paused: int
    offset: int
    counting: bool
    at: float


def torn(forks: Sequence[Fork], bound: float) -> str:
    """Return why the files are not one cut, empty when they are. bound: seconds for which servers hold writes by themselves."""
    late = max(fork.at for fork in forks)
    if late >= bound:
        return f"the last snapshot began after {late * 1000:.0f} ms, writes are held for {bound * 1000:.0f} ms"
    moved = [fork for fork in forks if fork.counting and fork.offset != fork.paused]
    if moved:
        return f"{len(moved)} shard(s) went on between pause and snapshot, as after a CLIENT UNPAUSE of somebody else"
    return ""


def uncovered(owned: Iterable[Ranges]) -> str:
    """Return which slots the files don't hold exactly once, empty when they hold all."""
    seen: set[int] = set()
    twice: set[int] = set()
    for slots in owned:
        for slot in ranges.expand(slots):
            (twice if slot in seen else seen).add(slot)
    missing = ranges.to_ranges(set(range(ranges.SLOT_COUNT)) - seen)
    found = [f"slots {ranges.text(missing)} are in no file"] if missing else []
    if twice:
        found.append(f"slots {ranges.text(ranges.to_ranges(twice))} are in two files")
    return "; ".join(found)


def rdb_version(head: bytes) -> int:
    """Return the version of an RDB file by its first nine bytes. Raises ValueError."""
    match = _HEADER.match(head)
    if not match:
        raise ValueError(f"{head[:9]!r} is not how an RDB file begins")
    return int(match[1] or match[2])


def is_rdb_end(tail: bytes) -> bool:
    """Whether these nine bytes may be the end of an RDB file: the mark of its end, and a checksum."""
    return len(tail) == END_BYTES and tail[0] == _END


def written_by(version: Sequence[int]) -> int:
    """Return the version of RDB files (and DUMP payloads) that a server writes, by its own version."""
    return 80 if tuple(version) >= (9, 0) else 11


def kept_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return a server's settings without secrets: which are set is kept, not what they are."""
    return {name: REDACTED if value and _SECRETS.search(name) else value for name, value in sorted(settings.items())}


def aof_manifest() -> str:
    """Return the text of the manifest of an append-only file: an RDB file, and the writes after it."""
    return f"file {AOF_BASE} seq 1 type b\nfile {AOF_INCREMENT} seq 1 type i\n"
