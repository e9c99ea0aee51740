# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Moving slots key by key, by MIGRATE: works with every version.

Several movers work side by side, each with connections of its own. A mover takes a window of slots and hands over as many
of them at a time as one round of pipelined MIGRATEs takes the keys of, so that slots are open for a moment only. A round
is as large as its wished duration allows: the source serves nobody else meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import databases
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Client,
    Command,
    Endpoint,
    Fleet,
    ReplyError,
    UnreachableError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import (
    Context,
    Outcome,
    Progress,
    apart,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.moving.throttle import (
    Bucket,
    Regulator,
    RoundSize,
    percentile,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    parse_info,
    parse_nodes,
    parse_spaces,
)

# Slots that a mover takes from the queue at a time.
WINDOW = 32
# In which clients get to know a node that had no slots.
INTRODUCTION_SECONDS = 1.0
# Keys that a mover looks up at a time.
LOOKUP = 1000
# Longer than the 2 s for which a server since 8.0 waits for its replicas before it answers NOREPLICAS.
TELL_SECONDS = 15.0
TELL_PAUSE = 0.2
PROBE_PAUSE = 0.004
PROBE_SAMPLES = 400
JUDGE_SECONDS = 0.2
TURN_PAUSE = 0.01

# Numbers of keys by slot and database.
Counts = Mapping[int, Mapping[int, int]]


class Batch(NamedTuple):
    """What one MIGRATE takes: keys of one database, and their bytes."""

    database: int
    keys: list[bytes]
    size: int


class KeywiseEngine:
    """Moves keys by MIGRATE. See migration.Engine."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def run(self, moves: Sequence[Move], budget: float | None = None) -> Outcome:
        """Carry out moves as Engine says. At least one window is moved whatever the budget."""
        crew = _Crew(self._context, interleaved(moves), budget)
        crew.work()
        return Outcome(
            tuple(sorted(crew.done)), tuple(sorted(crew.windows)), crew.progress, "keys" if crew.done else ""
        )


def windows(move: Move) -> list[Move]:
    """Return a move cut into windows."""
    starts = range(move.first, move.last + 1, WINDOW)
    return [Move(first, min(first + WINDOW - 1, move.last), move.source, move.target) for first in starts]


def interleaved(moves: Iterable[Move]) -> list[Move]:
    """Return the windows of moves so that neighbours in the list have different sources where possible."""
    queues: dict[str, deque[Move]] = {}
    for move in moves:
        queues.setdefault(move.source, deque()).extend(windows(move))
    found = []
    while queues:
        for source in list(queues):
            found.append(queues[source].popleft())
            if not queues[source]:
                del queues[source]
    return found


class _Crew:
    """Movers that share a queue of windows, a rate and a regulator."""

    def __init__(self, context: Context, todo: Sequence[Move], budget: float | None) -> None:
        self.context = context
        self.windows = deque(todo)
        self.done: list[Move] = []
        self._active: list[Move] = []
        self.keys = 0
        self.bytes = 0
        limits = context.limits
        self.bucket = Bucket(limits.keys_per_second, context.clock, time.sleep)
        self.regulator = Regulator(limits.max_p99, max(1, min(limits.parallel, len(todo))), limits.round_seconds)
        self._total = sum(move.count for move in todo)
        self._start = context.clock()
        self._budget = budget
        self._begun = False
        self._stop = Event()
        self._lock = Lock()

    @property
    def progress(self) -> Progress:
        done = sum(move.count for move in self.done)
        return Progress(done, self._total, self.keys, self.bytes, self.context.clock() - self._start)

    def work(self) -> None:
        """Move windows until none is left or the time is used up. Raises the first mover's ValkeyError."""
        if not self.windows:
            return
        probe = Thread(target=self._watch, args=(self._endpoints(),), daemon=True)
        if self.context.limits.max_p99 is not None:
            probe.start()
        try:
            with ThreadPoolExecutor(self.regulator.movers) as pool:
                movers = [pool.submit(self._mover, number) for number in range(self.regulator.movers)]
                try:
                    for mover in movers:
                        mover.result()
                finally:
                    self._stop.set()
        finally:
            if probe.ident is not None:
                probe.join()

    def _endpoints(self) -> list[Endpoint]:
        members = {member for move in self.windows for member in (move.source, move.target)}
        return [self.context.members[member].endpoint for member in sorted(members)]

    def _mover(self, number: int) -> None:
        try:
            with Fleet(self.context.fleet.options) as fleet:
                mover = _Mover(self, fleet)
                while (window := self._take(number)) is not None:
                    mover.move(window)
                    with self._lock:
                        self._active.remove(window)
                        self.done.append(window)
                        self.context.report(self.progress)
        except BaseException:
            self._stop.set()
            raise

    def _take(self, number: int) -> Move | None:
        while number >= self.regulator.working and self.windows and not self._stop.wait(TURN_PAUSE):
            pass
        while not self._stop.is_set():
            with self._lock:
                late = self._budget is not None and self.context.clock() - self._start >= self._budget
                if not self.windows or (late and self._begun):
                    return None
                window = next((window for window in self.windows if apart(window, self._active)), None)
                if window is not None:
                    self.windows.remove(window)
                    self._active.append(window)
                    self._begun = True
                    return window
            self._stop.wait(TURN_PAUSE)
        return None

    def count(self, keys: int, size: int) -> None:
        """Note what was moved."""
        with self._lock:
            self.keys += keys
            self.bytes += size

    def _watch(self, endpoints: Sequence[Endpoint]) -> None:
        """Ask servers all the time how long an answer takes, and feed the regulator."""
        samples: deque[float] = deque(maxlen=PROBE_SAMPLES)
        judged = time.perf_counter()
        with Fleet(self.context.fleet.options) as fleet:
            while not self._stop.wait(PROBE_PAUSE):
                for endpoint in endpoints:
                    begin = time.perf_counter()
                    try:
                        fleet.client(endpoint).call("PING")
                    except (UnreachableError, ReplyError):
                        # The movers meet the same and say so; a broken probe must not hide their error.
                        fleet.drop(endpoint)
                    samples.append((time.perf_counter() - begin) * 1000)
                if time.perf_counter() - judged >= JUDGE_SECONDS:
                    self.regulator.feed(percentile(samples, 0.99))
                    samples.clear()
                    judged = time.perf_counter()


class _Owners:
    """Tells nodes who owns a slot, over the connections of one mover."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        self._context = context
        self._fleet = fleet

    def tell(self, member: str, slots: Sequence[int], owner: str) -> None:
        """Let a member know the new owner of slots. Raises ValkeyError when it does not within TELL_SECONDS.

        Gossip may tell it first. A source without slots then turns into a replica: it closes connections that wait in
        SETSLOT, and its own replicas leave, which it answers with NOREPLICAS.
        """
        deadline = self._context.clock() + TELL_SECONDS
        while True:
            try:
                self._set_once(member, slots, "NODE", owner)
                return
            except (ReplyError, UnreachableError) as error:
                if isinstance(error, ReplyError) and error.code != "NOREPLICAS":
                    raise
                self._fleet.drop(self._context.members[member].endpoint)
                if self._knows(member, slots, owner):
                    return
                if self._context.clock() >= deadline:
                    raise
            time.sleep(TELL_PAUSE)

    def _knows(self, member: str, slots: Sequence[int], owner: str) -> bool:
        """Whether a member sees the owner of all these slots and has none of them open."""
        try:
            view = parse_nodes(self._fleet.client(self._context.members[member].endpoint).call("CLUSTER", "NODES"))
        except (UnreachableError, ReplyError):
            return False
        is_open = any(mark.slot in slots for mark in view.myself.marks)
        return not is_open and all(view.owners.get(slot) == owner for slot in slots)

    def set(self, member: str, slots: Sequence[int], state: str, peer: str) -> None:
        """Set the state of slots on a member, which may have it already. Raises ReplyError, UnreachableError.

        Replicas that are late are awaited for TELL_SECONDS: a server answers NOREPLICAS if none of its replicas has taken
        the state within 2 s. Source: clusterCommandSetSlot of Valkey 8.1.
        """
        deadline = self._context.clock() + TELL_SECONDS
        while True:
            try:
                self._set_once(member, slots, state, peer)
                return
            except ReplyError as error:
                if error.code != "NOREPLICAS" or self._context.clock() >= deadline:
                    raise
            # No server tells when a replica has caught up, so the question is put again.
            time.sleep(TELL_PAUSE)

    def _set_once(self, member: str, slots: Sequence[int], state: str, peer: str) -> None:
        endpoint = self._context.members[member].endpoint
        commands = [("CLUSTER", "SETSLOT", slot, state, peer) for slot in slots]
        for reply in self._fleet.client(endpoint).pipeline(commands):
            if isinstance(reply, ReplyError) and _already(reply, state):
                continue
            checked(reply)


class _Mover:
    """Moves windows over connections of its own."""

    def __init__(self, crew: _Crew, fleet: Fleet) -> None:
        self._crew = crew
        self._context = crew.context
        self._fleet = fleet
        self._owners = _Owners(crew.context, fleet)
        self._size = RoundSize()

    def move(self, move: Move) -> None:
        """Move one window, a few slots at a time: as many as one round takes the keys of.

        Clients that come while a slot is open are told to ask the target (ASK). Some can't follow that to a node that no
        MOVED has told them of, so at first slots go one by one to a target that had none: one is open, many are moved.
        """
        slots = range(move.first, move.last + 1)
        self._owners.set(move.target, slots, "IMPORTING", move.source)
        counts = _counts(self._client(move.source), slots)
        unknown = not self._context.members[move.target].known and self._crew.progress.seconds < INTRODUCTION_SECONDS
        for group in groups(counts, self._size.keys, 1 if unknown else None):
            self._hand_over(move, group)

    def _client(self, member: str) -> Client:
        return self._fleet.client(self._context.members[member].endpoint)

    def _hand_over(self, move: Move, counts: Counts) -> None:
        """Open slots, send their keys, give them to the target. Keys are looked up, and the rate is kept, before that.

        The order is safe at every point: each key is served from one side or the other. The other nodes learn of the new
        owner from its pings.
        """
        source, slots = self._client(move.source), list(counts)
        todo = deque(self._batches(source, counts))
        first = self._round(todo)
        self._pay(first)
        self._owners.set(move.source, slots, "MIGRATING", move.target)
        self._send(source, move, first)
        self._send_all(source, move, todo)
        self._drain(move, slots)
        self._owners.set(move.target, slots, "NODE", move.target)
        self._owners.tell(move.source, slots, move.target)

    def _drain(self, move: Move, slots: Sequence[int]) -> None:
        """Send what keys slots have, until the source has none of them in any database.

        It takes no new keys for them any more, in no database (those that are elsewhere are asked for there, COPY and MOVE
        are refused), so this ends, and a database that holds no key now gets none.
        """
        source = self._client(move.source)
        while True:
            counts = {slot: numbers for slot, numbers in _counts(source, slots).items() if numbers}
            if not counts:
                return
            slots = list(counts)
            for group in groups(counts, LOOKUP):
                self._send_all(source, move, deque(self._batches(source, group)))

    def _batches(self, source: Client, counts: Counts) -> Iterator[Batch]:
        """Look up keys of slots, and return them as what one MIGRATE each takes."""
        for database in sorted({database for numbers in counts.values() for database in numbers}):
            lookups = [
                ("CLUSTER", "GETKEYSINSLOT", slot, min(numbers[database], LOOKUP))
                for slot, numbers in counts.items()
                if database in numbers
            ]
            found = _raw(source, [("SELECT", database), *lookups])[1:]
            yield from self._cut(source, database, found)

    def _cut(self, source: Client, database: int, found: Sequence[Sequence[bytes]]) -> Iterator[Batch]:
        """Return keys of each slot, which the selected database has, in batches that keep the limits."""
        limits = self._context.limits
        sizes = deque(_raw(source, [("MEMORY", "USAGE", key) for keys in found for key in keys]))
        for keys in found:
            batch: list[bytes] = []
            total = 0
            for key in keys:
                # A key that has expired meanwhile has no size.
                size = sizes.popleft() or 0
                if batch and (len(batch) >= limits.batch_keys or total + size > limits.batch_bytes):
                    yield Batch(database, batch, total)
                    batch, total = [], 0
                batch.append(key)
                total += size
            if batch:
                yield Batch(database, batch, total)

    def _send_all(self, source: Client, move: Move, todo: deque[Batch]) -> None:
        """Send batches in rounds. A batch that alone is more than a round is cut."""
        while todo:
            batches = self._round(todo)
            self._pay(batches)
            self._send(source, move, batches)

    def _pay(self, batches: Sequence[Batch]) -> None:
        self._crew.bucket.take(sum(len(batch.keys) for batch in batches))

    def _send(self, source: Client, move: Move, batches: Sequence[Batch]) -> None:
        """Send one round."""
        keys, clock = sum(len(batch.keys) for batch in batches), self._context.clock
        commands = [c for batch in batches for c in (("SELECT", batch.database), self._migrate(batch, move))]
        begin = clock()
        for reply in source.pipeline(commands):
            checked(reply)
        self._size.feed(keys, clock() - begin, self._crew.regulator.round)
        self._crew.count(keys, sum(batch.size for batch in batches))

    def _round(self, todo: deque[Batch]) -> list[Batch]:
        taken: list[Batch] = []
        keys = total = 0
        while todo and keys < self._size.keys and total < self._context.limits.batch_bytes:
            batch = todo.popleft()
            room = self._size.keys - keys
            if len(batch.keys) > room:
                part = batch.size * room // len(batch.keys)
                todo.appendleft(Batch(batch.database, batch.keys[room:], batch.size - part))
                batch = Batch(batch.database, batch.keys[:room], part)
            taken.append(batch)
            keys += len(batch.keys)
            total += batch.size
        return taken

    def _migrate(self, batch: Batch, move: Move) -> list[Any]:
        """The command. REPLACE: a key on both sides is of an interrupted MIGRATE, and the source's is the newer."""
        target, timeout = self._context.members[move.target], self._context.limits.migrate_timeout
        return [
            *("MIGRATE", target.address, target.port, "", batch.database, timeout, "REPLACE"),
            *authentication(self._fleet),
            "KEYS",
            *batch.keys,
        ]


def groups(counts: Counts, keys: int, slots: int | None = None) -> Iterator[Counts]:
    """Return slots with their numbers of keys in groups of at most so many keys and slots, but of at least one slot."""
    group: dict[int, Mapping[int, int]] = {}
    size = 0
    for slot, numbers in counts.items():
        number = databases.total(numbers)
        if group and (size + number > keys or len(group) == slots):
            yield group
            group, size = {}, 0
        group[slot] = numbers
        size += number
    if group:
        yield group


def _counts(source: Client, slots: Sequence[int]) -> dict[int, dict[int, int]]:
    """Count the keys of slots in all databases that hold keys now. Raises ValkeyError."""
    filled = parse_spaces(parse_info(source.call("INFO", "keyspace")))
    return databases.counted(slots, filled, source.pipeline(databases.counting(slots, filled)))


def _raw(client: Client, commands: Sequence[Command]) -> list[Any]:
    """Do commands and return the replies with strings as bytes: keys need not be text. Raises ReplyError."""
    client.send(commands)
    replies = [client.receive_raw() for _command in commands]
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, Exception):
            raise ReplyError(client.endpoint, command[:2], str(reply))
    return replies


def authentication(fleet: Fleet) -> list[str]:
    """Return the words by which MIGRATE logs in at the target, as we log in."""
    options = fleet.options
    if options.password is None:
        return []
    return ["AUTH2", options.username, options.password] if options.username else ["AUTH", options.password]


def _already(error: ReplyError, state: str) -> bool:
    """True for errors of a step that is as good as done.

    A slot that an interrupted run gave to its target can't be opened again. A source that gives its last slot may
    follow the new owner before it has answered (setting cluster-allow-replica-migration).
    """
    if state == "IMPORTING":
        return "already the owner" in error.problem
    return state == "NODE" and ("UNBLOCKED" in error.problem or "only with master" in error.problem)
