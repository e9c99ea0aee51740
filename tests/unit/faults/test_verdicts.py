# SPDX-License-Identifier: Apache-2.0
"""Times in which what has to end an old primary was frozen are told apart from all others."""

from __future__ import annotations

import math

from faults import verdicts
from faults.catalogue import FAULTS
from faults.history import Event, History, Operation, Outcome, Probe
from faults.postgresql import ACCOUNTS, BALANCE, Final

FREEZES = next(fault.name for fault in FAULTS if fault.freezes)
HARMLESS = next(fault.name for fault in FAULTS if not fault.freezes)
TOTAL = ACCOUNTS * BALANCE


def test_a_frozen_time_lasts_until_all_was_well() -> None:
    events = [Event(1.0, "strike", FREEZES), Event(5.0, "heal", FREEZES), Event(9.0, "healthy", FREEZES)]
    assert verdicts.frozen(events) == [(1.0, 9.0)]


def test_a_frozen_time_that_nobody_saw_end_has_no_end() -> None:
    assert verdicts.frozen([Event(1.0, "strike", FREEZES)]) == [(1.0, math.inf)]


def test_other_faults_freeze_nothing() -> None:
    assert verdicts.frozen([Event(1.0, "strike", HARMLESS), Event(9.0, "healthy", HARMLESS)]) == []


def test_looks_in_a_frozen_time_are_left_out() -> None:
    looks = [Probe("a", at, at + 0.1, writable=True) for at in (0.5, 3.0, 9.5)]
    assert [look.start for look in verdicts.outside(looks, [(1.0, 9.0)])] == [0.5, 9.5]


def history(*operations: Operation) -> History:
    found = History()
    found.operations.extend(operations)
    return found


def written(workload: str, key: str, value: object, outcome: Outcome = Outcome.ACKNOWLEDGED) -> Operation:
    return Operation("a", workload, "pool", "write", key, value, 1.0, 2.0, outcome)


def kinds(found: list[verdicts.Violation]) -> list[tuple[str, str]]:
    return [(violation.kind, violation.workload) for violation in found]


def test_each_workload_of_postgresql_is_compared_with_its_own_end() -> None:
    done = history(
        written("set", "a", ("a", 1)), written("lists", "0.1", 5), written("transactions", "0.2", ("0.2", 6))
    )
    whole = Final([("a", 1)], TOTAL, {"0.1": [5]}, {"0.2": [6]})
    assert verdicts.postgresql_violations(done, whole) == []
    empty = Final([], TOTAL - 1, {}, {})
    assert kinds(verdicts.postgresql_violations(done, empty)) == [
        ("lost", "set"),
        ("sum", "bank"),
        ("lost", "list 0.1"),
        ("lost", "transactions"),
    ]


def test_valkey_promises_what_a_replica_confirmed_and_nothing_from_nowhere() -> None:
    keys = {name: f"fault:{name}:a:1" for name in ("waited", "plain")}
    done = history(*(written(name, key, key) for name, key in keys.items()), written("counter", "fault:counter:a:0", 1))
    assert verdicts.valkey_violations(done, {**dict.fromkeys(keys.values(), "1"), "fault:counter:a:0": "1"}) == []
    assert kinds(verdicts.valkey_violations(done, {})) == [
        ("lost", "valkey, waited"),
        ("lost", "valkey, waited counter"),
    ]
    invented = {**dict.fromkeys(keys.values(), "1"), "fault:plain:a:9": "1", "fault:counter:a:0": "2"}
    assert kinds(verdicts.valkey_violations(done, invented)) == [
        ("phantom", "valkey, waited counter"),
        ("phantom", "valkey, plain"),
    ]
