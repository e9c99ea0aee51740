# SPDX-License-Identifier: Apache-2.0
"""How long a cluster takes to form, ours against valkey-cli, on the same machine in one run.

    tests/bench/valkey_formation.py [--nodes 6 30 60 120 200] [--version 8.1] [--runs 3]

For each size: fresh empty servers on loopback, one replica for each primary. `ends` is when the tool ends; `agree` is when
every node reports cluster_state:ok and all know all nodes in the same roles, looked at from outside; `links` is when every
replica's link is up too. The module's second run has to find nothing to do. Prints a table of medians and ratios (of `agree`),
as Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "module"), str(ROOT / ".link")]

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Fleet,
    Options,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import parse_info, parse_nodes
from machine import described
from run_module import run_module
from valkey_servers import ValkeyServers, binaries

HOSTS = 6
POLL = 0.05
LIMIT = 300.0


def ours(servers: ValkeyServers) -> None:
    """Form by the module, in a process of its own."""
    run_module("valkey_cluster", wish(servers), timeout=LIMIT)


def wish(servers: ValkeyServers) -> dict[str, object]:
    """Arguments of the module."""
    return {"nodes": servers.nodes(HOSTS), "wait_timeout": LIMIT}


def theirs(servers: ValkeyServers) -> None:
    """Form by valkey-cli."""
    addresses = [f"127.0.0.1:{port}" for port in servers.ports]
    words = ["--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
    subprocess.run([str(servers.programs / "valkey-cli"), *words], check=True, capture_output=True, timeout=LIMIT)


def agreed(fleet: Fleet, endpoints: list[Endpoint]) -> bool:
    """Whether all nodes know all nodes, none is still met, and the state is ok everywhere."""
    infos = [parse_info(reply) for reply in fleet.all(endpoints, "CLUSTER", "INFO").values()]
    if not all(i["cluster_state"] == "ok" and int(i["cluster_known_nodes"]) == len(endpoints) for i in infos):
        return False
    views = [parse_nodes(reply) for reply in fleet.all(endpoints, "CLUSTER", "NODES").values()]
    return len({view.signature for view in views}) == 1 and all(len(v.members) == len(endpoints) for v in views)


def linked(fleet: Fleet, endpoints: list[Endpoint]) -> bool:
    """Whether half of the nodes are replicas whose link is up."""
    infos = [parse_info(reply) for reply in fleet.all(endpoints, "INFO", "replication").values()]
    return sum(info.get("master_link_status") == "up" for info in infos) == len(endpoints) // 2


def measure(version: str, number: int, form: Callable[[ValkeyServers], None]) -> dict[str, float]:
    """Form once. Returns seconds until the tool ended, until all agreed and until all links were up."""
    with ValkeyServers(version, number) as servers, Fleet(Options(timeout=60)) as fleet:
        endpoints = [Endpoint("127.0.0.1", port) for port in servers.ports]
        errors = fleet.connect(endpoints)
        if errors:
            raise next(iter(errors.values()))
        start = time.monotonic()
        seconds: dict[str, float] = {}
        failures: list[BaseException] = []

        def work() -> None:
            try:
                form(servers)
            except BaseException as error:
                failures.append(error)
            seconds["tool"] = time.monotonic() - start

        thread = threading.Thread(target=work)
        thread.start()
        for name, question in (("agree", agreed), ("links", linked)):
            while not question(fleet, endpoints):
                if failures or time.monotonic() - start > LIMIT:
                    raise RuntimeError(f"{number} nodes did not form") from (failures[0] if failures else None)
                time.sleep(POLL)
            seconds[name] = time.monotonic() - start
        thread.join()
        if failures:
            raise failures[0]
        if form is ours:
            assert not run_module("valkey_cluster", wish(servers), timeout=LIMIT)["changed"]
        return seconds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[6, 30, 60, 120, 200])
    parser.add_argument("--version", choices=["8.1", "9.1"], default="8.1")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(f"{described(binaries(options.version) / 'valkey-server')}. Seconds, medians of {options.runs}.\n")
    print("| nodes | valkey-cli ends | agree | links | module ends | agree | links | times faster |")
    print("|---|---|---|---|---|---|---|---|")
    for number in options.nodes:
        medians = {}
        for name, form in (("cli", theirs), ("ours", ours)):
            runs = [measure(options.version, number, form) for _run in range(options.runs)]
            medians[name] = {key: statistics.median(run[key] for run in runs) for key in ("tool", "agree", "links")}
        cells = [f"{medians[name][key]:.1f}" for name in ("cli", "ours") for key in ("tool", "agree", "links")]
        ratio = medians["cli"]["agree"] / medians["ours"]["agree"]
        print(f"| {number} | {' | '.join(cells)} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
