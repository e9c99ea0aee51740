# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""What a Valkey server says about its cluster, as data. No I/O.

Formats: the replies of CLUSTER NODES, CLUSTER SHARDS, CLUSTER INFO and INFO of Valkey 8.0 to 9.1
(https://valkey.io/commands/cluster-nodes/, https://valkey.io/commands/cluster-shards/, https://valkey.io/commands/info/).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.ranges import Ranges, SlotRange

MIGRATING = "migrating"
IMPORTING = "importing"


def _unknown(command: str, text: str) -> Refusal:
    return Refusal(f"{command}: not understood: {text!r}")


@dataclass(frozen=True)
class Mark:
    """A slot that is on its way: `migrating` to or `importing` from the node peer, as its server has it."""

    slot: int
    direction: str
    peer: str


@dataclass(frozen=True)
class Node:
    """One line of CLUSTER NODES.

    address is empty while a server doesn't know its own; port is the TLS port on a TLS connection.
    epoch is the configuration epoch. ping_sent and pong_received are milliseconds of the server's clock.
    Marks stand on `myself` only.
    """

    id: str
    address: str
    port: int
    bus_port: int
    hostname: str = ""
    flags: frozenset[str] = frozenset()
    primary_id: str | None = None
    ping_sent: int = 0
    pong_received: int = 0
    epoch: int = 0
    link_up: bool = True
    slots: Ranges = ()
    marks: tuple[Mark, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def myself(self) -> bool:
        """True for the server that gave the reply."""
        return "myself" in self.flags

    @property
    def is_primary(self) -> bool:
        """True for a primary, with slots or without."""
        return "master" in self.flags

    @property
    def is_replica(self) -> bool:
        """True for a replica."""
        return "slave" in self.flags

    @property
    def failed(self) -> bool:
        """True when a majority of primaries agrees that it is down."""
        return "fail" in self.flags

    @property
    def suspected(self) -> bool:
        """True when only the server that gave the reply finds it down."""
        return "fail?" in self.flags

    @property
    def handshake(self) -> bool:
        """True while the meeting is not finished; its id is provisional."""
        return "handshake" in self.flags

    @property
    def has_address(self) -> bool:
        """False for a node whose address is not known (any more)."""
        return "noaddr" not in self.flags

    @property
    def endpoint(self) -> str:
        """address:port, an IPv6 address in brackets."""
        return endpoint_text(self.address or self.hostname, self.port)


def endpoint_text(address: str, port: int) -> str:
    """Return address:port, with brackets around an IPv6 address."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True)
class View:
    """The cluster as one server sees it: the reply of CLUSTER NODES."""

    nodes: tuple[Node, ...]

    @cached_property
    def by_id(self) -> Mapping[str, Node]:
        """All nodes by id."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def myself(self) -> Node:
        """The server that gave the reply. Raises Refusal if the reply has no such line."""
        for node in self.nodes:
            if node.myself:
                return node
        raise _unknown("CLUSTER NODES", "no line has the flag myself")

    @property
    def members(self) -> tuple[Node, ...]:
        """Nodes whose meeting is finished."""
        return tuple(node for node in self.nodes if not node.handshake)

    @property
    def primaries(self) -> tuple[Node, ...]:
        """Primaries that own slots, failed ones included, ordered by first slot."""
        return tuple(sorted((n for n in self.members if n.is_primary and n.slots), key=lambda n: n.slots))

    def replicas_of(self, primary_id: str) -> tuple[Node, ...]:
        """Replicas of a primary, ordered by id."""
        return tuple(sorted((n for n in self.members if n.primary_id == primary_id), key=lambda n: n.id))

    @property
    def alone(self) -> bool:
        """True for a server that knows no other."""
        return len(self.nodes) == 1

    @cached_property
    def owners(self) -> Mapping[int, str]:
        """Node id of the owner by slot; slots without owner are left out."""
        return {slot: node.id for node in self.members for slot in ranges.expand(node.slots)}

    @property
    def unassigned(self) -> Ranges:
        """Slots without an owner."""
        return ranges.to_ranges(set(range(ranges.SLOT_COUNT)).difference(self.owners))

    @property
    def signature(self) -> str:
        """Digest of what servers must agree on: ids, primary of each, owner and configuration epoch of each slot.

        Two servers with equal signatures have the same topology. Addresses and link states are not part of it.
        """
        lines = sorted(
            f"{n.id} {n.primary_id or '-'} {n.epoch if n.slots else '-'} {ranges.text(n.slots)}" for n in self.members
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Sight:
    """What agreement hangs on in one server's CLUSTER NODES, read without the rest of it.

    me: id of the server. signature: what servers must agree on, as of View. handshake: whether it is still meeting nodes.
    unlinked: addresses of nodes that it has no link to, failed ones aside.
    """

    me: str
    signature: frozenset[tuple[str, ...]]
    handshake: bool
    unlinked: tuple[str, ...]


def parse_sight(text: str) -> Sight:
    """Read the reply of CLUSTER NODES. Raises Refusal with the line that is not in its format."""
    me, handshake, unlinked, lines = "", False, [], []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 8:
            raise _unknown("CLUSTER NODES", line)
        flags, owned = words[2], words[8:]
        if "[" in line:
            owned = [word for word in owned if not word.startswith("[")]
        if "handshake" in flags:
            handshake = True
            continue
        if "myself" in flags:
            me = words[0]
        elif words[7] != "connected" and not _parse_flags(flags) & {"fail"}:
            unlinked.append(words[1].partition("@")[0])
        lines.append((words[0], words[3], words[6] if owned else "-", *owned))
    return Sight(me, frozenset(lines), handshake, tuple(unlinked))


def parse_nodes(text: str) -> View:
    """Read the reply of CLUSTER NODES. Raises Refusal with the line that is not in its format."""
    return View(tuple(_parse_node(line) for line in text.splitlines() if line.strip()))


def _parse_node(line: str) -> Node:
    words = line.split()
    try:
        identity, where, flags, primary, ping, pong, epoch, link = words[:8]
        address, port, bus_port, hostname, fields = _parse_where(where)
        owned = [word for word in words[8:] if not word.startswith("[")]
        marks = tuple(_parse_mark(word) for word in words[8:] if word.startswith("["))
        return Node(
            id=identity,
            address=address,
            port=port,
            bus_port=bus_port,
            hostname=hostname,
            flags=_parse_flags(flags),
            primary_id=None if primary == "-" else primary,
            ping_sent=int(ping),
            pong_received=int(pong),
            epoch=int(epoch),
            link_up=link == "connected",
            slots=_parse_slots(" ".join(owned)),
            marks=marks,
            fields=fields,
        )
    except ValueError as error:
        raise _unknown("CLUSTER NODES", line) from error


# In a cluster of 200 servers each of 40,000 lines comes 200 times, but for its times.
_parse_slots = lru_cache(maxsize=4096)(ranges.parse_ranges)


@lru_cache(maxsize=256)
def _parse_flags(flags: str) -> frozenset[str]:
    return frozenset(flags.split(",")) - {"noflags"}


@lru_cache(maxsize=4096)
def _parse_where(where: str) -> tuple[str, int, int, str, dict[str, str]]:
    """Split `ip:port@bus-port[,hostname[,name=value...]]`; the address may be empty, `?`, IPv4 or IPv6."""
    endpoint, *rest = where.split(",")
    client, _at, bus = endpoint.partition("@")
    address, _colon, port = client.rpartition(":")
    hostname = rest[0] if rest and "=" not in rest[0] else ""
    fields = dict(item.split("=", 1) for item in rest if "=" in item)
    return address, int(port), int(bus or 0), "" if hostname == "?" else hostname, fields


def _parse_mark(word: str) -> Mark:
    """Read `[5->-id]` (migrating) or `[5-<-id]` (importing)."""
    body = word.strip("[]")
    for arrow, direction in (("->-", MIGRATING), ("-<-", IMPORTING)):
        slot, found, peer = body.partition(arrow)
        if found:
            return Mark(int(slot), direction, peer)
    raise ValueError(word)


@dataclass(frozen=True)
class ShardNode:
    """A node within a shard. offset is its replication offset in bytes; health is online, failed, loading or fail."""

    id: str
    address: str
    port: int
    tls_port: int
    hostname: str
    role: str
    offset: int
    health: str
    zone: str


@dataclass(frozen=True)
class Shard:
    """One entry of CLUSTER SHARDS; id is empty where the version doesn't tell it."""

    id: str
    slots: Ranges
    nodes: tuple[ShardNode, ...]


def parse_shards(reply: Sequence[Any]) -> tuple[Shard, ...]:
    """Read the reply of CLUSTER SHARDS: maps as dicts (RESP3) or as flat lists (RESP2).

    Raises Refusal when the reply is not in its format.
    """
    try:
        return tuple(_parse_shard(_as_map(item)) for item in reply)
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown("CLUSTER SHARDS", str(reply)) from error


def _parse_shard(item: Mapping[str, Any]) -> Shard:
    bounds = [int(bound) for bound in item["slots"]]
    slots = tuple(SlotRange(first, last) for first, last in zip(bounds[::2], bounds[1::2], strict=True))
    return Shard(item.get("id", ""), slots, tuple(_parse_shard_node(_as_map(node)) for node in item["nodes"]))


def _parse_shard_node(item: Mapping[str, Any]) -> ShardNode:
    return ShardNode(
        id=item["id"],
        address=item.get("ip") or item.get("endpoint") or "",
        port=int(item.get("port", 0)),
        tls_port=int(item.get("tls-port", 0)),
        hostname=item.get("hostname", ""),
        role="primary" if item["role"] == "master" else item["role"],
        offset=int(item["replication-offset"]),
        health=item["health"],
        zone=item.get("availability-zone", ""),
    )


def _as_map(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    return dict(zip(item[::2], item[1::2], strict=True))


def parse_info(text: str) -> dict[str, str]:
    """Read the reply of INFO or CLUSTER INFO into a dict of its lines."""
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


@dataclass(frozen=True)
class AttachedReplica:
    """A replica as its primary lists it in INFO. offset in bytes; lag in seconds since its last acknowledgement."""

    address: str
    port: int
    state: str
    offset: int
    lag: int


@dataclass(frozen=True)
class Server:
    """What INFO says of one server.

    offset: replication offset in bytes (of a primary what it wrote, of a replica what it received).
    link_up: state of a replica's link; True for a primary. link_silence: seconds since the link last carried data.
    data_memory: bytes that count towards max_memory. key_memory: bytes that its keys take.
    filled: numbers of the databases that hold keys.
    """

    version: tuple[int, ...]
    run_id: str
    role: str
    offset: int
    link_up: bool = True
    link_silence: int = 0
    syncing: bool = False
    loading: bool = False
    keys: int = 0
    used_memory: int = 0
    max_memory: int = 0
    data_memory: int = 0
    key_memory: int = 0
    attached: tuple[AttachedReplica, ...] = ()
    filled: tuple[int, ...] = ()

    @property
    def version_text(self) -> str:
        """The version as people write it."""
        return ".".join(str(part) for part in self.version)


def parse_server(text: str) -> Server:
    """Read INFO (all default sections). Raises Refusal when a line that every server has is missing."""
    info = parse_info(text)
    try:
        replica = info["role"] == "slave"
        spaces = parse_spaces(info)
        return Server(
            version=version_of(info),
            run_id=info["run_id"],
            role="replica" if replica else "primary",
            offset=int(info["slave_repl_offset"] if replica else info["master_repl_offset"]),
            link_up=not replica or info["master_link_status"] == "up",
            link_silence=max(0, int(info.get("master_last_io_seconds_ago", 0))),
            syncing=info.get("master_sync_in_progress") == "1",
            loading=info.get("loading") == "1",
            keys=sum(space.keys for space in spaces.values()),
            used_memory=int(info.get("used_memory", 0)),
            max_memory=int(info.get("maxmemory", 0)),
            data_memory=int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0)),
            key_memory=_key_memory(info),
            attached=tuple(_attached(info)),
            filled=tuple(sorted(spaces)),
        )
    except (KeyError, ValueError) as error:
        raise _unknown("INFO", str(error)) from error


class Space(NamedTuple):
    """A database that holds keys: how many, and how many of them have an end."""

    keys: int
    ends: int


def parse_spaces(info: Mapping[str, str]) -> dict[int, Space]:
    """Return the databases that hold keys by number, out of the section keyspace of INFO as parse_info reads it."""
    found = {}
    for name, value in info.items():
        if name.startswith("db") and name[2:].isdigit():
            fields = dict(item.split("=", 1) for item in value.split(","))
            found[int(name[2:])] = Space(int(fields["keys"]), int(fields["expires"]))
    return found


def _key_memory(info: Mapping[str, str]) -> int:
    """What is used beyond an empty server's own, the buffers of replicas and those of clients."""
    others = (
        "used_memory_startup",
        "mem_total_replication_buffers",
        "mem_clients_normal",
        "mem_clients_slaves",
        "mem_cluster_links",
    )
    return max(0, int(info.get("used_memory", 0)) - sum(int(info.get(name, 0)) for name in others))


def version_of(info: Mapping[str, str]) -> tuple[int, ...]:
    """Return the version out of the section server of INFO, as parse_info reads it. Raises KeyError, ValueError."""
    version = info.get("valkey_version") or info["redis_version"]
    return tuple(int(part) for part in version.split("-")[0].split("."))


def _attached(info: Mapping[str, str]) -> Iterable[AttachedReplica]:
    for index in range(int(info.get("connected_slaves", 0))):
        line = info.get(f"slave{index}")
        if line is None:
            continue
        item = dict(part.split("=", 1) for part in line.split(","))
        yield AttachedReplica(item["ip"], int(item["port"]), item["state"], int(item["offset"]), int(item["lag"]))
