# SPDX-License-Identifier: Apache-2.0
"""A client that opens a new connection for every write, as applications do after a restart, and remembers what was acknowledged."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psycopg
from lab_access import Lab

TABLE = "newcomers"
READ_WRITE_PORT = 5000


class Newcomers:
    """Writes at the virtual address until it is left, through HAProxy or another port there."""

    def __init__(self, lab: Lab, port: int = READ_WRITE_PORT) -> None:
        self._lab, self._port = lab, port
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)
        # When each write was acknowledged, by its number.
        self.acknowledged: dict[int, float] = {}
        self.errors: list[str] = []

    def __enter__(self) -> Newcomers:
        with self._lab.sql(self._lab.vip, self._port, "orderdb") as connection:
            connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
            connection.execute(f"CREATE TABLE {TABLE} (number int PRIMARY KEY)")
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        number = 0
        while not self._end.is_set():
            number += 1
            try:
                with self._lab.sql(
                    self._lab.vip, self._port, "orderdb", connect_timeout=2, tcp_user_timeout=3000
                ) as connection:
                    connection.execute(f"INSERT INTO {TABLE} VALUES (%s)", (number,))
                self.acknowledged[number] = time.time()
            except psycopg.Error as error:
                self.errors.append(f"{type(error).__name__}: {error}".splitlines()[0])
            self._end.wait(0.05)

    def gap(self, since: float) -> float:
        """Return the longest time without an acknowledged write that ended after since, up to now, in seconds."""
        times = sorted(at for at in self.acknowledged.values())
        times = [max((at for at in times if at < since), default=since), *(at for at in times if at >= since)]
        return max(b - a for a, b in zip(times, [*times[1:], time.time()], strict=True))

    def outage(self, since: float, seconds: float) -> float:
        """Wait until writes are acknowledged again after a time of none; return how long that was. Fails after so many seconds."""
        while time.time() < since + seconds:
            after = [at for at in list(self.acknowledged.values()) if at > since + 1]
            if after and time.time() - max(after) < 1 and self.gap(since) > 1:
                time.sleep(2)
                return self.gap(since)
            time.sleep(0.2)
        raise AssertionError(f"no writes within {seconds:.0f} s: {self.errors[-1:]}")

    def lost(self) -> int:
        """Return how many acknowledged rows are gone, after the end."""
        with self._lab.sql(self._lab.vip, self._port, "orderdb") as connection:
            there = {number for (number,) in connection.execute(f"SELECT number FROM {TABLE}").fetchall()}
        return len(set(self.acknowledged) - there)
