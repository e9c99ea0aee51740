# SPDX-License-Identifier: Apache-2.0
"""Whether transactions that read one list and append to another could have happened one after the other. Pure.

The order of a list's versions is the order of its values, so who wrote, read and overwrote which version is known, as in
Elle's list-append histories. A transaction depends on the one whose version it read or followed; one whose version was
overwritten comes before the one that did it; one that was acknowledged comes before all that began later. A cycle of these
is a history that no order explains: not strictly serializable.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from faults.checker import Violation, check_set, repeated
from faults.history import Operation, Outcome

Graph = dict[int, set[int]]


def check_transactions(
    operations: Iterable[Operation], final: Mapping[str, Sequence[Any]], workload: str = "transactions"
) -> list[Violation]:
    """Check transactions; value of each: (key, value) that it appended, seen: {key: list} that it read before.

    Values are unique. A transaction without an answer counts where its value is in the final lists.
    """
    every = list(operations)
    found = {value for items in final.values() for value in items}
    violations = check_set((_of_value(o) for o in every), found, workload)
    for key, items in sorted(final.items()):
        violations += repeated(f"{workload} {key}", items)
    happened = [o for o in every if o.outcome is not Outcome.FAILED and o.value[1] in found]
    violations += [
        Violation("reordered", workload, f"{o.client} saw a list of {key} that is not the beginning of the final one")
        for o in happened
        for key, seen in (o.seen or {}).items()
        if list(seen) != list(final.get(key, ()))[: len(seen)]
    ]
    # Where a list itself is wrong its order explains nothing.
    return violations or _cycles(happened, final, workload)


def _of_value(operation: Operation) -> Operation:
    words = (operation.client, operation.workload, operation.route, operation.kind, operation.key, operation.value[1])
    return Operation(*words, operation.start, operation.end, operation.outcome)


def _cycles(happened: Sequence[Operation], final: Mapping[str, Sequence[Any]], workload: str) -> list[Violation]:
    graph = _dependencies(happened, final)
    _add_real_time(graph, happened)
    violations = []
    for knot in knots(graph):
        some = sorted(node for node in knot if node < len(happened))
        words = ", ".join(f"{happened[node].client} {happened[node].value}" for node in some[:5])
        violations.append(Violation("cycle", workload, f"{len(some)} transactions have no order: {words}"))
    return violations


def _dependencies(happened: Sequence[Operation], final: Mapping[str, Sequence[Any]]) -> Graph:
    """Return who has to come before whom by what was written, read and overwritten."""
    graph: Graph = defaultdict(set)
    writer = {operation.value: number for number, operation in enumerate(happened)}

    def edge(before: int | None, after: int | None) -> None:
        if before is not None and after is not None and before != after:
            graph[before].add(after)

    for key, items in final.items():
        for earlier, later in pairwise(items):
            edge(writer.get((key, earlier)), writer.get((key, later)))
    for number, operation in enumerate(happened):
        for key, seen in (operation.seen or {}).items():
            items = final.get(key, ())
            if seen:
                edge(writer.get((key, seen[-1])), number)
            if len(seen) < len(items):
                edge(number, writer.get((key, items[len(seen)])))
    return graph


def _add_real_time(graph: Graph, happened: Sequence[Operation]) -> None:
    """Add that who was acknowledged comes before who began later: by a chain of moments, one for each acknowledgement."""
    ended = sorted((o.end, number) for number, o in enumerate(happened) if o.acknowledged)
    times = [end for end, _number in ended]
    moments = range(len(happened), len(happened) + len(ended))
    for moment, (_end, number) in zip(moments, ended, strict=True):
        graph[number].add(moment)
        if moment + 1 in moments:
            graph[moment].add(moment + 1)
    for number, operation in enumerate(happened):
        before = bisect.bisect_left(times, operation.start)
        if before:
            graph[moments[before - 1]].add(number)


def knots(graph: Mapping[int, Iterable[int]]) -> list[list[int]]:
    """Return the strongly connected components of more than one node (Tarjan's way, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found = []
    for root in list(graph):
        if root in index:
            continue
        work = [(root, iter(graph.get(root, ())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            for other in following:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(graph.get(other, ()))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    knot = [stack.pop()]
                    while knot[-1] != node:
                        knot.append(stack.pop())
                    on_stack.difference_update(knot)
                    if len(knot) > 1:
                        found.append(knot)
    return found
