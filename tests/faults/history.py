# SPDX-License-Identifier: Apache-2.0
"""What clients did: every operation with its start, end and outcome. No I/O but the file of a history."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """What a client knows of an operation afterwards.

    ACKNOWLEDGED: it was done. FAILED: it was certainly not done. UNKNOWN: no answer, or one that leaves it open.
    """

    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client.

    workload: what is checked (`set`, `bank`, …). route: the way to the server (`pool`, `balancers`, …).
    kind: `write` or `read`. key and value: what was written, in words of the workload. seen: what was read.
    start and end: seconds of this machine's monotonic clock. problem: the error, empty if there was none or only one that
    serializable transactions are made for. state: its SQLSTATE as the server said it, empty where no server did.
    shard: the part of Valkey's cluster that the key is in, as it was formed; -1 for others.
    """

    client: str
    workload: str
    route: str
    kind: str
    key: str
    value: Any
    start: float
    end: float
    outcome: Outcome
    seen: Any = None
    problem: str = ""
    shard: int = -1
    state: str = ""

    @property
    def acknowledged(self) -> bool:
        """Whether the client was told that it was done."""
        return self.outcome is Outcome.ACKNOWLEDGED


@dataclass(frozen=True, slots=True)
class Probe:
    """One look at one PostgreSQL server: whether it would have taken a write. timeline: its own, 0 if unknown."""

    node: str
    start: float
    end: float
    writable: bool
    timeline: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the campaign did or saw: `strike`, `heal`, `healthy`, of a fault at a host."""

    at: float
    kind: str
    fault: str
    target: str = ""


class History:
    """All that happened in a campaign. Lists only grow, so clients of several threads may add."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.probes: list[Probe] = []
        self.events: list[Event] = []

    def of(self, workload: str, kind: str = "") -> list[Operation]:
        """Return the operations of a workload, of one kind or of all."""
        return [o for o in self.operations if o.workload == workload and kind in ("", o.kind)]

    def save(self, path: Path) -> None:
        """Write everything as one JSON object a line."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(self._lines())

    def _lines(self) -> Iterator[str]:
        records: Iterable[Operation | Probe | Event] = (*self.operations, *self.probes, *self.events)
        for record in records:
            yield json.dumps({"record": type(record).__name__, **asdict(record)}, default=str) + "\n"
