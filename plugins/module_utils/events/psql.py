# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Sessions with PostgreSQL through psql, which every host has, and rows that flow between COPY and files without passing here.

A session is one psql that lives as long as its block, so that transactions, snapshots and temporary tables do. COPY goes through
\\copy and a pipe of ours: psql then takes nothing in the data for a command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import IO, Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.sql import literal
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

_BLOCK = 1 << 18
_LONGEST_ERROR = 1500
_NOISE = ("LOCATION:", "NOTICE:", "WARNING:", "HINT:")
_STATE = re.compile(r"(?:ERROR|FATAL):\s+([0-9A-Z]{5}):\s*")
_SETTINGS = (
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=1 -c bytea_output=hex -c client_encoding=UTF8 "
    "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=0 -c row_security=off"
)


class SqlError(Refusal):
    """PostgreSQL or psql refused. state: SQLSTATE, empty where the server did not say one."""

    def __init__(self, text: str, state: str = "") -> None:
        super().__init__(text)
        self.state = state


@dataclass(frozen=True)
class Reach:
    """How a server is reached: folder of PostgreSQL's programs; host, port, user and database; environment of libpq (PGPASSWORD,
    PGSSLMODE, ...); role to act as, empty for the user itself."""

    bin_dir: str
    host: str
    port: int
    user: str
    database: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    role: str = ""

    def at(self, database: str) -> Reach:
        """Return the way to another database of the same server."""
        return replace(self, database=database)


class Session:
    """One psql. A context manager: it ends with its block, and with this process wherever that is killed."""

    def __init__(self, reach: Reach, name: str = "holdfast-events") -> None:
        self._reach = reach
        self._name = name
        self._turn = 0

    def __enter__(self) -> Session:
        reach = self._reach
        database = reach.database.replace("\\", "\\\\").replace("'", "\\'")
        role = f" -c role={reach.role}" if reach.role else ""
        # Errors go to a file: a pipe that nobody reads would fill.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        program = os.path.join(reach.bin_dir, "psql")
        command = [program, "-XAtq", "-F", "\x1f", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "--no-password"]
        command += [
            f"--host={reach.host}",
            f"--port={reach.port}",
            f"--username={reach.user}",
            f"--dbname=dbname='{database}'",
        ]
        try:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                bufsize=1,
                cwd="/",
                env={
                    **os.environ,
                    "LC_ALL": "C.UTF-8",
                    "PGAPPNAME": self._name,
                    "PGOPTIONS": _SETTINGS + role,
                    "PGCONNECT_TIMEOUT": "10",
                    **reach.environment,
                },
            )
        except OSError as error:
            raise Refusal(f"{program} can't be started: {error.strerror}") from error
        try:
            self.ask("SELECT 1")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; what was not committed is gone."""
        with contextlib.suppress(OSError, ValueError):
            self._stdin.close()
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        self._errors.close()

    @property
    def _stdin(self) -> IO[str]:
        return _pipe(self._process.stdin)

    @property
    def _stdout(self) -> IO[str]:
        return _pipe(self._process.stdout)

    def ask(self, sql: str) -> str:
        """Run SQL and return what it prints: rows by lines, columns by the unit separator (\\x1f). Raises SqlError."""
        return self._told(f"{sql.strip().rstrip(';')};")

    def rows(self, sql: str) -> list[list[str]]:
        """Return the rows of a query, as texts. No value may hold a line break."""
        told = self.ask(sql)
        return [line.split("\x1f") for line in told.split("\n")] if told else []

    def data(self, sql: str) -> Any:
        """Return the JSON that a query answers."""
        return json.loads(self.ask(sql))

    def count(self, sql: str) -> int:
        """Return the whole number that a query answers."""
        return int(self.ask(sql) or 0)

    def _told(self, text: str) -> str:
        self._turn += 1
        mark = f"\x1e{self._turn}\x1e"
        try:
            self._stdin.write(f"{text}\n\\echo {literal(mark)}\n")
            self._stdin.flush()
        except OSError:
            raise self._failure() from None
        lines: list[str] = []
        for line in self._stdout:
            if line.rstrip("\n") == mark:
                return "".join(lines).rstrip("\n")
            lines.append(line)
        raise self._failure()

    def _failure(self) -> SqlError:
        self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if not line.startswith(_NOISE)]
        said = (
            " ".join(lines)[-_LONGEST_ERROR:] or f"psql ended with status {self._process.returncode} and said nothing"
        )
        match = _STATE.search(said)
        where = f"{self._reach.host}:{self._reach.port}/{self._reach.database}"
        return SqlError(f"{where}: {_STATE.sub(r'ERROR: ', said)}", match[1] if match else "")

    def copy_out(self, query: str, descriptor: int) -> int:
        """Write the rows of a query to a descriptor of this process, as COPY text; return how many. Raises SqlError."""
        return self._copied(f"\\copy ({_flat(query)}) TO '/proc/{os.getpid()}/fd/{descriptor}'")

    def copy_lines(self, query: str, descriptor: int) -> int:
        """Write the one column of a query to a descriptor, a row a line and as it is; no value may hold a control character."""
        options = "WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"
        return self._copied(f"\\copy ({_flat(query)}) TO '/proc/{os.getpid()}/fd/{descriptor}' {options}")

    def copy_in(self, table: str, columns: str, descriptor: int, options: str = "") -> int:
        """Fill a table with COPY text from a descriptor of this process; return the number of rows. Raises SqlError."""
        return self._copied(f"\\copy {table} ({columns}) FROM '/proc/{os.getpid()}/fd/{descriptor}' {options}")

    def _copied(self, command: str) -> int:
        return int(self._told(f"{command}\n\\echo :ROW_COUNT"))


def _flat(query: str) -> str:
    """Return a query on one line, as \\copy wants it. Line breaks in literals would be lost, so none may be there."""
    lines = [line.strip() for line in query.strip().splitlines()]
    if query.count("'") % 2 or any(line.count("'") % 2 for line in lines):
        raise Refusal("a name or value holds a line break, which no tenant, type or table of an event store has")
    return " ".join(lines)


@dataclass(frozen=True)
class Written:
    """A file that was written: size and SHA-256."""

    bytes: int
    sha256: str


def compress(path: str, produce: Callable[[int], int], level: int, rate: float = 0.0) -> tuple[Written, int]:
    """Write a file as one zstd frame with checksum; return what it is, and what produce returned. Raises Refusal.

    Parameters: produce, writes the content to the descriptor that it is given and returns the number of rows; level of zstd; rate,
    bytes a second that may be written, 0 for any.
    """
    reading, writing = os.pipe()
    with open(path, "wb") as file, _zstd([f"-{level}", "--check", "--quiet", "--stdout"], reading) as process:
        os.close(reading)
        written: list[Written] = []
        drain = threading.Thread(target=lambda: written.append(_drain(process, file, rate)))
        drain.start()
        try:
            rows = produce(writing)
        finally:
            os.close(writing)
            drain.join()
        if process.wait() != 0 or not written:
            raise Refusal(f"zstd ended with status {process.returncode} while {path} was written")
        file.flush()
        os.fsync(file.fileno())
    return written[0], rows


def _pipe(stream: IO[Any] | None) -> IO[Any]:
    """Return a pipe of a process that was started with it."""
    if stream is None:
        raise AssertionError("the process was started without this pipe")
    return stream


def _drain(process: subprocess.Popen[bytes], file: IO[bytes], rate: float) -> Written:
    """Write what a process prints to a file, no faster than rate."""
    source = _pipe(process.stdout)
    digest, size, begun = hashlib.sha256(), 0, time.monotonic()
    while block := os.read(source.fileno(), _BLOCK):
        digest.update(block)
        file.write(block)
        size += len(block)
        if rate:
            time.sleep(max(0.0, size / rate - (time.monotonic() - begun)))
    return Written(size, digest.hexdigest())


@contextlib.contextmanager
def decompressed(path: str) -> Iterator[int]:
    """Give a descriptor from which the content of a zstd file is read. Raises Refusal where it was not read whole."""
    with _zstd(["-dc", "--quiet", "--", path], subprocess.DEVNULL) as process:
        try:
            yield _pipe(process.stdout).fileno()
        except BaseException:
            process.kill()
            raise
        _pipe(process.stdout).close()
        if process.wait() != 0:
            raise Refusal(
                f"{path}: zstd can't decompress it whole (status {process.returncode}). Take another copy of the archive"
            )


def _zstd(options: Sequence[str], stdin: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "--", "zstd", *options], stdin=stdin, stdout=subprocess.PIPE, cwd="/"
        )
    except OSError as error:
        raise Refusal(f"zstd can't be started: {error.strerror}") from error
