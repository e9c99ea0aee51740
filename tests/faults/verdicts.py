# SPDX-License-Identifier: Apache-2.0
"""The final state of a lab beside the history: every broken promise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import psycopg
from valkey.exceptions import ValkeyClusterException, ValkeyError

from faults import checker, cycles, postgresql, valkey_clients
from faults.catalogue import FAULTS
from faults.checker import Violation
from faults.history import Event, History, Probe
from faults.lab import Lab

# A replica that nobody tells where the primary is serves old reads until its primary's lease ends (ttl 20 s) and HAProxy
# has seen it; a machine under load takes a little longer.
STALE_LIMIT = 30.0


def judge(lab: Lab, history: History) -> tuple[list[Violation], int | None]:
    """Return the broken promises, and how many acknowledged plain Valkey writes are gone (None: cannot be read)."""
    try:
        postgres, valkey = postgresql.final(lab), valkey_clients.final(lab)
    except (psycopg.Error, ValkeyError, ValkeyClusterException, OSError) as error:
        # What cannot be read any more is lost for those who wrote it; the report of the rest is needed all the more.
        return [Violation("unreadable", "all", f"{type(error).__name__}: {error}".splitlines()[0])], None
    found = postgresql_violations(history, postgres) + valkey_violations(history, valkey)
    plain = sum(o.acknowledged and o.value not in valkey for o in history.of("plain", "write"))
    return found, plain


def postgresql_violations(history: History, final: postgresql.Final) -> list[Violation]:
    """Return the broken promises of PostgreSQL."""
    total = postgresql.ACCOUNTS * postgresql.BALANCE
    found = checker.check_set(history.of("set", "write"), [tuple(row) for row in final.rows])
    found += checker.check_sums(history.of("bank", "read"), total)
    if final.total != total:
        found.append(Violation("sum", "bank", f"{final.total} instead of {total} at the end"))
    found += checker.check_lists(history.of("lists"), final.lists)
    found += cycles.check_transactions(history.of("transactions"), final.registers)
    found += checker.check_acknowledgers(history.of("set", "write"))
    found += checker.check_read_only(history.operations)
    found += checker.check_writers(outside(history.probes, frozen(history.events)))
    stale = checker.staleness(history.of("set", "write"), history.of("set", "read"))
    return found + checker.check_staleness(stale, STALE_LIMIT)


def valkey_violations(history: History, final: dict[str, str]) -> list[Violation]:
    """Return the broken promises of Valkey."""
    waited = [key for key in final if key.startswith("fault:waited:")]
    counters = {key: int(value) for key, value in final.items() if key.startswith("fault:counter:")}
    found = checker.check_set(history.of("waited", "write"), waited, "valkey, waited")
    found += checker.check_counters(history.of("counter", "write"), counters, "valkey, waited counter")
    # A plain write may be lost with its primary; it may never appear from nowhere.
    plain = [key for key in final if key.startswith("fault:plain:")]
    plain_found = checker.check_set(history.of("plain", "write"), plain, "valkey, plain")
    return found + [violation for violation in plain_found if violation.kind != "lost"]


def frozen(events: Sequence[Event]) -> list[tuple[float, float]]:
    """Return the times in which what has to end an old primary was frozen, until all was well again."""
    names = {fault.name for fault in FAULTS if fault.freezes}
    spans: list[tuple[float, float]] = []
    begun: dict[str, float] = {}
    for event in events:
        if event.fault in names and event.kind == "strike":
            begun[event.fault] = event.at
        elif event.fault in begun and event.kind == "healthy":
            spans.append((begun.pop(event.fault), event.at))
    return spans + [(start, math.inf) for start in begun.values()]


def outside(probes: Iterable[Probe], spans: Sequence[tuple[float, float]]) -> list[Probe]:
    """Return the looks that lie outside of all spans."""
    return [p for p in probes if not any(start <= p.start <= end for start, end in spans)]


def oldest_read(history: History) -> float:
    """Return how old the oldest acknowledged write was that a read of the replicas missed, in seconds."""
    stale = checker.staleness(history.of("set", "write"), history.of("set", "read"))
    return max((age for _read, age in stale), default=0.0)
