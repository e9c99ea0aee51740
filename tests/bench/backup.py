# SPDX-License-Identifier: Apache-2.0
"""How fast a Valkey cluster is backed up and restored, and how much writers notice, ours against what people do by hand.

    tests/bench/backup.py [--version 9.1] [--strings 500000] [--hashes 1000] [--runs 3] [--only NAME...]

A client writes one key of each shard in turn. `skew` is the time that its writes are apart in the files: 0 where the files are one
moment of them. `stall` is its longest wait. Each way works on the same servers; restores get fresh ones. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "module"), str(ROOT / ".link")]

from ports import free_ports
from run_module import run_module
from valkey_load import cluster_client, fill, missing, slot_of
from valkey_servers import ValkeyServers

LIMIT = 600.0
SETTINGS = {"maxmemory": "0", "cluster-allow-replica-migration": "no"}
Way = Callable[[ValkeyServers, Path], dict[int, Path]]


class Steps:
    """A client that writes one key of each shard in turn. times: when each step began; longest: its longest wait."""

    def __init__(self, port: int) -> None:
        self._client = cluster_client(port, {})
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.times: list[float] = []
        self.longest = 0.0
        tags: dict[int, str] = {}
        for number in range(1000):
            tags.setdefault(slot_of(str(number)) * 3 // 16384, f"step:{{{number}}}")
        self.keys = [tags[shard] for shard in sorted(tags)]

    def __enter__(self) -> Steps:
        self._thread.start()
        time.sleep(0.5)
        self.longest = 0.0
        return self

    def __exit__(self, *_details: object) -> None:
        self._end.set()
        self._thread.join()
        self._client.close()

    def _work(self) -> None:
        while not self._end.is_set():
            self.times.append(time.monotonic())
            for key in self.keys:
                begin = time.monotonic()
                self._client.set(key, len(self.times) - 1)
                self.longest = max(self.longest, time.monotonic() - begin)


def ours(**more: object) -> Way:
    """Back up by the module."""

    def take(servers: ValkeyServers, folder: Path) -> dict[int, Path]:
        nodes = [f"127.0.0.1:{port}" for port in servers.ports]
        wish = {"nodes": nodes, "cluster": "bench", "backup_dir": str(folder), **more}
        made = run_module("valkey_backup", wish, timeout=LIMIT)
        manifest = json.loads((Path(made["folder"]) / "manifest.json").read_text())
        ports = {shard["primary"].rpartition(":")[2]: shard["file"] for shard in manifest["position"]["shards"]}
        return {int(port): Path(made["folder"]) / file for port, file in ports.items()}

    return take


def by_hand(servers: ValkeyServers, folder: Path) -> dict[int, Path]:
    """The source document's script made correct: BGSAVE, wait until LASTSAVE is another one, copy; node after node."""
    found = {}
    for port in servers.ports:
        while "rdb_bgsave_in_progress:1" in servers.cli(port, "INFO", "persistence"):
            time.sleep(0.05)
        before = servers.cli(port, "LASTSAVE")
        # LASTSAVE counts whole seconds.
        while int(before) >= int(time.time()):
            time.sleep(0.05)
        servers.cli(port, "BGSAVE")
        while servers.cli(port, "LASTSAVE") == before:
            time.sleep(0.05)
        found[port] = folder / f"dump_{port}.rdb"
        shutil.copyfile(servers.folder / str(port) / "dump.rdb", found[port])
    return found


def by_cli(servers: ValkeyServers, folder: Path) -> dict[int, Path]:
    """valkey-cli --cluster backup."""
    servers.cli(0, "--cluster", "backup", f"127.0.0.1:{servers.ports[0]}", str(folder))
    files = sorted(folder.glob("*.rdb"))
    return {port: next(file for file in files if f"-{port}-" in file.name) for port in servers.ports}


@contextlib.contextmanager
def loaded(servers: ValkeyServers, file: Path) -> Iterator[int]:
    """A server that has loaded a file, or the folder of an append-only file; gives its port."""
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as name:
        command = [str(servers.programs / "valkey-server"), "--port", str(port), "--save", "", "--dir", name]
        if file.parent.name == "appendonlydir":
            shutil.copytree(file.parent, Path(name) / "appendonlydir")
            command += ["--appendonly", "yes"]
        else:
            shutil.copyfile(file, Path(name) / "dump.rdb")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while "\nloading:0" not in servers.cli(port, "INFO", "persistence", check=False):
                time.sleep(0.1)
            yield port
        finally:
            process.kill()
            process.wait()


def step_in(servers: ValkeyServers, file: Path, keys: list[str]) -> int:
    """Return the step that a file has."""
    with loaded(servers, file) as port:
        found = [servers.cli(port, "GET", key) for key in keys]
    return int(next(value for value in found if value))


def measure(servers: ValkeyServers, way: Way) -> dict[str, float]:
    """Back up once."""
    with tempfile.TemporaryDirectory() as name, Steps(servers.ports[0]) as steps:
        begin = time.monotonic()
        files = way(servers, Path(name))
        seconds = time.monotonic() - begin
        stall = steps.longest
        size = sum(file.stat().st_size for file in Path(name).rglob("*") if file.is_file())
        found = [step_in(servers, files[port], steps.keys) for port in servers.ports]
        # The client writes shard after shard: of one moment the first may be one step ahead of the last.
        ordered = found == sorted(found, reverse=True) and found[0] - found[-1] <= 1
        skew = 0.0 if ordered else steps.times[max(found)] - steps.times[min(found)]
    return {"seconds": seconds, "rate": size / seconds / 1e6, "skew": skew, "stall": stall * 1000, "ordered": ordered}


def backups(options: argparse.Namespace) -> None:
    """Measure all ways of backing up and print their table; then restores."""
    ways: dict[str, Way] = {
        "BGSAVE, wait, copy, node by node": by_hand,
        "valkey-cli --cluster backup": by_cli,
        "ours, rdb": ours(),
        "ours, aof": ours(kind="aof"),
    }
    with ValkeyServers(options.version, 3, settings=SETTINGS) as servers:
        form(servers)
        fill(servers.ports[0], options.strings, options.hashes)
        print(
            f"Valkey {options.version}, 3 primaries, {options.strings + options.hashes} keys, medians of {options.runs}\n"
        )
        print("| way | seconds | MB/s | ratio | skew of shards s | writer's longest wait ms | one moment |")
        print("|---|---|---|---|---|---|---|")
        base = 0.0
        for name, way in ways.items():
            if options.only and name not in options.only:
                continue
            runs = [measure(servers, way) for _run in range(options.runs)]
            median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            base = base or median["seconds"]
            whole = sum(int(run["ordered"]) for run in runs)
            cells = [f"{median['seconds']:.2f}", f"{median['rate']:.0f}", f"{base / median['seconds']:.1f}"]
            cells += [f"{median['skew']:.2f}", f"{median['stall']:.0f}", f"{whole} of {options.runs}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        with tempfile.TemporaryDirectory() as name:
            ours()(servers, Path(name))
            for port in servers.ports:
                servers.kill(port)
            restores(options, Path(name))


def form(servers: ValkeyServers) -> None:
    """Make servers a cluster of primaries."""
    run_module("valkey_cluster", {"nodes": servers.nodes(servers.number), "replicas": 0}, timeout=LIMIT)


def restores(options: argparse.Namespace, folder: Path) -> None:
    """Restore a backup of three shards into other shapes and print the table."""
    print("\n| restore into | seconds | keys/s | compared |\n|---|---|---|---|")
    for number in options.shapes:
        runs = []
        for _run in range(options.restore_runs):
            with ValkeyServers(options.version, number, settings=SETTINGS) as servers:
                form(servers)
                nodes = [f"127.0.0.1:{port}" for port in servers.ports]
                wish = {"nodes": nodes, "cluster": "bench", "backup_dir": str(folder), "compare": options.compare}
                wish["server_program"] = str(servers.programs / "valkey-server")
                done = run_module("valkey_restore", wish, timeout=LIMIT)
                assert missing(servers.ports[0], options.strings, options.hashes) == []
                runs.append(done)
        seconds = statistics.median(run["seconds"] for run in runs)
        rate = statistics.median(run["keys_per_second"] for run in runs)
        print(f"| {number} shards | {seconds:.1f} | {rate:.0f} | {runs[0]['compared']} |", flush=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", choices=["8.1", "9.1"], default="9.1")
    parser.add_argument("--strings", type=int, default=500_000)
    parser.add_argument("--hashes", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--restore-runs", type=int, default=1)
    parser.add_argument("--shapes", type=int, nargs="*", default=[3, 4, 5])
    parser.add_argument("--compare", type=int, default=1000)
    parser.add_argument("--only", nargs="*", help="names of ways, by default all")
    backups(parser.parse_args())


if __name__ == "__main__":
    main()
