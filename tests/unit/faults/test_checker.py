# SPDX-License-Identifier: Apache-2.0
"""The checker finds what was planted, and nothing in histories that are right."""

from __future__ import annotations

from typing import Any

import pytest
from faults import checker
from faults.history import Operation, Outcome, Probe
from hypothesis import given
from hypothesis import strategies as st

OK, NO, OPEN = Outcome.ACKNOWLEDGED, Outcome.FAILED, Outcome.UNKNOWN
outcomes = st.sampled_from([OK, NO, OPEN])


def op(value: Any = None, outcome: Outcome = OK, at: float = 0.0, *, kind: str = "write", **more: Any) -> Operation:
    words = {"client": "a", "workload": "set", "route": "pool", "key": "k", "end": at + 0.01, **more}
    return Operation(kind=kind, value=value, start=at, outcome=outcome, **words)


def kinds(found: list[checker.Violation]) -> list[str]:
    return [violation.kind for violation in found]


@given(st.dictionaries(st.integers(), outcomes), st.data())
def test_a_right_set_has_no_violation(written: dict[int, Outcome], data: st.DataObject) -> None:
    writes = [op(value, outcome) for value, outcome in written.items()]
    final = [v for v, o in written.items() if o is OK or (o is OPEN and data.draw(st.booleans()))]
    assert checker.check_set(writes, final) == []


@given(st.dictionaries(st.integers(), outcomes, min_size=1), st.data())
def test_one_planted_fault_in_a_set_is_found(written: dict[int, Outcome], data: st.DataObject) -> None:
    writes = [op(value, outcome) for value, outcome in written.items()]
    final = {v for v, o in written.items() if o is OK}
    victim = data.draw(st.sampled_from(sorted(written)))
    if written[victim] is OK:
        assert kinds(checker.check_set(writes, final - {victim})) == ["lost"]
    elif written[victim] is NO:
        assert kinds(checker.check_set(writes, final | {victim})) == ["phantom"]
    assert kinds(checker.check_set(writes, final | {max(written) + 1})) == ["phantom"]


@pytest.mark.parametrize(("value", "kind"), [(1, ["lost"]), (2, []), (3, []), (4, ["phantom"])])
def test_counters_lie_between_acknowledged_and_tried(value: int, kind: list[str]) -> None:
    writes = [op(outcome=outcome) for outcome in (OK, OK, OPEN, NO)]
    assert kinds(checker.check_counters(writes, {"k": value})) == kind


def test_a_wrong_sum_is_found_and_an_unanswered_read_is_not() -> None:
    reads = [op(kind="read", seen=800), op(kind="read", seen=799), op(None, OPEN, kind="read")]
    assert kinds(checker.check_sums(reads, 800)) == ["sum"]


@given(st.lists(st.tuples(st.sampled_from("ab"), outcomes), max_size=30), st.data())
def test_a_right_list_has_no_violation(appends: list[tuple[str, Outcome]], data: st.DataObject) -> None:
    whole: list[int] = []
    operations = []
    for number, (client, outcome) in enumerate(appends):
        if outcome is OK or (outcome is OPEN and data.draw(st.booleans())):
            whole.append(number)
        seen = list(whole) if outcome is OK else None
        operations.append(op(number, outcome, float(number), client=client, seen=seen))
    assert checker.check_lists(operations, {"k": whole}) == []


@pytest.mark.parametrize(
    ("final", "kind"),
    [
        ([1, 2], []),
        ([2, 1], ["reordered"]),
        ([1, 2, 2], ["duplicated"]),
        ([1], ["lost"]),
        ([1, 2, 3], ["phantom"]),
    ],
)
def test_planted_faults_of_a_list(final: list[int], kind: list[str]) -> None:
    writes = [op(1, at=1.0), op(2, at=2.0)]
    assert kinds(checker.check_lists(writes, {"k": final})) == kind


def test_a_read_of_a_history_that_did_not_happen_is_found() -> None:
    # Two readers that saw different orders: the cycle of two appends.
    writes = [op(1, at=1.0, client="a"), op(2, at=1.0, client="b")]
    reads = [op(kind="read", seen=[1]), op(kind="read", seen=[2])]
    assert kinds(checker.check_lists([*writes, *reads], {"k": [1, 2]})) == ["reordered"]


def test_staleness_is_the_age_of_the_oldest_missed_write() -> None:
    writes = [op(("a", n), at=float(n)) for n in (1, 2, 3)]
    reads = [
        op(kind="read", at=10.0, seen={"a": 3}),
        op(kind="read", at=10.0, seen={"a": 1}),
        op(kind="read", at=10.0, seen={}),
    ]
    ages = [age for _read, age in checker.staleness(writes, reads)]
    assert ages == pytest.approx([0.0, 7.99, 8.99])


def test_a_write_acknowledged_after_the_read_began_may_be_missed() -> None:
    [(_read, age)] = checker.staleness([op(("a", 1), at=5.0)], [op(kind="read", at=5.005, seen={})])
    assert age == 0.0


def looks(node: str, times: list[float], *, writable: bool = True, timeline: int = 1) -> list[Probe]:
    return [Probe(node, at, at + 0.01, writable, timeline) for at in times]


def test_two_writers_at_one_time_are_found() -> None:
    probes = [*looks("a", [1.0, 1.1, 1.2, 1.3]), *looks("b", [1.15], timeline=2)]
    assert kinds(checker.check_writers(probes)) == ["two writers"]


@pytest.mark.parametrize(
    "probes",
    [
        [*looks("a", [1.0, 1.1]), *looks("b", [1.2, 1.3], timeline=2)],
        [*looks("a", [1.0]), *looks("a", [1.1], writable=False), *looks("b", [1.15]), *looks("a", [1.2])],
        # It followed the other and came back between two looks.
        [*looks("a", [1.0]), *looks("b", [2.0], timeline=2), *looks("a", [3.0], timeline=3)],
    ],
)
def test_one_writer_after_the_other_is_right(probes: list[Probe]) -> None:
    assert checker.check_writers(probes) == []


def test_outages_are_gaps_between_acknowledgements_of_a_route() -> None:
    operations = [op(at=t) for t in (0.0, 0.5, 5.0)] + [op(outcome=NO, at=2.0), op(at=2.0, route="other")]
    [outage] = checker.outages(operations)
    assert (outage.route, outage.seconds) == ("pool", pytest.approx(4.5))
    assert checker.longest_gap([o for o in operations if o.route == "pool"], 1.0, 2.0) == pytest.approx(4.5)


def test_no_acknowledgement_at_all_is_an_outage_of_the_whole_window() -> None:
    assert checker.longest_gap([], 1.0, 3.0) == 2.0


def acknowledged(server: str, at: float) -> Operation:
    return op(at=at, seen=server)


def test_two_servers_that_acknowledge_in_turns_are_found() -> None:
    found = checker.check_acknowledgers([acknowledged("a", 1.0), acknowledged("b", 1.2), acknowledged("a", 1.4)])
    assert kinds(found) == ["two acknowledgers"]


@pytest.mark.parametrize("times", [(1.0, 1.2, 9.0), (1.0, 1.005, 1.4)])
def test_a_change_and_back_or_writes_at_one_time_prove_nothing(times: tuple[float, float, float]) -> None:
    writes = [acknowledged(server, at) for server, at in zip("aba", times, strict=True)]
    assert checker.check_acknowledgers(writes) == []


def test_reads_that_missed_old_writes_are_found() -> None:
    found = checker.check_staleness([(op(kind="read"), 2.0), (op(kind="read"), 31.0)], 30.0)
    assert kinds(found) == ["stale"]


@pytest.mark.parametrize(
    ("operations", "served"),
    [
        ([op(at=5.0), op(at=6.0, route="balancers")], True),
        ([op(at=5.0), op(at=3.0, route="balancers")], False),
        ([op(at=5.0), op(outcome=OPEN, at=6.0, route="balancers")], False),
        ([op(at=5.0), op(at=6.0, route="balancers", kind="read")], False),
        ([], False),
    ],
)
def test_served_are_ways_whose_writes_began_later_and_were_acknowledged(
    operations: list[Operation], served: bool
) -> None:
    assert checker.served(operations, ("pool", "balancers"), 4.0) is served


def test_another_server_has_taken_over_when_it_was_first_seen_to_take_writes() -> None:
    probes = [*looks("a", [1.0, 6.0]), *looks("b", [4.0], writable=False), *looks("b", [7.0, 8.0])]
    assert checker.taken_over(probes, "a", 3.0) == pytest.approx(7.01)
    assert checker.taken_over(probes, "b", 3.0) == pytest.approx(6.01)
    assert checker.taken_over(probes, "a, b", 3.0) is None


def test_a_shard_that_is_away_is_seen_though_others_are_there() -> None:
    operations = [op(at=t / 10, route="valkey", shard=0) for t in range(50)]
    operations += [op(at=t, route="valkey", shard=1) for t in (0.0, 1.0, 4.5)]
    operations.sort(key=lambda o: o.end)
    assert checker.longest_gap(operations, 0.0, 5.0) == pytest.approx(3.5)
    assert checker.served(operations, ("valkey 0", "valkey 1"), 0.5) is True
    assert checker.served([o for o in operations if o.end < 4], ("valkey 0", "valkey 1"), 1.0) is False


def test_a_writer_that_met_a_read_only_server_is_a_broken_promise() -> None:
    met = op(1, NO, state="25006", problem="ReadOnlySqlTransaction: cannot execute INSERT in a read-only transaction")
    assert kinds(checker.check_read_only([op(2), op(3, NO, state="40001"), met])) == ["read-only"]
    assert checker.check_read_only([op(1, NO, kind="read", state="25006")]) == []


def test_every_error_is_counted_by_its_sqlstate() -> None:
    seen = [op(1), op(2, NO, state="40001"), op(3, OPEN, problem="OSError"), op(4, OPEN, problem="x", state="57P01")]
    assert checker.states(seen) == {"40001": 1, "none": 1, "57P01": 1}
