# SPDX-License-Identifier: Apache-2.0
"""What isolation of the pools costs: pgbench through PgBouncer, for each mode and release.

    tests/bench/pools.py [--suites trixie,forky,bookworm] [--rounds 4] [--seconds 4]

Starts PostgreSQL, HAProxy and PgBouncers on loopback. All modes of a release take turns in short slices, in an order by chance, so that
other load of the machine meets all alike. Beside transactions a second and the 99th percentile of their latency the CPU time of each
transaction is told, that of PgBouncer and of all processes together: where the processors are the limit, throughput is its inverse,
whatever else runs. Prints tables as Markdown.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass

sys.path[:0] = [str(pathlib.Path(__file__).parents[1]), str(pathlib.Path(__file__).parents[1] / "module")]

from drivers.tier import Bouncer, Tier
from machine import here

MODES = ("fast", "checked", "clean")
# What is measured beside the modes: other ways to the same end.
OTHERS = {
    "SELECT 1 after each": {"server_reset_query_always": "1", "server_reset_query": "SELECT 1"},
    "RESET ALL after each": {"server_reset_query_always": "1", "server_reset_query": "RESET ALL"},
}
LOADS = {"select": ["-S"], "simple update": ["-N"]}
CLIENTS = (8, 64)
TICK = os.sysconf("SC_CLK_TCK")
# A machine under load may not get all clients connected within a slice.
TRIES = 5


@dataclass(frozen=True)
class Figures:
    """Of one slice: transactions a second, 99th percentile in ms, microseconds of CPU each, PgBouncer's and of all processes."""

    rate: float
    late: float
    pool: float
    all: float


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(word) for word in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def servers_cpu(tier: Tier) -> float:
    """Return the CPU time of HAProxy and of PostgreSQL's backends."""
    postmaster = int((tier.primary.folder / "postmaster.pid").read_text().split()[0])
    return sum(cpu_seconds(process) for process in (tier.haproxy.pid, *children(postmaster)))


def pgbench(tier: Tier, bouncer: Bouncer, words: list[str], folder: str) -> tuple[float, list[int]]:
    """Run pgbench; return transactions a second and their latencies in microseconds, sorted."""
    for _try in range(TRIES):
        done = subprocess.run(
            [tier.primary.programs.folder / "pgbench", "-n", *words, "--log", f"--log-prefix={folder}/log"],
            env=tier.environment(bouncer.port), capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = re.search(r"tps = ([\d.]+) \(without", done.stdout)
        # client, transaction, latency, ...
        late = sorted(int(line.split()[2]) for path in pathlib.Path(folder).iterdir() for line in path.open())
        if done.returncode == 0 and found and late:
            return float(found[1]), late
    sys.exit(f"pgbench: {done.stdout}{done.stderr}")


def slice_of(tier: Tier, bouncer: Bouncer, words: list[str]) -> Figures:
    """Measure one slice."""
    # Backends that begin within the slice would be missed.
    with tempfile.TemporaryDirectory() as folder:
        pgbench(tier, bouncer, [*words[:-1], "1"], folder)
    with tempfile.TemporaryDirectory() as folder:
        begun = cpu_seconds(bouncer.process.pid), servers_cpu(tier), resource.getrusage(resource.RUSAGE_CHILDREN)
        rate, late = pgbench(tier, bouncer, words, folder)
        ended = cpu_seconds(bouncer.process.pid), servers_cpu(tier), resource.getrusage(resource.RUSAGE_CHILDREN)
    pool, servers = (after - before for before, after in zip(begun[:2], ended[:2], strict=True))
    clients = sum(getattr(ended[2], kind) - getattr(begun[2], kind) for kind in ("ru_utime", "ru_stime"))
    each = 1_000_000 / len(late)
    return Figures(rate, late[len(late) * 99 // 100] / 1000, pool * each, (pool + servers + clients) * each)


def measure(tier: Tier, suite: str, rounds: int, seconds: int) -> list[str]:
    """Return the rows of the table of one release."""
    bouncers = {mode: tier.bouncer(suite, {"pgbouncer_isolation": mode}) for mode in MODES}
    bouncers |= {name: tier.bouncer(suite, {"pgbouncer_isolation": "fast"}, lines) for name, lines in OTHERS.items()}
    # PgBouncer of bookworm follows no prepared statements.
    protocol = "simple" if suite == "bookworm" else "prepared"
    rows = []
    for load, kind in LOADS.items():
        for clients in CLIENTS:
            words = ["-M", protocol, *kind, "-c", str(clients), "-j", "2", "-T", str(seconds)]
            slices: dict[str, list[Figures]] = {name: [] for name in bouncers}
            for _round in range(rounds):
                for name in random.sample(list(bouncers), len(bouncers)):
                    slices[name].append(slice_of(tier, bouncers[name], words))
            middle = {
                name: Figures(
                    *(statistics.median(getattr(one, key) for one in found) for key in ("rate", "late", "pool", "all"))
                )
                for name, found in slices.items()
            }
            for name, found in middle.items():
                ratio = middle["fast"].all / found.all
                rows.append(
                    f"| {suite} | {load} | {clients} | {name} | {found.rate:,.0f} | {found.late:.1f} | {found.pool:.0f} | {found.all:.0f} "
                    f"| {ratio:.2f} |"
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suites", default="trixie,forky,bookworm")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    rows: list[str] = []
    for suite in options.suites.split(","):
        with Tier() as tier:
            subprocess.run(
                [tier.primary.programs.folder / "pgbench", "--initialize", "--scale=20", "--quiet"],
                env=tier.environment(tier.primary.port), check=True, capture_output=True,
            )  # fmt: skip
            rows += measure(tier, suite, options.rounds, options.seconds)
    print(here(f"PgBouncer of {options.suites}"), end="\n\n")
    print(
        "| release | load | clients | mode | transactions/s | p99, ms | CPU each, PgBouncer, us | all, us | throughput to fast, by CPU |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
