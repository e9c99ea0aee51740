# SPDX-License-Identifier: Apache-2.0
"""What a history proves: lost, phantom, duplicated and reordered writes, wrong sums, two writers, outages. Pure."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from faults.history import Operation, Outcome, Probe


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise. kind: `lost`, `phantom`, `duplicated`, `reordered`, `sum`, `stale`, `two writers`, …"""

    kind: str
    workload: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which no operation of a route was acknowledged. start and end: acknowledgements around it."""

    route: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.start


def check_set(writes: Iterable[Operation], final: Iterable[Any], workload: str = "set") -> list[Violation]:
    """Compare a set that clients added unique values to with what is in it at the end.

    Acknowledged values have to be there; values that certainly failed or were never written may not.
    """
    found = set(final)
    outcomes = {write.value: write.outcome for write in writes}
    violations = [
        Violation("lost", workload, f"{value} was acknowledged and is not there")
        for value, outcome in outcomes.items()
        if outcome is Outcome.ACKNOWLEDGED and value not in found
    ]
    for value in sorted(found, key=str):
        outcome = outcomes.get(value)
        if outcome is None:
            violations.append(Violation("phantom", workload, f"{value} is there and was never written"))
        elif outcome is Outcome.FAILED:
            violations.append(Violation("phantom", workload, f"{value} is there although its write failed"))
    return violations


def check_counters(writes: Iterable[Operation], final: Mapping[str, int], workload: str = "counter") -> list[Violation]:
    """Compare counters with the increments: at least the acknowledged ones, at most those and the unknown ones."""
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for write in writes:
        least[write.key] += write.outcome is Outcome.ACKNOWLEDGED
        most[write.key] += write.outcome is not Outcome.FAILED
    violations = []
    for key in sorted(most):
        value = final.get(key, 0)
        if value < least[key]:
            violations.append(
                Violation("lost", workload, f"{key} is {value}, {least[key]} increments were acknowledged")
            )
        if value > most[key]:
            violations.append(
                Violation("phantom", workload, f"{key} is {value}, only {most[key]} increments were tried")
            )
    return violations


def check_sums(reads: Iterable[Operation], total: int, workload: str = "bank") -> list[Violation]:
    """Check that every acknowledged read of all accounts, on whatever server, saw the same total."""
    return [
        Violation("sum", workload, f"{read.client} read {read.seen} instead of {total} by {read.route}")
        for read in reads
        if read.acknowledged and read.seen != total
    ]


def check_lists(operations: Sequence[Operation], final: Mapping[str, Sequence[Any]]) -> list[Violation]:
    """Check lists that clients append unique values to.

    In the final lists: every acknowledged value once, none that failed, those of one client in the order of its
    appends. Every list that was read has to be the beginning of the final list: whoever saw another order, or a value
    that is gone, saw a history that did not happen (the dependency cycles that Elle looks for show as such reads).
    """
    violations = []
    for key in sorted({operation.key for operation in operations} | set(final)):
        mine = [operation for operation in operations if operation.key == key]
        whole = list(final.get(key, ()))
        violations += check_set((o for o in mine if o.kind == "write"), whole, f"list {key}")
        violations += repeated(f"list {key}", whole) + _out_of_order(key, mine, whole) + _no_prefix(key, mine, whole)
    return violations


def repeated(workload: str, whole: Sequence[Any]) -> list[Violation]:
    """Find values that a list has more than once."""
    return [
        Violation("duplicated", workload, f"{value} is there {count} times")
        for value, count in Counter(whole).items()
        if count > 1
    ]


def _out_of_order(key: str, operations: Iterable[Operation], whole: Sequence[Any]) -> list[Violation]:
    """Find appends of one client that stand before one that the client had begun and ended earlier."""
    place = {value: index for index, value in enumerate(whole)}
    by_client: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.kind == "write" and operation.acknowledged and operation.value in place:
            by_client[operation.client].append(operation)
    violations = []
    for client, writes in sorted(by_client.items()):
        ordered = sorted(writes, key=lambda write: write.start)
        for earlier, later in pairwise(ordered):
            if place[later.value] < place[earlier.value]:
                detail = f"{later.value} of {client} stands before {earlier.value}, which was acknowledged first"
                violations.append(Violation("reordered", f"list {key}", detail))
    return violations


def _no_prefix(key: str, operations: Iterable[Operation], whole: Sequence[Any]) -> list[Violation]:
    violations = []
    for operation in operations:
        seen = operation.seen
        if operation.acknowledged and seen is not None and list(seen) != list(whole[: len(seen)]):
            detail = f"{operation.client} saw a list of {len(seen)} that is not the beginning of the final one"
            violations.append(Violation("reordered", f"list {key}", detail))
    return violations


def staleness(writes: Iterable[Operation], reads: Iterable[Operation]) -> list[tuple[Operation, float]]:
    """Return how old the oldest acknowledged write was that each read missed, in seconds; 0 for a fresh read.

    Writers number their values 1, 2, …; a read sees the highest number of each client, as a mapping.
    """
    ends: dict[str, list[float]] = defaultdict(list)
    numbers: dict[str, list[int]] = defaultdict(list)
    for write in sorted((w for w in writes if w.acknowledged), key=lambda w: w.end):
        ends[write.client].append(write.end)
        numbers[write.client].append(write.value[1])
    found = []
    for read in reads:
        if not read.acknowledged:
            continue
        age = 0.0
        for client, times in ends.items():
            known = bisect.bisect_left(times, read.start)
            missed = bisect.bisect_right(numbers[client], read.seen.get(client, 0))
            if missed < known:
                age = max(age, read.start - times[missed])
        found.append((read, age))
    return found


def check_staleness(found: Iterable[tuple[Operation, float]], limit: float, workload: str = "set") -> list[Violation]:
    """Find reads that missed a write which had been acknowledged for longer than limit seconds (see staleness)."""
    return [
        Violation("stale", workload, f"{read.client} missed by {read.route} a write that was {age:.1f} s old")
        for read, age in found
        if age > limit
    ]


def check_writers(probes: Iterable[Probe]) -> list[Violation]:
    """Find two servers that would have taken writes at one time.

    A server that was writable in two looks, with no look between that said otherwise, was so all the time between;
    another server's writable look that lies wholly inside proves two writers.
    """
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    looks: dict[str, list[Probe]] = defaultdict(list)
    for probe in sorted(probes, key=lambda p: p.start):
        looks[probe.node].append(probe)
    for node, found in looks.items():
        for before, after in pairwise(found):
            if before.writable and after.writable and before.timeline == after.timeline:
                spans[node].append((before.end, after.start))
    violations = []
    for node, found in sorted(looks.items()):
        for other, intervals in sorted(spans.items()):
            if other == node:
                continue
            starts = [start for start, _end in intervals]
            for probe in found:
                index = bisect.bisect_right(starts, probe.start) - 1
                if probe.writable and index >= 0 and probe.end <= intervals[index][1]:
                    detail = f"{node} took writes at {probe.start:.2f} while {other} did too"
                    violations.append(Violation("two writers", "postgresql", detail))
    return violations


def check_acknowledgers(writes: Iterable[Operation], apart: float = 1.5) -> list[Violation]:
    """Find two servers that acknowledged writes at one time; seen is the server of a write.

    One server, then another, then the first again, each write begun after the one before it ended, all within less
    time than a change of the primary and back can take (apart, in seconds).
    """
    ordered = sorted((w for w in writes if w.acknowledged and w.seen), key=lambda w: w.end)
    last: dict[str, Operation] = {}
    violations = []
    for write in ordered:
        before = last.get(write.seen)
        for server, other in last.items():
            if before is None or server == write.seen:
                continue
            if before.end < other.start and other.end < write.start and write.start - before.end < apart:
                detail = f"{server} acknowledged {other.value} between two writes that {write.seen} acknowledged"
                violations.append(Violation("two acknowledgers", write.workload, detail))
        last[write.seen] = write
    return violations


def check_read_only(operations: Iterable[Operation]) -> list[Violation]:
    """Find writers that a way to the primary led to a server which took no writes (SQLSTATE 25006)."""
    return [
        Violation("read-only", o.workload, f"{o.client} was refused by a read-only server at {o.end:.2f} ({o.route})")
        for o in operations
        if o.state == "25006" and o.kind == "write"
    ]


def states(operations: Iterable[Operation]) -> Counter[str]:
    """Count every error that clients of PostgreSQL and Valkey saw by SQLSTATE, `none` where no server said one."""
    return Counter(o.state or "none" for o in operations if o.problem or o.state)


def served(operations: Sequence[Operation], parts: Iterable[str], since: float) -> bool:
    """Return whether a write that began after since was acknowledged by each of the parts (see part_of)."""
    missing = set(parts)
    for operation in reversed(operations):
        # Clients record at the end of an operation, so those further back ended even earlier.
        if not missing or operation.end < since:
            break
        if operation.acknowledged and operation.kind == "write" and operation.start > since:
            missing.discard(part_of(operation))
    return not missing


def part_of(operation: Operation) -> str:
    """Return what is away or not as a whole: a route, and in Valkey's cluster the shard of the key beside it."""
    return f"{operation.route} {operation.shard}" if operation.shard >= 0 else operation.route


def taken_over(probes: Sequence[Probe], target: str, since: float) -> float | None:
    """Return when, after since, a server that is not named in target was first seen taking writes; None if not yet."""
    found = None
    for probe in reversed(probes):
        if probe.end < since - 5.0:
            break
        if probe.writable and probe.start > since and probe.node not in target:
            found = probe.end
    return found


def outages(operations: Iterable[Operation], threshold: float = 1.0) -> list[Outage]:
    """Return the times without any acknowledged operation, longer than threshold seconds, for each route."""
    ends: dict[str, list[float]] = defaultdict(list)
    for operation in operations:
        if operation.acknowledged:
            ends[operation.route].append(operation.end)
    return [
        Outage(route, earlier, later)
        for route, times in sorted(ends.items())
        for earlier, later in pairwise(sorted(times))
        if later - earlier > threshold
    ]


def longest_gap(operations: Iterable[Operation], start: float, end: float) -> float:
    """Return the longest time between two acknowledged operations that overlaps the window from start to end.

    That of the part which was away longest, where there are several.
    """
    parts: dict[str, list[float]] = defaultdict(list)
    for operation in operations:
        if operation.acknowledged:
            parts[part_of(operation)].append(operation.end)
    gaps = [
        later - earlier
        for times in parts.values()
        for earlier, later in pairwise(sorted(times))
        if later > start and earlier < end
    ]
    return max(gaps, default=max(0.0, end - start))


def problems(operations: Iterable[Operation]) -> Counter[str]:
    """Count the errors that clients saw, by route and first line."""
    return Counter(f"{o.route}: {o.problem.splitlines()[0]}" for o in operations if o.problem)
