# SPDX-License-Identifier: Apache-2.0
"""How fast slots move, ours against valkey-cli, on the same machine in one run, with a client beside.

    tests/bench/valkey_rebalance.py [--version 8.1] [--strings 500000] [--hashes 1000] [--from 3 --to 4] [--runs 1]

Each way gets fresh servers with the same data: strings of 100 bytes and hashes of 1,000 fields. Seconds and keys/s are of the whole
command, from its start to its end; `moving` is the keys/s between the first and the last slot, as the module tells it. Prints a
table as Markdown with ratios of keys/s: to valkey-cli's default, and to the best that valkey-cli did in the same manner (key by
key, or atomic).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "module"), str(ROOT / ".link")]

from machine import described
from run_module import run_module
from valkey_load import Load, fill, missing
from valkey_servers import ValkeyServers, binaries

LIMIT = 600.0
# Returns the keys per second that it tells itself, if it does.
Way = Callable[[ValkeyServers, int], float | None]


def wish(servers: ValkeyServers, primaries: int, **more: object) -> dict[str, object]:
    """Arguments of valkey_cluster for the first so many servers as primaries, the others leave."""
    nodes = [
        {**node, "host": f"host{index}", "zone": "", "state": "present" if index < primaries else "absent"}
        for index, node in enumerate(servers.nodes())
    ]
    return {"nodes": nodes, "replicas": 0, **more}


def ours(**more: object) -> Way:
    """Move by the module."""

    def move(servers: ValkeyServers, after: int) -> float:
        result = run_module("valkey_cluster", wish(servers, after, **more), timeout=LIMIT)
        assert result["remaining"] == 0
        rate: float = result["keys_per_second"]
        return rate

    return move


def theirs(*words: str) -> Way:
    """Move by valkey-cli: new nodes get slots, nodes of weight 0 lose theirs."""

    def move(servers: ValkeyServers, after: int) -> None:
        seed = f"127.0.0.1:{servers.ports[0]}"
        weights = [f"{servers.cli(port, 'CLUSTER', 'MYID')}={int(n < after)}" for n, port in enumerate(servers.ports)]
        command = ["--cluster", "rebalance", seed, "--cluster-use-empty-masters", "--cluster-weight", *weights, *words]
        subprocess.run([str(servers.programs / "valkey-cli"), *command], check=True, capture_output=True, timeout=LIMIT)

    return move


def keys_of(servers: ValkeyServers) -> dict[int, int]:
    """Numbers of keys by port."""
    return {port: int(text) for port, text in servers.all("DBSIZE").items()}


def measure(options: argparse.Namespace, way: Way) -> dict[str, float]:
    """Move once on fresh servers. Returns seconds, keys per second and what the client saw."""
    before, after = options.before, options.after
    number = max(before, after)
    with ValkeyServers(
        options.version, number, settings={"maxmemory": "0", "cluster-allow-replica-migration": "no"}
    ) as servers:
        run_module("valkey_cluster", {**wish(servers, before), "nodes": wish(servers, before)["nodes"][:before]})
        if after > before:
            for port in servers.ports[before:]:
                servers.cli(servers.ports[0], "CLUSTER", "MEET", "127.0.0.1", str(port))
            while any(len(text.splitlines()) < number for text in servers.all("CLUSTER", "NODES").values()):
                time.sleep(0.05)
        fill(servers.ports[0], options.strings, options.hashes)
        old = keys_of(servers)
        with Load(servers.ports[0], options.strings) as load:
            time.sleep(1)
            begin = time.monotonic()
            told = way(servers, after)
            seconds = time.monotonic() - begin
        new = keys_of(servers)
        # The client writes keys of its own meanwhile: what left a server is what moved.
        moved = sum(max(0, old[port] - new[port]) for port in servers.ports)
        lost = missing(servers.ports[0], options.strings, options.hashes)
        assert not lost, lost[:5]
        assert not load.seen["wrong"], load.seen["wrong"][:5]
        errors = len(load.seen["errors"])
        if errors:
            print(f"client errors: {load.seen['errors'][:5]}", file=sys.stderr)
        return {
            "seconds": seconds,
            "rate": moved / seconds,
            "moving": told or moved / seconds,
            "errors": errors,
            **{key: load.seen[key] for key in ("p50", "p99", "longest")},
        }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", choices=["8.1", "9.1"], default="8.1")
    parser.add_argument("--strings", type=int, default=500_000)
    parser.add_argument("--hashes", type=int, default=1_000)
    parser.add_argument("--from", dest="before", type=int, default=3)
    parser.add_argument("--to", dest="after", type=int, default=4)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of ways, by default all")
    options = parser.parse_args()
    ways: dict[str, Way] = {
        "valkey-cli, pipeline 10 (default)": theirs(),
        "valkey-cli, pipeline 100": theirs("--cluster-pipeline", "100"),
        "valkey-cli, pipeline 1000": theirs("--cluster-pipeline", "1000"),
        "ours, keys": ours(migration="keys"),
        "ours, keys, max_p99 10": ours(migration="keys", max_p99=10),
    }
    if options.version == "9.1":
        ways["valkey-cli, atomic"] = theirs("--cluster-use-atomic-slot-migration")
        ways["ours, atomic"] = ours(migration="atomic")
    print(f"{described(binaries(options.version) / 'valkey-server')}.")
    print(
        f"{options.before} -> {options.after} primaries, {options.strings} strings, {options.hashes} hashes, medians of {options.runs}.\n"
    )
    print("| way | seconds | keys/s | moving | to default | to best | client p50 ms | p99 | longest | errors |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    base = 0.0
    best: dict[bool, float] = {}
    for name, way in ways.items():
        if options.only and name not in options.only:
            continue
        runs = [measure(options, way) for _run in range(options.runs)]
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        base = base or median["rate"]
        if name.startswith("valkey-cli"):
            best["atomic" in name] = max(best.get("atomic" in name, 0.0), median["rate"])
        ratios = [median["rate"] / base, median["rate"] / best.get("atomic" in name, median["rate"])]
        cells = [f"{median['seconds']:.1f}", f"{median['rate']:.0f}", f"{median['moving']:.0f}"]
        cells += [*(f"{ratio:.2f}" for ratio in ratios)]
        cells += [f"{median['p50']:.2f}", f"{median['p99']:.1f}", f"{median['longest']:.0f}", f"{median['errors']:.0f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
