# SPDX-License-Identifier: Apache-2.0
"""Applications at work: eight clients that write through the virtual address and remember what was acknowledged."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psycopg
from lab_access import Lab

CLIENTS = 8
TABLE = "journey"


@dataclass
class Ledger:
    """What one client saw. Stalls are (seconds, when the transaction began)."""

    acknowledged: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)


class Load:
    """Writes until it is left. prepared, whether statements are prepared on the server; pause, seconds between transactions."""

    def __init__(self, lab: Lab, *, prepared: bool, pause: float = 0.01) -> None:
        self._lab, self._prepared, self._pause = lab, prepared, pause
        self._end = threading.Event()
        self._ledgers = [Ledger() for _number in range(CLIENTS)]
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        with self._connect() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
            connection.execute(f"CREATE TABLE {TABLE} (client int, number int, PRIMARY KEY (client, number))")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _connect(self) -> psycopg.Connection[Any]:
        return self._lab.sql(
            self._lab.vip, 6432, "orderdb", prepare_threshold=0 if self._prepared else None, connect_timeout=30
        )

    def _work(self, client: int) -> None:
        ledger, number = self._ledgers[client], 0
        connection: psycopg.Connection[Any] | None = None
        while not self._end.is_set():
            begun = time.time()
            try:
                connection = connection or self._connect()
                with connection.transaction():
                    connection.execute(f"INSERT INTO {TABLE} VALUES (%s, %s)", (client, number))
                    connection.execute(f"SELECT 1 FROM {TABLE} WHERE client = %s AND number = %s", (client, number))
                ledger.acknowledged.add(number)
            except psycopg.Error as error:
                ledger.errors.append(f"client {client} at {begun:.1f}: {type(error).__name__}: {error}")
                if connection is not None:
                    connection.close()
                    connection = None
            ledger.stalls.append((time.time() - begun, begun))
            number += 1
            self._end.wait(self._pause)
        if connection is not None:
            connection.close()

    @property
    def errors(self) -> list[str]:
        """Everything a client saw fail."""
        return [line for ledger in self._ledgers for line in ledger.errors]

    @property
    def transactions(self) -> int:
        """How many were acknowledged."""
        return sum(len(ledger.acknowledged) for ledger in self._ledgers)

    def longest(self, since: float, until: float) -> float:
        """Return the longest that a client waited for a transaction begun in that time, in seconds."""
        waits = [
            seconds for ledger in self._ledgers for seconds, begun in list(ledger.stalls) if since <= begun <= until
        ]
        return max(waits, default=0.0)

    def lost(self) -> int:
        """Return how many acknowledged rows are gone, after the end."""
        with self._connect() as connection:
            there = set(connection.execute(f"SELECT client, number FROM {TABLE}").fetchall())
        acknowledged = {
            (client, number) for client, ledger in enumerate(self._ledgers) for number in ledger.acknowledged
        }
        return len(acknowledged - there)
