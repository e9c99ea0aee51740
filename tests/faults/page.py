"""Write docs/benchmarks/faults.md out of what `make bench-failover`, `make faults` and `make faults-long` found.

    python -m faults.page

Pure but for reading the results and writing the page.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faults import report
from faults.lab import ROOT

BENCH = ROOT / ".cache/faults/bench/trials.jsonl"
FIXED = ROOT / ".cache/faults/fixed/trials.jsonl"
LONG = ROOT / ".cache/faults/long/results.jsonl"
PAGE = ROOT / "docs/benchmarks/faults.md"

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


def together(bench: Sequence[Mapping[str, Any]], fixed: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what the bench measured, and of the fixed set what the bench has not."""
    measured = {one["fault"] for one in bench}
    return [*bench, *(one for one in fixed if one["fault"] not in measured)]


def page(figures: Sequence[Mapping[str, Any]], schedules: Sequence[Mapping[str, Any]]) -> str:
    """Return the whole page; parts without results are left out."""
    parts = [HEAD]
    if figures:
        parts += [report.figures(figures), WAYS]
    parts.append(beside(figures))
    if schedules:
        parts += [CHANCE, report.summary(schedules)]
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    text = page(together(report.records(BENCH), report.records(FIXED)), report.records(LONG))
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE} is written")


if __name__ == "__main__":
    main()
