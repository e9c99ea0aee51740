# SPDX-License-Identifier: Apache-2.0
"""pgbench at work on a host of the lab, through the pools at the virtual address, every transaction in its log."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from types import TracebackType

from lab_access import TLS, Lab, psql
from testinfra.host import Host

FOLDER = "/tmp/pgbench"
CLIENTS = 8
RATE = 100
PROGRAM = "$(ls -d /usr/lib/postgresql/*/bin | tail -1)/pgbench"


@dataclass(frozen=True)
class Report:
    """What came of it. transactions: acknowledged; recorded: those that the database knows; longest: seconds of one, from when it
    was due, so that a queue behind a stall counts."""

    transactions: int
    failed: int
    recorded: int
    longest: float
    errors: str


class Pgbench:
    """Runs until it is left. mode: simple or prepared. host: where it runs; leader: a host whose server is asked as superuser."""

    def __init__(self, lab: Lab, host: Host, mode: str) -> None:
        self._lab, self._host, self._mode = lab, host, mode
        self.report: Report | None = None

    def _command(self, words: str) -> list[str]:
        environment = self._lab.environment
        variables = (
            f"export PGUSER={environment['PGUSER']} PGPASSWORD='{environment['PGPASSWORD']}' PGHOST={self._lab.vip} PGPORT=6432"
            f" PGSSLMODE=verify-full PGSSLROOTCERT={TLS}/ca.crt PGSSLCERT={TLS}/pgbouncer.pem PGSSLKEY={TLS}/pgbouncer.pem"
        )
        return ["docker", "exec", self._host.backend.name, "bash", "-ec", f"{variables}; {words}"]

    def __enter__(self) -> Pgbench:
        made = subprocess.run(
            self._command(f"rm -rf {FOLDER}; mkdir {FOLDER}; cd {FOLDER}; {PROGRAM} -i -q -s 4 orderdb"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        words = f"{PROGRAM} -n -c {CLIENTS} -j 2 -R {RATE} -T 7200 -M {self._mode} -l --failures-detailed orderdb"
        self._process = subprocess.Popen(
            self._command(f"cd {FOLDER}; echo $$ > pid; exec {words} > out 2> err"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(3)
        return self

    def longest(self, since: float) -> float:
        """Return the longest transaction that ended after that, in seconds."""
        text = self._host.check_output(
            "cat %s/pgbench_log.* | awk -v s=%s '$5 + $6 / 1000000 > s && $3 != \"failed\" && $3 + 0 > m {m = $3 + 0} END {print m + 0}'",
            FOLDER,
            str(since),
        )
        return float(text) / 1_000_000

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        alive = self._process.poll() is None
        self._host.run("kill -INT $(cat %s/pid)", FOLDER)
        self._process.wait(30)
        lines = self._host.check_output("cat %s/pgbench_log.*", FOLDER).splitlines()
        good = [line.split() for line in lines if " failed " not in line]
        errors = self._host.check_output("cat %s/err", FOLDER)
        recorded = sum(
            int(psql(host, "SELECT count(*) FROM pgbench_history", "orderdb"))
            for host in self._lab.hosts.values()
            if psql(host, "SELECT pg_is_in_recovery()") == "f"
        )
        self.report = Report(
            transactions=len(good),
            failed=len(lines) - len(good) + (0 if alive else CLIENTS),
            recorded=recorded,
            longest=max((int(words[2]) for words in good), default=0) / 1_000_000,
            errors="\n".join(line for line in errors.splitlines() if "error" in line or "abort" in line),
        )
