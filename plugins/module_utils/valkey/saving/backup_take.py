# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Makes a backup of a Valkey cluster from a host that reaches its data ports. Modules and timers share it."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import File, Manifest
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import digest, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Command,
    Endpoint,
    Fleet,
    Options,
    ReplyError,
    UnreachableError,
    ValkeyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup import Fork, Giver
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup_receive import (
    Received,
    Receivers,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup_stream import ReplicaStream
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Node,
    Server,
    View,
    parse_info,
    parse_nodes,
    parse_server,
)

POLL = 0.1
LAG_POLL = 0.001
ATTEMPTS = 5
SAMPLE_BYTES = 16384
# What PEXPIRETIME says of a key that is not there.
GONE = -2
# Forks of a server that keep another one from being made.
BUSY = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled", "module_fork_in_progress")


@dataclass(frozen=True)
class Wish:
    """What to back up, and how.

    nodes: where members of the cluster listen; the first that answers is asked. set: id that backups of one run share.
    source: backup.SOURCES. max_pause: seconds for which servers hold writes at most. wait: seconds for the cluster to be ready.
    samples: keys of each shard whose digests go into the manifest. rate: bytes a second, None for no limit.
    """

    nodes: tuple[Endpoint, ...]
    cluster: str
    backup_dir: str
    set: str = ""
    kind: str = backup.RDB
    source: str = backup.AUTO
    max_pause: float = 0.5
    wait: float = 60.0
    samples: int = 8
    rate: float | None = None


@dataclass(frozen=True)
class ShardState:
    """A shard while writes were held: replication offset, number of keys and bytes of memory that they took, whether it counts
    offsets, samples of its keys, the databases that held keys."""

    offset: int
    keys: int
    memory: int
    counting: bool
    samples: tuple[backup.Sample, ...]
    databases: tuple[int, ...]


class Candidate(NamedTuple):
    """A key that may become a sample."""

    database: int
    key: bytes
    kind: str


@dataclass
class Cut:
    """The moment of a backup, and all shards at it by the names of their files. skew, held: seconds."""

    moment: datetime.datetime
    shards: dict[str, ShardState]
    skew: float = 0.0
    held: float = 0.0
    attempts: int = 1


def look(fleet: Fleet, nodes: Sequence[Endpoint]) -> tuple[View, Endpoint]:
    """Return the cluster as the first member that answers sees it, and that member. Raises Refusal."""
    errors = []
    for endpoint in nodes:
        try:
            return parse_nodes(fleet.client(endpoint).call("CLUSTER", "NODES")), endpoint
        except UnreachableError as error:
            fleet.drop(endpoint)
            errors.append(str(error))
    raise Refusal(f"no member of the cluster answers: {'; '.join(errors)}", "Repair one, or name others")


@dataclass
class Streams:
    """One connection a shard, in the order of its givers."""

    all: list[ReplicaStream] = field(default_factory=list)

    def close(self) -> None:
        """Close all."""
        for stream in self.all:
            stream.close()

    def named(self, givers: Sequence[Giver]) -> dict[str, ReplicaStream]:
        """Return them by the names of their files."""
        return {giver.name: stream for giver, stream in zip(givers, self.all, strict=True)}


class _Samples:
    """A few keys of each shard, and what the primaries say of them and of themselves.

    Parameters: number, of keys a shard; endpoint returns where a member listens.
    """

    def __init__(self, fleet: Fleet, number: int, endpoint: Callable[[Node], Endpoint]) -> None:
        self._fleet = fleet
        self._number = number
        self._endpoint = endpoint

    def state(self, givers: Sequence[Giver], chosen: Mapping[str, Sequence[Candidate]]) -> Cut:
        """Return what all primaries say of themselves and of the chosen keys, asked at once."""
        moment = datetime.datetime.now(datetime.UTC)
        asked: dict[Endpoint, list[Command]] = {}
        for giver in givers:
            reads = [
                command
                for item in chosen[giver.name]
                for command in (
                    ("SELECT", item.database),
                    ("PEXPIRETIME", item.key),
                    digest.reader(item.kind, item.key),
                )
            ]
            asked[self._endpoint(giver.primary)] = [("INFO",), *reads]
        answers = self._fleet.each(asked)
        shards = {}
        for giver in givers:
            info, *found = answers[self._endpoint(giver.primary)]
            server = parse_server(checked(info))
            fields = parse_info(info)
            shards[giver.name] = ShardState(
                offset=server.offset,
                keys=server.keys,
                memory=int(fields.get("used_memory_dataset", server.used_memory)),
                counting=fields.get("repl_backlog_active") == "1",
                samples=_samples(chosen[giver.name], found),
                databases=server.filled,
            )
        return Cut(moment, shards)

    def choose(self, givers: Sequence[Giver], servers: Mapping[str, Server]) -> dict[str, list[Candidate]]:
        """Return a few small keys of each shard with their types: of all its databases, or of as many as there are samples."""
        leaders = {self._endpoint(giver.primary): giver for giver in givers}
        picks = {w: picked(servers[giver.primary.id].filled, self._number) for w, giver in leaders.items()}
        found = self._each({where: [(number, [("RANDOMKEY",)]) for number in mine] for where, mine in picks.items()})
        names = {
            where: sorted({(n, _raw(key)) for n, [key] in zip(picks[where], keys, strict=True) if key is not None})
            for where, keys in found.items()
        }
        sized = self._each(
            {w: [(n, [("TYPE", key), ("MEMORY", "USAGE", key)]) for n, key in keys] for w, keys in names.items()}
        )
        small = {
            where: [
                Candidate(number, key, kind)
                for (number, key), (kind, size) in zip(names[where], answers, strict=True)
                if kind in digest.TYPES and (size or SAMPLE_BYTES) < SAMPLE_BYTES
            ]
            for where, answers in sized.items()
        }
        dumps = self._each({where: [(i.database, [("DUMP", i.key)]) for i in items] for where, items in small.items()})
        return {
            leaders[where].name: [
                item
                for item, [payload] in zip(items, dumps[where], strict=True)
                if payload is not None and digest.is_lasting(_raw(payload))
            ]
            for where, items in small.items()
        }

    def _each(
        self, asked: Mapping[Endpoint, Sequence[tuple[int, Sequence[Command]]]]
    ) -> dict[Endpoint, list[list[Any]]]:
        """Do groups of commands, each in its database, on all servers at once. Returns the replies of each group. Raises ValkeyError."""
        answers = self._fleet.each(
            {w: [c for number, group in groups for c in (("SELECT", number), *group)] for w, groups in asked.items()}
        )
        return {where: _grouped([len(group) for _n, group in asked[where]], found) for where, found in answers.items()}


@contextlib.contextmanager
def paused(fleet: Fleet, leaders: Sequence[Endpoint], most: float) -> Iterator[Callable[[], float]]:
    """Hold writes on all primaries for the block, which gets the seconds since they were asked to. Lifted in any case:
    here at the end, by the servers themselves after so many seconds at most."""
    begin = time.monotonic()
    try:
        fleet.all(leaders, "CLIENT", "PAUSE", int(most * 1000), "WRITE")
        yield lambda: time.monotonic() - begin
    finally:
        _unpause(fleet, leaders)


def _unpause(fleet: Fleet, leaders: Sequence[Endpoint]) -> None:
    """One server that broke away must not keep the others from being freed."""
    try:
        fleet.all(leaders, "CLIENT", "UNPAUSE")
        return
    except ValkeyError:
        fleet.close()
    away = fleet.connect(leaders)
    fleet.each({where: [("CLIENT", "UNPAUSE")] for where in leaders if where not in away})


class Taking:
    """One backup being made: of which cluster, and how far its servers are."""

    def __init__(self, wish: Wish, options: Options) -> None:
        self.wish = wish
        self.options = options
        self.fleet = Fleet(options)
        self.servers: dict[str, Server] = {}
        self.begun = datetime.datetime.now(datetime.UTC)
        self._entry = wish.nodes[0]
        self._samples = _Samples(self.fleet, wish.samples, self.endpoint)

    def close(self) -> None:
        """Close all connections."""
        self.fleet.close()

    def endpoint(self, node: Node) -> Endpoint:
        """Where a member listens for us."""
        return self._entry if node.myself else Endpoint(node.address, node.port)

    def changed(self, view: View) -> str:
        """Return what became another than it was when the givers were chosen, empty for nothing. Raises ValkeyError."""
        seen = self.fleet.all([self.endpoint(node) for node in view.primaries], "CLUSTER", "NODES")
        views = [parse_nodes(text) for text in seen.values()]
        moved = any(found.signature != view.signature for found in views)
        return backup.unready(views) or ("roles or slots changed meanwhile" if moved else "")

    def declarations(self, givers: Sequence[Giver]) -> dict[str, Any]:
        """Return what the servers were told: users with hashed passwords, settings without secrets."""
        leaders = {self.endpoint(giver.primary): giver for giver in givers}
        answers = self.fleet.each({where: [("ACL", "LIST"), ("CONFIG", "GET", "*")] for where in leaders})
        servers = []
        for where, (_users, settings) in answers.items():
            words = checked(settings)
            kept = backup.kept_settings(dict(zip(words[::2], words[1::2], strict=True)))
            servers.append({"node": leaders[where].primary.id, "endpoint": str(where), "settings": kept})
        return {"users": checked(next(iter(answers.values()))[0]), "servers": servers}

    def plan(self) -> tuple[View, tuple[Giver, ...]]:
        """Wait until the cluster can be backed up, and return it with who gives the files. Raises Refusal, ValkeyError."""
        deadline = time.monotonic() + self.wish.wait
        while True:
            try:
                view, givers, problem = self._plan()
            except (Refusal, UnreachableError) as error:
                if time.monotonic() > deadline:
                    raise
                problem, givers = str(error), ()
            if not problem:
                return view, givers
            if time.monotonic() > deadline:
                raise Refusal(
                    f"the cluster was not ready within {self.wish.wait:.0f} s: {problem}",
                    "Nothing was written. Repair it, see holdfast.persistence.check, and run again",
                )
            time.sleep(POLL)

    def _plan(self) -> tuple[View, tuple[Giver, ...], str]:
        view, self._entry = look(self.fleet, self.wish.nodes)
        problem = backup.unready([view])
        if problem:
            return view, (), problem
        leaders = {node.id: self.endpoint(node) for node in view.primaries}
        seen = self.fleet.all(leaders.values(), "CLUSTER", "NODES")
        problem = backup.unready([view, *(parse_nodes(text) for text in seen.values())])
        if problem:
            return view, (), problem
        members = {node.id: self.endpoint(node) for node in view.members if not node.failed}
        away = self.fleet.connect(members.values())
        infos = self.fleet.all([where for where in members.values() if where not in away], "INFO")
        self.servers = {name: parse_server(infos[where]) for name, where in members.items() if where in infos}
        givers = backup.choose(view, self.servers, self.wish.source)
        busy = [g.source.endpoint for g in givers if _is_busy(parse_info(infos[members[g.source.id]]))]
        return view, givers, f"{', '.join(busy)} saves or rewrites already" if busy else ""

    def open(self, givers: Sequence[Giver]) -> Streams:
        """Return a stream for each shard, ready to be asked. Raises ValkeyError."""
        streams = Streams()
        try:
            for giver in givers:
                version = self.servers[giver.source.id].version_text
                follow = self.wish.kind == backup.AOF
                streams.all.append(ReplicaStream(self.endpoint(giver.source), self.options, version, follow=follow))
        except BaseException:
            streams.close()
            raise
        return streams

    def cut(self, givers: Sequence[Giver], streams: Sequence[ReplicaStream]) -> tuple[Cut, str]:
        """Let all files begin at one moment. Returns it, and why it is none, empty when it is. Raises ValkeyError."""
        chosen = self._samples.choose(givers, self.servers)
        forks: list[Fork] = []
        with self._paused(givers) as since:
            cut = self._samples.state(givers, chosen)
            for giver, stream in zip(givers, streams, strict=True):
                if giver.from_replica:
                    self._await_offset(giver, cut.shards[giver.name].offset, since)
                stream.ask()
            for giver, stream in zip(givers, streams, strict=True):
                begun = stream.forked(self.wish.max_pause - since())
                shard = cut.shards[giver.name]
                at = since() if begun else self.wish.max_pause
                forks.append(Fork(shard.offset, stream.offset, shard.counting, at))
        times = [fork.at for fork in forks]
        cut.skew, cut.held = max(times) - min(times), since()
        return cut, backup.torn(forks, self.wish.max_pause)

    def end(self, givers: Sequence[Giver], tell: Callable[[Mapping[str, int]], None]) -> tuple[Cut, str]:
        """Read at one moment how far all shards are. Returns it, and why it is none. Raises ValkeyError.

        tell gets the offsets while writes are held, so that whoever reads them knows where to stop.
        """
        chosen = self._samples.choose(givers, self.servers)
        with self._paused(givers) as since:
            begin = since()
            cut = self._samples.state(givers, chosen)
            cut.skew = since() - begin
            tell({name: shard.offset for name, shard in cut.shards.items()})
            known = since()
        cut.held = since()
        forks = [Fork(shard.offset, shard.offset, shard.counting, known) for shard in cut.shards.values()]
        return cut, backup.torn(forks, self.wish.max_pause)

    def _paused(self, givers: Sequence[Giver]) -> contextlib.AbstractContextManager[Callable[[], float]]:
        return paused(self.fleet, [self.endpoint(giver.primary) for giver in givers], self.wish.max_pause)

    def _await_offset(self, giver: Giver, offset: int, since: Callable[[], float]) -> None:
        """Wait until a replica has all that its primary wrote before the pause. What it lacks shows in its offset."""
        client = self.fleet.client(self.endpoint(giver.source))
        while since() < self.wish.max_pause / 2:
            if parse_server(client.call("INFO")).offset >= offset:
                return
            # The replica tells its offset to whoever asks, and to nobody by itself.
            time.sleep(LAG_POLL)


def picked(filled: Sequence[int], number: int) -> list[int]:
    """Return the database of each of so many samples: all that hold keys in turn, or some of more; none where there are no keys."""
    if len(filled) > number:
        return random.sample(filled, number)
    return list(itertools.islice(itertools.cycle(filled), number))


def _grouped(sizes: Sequence[int], replies: Sequence[Any]) -> list[list[Any]]:
    """Return replies in groups of so many, each group's SELECT before it left out. Raises ReplyError."""
    found = iter([checked(reply) for reply in replies])
    return [[next(found) for _reply in range(size + 1)][1:] for size in sizes]


def _samples(chosen: Sequence[Candidate], answers: Sequence[Any]) -> tuple[backup.Sample, ...]:
    """Return the samples out of the answers for each: when it expires, what it holds. Keys that are gone are left out."""
    found = []
    for item, selected, expires, value in zip(chosen, answers[::3], answers[1::3], answers[2::3], strict=True):
        checked(selected)
        if isinstance(value, ReplyError) or checked(expires) == GONE:
            # Not what it was any more, or gone.
            continue
        key, sha256 = item.key.decode("utf-8", "surrogateescape"), digest.digest(item.kind, _raw(value))
        found.append(backup.Sample(key, item.kind, expires, sha256, item.database))
    return tuple(found)


def _raw(reply: Any) -> Any:
    """Return a reply's text as the bytes that came."""
    if isinstance(reply, str):
        return reply.encode("utf-8", "surrogateescape")
    return [_raw(item) for item in reply] if isinstance(reply, list) else reply


def _is_busy(info: Mapping[str, str]) -> bool:
    return any(info.get(name, "0") != "0" for name in BUSY)


@dataclass(frozen=True)
class Taken:
    """A backup that was made, and where it is."""

    path: str
    manifest: Manifest


def take(wish: Wish, options: Options) -> Taken:
    """Make a backup. Only for who holds the engine's lock.

    Raises Refusal, ValkeyError, OSError; nothing that looks like a backup is left then.
    """
    with contextlib.closing(Taking(wish, options)) as taking:
        store.sweep(wish.backup_dir, backup.ENGINE)
        problem = ""
        for attempt in range(1, ATTEMPTS + 1):
            view, givers = taking.plan()
            taken, problem = _attempt(taking, view, givers, attempt)
            if taken is not None:
                return taken
        raise Refusal(
            f"in {ATTEMPTS} attempts no moment was found at which all shards could be cut; the last time {problem}",
            "Nothing was kept. Raise max_pause, or check whether something else pauses clients or moves slots",
        )


@dataclass(frozen=True)
class _Work:
    """A backup that is being made: of this cluster, by these givers, in this folder."""

    taking: Taking
    view: View
    givers: tuple[Giver, ...]
    label: str
    folder: str


def _attempt(taking: Taking, view: View, givers: tuple[Giver, ...], attempt: int) -> tuple[Taken | None, str]:
    """Make a backup, unless the moment was none: then return why."""
    wish = taking.wish
    label = manifests.new_label(datetime.datetime.now(datetime.UTC), taken=store.names(wish.backup_dir, backup.ENGINE))
    with (
        contextlib.closing(taking.open(givers)) as streams,
        store.unfinished(wish.backup_dir, backup.ENGINE, label) as folder,
    ):
        work = _Work(taking, view, givers, label, folder)
        cut, problem, files = _rdb(work, streams) if wish.kind == backup.RDB else _aof(work, streams)
        if problem:
            shutil.rmtree(folder)
            return None, problem
        cut.attempts = attempt
        manifest = _manifest(work, cut, files)
        return Taken(store.finish(folder, manifest), manifest), ""


Brought = tuple[Cut, str, dict[str, list[Received]]]


def _rdb(work: _Work, streams: Streams) -> Brought:
    """Bring files home that begin at one moment. Returns it, why it is none, and the files."""
    cut, problem = work.taking.cut(work.givers, streams.all)
    problem = problem or work.taking.changed(work.view)
    if problem:
        return cut, problem, {}
    with Receivers(streams.named(work.givers), work.folder, work.taking.wish.rate, follow=False) as receivers:
        return cut, "", receivers.result()


def _aof(work: _Work, streams: Streams) -> Brought:
    """Bring files home that end at one moment, each with the writes since it began."""
    wish = work.taking.wish
    for stream in streams.all:
        stream.ask()
    for stream in streams.all:
        if not stream.forked(wish.wait):
            raise Refusal(f"{stream.endpoint} did not begin a copy within {wish.wait:.0f} s", "See its log")
    with Receivers(streams.named(work.givers), work.folder, wish.rate, follow=True) as receivers:
        receivers.copied()
        cut, problem = work.taking.end(work.givers, receivers.until)
        problem = problem or work.taking.changed(work.view)
        if problem:
            return cut, problem, {}
        return cut, "", receivers.result()


def _manifest(work: _Work, cut: Cut, received: Mapping[str, Sequence[Received]]) -> Manifest:
    """Return the manifest of files that are there. Raises Refusal."""
    taking, view, givers, folder = work.taking, work.view, work.givers, work.folder
    problem = backup.uncovered(giver.slots for giver in givers)
    if problem:
        raise Refusal(problem, "Nothing was kept. Run again")
    declared = os.path.join(folder, backup.SERVERS_FILE)
    replace_file(declared, json.dumps(taking.declarations(givers), indent=1) + "\n", mode=0o600)
    brought = [(item.path, item.bytes, item.sha256) for items in received.values() for item in items]
    brought.append((declared, os.path.getsize(declared), store.digest(declared)))
    newest = max(taking.servers[giver.source.id].version for giver in givers)
    return Manifest(
        engine=backup.ENGINE,
        kind=taking.wish.kind,
        cluster=taking.wish.cluster,
        label=work.label,
        set=taking.wish.set,
        start=manifests.iso(cut.moment if taking.wish.kind == backup.RDB else taking.begun),
        end=manifests.iso(datetime.datetime.now(datetime.UTC)),
        position={
            "moment": manifests.iso(cut.moment),
            "held_ms": round(cut.held * 1000, 1),
            "skew_ms": round(cut.skew * 1000, 1),
            "attempts": cut.attempts,
            "signature": view.signature,
            "shards": [_shard(giver, cut.shards[giver.name], received[giver.name], folder) for giver in givers],
        },
        versions={"valkey": ".".join(map(str, newest)), "rdb": max(items[0].rdb for items in received.values())},
        files=tuple(File(os.path.relpath(path, folder), size, digits) for path, size, digits in brought),
        extras={"keys": sum(shard.keys for shard in cut.shards.values())},
    )


def _shard(giver: Giver, state: ShardState, files: Sequence[Received], folder: str) -> dict[str, Any]:
    return {
        "file": os.path.relpath(files[0].path, folder),
        "slots": ranges.text(giver.slots),
        "node": giver.primary.id,
        "primary": giver.primary.endpoint,
        "source": giver.source.endpoint,
        "offset": state.offset,
        "offset_counted": state.counting,
        "keys": state.keys,
        "memory": state.memory,
        "databases": list(state.databases),
        "samples": [asdict(sample) for sample in state.samples],
    }
