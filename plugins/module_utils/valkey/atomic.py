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

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    ReplyError,
    checked,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.migration import (
    Context,
    Outcome,
    Progress,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.slots import Move

FIRST_VERSION = (9, 0)
# Slots of one job: the handover stops the clients of these, for the longer the more there are.
CHUNK = 256
SMALLER = 4
POLL = 0.001
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
    for endpoint in endpoints:
        while True:
            jobs = parse_jobs(fleet.client(endpoint).call("CLUSTER", "GETSLOTMIGRATIONS"))
            running = [job for job in jobs if job.running]
            if not running:
                break
            if time.monotonic() > deadline:
                problem = f"a slot migration is {running[0].state} for more than {seconds:.0f} s: {running[0].message}"
                raise ReplyError(endpoint, ("CLUSTER", "GETSLOTMIGRATIONS"), problem)
            time.sleep(POLL)


def cut(move: Move, size: int) -> list[Move]:
    """Return a move in pieces of at most size slots."""
    starts = range(move.first, move.last + 1, size)
    return [Move(first, min(first + size - 1, move.last), move.source, move.target) for first in starts]


@dataclass
class _Running:
    piece: Move
    known: frozenset[str]
    keys: int


class AtomicEngine:
    """Lets servers move ranges. See migration.Engine. refused: pieces whose jobs failed again and again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.refused: list[Move] = []
        self._notes: list[str] = []

    def run(self, moves: Sequence[Move], budget: float | None = None) -> Outcome:
        """Carry out moves as Engine says; one job for each source at a time. At least one job is begun."""
        clock, start = self._context.clock, self._context.clock()
        queues: dict[str, deque[Move]] = {}
        for move in moves:
            queues.setdefault(move.source, deque()).extend(cut(move, CHUNK))
        total, keys = sum(move.count for move in moves), 0
        done: list[Move] = []
        running: dict[str, _Running] = {}
        progress = Progress(0, total, 0, 0, 0.0)
        begun = False
        while True:
            late = begun and budget is not None and clock() - start >= budget
            for source, queue in queues.items():
                if queue and source not in running and not late:
                    running[source] = self._begin(queue.popleft())
                    begun = True
            if not running:
                break
            time.sleep(POLL)
            for source, job in list(running.items()):
                ended = self._ended(source, job)
                if ended is None:
                    continue
                del running[source]
                if ended.state != "success":
                    self._retry(queues[source], job.piece, ended)
                    continue
                done.append(job.piece)
                keys += job.keys
                progress = Progress(sum(move.count for move in done), total, keys, 0, clock() - start)
                self._context.report(progress)
        left = [piece for queue in queues.values() for piece in queue]
        progress = Progress(progress.slots_done, total, keys, 0, clock() - start)
        way = "atomic" if done else ""
        return Outcome(tuple(sorted(done)), tuple(sorted([*left, *self.refused])), progress, way, tuple(self._notes))

    def _begin(self, piece: Move) -> _Running:
        client = self._context.fleet.client(self._context.members[piece.source].endpoint)
        known = frozenset(job.name for job in self._jobs(piece.source))
        counts = client.pipeline([("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in range(piece.first, piece.last + 1)])
        client.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", piece.first, piece.last, "NODE", piece.target)
        return _Running(piece, known, sum(checked(count) for count in counts))

    def _jobs(self, source: str) -> list[Job]:
        client = self._context.fleet.client(self._context.members[source].endpoint)
        return parse_jobs(client.call("CLUSTER", "GETSLOTMIGRATIONS"))

    def _ended(self, source: str, running: _Running) -> Job | None:
        mine = [job for job in self._jobs(source) if job.name not in running.known and job.operation == "export"]
        return mine[0] if mine and not mine[0].running else None

    def _retry(self, queue: deque[Move], piece: Move, job: Job) -> None:
        """Try a failed piece again in smaller ones (valkey#4545: heavy writes); one slot that fails is refused."""
        reason = job.message or job.state
        self._notes.append(f"slots {piece.slots} were not moved atomically: {reason}")
        if piece.count == 1:
            self.refused.append(piece)
            return
        queue.extendleft(reversed(cut(piece, max(1, piece.count // SMALLER))))
