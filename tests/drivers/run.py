# SPDX-License-Identifier: Apache-2.0
"""Runs a driver's program on a pool and tells what came of it."""

from __future__ import annotations

import json
import pathlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from drivers.tier import DATABASE, OTHER, OWNER, Tier

PROGRAMS = pathlib.Path(__file__).with_name("programs")
WORKERS = 8
ROWS = 5000
LIMIT = 900
SCHEMA = f"""
SET ROLE {OWNER};
DROP TABLE IF EXISTS drivers_rows, drivers_copied, drivers_altered;
CREATE TABLE drivers_rows AS SELECT id FROM generate_series(1, {ROWS}) AS id;
CREATE TABLE drivers_copied (id int);
CREATE TABLE drivers_altered AS SELECT 1 AS id, 'first' AS note;
"""
WORKER_SCHEMA = """
SET ROLE {owner};
DROP TABLE IF EXISTS drivers_{worker}, drivers_written_{worker};
CREATE TABLE drivers_{worker} AS SELECT id, {worker} AS worker FROM generate_series(0, 99) AS id;
CREATE TABLE drivers_written_{worker} (worker int);
"""


@dataclass(frozen=True)
class Result:
    """What came of one check: how often the answer was right, was another's, or was an error, and the first error."""

    check: str
    right: int
    wrong: int
    errors: int
    error: str


@dataclass
class Run:
    """What a program told: the driver with its version, and its checks."""

    version: str = ""
    checks: dict[str, Result] = field(default_factory=dict)


def schema(tier: Tier) -> None:
    """Make the tables anew."""
    for statement in (SCHEMA, *(WORKER_SCHEMA.format(owner=OWNER, worker=worker) for worker in range(WORKERS))):
        for part in filter(str.strip, statement.split(";")):
            tier.execute(f"SET ROLE {OWNER}; {part}" if "SET ROLE" not in part else part)


@contextmanager
def others(tier: Tier, port: int, clients: int = 4) -> Iterator[None]:
    """Other clients of the pool at work meanwhile, so that it changes servers."""
    script = tier.folder / "others.sql"
    script.write_text("SELECT id FROM drivers_rows LIMIT 1;\n")
    script.chmod(0o644)
    process = subprocess.Popen(
        [tier.primary.programs.folder / "pgbench", "-n", "-f", script, "-c", str(clients), "--rate", "300", "-T", str(LIMIT)],
        env=tier.environment(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def run(
    tier: Tier, command: Sequence[str | pathlib.Path], port: int, *, database: str = DATABASE, count: int = 60,
    variables: Mapping[str, str] | None = None, altered: Any = None,
) -> Run:  # fmt: skip
    """Run a program on a port and database beside other clients; return what it told.

    altered is called when its table has been altered, and before the program continues.
    """
    schema(tier)
    environment = {**tier.environment(port, database), **(variables or {})}
    found = Run()
    with others(tier, port), subprocess.Popen(
        [*command, str(WORKERS), str(count)], env=environment, cwd=PROGRAMS,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        listener.start()
        timer = threading.Timer(LIMIT, process.kill)
        timer.start()
        for line in process.stdout:
            if not line.startswith("{"):
                found.version = line.strip()
                continue
            told = Result(**json.loads(line))
            found.checks[told.check] = told
            if told.check == "before":
                tier.execute("ALTER TABLE drivers_altered ADD COLUMN more int DEFAULT 1")
                if altered:
                    altered()
                process.stdin.write("altered\n")
                process.stdin.flush()
        code = process.wait()
        timer.cancel()
        listener.join()
    assert code == 0, f"{command}: {''.join(said)[-2000:]}"
    if "write" in found.checks:
        found.checks["write"] = written(tier, found.checks["write"])
    return found


def written(tier: Tier, told: Result) -> Result:
    """Return the check of writes with those counted as wrong that went into another worker's table."""
    foreign = sum(
        tier.execute(f"SELECT count(*) FROM drivers_written_{worker} WHERE worker <> {worker}")[0][0]
        for worker in range(WORKERS)
    )
    return Result(told.check, told.right - foreign, foreign, told.errors, told.error)


__all__ = ["OTHER", "Result", "Run", "run"]
