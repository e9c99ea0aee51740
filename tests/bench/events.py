# SPDX-License-Identifier: Apache-2.0
"""How fast event stores go out and come in: ours, pg_dump and pg_restore, and Marten's own copy.

    tests/bench/events.py [--events 2000000] [--runs 3] [--size 300]

Works on a server of its own on loopback. Every way is timed in turn in one run, as a process from its start to its end; with
HOLDFAST_WITNESS also Marten's streaming import (`marten copy`). Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for folder in (".link", "tests/module", "tests/bench"):
    sys.path.insert(0, str(ROOT / folder))

from event_stores import DATA, Server, without_rows
from machine import here
from ports import free_ports
from postgresql.conftest import USER, Database, find_programs

OURS = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.holdfast.persistence.plugins.module_utils.events import export, load, ranges, target
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach
verb, folder, name, database, port, programs = sys.argv[2:8]
options = dict(word.split("=", 1) for word in sys.argv[8:])
reach = Reach(programs, "127.0.0.1", int(port), "postgres", database)
if verb == "export":
    chosen = ranges.selection(**options)
    export.export(reach, export.Place(folder), export.Order(name, "events", chosen))
else:
    archive, path = export.load(folder, export.require(folder, name))
    mode, rebuild = options.get("mode", "preserve"), options.get("rebuild") == "yes"
    load.load(reach, archive, path, target.Wish("events", mode=mode, rebuild_keys=rebuild))
# The largest process of all: this one, psql, zstd.
print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024)
"""
EVENTS = """
INSERT INTO events.mt_streams (id, type, version, timestamp, created)
SELECT md5('s' || n)::uuid, 'order', 20, now(), now() FROM generate_series(0, {events} / 20 - 1) n;
INSERT INTO events.mt_events (seq_id, id, stream_id, version, data, type, timestamp, mt_dotnet_type)
SELECT n + 1, md5('e' || n)::uuid, md5('s' || n / 20)::uuid, n % 20 + 1,
  jsonb_build_object('Customer', 'customer-' || n % 977, 'Amount', n % 10000 / 100.0, 'At', '2026-01-02T03:04:05.9793851+02:00',
    'Lines', (SELECT jsonb_agg(md5((n + k)::text)) FROM generate_series(1, {lines}) k)),
  (ARRAY['order_placed', 'item_added', 'order_paid'])[n % 3 + 1], '2026-01-01'::timestamptz + n * interval '1 s',
  'Witness.OrderPlaced, witness'
FROM generate_series(0, {events} - 1) n;
SELECT setval('events.mt_events_sequence', {events});
"""


@contextmanager
def serving() -> Iterator[Server]:
    """Give a server with room in memory and the settings of a default installation otherwise."""
    programs = find_programs(Path("/usr/lib/postgresql"))
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir="/var/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
    database = Database("bench", folder / "data", *free_ports(1), programs)
    programs.run(
        "initdb", "-D", database.folder, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--data-checksums"
    )
    with (database.folder / "postgresql.conf").open("a") as stream:
        stream.write(
            f"port = {database.port}\nunix_socket_directories = '{database.folder}'\nlisten_addresses = '127.0.0.1'\n"
            "shared_buffers = 2GB\nmax_wal_size = 8GB\n"
        )
    database.start()
    try:
        yield Server(database)
    finally:
        database.stop()
        shutil.rmtree(folder)


class Bench:
    """One store, and the ways out of it and in again."""

    def __init__(self, server: Server, folder: Path, events: int) -> None:
        self.server, self.folder, self.events = server, folder, events
        self.programs = server.database.programs
        self.turn = 0
        self.memory: dict[str, int] = {}

    def call(self, *command: str, given: Path | None = None) -> str:
        """Run a program to its end."""
        with given.open("rb") if given else open(os.devnull, "rb") as stdin:
            done = subprocess.run(
                command, stdin=stdin, capture_output=True, env={**os.environ, **self.programs.environment}, check=False
            )
        if done.returncode:
            sys.exit(f"{' '.join(command)[:300]} failed: {done.stderr.decode()[-2000:]}")
        return done.stdout.decode()

    def postgresql(self, program: str, *words: str) -> list[str]:
        """Return the command of one of PostgreSQL's programs."""
        return [
            str(self.programs.folder / program),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.server.port),
            "-U",
            "postgres",
            *words,
        ]

    def ours(self, name: str, verb: str, archive: str, database: str, *options: str) -> None:
        """Run our export or import in a process of its own."""
        command = [sys.executable, "-c", OURS, str(ROOT / ".link"), verb, str(self.folder), archive, database]
        told = self.call(*command, str(self.server.port), str(self.programs.folder), *options)
        self.memory[name] = max(self.memory.get(name, 0), int(told))

    def export(self) -> None:
        """Export the whole store with two workers."""
        self.turn += 1
        shutil.rmtree(self.folder / "events", ignore_errors=True)
        self.ours("export", "export", "all", "store")

    def export_range(self) -> None:
        """Export a tenth of the store, by time."""
        for path in (self.folder / "events").glob("*-tenth"):
            shutil.rmtree(path)
        begin, end = self.server.query(
            "store", f"SELECT to_char(min(timestamp) + {self.events} * interval '0.4 s', 'YYYY-MM-DD\"T\"HH24:MI:SS\"+00:00\"'), "
            f"to_char(min(timestamp) + {self.events} * interval '0.5 s', 'YYYY-MM-DD\"T\"HH24:MI:SS\"+00:00\"') FROM events.mt_events"
        )[0]  # fmt: skip
        self.ours("range", "export", "tenth", "store", f"since={begin}", f"until={end}")

    def dump(self) -> None:
        """Dump the store with zstd:3; before PostgreSQL 16 through the program."""
        path = self.folder / "store.dump"
        version = int(self.server.query("store", "SHOW server_version_num")[0][0]) // 10000
        words = self.postgresql("pg_dump", "-Fc", "-d", "store")
        if version >= 16:
            self.call(*words, "--compress=zstd:3", f"--file={path}")
            return
        with (
            path.open("wb") as file,
            subprocess.Popen([*words, "-Z0"], stdout=subprocess.PIPE, env=self.programs.environment) as process,
        ):
            subprocess.run(["zstd", "-3", "-q", "-c"], stdin=process.stdout, stdout=file, check=True)

    def empty(self, schema: bool = True) -> None:
        """Make the target anew."""
        self.server.make("target")
        if schema:
            self.server.run("target", without_rows((DATA / "marten-9.58.0/guid.sql").read_text()))

    def restore(self) -> None:
        """Restore the dump with two jobs, from a file that pg_restore can read."""
        self.call(*self.postgresql("pg_restore", "-j2", "-d", "target", str(self.folder / "plain.dump")))

    def load(self) -> None:
        """Import into an empty store whose keys stay."""
        self.ours("import", "import", "all", "target")

    def load_rebuilding(self) -> None:
        """Import into an empty store and build its keys anew."""
        self.ours("import, keys built again", "import", "all", "target", "rebuild=yes")

    def append(self) -> None:
        """Append to a store that has as many events already."""
        self.ours("append", "import", "all", "target", "mode=append")

    def others(self) -> None:
        """Give the target other events."""
        self.empty()
        text = EVENTS.format(events=self.events // 4, lines=6).replace("'s'", "'t'").replace("'e'", "'f'")
        self.server.run("target", text)

    def copy(self) -> None:
        """Have Marten copy the store."""
        text = f"Host=127.0.0.1;Port={self.server.port};Username=postgres;Password=unused;Database="
        self.call(
            os.environ["HOLDFAST_WITNESS"], "marten", "copy", "--connection", f"{text}store", "--to", f"{text}target"
        )


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that something takes."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def main() -> None:
    """Run the ways in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lines", type=int, default=6, help="hashes of 32 letters in each event")
    options = parser.parse_args()
    with serving() as server, tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir="/var/tmp") as folder:
        bench = Bench(server, Path(folder), options.events)
        server.make("store")
        server.run("store", without_rows((DATA / "marten-9.58.0/guid.sql").read_text()))
        server.run("store", EVENTS.format(events=options.events, lines=options.lines))
        server.run("store", "VACUUM ANALYZE; CHECKPOINT")
        ways: list[tuple[str, str, Callable[[], None], Callable[[], None]]] = [
            ("pg_dump, zstd 3", "", lambda: None, bench.dump),
            ("export", "pg_dump, zstd 3", lambda: None, bench.export),
            ("export of a tenth by time", "pg_dump, zstd 3", lambda: None, bench.export_range),
            ("pg_restore -j2", "", lambda: bench.empty(schema=False), bench.restore),
            ("import", "pg_restore -j2", bench.empty, bench.load),
            ("import, keys built again", "pg_restore -j2", bench.empty, bench.load_rebuilding),
            ("append to a living store", "", bench.others, bench.append),
        ]
        if os.environ.get("HOLDFAST_WITNESS"):
            ways.append(
                (
                    "Marten's own copy, out and in",
                    "export and import, keys built again",
                    lambda: bench.empty(schema=False),
                    bench.copy,
                )
            )
        bench.call(*bench.postgresql("pg_dump", "-Fc", "-Z1", "-d", "store", f"--file={bench.folder / 'plain.dump'}"))
        seconds: dict[str, list[float]] = {name: [] for name, *_rest in ways}
        for _run in range(options.runs):
            for name, _other, before, work in ways:
                before()
                server.run("postgres", "CHECKPOINT")
                seconds[name].append(timed(work))
        shown(bench, ways, seconds, options)


def shown(bench: Bench, ways: list, seconds: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Print the table."""
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    version = bench.server.query("store", "SHOW server_version")[0][0].split()[0]
    size = bench.server.query("store", "SELECT pg_size_pretty(pg_total_relation_size('events.mt_events'))")[0][0]
    print(
        f"{here(f'PostgreSQL {version}')}; {options.events:,} events, {size} with indexes, medians of {options.runs}.\n"
    )
    print("| way | seconds | from, to | events/s | times as fast as | |")
    print("|---|---|---|---|---|---|")
    both = medians["export"] + medians["import, keys built again"]
    for name, other, _before, _work in ways:
        events = options.events // 10 if "tenth" in name else options.events
        ratio = both / medians[name] if "Marten" in name else medians[other] / medians[name] if other else 0
        told = f"| {ratio:.2f} | {other} |" if ratio else "| | |"
        spread = f"{min(seconds[name]):.1f}, {max(seconds[name]):.1f}"
        print(f"| {name} | {medians[name]:.1f} | {spread} | {events / medians[name]:,.0f} {told}")
    print(f"\nLargest process of an export or import: {max(bench.memory.values())} MiB.")


if __name__ == "__main__":
    main()
