# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Moving slots by the servers themselves, as whole ranges (CLUSTER MIGRATESLOTS, Valkey 9.0 and later).

The servers copy, hand over and clean up; a job that fails or whose server dies leaves the slots where they were. Nothing
is left open at any point. https://valkey.io/commands/cluster-migrateslots/
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Client,
    Command,
    Endpoint,
    Fleet,
    ReplyError,
    UnreachableError,
    ValkeyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import (
    Context,
    Outcome,
    Progress,
    apart,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move

FIRST_VERSION = (9, 0)
# Slots of one job: the handover stops the clients of these, for the longer the more there are.
CHUNK = 256
SMALLER = 4
# Jobs that a server is given at a time. It copies one while the one before is handed over.
AHEAD = 2
# Seconds between two looks; each look takes time from the servers' processors.
POLL = 0.005
ENDED = frozenset({"success", "failed", "cancelled", "canceled"})


@dataclass(frozen=True)
class Job:
    """One entry of CLUSTER GETSLOTMIGRATIONS. state: `success`, `failed`, `cancelled`, else it is running."""

    name: str
    operation: str
    state: str
    message: str

    @property
    def running(self) -> bool:
        """Whether the servers still work on it."""
        return self.state not in ENDED


def parse_jobs(reply: Sequence[Any]) -> list[Job]:
    """Read the reply of CLUSTER GETSLOTMIGRATIONS: flat lists of names and values."""
    found = []
    for item in reply:
        words = item if isinstance(item, Mapping) else dict(zip(item[::2], item[1::2], strict=True))
        found.append(Job(words["name"], words["operation"].lower(), words["state"].lower(), words.get("message", "")))
    return found


def await_jobs(fleet: Fleet, endpoints: Iterable[Endpoint], seconds: float) -> None:
    """Wait until jobs that an interrupted run left have ended. Raises ReplyError for one that does not."""
    deadline = time.monotonic() + seconds
    waiting = list(endpoints)
    while waiting:
        replies = fleet.all(waiting, "CLUSTER", "GETSLOTMIGRATIONS")
        running = {endpoint: job for endpoint, reply in replies.items() for job in parse_jobs(reply) if job.running}
        if not running:
            return
        waiting = list(running)
        if time.monotonic() > deadline:
            job = running[waiting[0]]
            problem = f"a slot migration is {job.state} for more than {seconds:.0f} s: {job.message}"
            raise ReplyError(waiting[0], ("CLUSTER", "GETSLOTMIGRATIONS"), problem)
        time.sleep(POLL)


@dataclass(frozen=True)
class Batch:
    """What one job moves: ranges with the same source and target."""

    moves: tuple[Move, ...]

    @property
    def source(self) -> str:
        return self.moves[0].source

    @property
    def count(self) -> int:
        """Number of slots."""
        return sum(move.count for move in self.moves)

    @property
    def command(self) -> Command:
        """What the source is told."""
        bounds = [bound for move in self.moves for bound in (move.first, move.last)]
        return ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *bounds, "NODE", self.moves[0].target)

    def __str__(self) -> str:
        return " ".join(ranges.text([move.slots]) for move in self.moves)


def batches(moves: Iterable[Move], size: int) -> list[Batch]:
    """Return moves in batches of at most size slots; many short ranges share one."""
    open_ones: dict[tuple[str, str], list[Move]] = {}
    found: list[Batch] = []
    for move in moves:
        ways = open_ones.setdefault((move.source, move.target), [])
        first = move.first
        while first <= move.last:
            room = size - sum(part.count for part in ways)
            part = Move(first, min(first + room - 1, move.last), move.source, move.target)
            ways.append(part)
            first = part.last + 1
            if part.count == room:
                found.append(Batch(tuple(ways)))
                ways.clear()
    return [*found, *(Batch(tuple(ways)) for ways in open_ones.values() if ways)]


class _Source:
    """A server that gives slots away: what waits, by job what it was given and with how many keys, and whether one succeeded."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.endpoint = client.endpoint
        self.waiting: deque[Batch] = deque()
        self.given: dict[str, tuple[Batch, int]] = {}
        self.gave = False
        self._seen = {job.name for job in self._jobs()}

    def _jobs(self) -> list[Job]:
        return [
            job for job in parse_jobs(self._client.call("CLUSTER", "GETSLOTMIGRATIONS")) if job.operation == "export"
        ]

    def begin(self) -> None:
        """Give the server the next batch; it works on one after the other."""
        batch = self.waiting.popleft()
        slots = [slot for move in batch.moves for slot in range(move.first, move.last + 1)]
        # Sent together, the counts are of the moment at which the job begins.
        told, *counts = self._client.pipeline(
            [batch.command, *(("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in slots)]
        )
        checked(told)
        fresh = [job.name for job in self._jobs() if job.name not in self._seen]
        if not fresh:
            raise ReplyError(self._client.endpoint, batch.command, "the server was told, but lists no such job")
        self._seen.update(fresh)
        self.given[fresh[0]] = (batch, sum(checked(count) for count in counts))

    def ended(self) -> list[tuple[Batch, int, Job]]:
        """Return what has ended since the last time. Raises ReplyError for a job that the server has forgotten."""
        jobs = {job.name: job for job in self._jobs()}
        gone = [str(batch) for name, (batch, _keys) in self.given.items() if name not in jobs]
        if gone:
            raise ReplyError(
                self._client.endpoint, ("CLUSTER", "GETSLOTMIGRATIONS"), f"the job of slots {gone[0]} is gone"
            )
        over = [job for name, job in jobs.items() if name in self.given and not job.running]
        return [(*self.given.pop(job.name), job) for job in over]


class AtomicEngine:
    """Lets servers move ranges. See migration.Engine. refused: moves whose jobs failed again and again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.refused: list[Move] = []
        self._notes: list[str] = []

    def run(self, moves: Sequence[Move], budget: float | None = None) -> Outcome:
        """Carry out moves as Engine says. At least one job is begun.

        When a server fails, what the others still move is cancelled: nothing continues behind a failed run.
        """
        sources = self._sources(moves)
        try:
            return self._work(moves, sources, budget)
        except ValkeyError:
            for source in sources:
                self._cancel(source)
            raise

    def _cancel(self, source: _Source) -> None:
        if not source.given:
            return
        fleet = self._context.fleet
        fleet.drop(source.endpoint)
        try:
            fleet.client(source.endpoint).call("CLUSTER", "CANCELSLOTMIGRATIONS")
        except UnreachableError:
            # The failure that is told: a source that is gone moves nothing.
            return

    def _work(self, moves: Sequence[Move], sources: Sequence[_Source], budget: float | None) -> Outcome:
        clock, start = self._context.clock, self._context.clock()
        total, keys = sum(move.count for move in moves), 0
        done: list[Move] = []
        progress = Progress(0, total, 0, 0, 0.0)
        begun = False
        while True:
            late = begun and budget is not None and clock() - start >= budget
            for source in sources:
                while source.waiting and len(source.given) < AHEAD and not late and self._may_begin(source, sources):
                    source.begin()
                    begun = True
            if not any(source.given for source in sources):
                break
            time.sleep(POLL)
            for source in sources:
                for batch, number, job in source.ended() if source.given else []:
                    if job.state != "success":
                        self._retry(source, batch, job)
                        continue
                    source.gave = True
                    done += batch.moves
                    keys += number
                    progress = Progress(sum(move.count for move in done), total, keys, 0, clock() - start)
                    self._context.report(progress)
        left = [move for source in sources for batch in source.waiting for move in batch.moves]
        progress = Progress(progress.slots_done, total, keys, 0, clock() - start)
        way = "atomic" if done else ""
        return Outcome(tuple(sorted(done)), tuple(sorted([*left, *self.refused])), progress, way, tuple(self._notes))

    def _may_begin(self, source: _Source, sources: Sequence[_Source]) -> bool:
        running = [batch.moves[0] for other in sources for batch, _keys in other.given.values()]
        return apart(source.waiting[0].moves[0], running)

    def _sources(self, moves: Sequence[Move]) -> list[_Source]:
        found: dict[str, _Source] = {}
        for batch in batches(moves, CHUNK):
            if batch.source not in found:
                endpoint = self._context.members[batch.source].endpoint
                found[batch.source] = _Source(self._context.fleet.client(endpoint))
            found[batch.source].waiting.append(batch)
        return list(found.values())

    def _retry(self, source: _Source, batch: Batch, job: Job) -> None:
        """Try a failed batch again in smaller ones (valkey#4545: heavy writes); one slot that fails is refused.

        Where no job ever succeeded, as with a password that servers don't have, all that waits is refused with it.
        """
        reason = job.message or job.state
        self._notes.append(f"slots {batch} were not moved atomically: {reason}")
        if batch.count == 1:
            self.refused += batch.moves
            if not source.gave:
                self.refused += [move for waiting in source.waiting for move in waiting.moves]
                source.waiting.clear()
            return
        source.waiting.extendleft(reversed(batches(batch.moves, max(1, batch.count // SMALLER))))
