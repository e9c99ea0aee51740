# SPDX-License-Identifier: Apache-2.0
"""How fast PostgreSQL is backed up, and how soon a restored one serves at a point in time: pgBackRest as the lab has it, and pg_basebackup.

    tests/bench/backup_postgresql.py [--scale 20] [--runs 1]

Works on the running lab (HOLDFAST_LAB) and removes what it made. pgBackRest copies to the backup host over TLS, compresses and
encrypts; pg_basebackup copies on the primary's own disk and does neither. Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LAB = os.environ.get("HOLDFAST_LAB", "holdfast")
DATABASE = "bench_backup"
FOLDER = "/var/lib/postgresql/bench-backup"
PORT = 5441
LIMIT = 1800
RESTORE = """
import json, sys, time
sys.path.insert(0, "/usr/local/lib/holdfast/programs/holdfast-backup")
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context, instance
given = json.loads(sys.argv[1])
begin = time.monotonic()
with instance.restored(context.load(), given, parent="/var/lib/holdfast/backup/bench", port=5442) as server:
    print(time.monotonic() - begin, server.query("SELECT count(*) FROM marks", "bench_backup"))
"""


def on(host: str, *command: str, given: str | None = None) -> str:
    """Run a command on a host of the lab and return what it wrote."""
    done = subprocess.run(
        ["docker", "exec", "-i", f"{LAB}-{host}", *command],
        input=given,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{host}: {' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def primary() -> str:
    """Return the host that leads."""
    members = json.loads(on("node1", "patronictl", "-c", "/etc/patroni/config.yml", "list", "--format", "json"))
    return next(member["Member"] for member in members if member["Role"] == "Leader")


def sql(host: str, statement: str, database: str = DATABASE, port: int = 5432) -> str:
    """Run SQL on a host through its socket."""
    words = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-p", str(port), "-d", database]
    return on(host, *words, given=statement)


def point(leader: str) -> str:
    """Write one row that belongs to the target and one that does not; return the time between them, once both are archived."""
    sql(leader, "INSERT INTO marks VALUES (now())")
    target = sql(leader, "SELECT clock_timestamp() FROM pg_sleep(0.1)")
    sql(leader, "SELECT pg_sleep(0.1); INSERT INTO marks VALUES (now())")
    segment = sql(leader, "SELECT pg_walfile_name(pg_switch_wal())")
    deadline = time.monotonic() + LIMIT
    while sql(leader, f"SELECT coalesce(last_archived_wal, '') >= '{segment}' FROM pg_stat_archiver") != "t":
        if time.monotonic() > deadline:
            sys.exit(f"{segment} was not archived")
        # Only this view tells that a segment is archived; each look starts a process on the host.
        time.sleep(0.2)
    return target


def pgbackrest(leader: str, processes: int) -> tuple[float, float, float]:
    """Return MB of the database, seconds of a full backup, seconds until a restored one serves at a point in time."""
    command = ["runuser", "-u", "postgres", "--", "pgbackrest", "--stanza=lab"]
    begin = time.monotonic()
    on(
        "backup1",
        *command,
        "--repo=1",
        "--type=full",
        f"--process-max={processes}",
        "--log-level-console=error",
        "backup",
    )
    seconds = time.monotonic() - begin
    info = json.loads(on("backup1", *command, "--output=json", "--log-level-console=error", "info"))
    size = info[0]["backup"][-1]["info"]["size"] / 1e6
    expected = int(sql(leader, "SELECT count(*) FROM marks")) + 1
    target = point(leader)
    wish = ["--repo=1", f"--process-max={processes}", "--type=time", f"--target={target}", "--target-action=promote"]
    ready, rows = on("backup1", "python3", "-", json.dumps(wish), given=RESTORE).split()
    assert int(rows) == expected, f"{rows} rows, not {expected}"
    return size, seconds, float(ready)


def basebackup(leader: str) -> tuple[float, float, float]:
    """The same by pg_basebackup, and by hand: copy, start, recover from the archive."""
    on(leader, "rm", "-rf", f"{FOLDER}-base", f"{FOLDER}-data")
    tool = on(leader, "sh", "-c", "ls -d /usr/lib/postgresql/*/bin")
    user = ["runuser", "-u", "postgres", "--"]
    begin = time.monotonic()
    on(
        leader,
        *user,
        f"{tool}/pg_basebackup",
        "--checkpoint=fast",
        "--wal-method=none",
        "-U",
        "postgres",
        "-D",
        f"{FOLDER}-base",
    )
    seconds = time.monotonic() - begin
    size = int(on(leader, "du", "--bytes", "--summarize", f"{FOLDER}-base").split()[0]) / 1e6
    expected = int(sql(leader, "SELECT count(*) FROM marks")) + 1
    target = point(leader)
    begin = time.monotonic()
    on(leader, *user, "cp", "--archive", f"{FOLDER}-base", f"{FOLDER}-data")
    on(leader, *user, "touch", f"{FOLDER}-data/recovery.signal")
    settings = {
        "port": str(PORT),
        "listen_addresses": "",
        "archive_mode": "off",
        "restore_command": f'pgbackrest --stanza=lab --pg1-path={FOLDER}-data archive-get %f "%p"',
        "recovery_target_time": target,
        "recovery_target_action": "promote",
        "hba_file": f"{FOLDER}-data/pg_hba.conf",
        "ident_file": f"{FOLDER}-data/pg_ident.conf",
    }
    lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
    on(leader, *user, "tee", "--append", f"{FOLDER}-data/postgresql.conf", given=lines)
    on(leader, *user, f"{tool}/pg_ctl", "-D", f"{FOLDER}-data", "-l", f"{FOLDER}-log", "-W", "start")
    try:
        deadline = time.monotonic() + 300
        while True:
            asked = [
                "docker",
                "exec",
                f"{LAB}-{leader}",
                "psql",
                "-XAtq",
                "-U",
                "postgres",
                "-p",
                str(PORT),
                "-d",
                DATABASE,
            ]
            told = subprocess.run(
                [*asked, "-c", "SELECT pg_is_in_recovery()"], capture_output=True, text=True, check=False
            )
            if told.stdout.strip() == "f":
                break
            status = ["docker", "exec", f"{LAB}-{leader}", *user, f"{tool}/pg_ctl", "-D", f"{FOLDER}-data", "status"]
            ended = subprocess.run(status, capture_output=True, check=False).returncode != 0
            if ended or time.monotonic() > deadline:
                sys.exit(on(leader, "tail", "-n", "20", f"{FOLDER}-log"))
            time.sleep(0.1)
        ready = time.monotonic() - begin
        rows = int(sql(leader, "SELECT count(*) FROM marks", port=PORT))
        assert rows == expected, f"{rows} rows, not {expected}"
    finally:
        on(leader, *user, f"{tool}/pg_ctl", "-D", f"{FOLDER}-data", "-m", "immediate", "stop")
        on(leader, "rm", "-rf", f"{FOLDER}-base", f"{FOLDER}-data", f"{FOLDER}-log")
    return size, seconds, ready


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=20)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    leader = primary()
    sql(leader, f"DROP DATABASE IF EXISTS {DATABASE}", "postgres")
    sql(leader, f"CREATE DATABASE {DATABASE}", "postgres")
    try:
        tool = on(leader, "sh", "-c", "ls -d /usr/lib/postgresql/*/bin")
        on(leader, f"{tool}/pgbench", "-q", "-i", "-s", str(options.scale), "-U", "postgres", DATABASE)
        sql(leader, "CREATE TABLE marks (at timestamptz); CHECKPOINT")
        ways = {
            "pg_basebackup, copy, recover": lambda: basebackup(leader),
            "pgBackRest, process-max 1": lambda: pgbackrest(leader, 1),
            "pgBackRest, process-max 2": lambda: pgbackrest(leader, 2),
        }
        version = sql(leader, "SHOW server_version")
        print(
            f"PostgreSQL {version}, {on('backup1', 'pgbackrest', 'version')}, scale {options.scale}, medians of {options.runs}\n"
        )
        print(
            "| way | MB | full backup s | MB/s | ratio | serves at a point in time after s | ratio |\n|---|---|---|---|---|---|---|"
        )
        base: tuple[float, float] | None = None
        for name, way in ways.items():
            runs = [way() for _run in range(options.runs)]
            size, seconds, ready = (statistics.median(column) for column in zip(*runs, strict=True))
            base = base or (size / seconds, ready)
            cells = [f"{size:.0f}", f"{seconds:.1f}", f"{size / seconds:.0f}", f"{size / seconds / base[0]:.2f}"]
            print(f"| {name} | {' | '.join(cells)} | {ready:.1f} | {base[1] / ready:.2f} |", flush=True)
    finally:
        sql(leader, f"DROP DATABASE IF EXISTS {DATABASE}", "postgres")


if __name__ == "__main__":
    main()
