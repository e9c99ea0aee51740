# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Restores a Valkey cluster from a backup of this host, a while at a time. What was done is kept in a file: any end is one."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event, Lock

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import Manifest
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    Options,
    ValkeyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import (
    backup,
    backup_take,
    restore,
    restore_source,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore import (
    Part,
    Shard,
    State,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore_replay import Replay
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore_source import Source
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Server,
    View,
    parse_info,
    parse_server,
    parse_spaces,
)

FOLDER = "restore"
KEEP_SECONDS = 0.5


@dataclass(frozen=True)
class Wish:
    """What to restore, and how.

    label: which backup, empty for the newest. existing: restore.EXISTING. compare: keys of each shard that are compared, 0 for
    all. parallel: shards at once. budget: seconds, None for all in one go. program: valkey-server of this host.
    """

    nodes: tuple[Endpoint, ...]
    cluster: str
    backup_dir: str
    label: str = ""
    existing: str = restore.REFUSE
    compare: int = 1000
    parallel: int = 2
    budget: float | None = None
    program: str = restore_source.SERVER


@dataclass(frozen=True)
class Progress:
    """How far a restore is. total: keys of the backup; loaded: of those that had no end yet."""

    state: State
    total: int
    changed: bool


class _Record:
    """The file that says how far a restore is: what a run does not know of another one stands there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> State | None:
        """Return how far the last restore came, None where there was none."""
        try:
            with open(self.path, encoding="utf-8") as file:
                return restore.load_state(json.load(file))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Refusal(f"{self.path} can't be understood: {error}", "Delete it") from error

    def keep(self, state: State) -> State:
        """Write down how far it is."""
        make_folders(os.path.dirname(self.path), 0o750)
        replace_file(self.path, json.dumps(restore.dump_state(state), indent=1) + "\n", mode=0o600)
        return state

    def forget(self) -> None:
        """End what was begun."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class _Target:
    """The cluster that a restore goes into."""

    def __init__(self, nodes: Sequence[Endpoint], fleet: Fleet) -> None:
        self._nodes = nodes
        self.fleet = fleet

    def look(self) -> View:
        """Return the cluster, which has to be whole. Raises Refusal, ValkeyError."""
        view, _entry = backup_take.look(self.fleet, self._nodes)
        problem = backup.unready([view])
        if problem:
            raise Refusal(f"the cluster can't take keys: {problem}", "Repair it, then run again")
        return view

    def look_alone(self, fleet: Fleet) -> Callable[[], View]:
        """Return a function that looks at the cluster over connections of its own, until it is whole again."""

        def look() -> View:
            view, _entry = backup_take.look(fleet, self._nodes)
            if view.unassigned:
                raise Refusal(
                    "slots have no owner", "Repair the cluster, then run again: the restore continues where it stopped"
                )
            return view

        return look

    def servers(self, view: View) -> dict[str, Server]:
        """Return what each primary says of itself, by id. Raises ValkeyError."""
        where = {node.id: Endpoint(node.address, node.port) for node in view.primaries}
        infos = self.fleet.all(where.values(), "INFO")
        return {node: parse_server(infos[endpoint]) for node, endpoint in where.items()}

    def flush(self, view: View) -> None:
        """Delete all keys of the cluster."""
        self.fleet.all([Endpoint(node.address, node.port) for node in view.primaries], "FLUSHALL")

    def require_databases(self, folder: str, shards: tuple[Shard, ...], view: View) -> None:
        """Refuse a cluster that lacks a database of the backup."""
        with open(os.path.join(folder, backup.SERVERS_FILE), encoding="utf-8") as file:
            needed = restore.needed_databases(shards, json.load(file))
        where = {node.endpoint: Endpoint(node.address, node.port) for node in view.primaries}
        told = self.fleet.all(where.values(), "CONFIG", "GET", databases.SETTING)
        limits = {name: databases.limit(told[endpoint]) for name, endpoint in where.items()}
        problem = restore.databases_problem(needed, limits)
        if problem:
            raise Refusal(
                problem,
                f"Nothing was changed. Set {databases.SETTING} in valkey_settings, or restore into another cluster",
            )

    def lasting(self, view: View) -> int:
        """Return the number of keys without an end. Raises ValkeyError."""
        found = self.fleet.all([Endpoint(node.address, node.port) for node in view.primaries], "INFO", "keyspace")
        spaces = [space for text in found.values() for space in parse_spaces(parse_info(text)).values()]
        return sum(space.keys - space.ends for space in spaces)


def find(folder: str, label: str, *, deep: bool) -> store.Found:
    """Return the backup, whole. deep: its files are read and compared with their digests. Raises Refusal."""
    known = store.labels(folder, backup.ENGINE)
    if not label:
        good = [item for item in store.read(folder, backup.ENGINE) if not item.problems]
        if not good:
            raise Refusal(f"{folder} has no good backup of Valkey", "Make a backup, or fetch a copy of one")
        label = good[-1].label
    if label not in known:
        raise Refusal(f"there is no backup {label} in {folder}", f"There are {', '.join(known[-10:]) or 'none'}")
    found = store.look(folder, backup.ENGINE, label, deep=deep)
    if found.problems or found.manifest is None:
        raise Refusal(
            f"{found.path} is not what was written: {'; '.join(found.problems)}",
            "Nothing was changed. Restore another backup, or fetch a good copy of this one",
        )
    return found


def require_memory(shards: tuple[Shard, ...], servers: Mapping[str, Server], *, flushed: bool) -> None:
    """Refuse data that is more than the cluster may hold, or a shard that is more than this host can load."""
    wanted = sum(shard.memory for shard in shards)
    bound = [server.max_memory for server in servers.values()]
    used = 0 if flushed else sum(server.used_memory for server in servers.values())
    if all(bound) and used + wanted > sum(bound):
        raise Refusal(
            f"the data takes {wanted >> 20} MiB, {used >> 20} MiB are in use, and maxmemory of all"
            f" {len(servers)} primaries is {sum(bound) >> 20} MiB",
            "Nothing was changed. Raise maxmemory or add shards",
        )
    if not restore.at_once([shard.memory for shard in shards], available_memory(), 1):
        raise Refusal(
            f"the largest shard takes {max(shard.memory for shard in shards) >> 20} MiB, this host has"
            f" {available_memory() >> 20} MiB of memory available",
            "Nothing was changed. Restore from a host with more memory",
        )


@contextlib.contextmanager
def leaving(folder: str) -> Iterator[None]:
    """Say what a failure leaves behind: the servers that the next run continues with."""
    try:
        yield
    except (Refusal, ValkeyError) as error:
        left = restore_source.left(folder)
        if not left:
            raise
        hours = restore_source.KEEP_SECONDS // 3600
        remedy = f"For the next run, which continues, {', '.join(left)} stays on this host for up to {hours} h; action back ends it"
        raise Refusal(str(error), remedy) from error


class Restoring:
    """One run of a restore."""

    def __init__(self, wish: Wish, options: Options) -> None:
        self.wish = wish
        self.options = options
        self.record = _Record(os.path.join(wish.backup_dir, FOLDER, f"{backup.ENGINE}.json"))
        self.target = _Target(wish.nodes, Fleet(options))
        self._begin = time.monotonic()

    def close(self) -> None:
        """Close all connections."""
        self.target.fleet.close()

    def plan(self) -> tuple[State, Manifest, View]:
        """Return where a restore begins or continues. Raises Refusal where none can, before anything is changed."""
        last = self.record.read()
        view = self.target.look()
        members = [node.id for node in view.members]
        label = self.wish.label or (last.label if last and last.reached != restore.DONE else "")
        going_on = restore.is_same(last, label, members)
        if last and last.reached != restore.DONE and not going_on:
            raise Refusal(
                f"a restore of {last.label} is unfinished ({self.record.path})",
                f"Finish it (label {last.label}), or go back (action back), before another one",
            )
        found = find(self.wish.backup_dir, label, deep=not going_on)
        if found.manifest is None:
            raise Refusal(f"{found.path} has no manifest any more", "Name another backup by its label")
        servers = self.target.servers(view)
        problem = restore.versions_problem(
            found.manifest.versions["valkey"],
            restore_source.version(self.wish.program),
            {view.by_id[node].endpoint: server.version for node, server in servers.items()},
        )
        if problem:
            raise Refusal(problem, "Nothing was changed. Restore into servers that are not older")
        self.target.require_databases(found.path, restore.shards_of(found.manifest), view)
        if going_on and last is not None:
            return last, found.manifest, view
        require_memory(restore.shards_of(found.manifest), servers, flushed=self.wish.existing == restore.FLUSH)
        keys = sum(server.keys for server in servers.values())
        if keys and self.wish.existing == restore.REFUSE:
            raise Refusal(
                f"the cluster holds {keys} keys",
                "Nothing was changed. Restore into an empty cluster, or say what to do with these keys: existing replace or flush",
            )
        state = State(found.label, tuple(sorted(members)), self.wish.existing if keys else restore.REFUSE)
        return state, found.manifest, view

    def over(self) -> bool:
        """Whether the time of this run is used up."""
        return self.wish.budget is not None and time.monotonic() - self._begin >= self.wish.budget

    def run(self) -> Progress:
        """Restore until all is there or the time is used up. Raises Refusal, ValkeyError, OSError."""
        state, manifest, view = self.plan()
        shards = restore.shards_of(manifest)
        total = sum(shard.keys for shard in shards)
        before = state.seconds
        state = self.record.keep(self._make_room(self.record.keep(state), view))
        folder = os.path.join(self.wish.backup_dir, backup.ENGINE, state.label)
        todo = [shard for shard in shards if not state.parts.get(shard.name, Part()).done]
        crew = _Crew(self, state, folder, manifest.kind)
        with leaving(folder):
            crew.work(todo)
            state = replace(crew.state, seconds=before + time.monotonic() - self._begin)
            if all(state.parts.get(shard.name, Part()).done for shard in shards):
                self._count(state)
                state = replace(state, reached=restore.DONE)
        return Progress(self.record.keep(state), total, True)

    def _make_room(self, state: State, view: View) -> State:
        """Keep what is there as a backup, then delete it where that is wished."""
        if state.reached == restore.PLANNED:
            if state.existing != restore.REFUSE:
                kept = backup_take.take(
                    backup_take.Wish(self.wish.nodes, self.wish.cluster, self.wish.backup_dir), self.options
                )
                state = replace(state, before=kept.manifest.label)
            state = self.record.keep(replace(state, reached=restore.KEPT))
        if state.reached == restore.KEPT:
            if state.existing == restore.FLUSH:
                self.target.flush(view)
            state = self.record.keep(replace(state, reached=restore.READY))
        return state

    def _count(self, state: State) -> None:
        """Compare the number of keys without an end with what was read. Raises Refusal where keys are missing."""
        lost = restore.lost_keys(state, self.target.lasting(self.target.look()))
        if lost:
            raise Refusal(
                f"{lost} keys without an end are missing in the cluster that the backup has",
                "Find out what deletes keys there, empty the cluster and restore again",
            )

    def begun(self) -> State:
        """Return the restore that was begun last. Raises Refusal where none was."""
        state = self.record.read()
        if state is None:
            raise Refusal(f"no restore was begun from {self.wish.backup_dir}", "There is nothing to undo")
        return state

    def back(self) -> State:
        """Undo the last restore. Returns what is to be restored then: the backup of what was there, if there was anything.

        Raises Refusal where there is nothing to undo.
        """
        state = self.begun()
        if state.returning and state.reached == restore.DONE:
            raise Refusal("that restore was undone already", "To restore a backup, name its label")
        if not state.returning:
            state = self._undone(state)
        self.wish = replace(self.wish, label=state.label)
        return state

    def _stop_sources(self, label: str) -> None:
        """End servers that a killed run left."""
        found = store.look(self.wish.backup_dir, backup.ENGINE, label)
        if found.manifest is None:
            return
        for shard in restore.shards_of(found.manifest):
            Source(found.path, shard, found.manifest.kind, self.options, self.wish.program).stop()

    def _undone(self, state: State) -> State:
        self._stop_sources(state.label)
        view = self.target.look()
        if not set(state.cluster).intersection(node.id for node in view.members):
            raise Refusal(f"the restore of {state.label} went into another cluster", "Name a member of that one")
        written = state.reached in (restore.READY, restore.DONE) or state.existing == restore.FLUSH
        if written and state.before:
            # What was there comes back as a restore of its own, that may be interrupted like any other.
            begun = State(state.before, state.cluster, restore.FLUSH, restore.KEPT, state.before, returning=True)
            return self.record.keep(begun)
        if written:
            self.target.flush(view)
        self.record.forget()
        return State("", state.cluster, restore.REFUSE, restore.DONE)


def available_memory() -> int:
    """Return the bytes of memory that this host can still give."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["MemAvailable"].split()[0]) << 10


class _Crew:
    """Restores shards side by side."""

    def __init__(self, restoring: Restoring, state: State, folder: str, kind: str) -> None:
        self.state = state
        self._restoring = restoring
        self._folder = folder
        self._kind = kind
        self._lock = Lock()
        self._stop = Event()
        self._kept = time.monotonic()

    def work(self, shards: list[Shard]) -> None:
        """Restore shards until the time is used up. Raises the first error."""
        number = restore.at_once([s.memory for s in shards], available_memory(), self._restoring.wish.parallel)
        with ThreadPoolExecutor(max(1, number)) as pool:
            jobs = [pool.submit(self._shard, shard) for shard in shards]
            for job in jobs:
                job.result()

    def _over(self) -> bool:
        return self._stop.is_set() or self._restoring.over()

    def _keep(self, name: str, part: Part, *, now: bool = False) -> None:
        with self._lock:
            self.state = self.state.with_part(name, part)
            if now or time.monotonic() - self._kept >= KEEP_SECONDS:
                self._restoring.record.keep(self.state)
                self._kept = time.monotonic()

    def _shard(self, shard: Shard) -> None:
        try:
            if not self._over() or not self.state.parts:
                self._restore(shard)
        except BaseException:
            self._stop.set()
            raise

    def _restore(self, shard: Shard) -> None:
        wish = self._restoring.wish
        source = Source(self._folder, shard, self._kind, self._restoring.options, wish.program)
        with source.useless():
            client = source.client()
        with contextlib.closing(client), Fleet(self._restoring.options) as fleet:
            part = self.state.parts.get(shard.name, Part())
            with source.useless():
                if not self._wait(source, client):
                    return
            keys, expired, spaces = source.loaded(client)
            server = parse_server(client.call("INFO")).run_id
            if part.server != server:
                lasting = sum(number - ends for number, ends in spaces.values())
                part = Part(server, lasting=lasting, loaded=keys, expired=expired)
                with source.useless():
                    _check_loaded(shard, self._kind, part, spaces)
            replay = Replay(client, fleet, self._restoring.target.look_alone(fleet))
            part = replay.run(part, sorted(spaces), self._over, lambda step: self._keep(shard.name, step))
            if not part.done:
                self._keep(shard.name, part, now=True)
                return
            compared, wrong = replay.compare(wish.compare, sorted(spaces))
            if wrong:
                source.stop()
                raise Refusal(
                    f"{len(wrong)} of {compared} keys of {shard.file} differ in the cluster, {wrong[0]} among them",
                    "Find out what writes there, empty the cluster and restore again",
                )
        source.stop()
        self._keep(shard.name, replace(part, compared=compared), now=True)

    def _wait(self, source: Source, client: restore_source.SourceClient) -> bool:
        """Wait for the file to be loaded while there is time. At least a moment, so that a short budget comes to an end."""
        while not source.wait(client, 0.5):
            if self._over():
                return False
        return True


def _check_loaded(shard: Shard, kind: str, part: Part, spaces: Mapping[int, tuple[int, int]]) -> None:
    """Compare what was loaded with what the servers had. Raises Refusal."""
    there = part.loaded + part.expired
    ends = any(number for _keys, number in spaces.values())
    # Between the files of an append-only file and the moment of the backup keys came to their end.
    exact = kind == backup.RDB or not ends
    if there > shard.keys or (exact and there != shard.keys):
        raise Refusal(f"{shard.file} has {there} keys, its servers had {shard.keys}", "Restore another backup")
