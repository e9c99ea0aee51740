# SPDX-License-Identifier: Apache-2.0
"""Write docs/benchmarks/faults.md out of what `make bench-failover`, `make faults` and `make faults-long` found.

    python -m faults.page

Trials are kept in tests/faults/results, so that runs of several days and machines add up; the chapter about schedules by chance
stays as it is where none were run since. Pure but for reading the results and writing them and the page.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from faults import report
from faults.lab import ROOT

BENCH = ROOT / ".cache/faults/bench/trials.jsonl"
FIXED = ROOT / ".cache/faults/fixed/trials.jsonl"
LONG = ROOT / ".cache/faults/long/results.jsonl"
KEPT = ROOT / "tests/faults/results/trials.jsonl"
PAGE = ROOT / "docs/benchmarks/faults.md"
# What the page needs of a trial. Errors are counted by SQLSTATE since 2026-11-30.
FIELDS = (
    "date",
    "revision",
    "load",
    "cores",
    "versions",
    "fault",
    "start",
    "healed",
    "healthy",
    "gaps",
    "failed",
    "states",
)

# autobase with its defaults on hosts of the same kind (Debian 13, three converged hosts, two cores, a writer through HAProxy
# every 10 ms), each run in seconds.
AUTOBASE = {
    "postmaster killed": (15.1, 15.2, 15.3),
    "primary's host killed": (26.1, 35.6, 47.6),
    "primary cut off": (36.4, 36.6, 46.6),
    "planned switchover": (4.7, 5.0, 6.4),
}
HEAD = """# Faults, measured

Longest time in which clients of the lab had no write acknowledged, in seconds. `make bench-failover` takes the figures again and adds them
to those it has; `make faults` takes one of every fault. Absolute figures are the machine's; where hosts, clients and probes share two cores
they are upper bounds.
"""
WAYS = """PostgreSQL is the slower of two ways: the pools at the virtual address, and HAProxy by a connection string with all balancers.
Valkey is the shard that was away longest, written without `WAIT`; a write with `WAIT 1` to a shard with one replica waits on until a
replica is back. Errors are those of all clients of the pools together.
25006 is what a writer is told by a server that takes no writes.
"""
BESIDE = """## Beside autobase

Its defaults on hosts of the same kind (Debian 13, three converged hosts, a writer through HAProxy every 10 ms); seconds.

| | autobase, each run | median | holdfast, median | ratio |
|---|---|---|---|---|
"""
LOSSES = """
autobase's switchovers came with errors. Patroni's own asynchronous defaults lost 1,507 acknowledged rows where the primary was cut from the
others and clients still reached it; with quorum commit none is lost.
"""
CHANCE = """## By chance

`make faults-long`: a schedule of two or three faults for each seed, mostly overlapping, under all clients; then everything has to come
back by itself and every acknowledged write is checked ([Break it on purpose](../faults.md)).
"""


def beside(found: Sequence[Mapping[str, Any]]) -> str:
    """Return autobase's figures beside the medians of ours, for what was measured of both."""
    lines = []
    for fault, theirs in AUTOBASE.items():
        gaps = [
            max(one["gaps"].get(route, 0.0) for route in report.WRITES["PostgreSQL"])
            for one in found
            if one["fault"] == fault
        ]
        runs, peer = ", ".join(map(str, theirs)), statistics.median(theirs)
        ours = f"{statistics.median(gaps):.1f} | {peer / statistics.median(gaps):.1f}" if gaps else "not measured | "
        lines.append(f"| {fault} | {runs} | {peer} | {ours} |")
    return BESIDE + "\n".join(lines) + "\n" + LOSSES


def together(kept: Sequence[Mapping[str, Any]], fresh: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what is kept of trials, and what is fresh and not among them, by fault; runs of one in their order."""
    found = {
        (one["fault"], one["date"], one["revision"], one["start"]): {
            field: one[field] for field in FIELDS if field in one
        }
        for one in (*kept, *fresh)
    }
    return sorted(found.values(), key=lambda one: one["fault"])


def page(figures: Sequence[Mapping[str, Any]], chance: str) -> str:
    """Return the whole page; parts without results are left out. chance: the chapter about schedules."""
    parts = [HEAD]
    if figures:
        parts += [report.figures(figures), WAYS]
    parts.append(beside(figures))
    if chance:
        parts.append(chance)
    return "\n".join(parts)


def chance(schedules: Sequence[Mapping[str, Any]], old: str) -> str:
    """Return the chapter about schedules by chance: of these, or that of the old page where there are none."""
    if schedules:
        return f"{CHANCE}\n{report.summary(schedules)}"
    begin = old.find(CHANCE.splitlines()[0])
    return old[begin:] if begin >= 0 else ""


def main() -> None:
    """Keep the trials and write the page."""
    trials = together(report.records(KEPT), [*report.records(BENCH), *report.records(FIXED)])
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text("".join(json.dumps(one) + "\n" for one in trials), encoding="utf-8")
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    PAGE.write_text(page(trials, chance(report.records(LONG), old)), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    main()
