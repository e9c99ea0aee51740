# SPDX-License-Identifier: Apache-2.0
"""The one shape of the programs in Python: what each driver does on a pool, and how it tells what came of it.

    PROGRAM.py WORKERS COUNT

A program connects by the PG* variables, as its driver does by default. It prints a JSON object for each check:
{"check", "right", "wrong", "errors", "error"}, error being the first one's text. The tables are the harness' (tests/drivers/tier.py).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

WORKERS, COUNT = int(sys.argv[1]), int(sys.argv[2])
ADDRESS = {"host": os.environ["PGHOST"], "port": int(os.environ["PGPORT"])}
USER, DATABASE, PASSWORD = os.environ["PGUSER"], os.environ["PGDATABASE"], os.environ["PGPASSWORD"]
TLS = {"sslmode": "verify-full", "sslrootcert": os.environ["PGSSLROOTCERT"], "sslcert": os.environ["PGSSLCERT"],
       "sslkey": os.environ["PGSSLKEY"]}  # fmt: skip
ROWS = 5000
NOTIFICATIONS = 5
ALTER_COUNT = 20


class Tally:
    """What came of one check."""

    def __init__(self, check: str) -> None:
        self.check, self.right, self.wrong, self.errors, self.error = check, 0, 0, 0, ""
        self._lock = threading.Lock()

    def add(self, act: Callable[[], bool]) -> bool:
        """Do something; count whether its result was right, wrong, or an error. Return whether it was no error."""
        try:
            right = act()
        except Exception as error:
            with self._lock:
                self.errors += 1
                self.error = self.error or " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return False
        with self._lock:
            if right:
                self.right += 1
            else:
                self.wrong += 1
        return True

    def tell(self) -> None:
        """Print it."""
        print(json.dumps({key: value for key, value in vars(self).items() if not key.startswith("_")}), flush=True)


def side_by_side(act: Callable[[int], None]) -> None:
    """Run act(worker) for all workers at once."""
    threads = [threading.Thread(target=act, args=(worker,)) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Client:
    """A driver. A subclass says how it does what applications do; a connection that broke is made anew."""

    # How the driver writes its first argument.
    mark = "%s"

    def connect(self) -> Any:
        """Return a connection that commits each statement."""
        raise NotImplementedError

    def select(self, connection: Any, statement: str, argument: int) -> tuple[Any, ...]:
        """Return the first row."""
        raise NotImplementedError

    def execute(self, connection: Any, statement: str, argument: int) -> None:
        """Run a statement that returns no rows."""
        raise NotImplementedError

    def close(self, connection: Any) -> None:
        """Close."""
        connection.close()

    def transaction(self, connection: Any, worker: int) -> bool:
        """Prepare, use and free a statement in a transaction; return whether its row was right."""
        raise NotImplementedError

    def stream(self, connection: Any) -> int:
        """Return how many rows of drivers_rows came by the driver's own way for many rows."""
        raise NotImplementedError

    def copy(self, connection: Any) -> int:
        """Copy ROWS rows into drivers_copied and out; return how many came back."""
        raise NotImplementedError

    def listen(self, connection: Any, notify: Callable[[], None]) -> int:
        """Listen on a channel, call notify, return how many notifications came within seconds."""
        raise NotImplementedError

    def cancel(self, connection: Any) -> bool:
        """Begin SELECT pg_sleep(30) and cancel; return whether it ended soon."""
        raise NotImplementedError


def statements(client: Client, check: str, act: Callable[[Any, int, int], bool]) -> None:
    """COUNT statements of each of the workers, each on its own connection and with a text of its own."""
    tally = Tally(check)

    def work(worker: int) -> None:
        connection = client.connect()
        for number in range(COUNT):
            if not tally.add(partial(act, connection, worker, number)):
                close(client, connection)
                connection = client.connect()
        client.close(connection)

    side_by_side(work)
    tally.tell()


def once(client: Client, check: str, act: Callable[[Any], bool], times: int = 1) -> None:
    """Do something on a connection of its own."""
    tally = Tally(check)
    for _time in range(times):
        connection = client.connect()
        tally.add(lambda connection=connection: act(connection))
        close(client, connection)
    tally.tell()


def alter(client: Client) -> None:
    """Read a table with one text before and after a column is added to it: by connections that stand, and by new ones."""
    before, after, fresh = Tally("before"), Tally("altered"), Tally("altered_new")
    connections = [client.connect() for _worker in range(WORKERS)]
    statement = f"SELECT * FROM drivers_altered WHERE id = {client.mark}"

    def read(tally: Tally, connection: Any) -> None:
        for _time in range(ALTER_COUNT):
            tally.add(lambda: client.select(connection, statement, 1)[0] == 1)

    side_by_side(lambda worker: read(before, connections[worker]))
    # The harness alters the table when it reads this, and answers by a line.
    before.tell()
    sys.stdin.readline()
    side_by_side(lambda worker: read(after, connections[worker]))
    after.tell()
    for connection in connections:
        close(client, connection)
    connections = [client.connect() for _worker in range(WORKERS)]
    side_by_side(lambda worker: read(fresh, connections[worker]))
    fresh.tell()
    for connection in connections:
        close(client, connection)


def close(client: Client, connection: Any) -> None:
    """Close a connection that may be broken."""
    try:
        client.close(connection)
    except Exception as error:
        print(f"close: {error}", file=sys.stderr)


def main(client: Client) -> None:
    """Run the checks that the driver has a way for."""
    mark = client.mark

    def read(connection: Any, worker: int, number: int) -> bool:
        row = client.select(connection, f"SELECT worker, id FROM drivers_{worker} WHERE id = {mark}", number % 100)
        return tuple(row) == (worker, number % 100)

    def write(connection: Any, worker: int, number: int) -> bool:
        # Whether the row went to this worker's table is for the harness to count.
        client.execute(connection, f"INSERT INTO drivers_written_{worker} (worker) VALUES ({mark})", worker)
        return True

    def notify() -> None:
        other = client.connect()
        for _number in range(NOTIFICATIONS):
            client.select(other, f"SELECT CAST({mark} AS int), pg_notify('drivers', 'x')", 1)
        client.close(other)

    has = type(client).__dict__
    statements(client, "read", read)
    statements(client, "write", write)
    alter(client)
    if "transaction" in has:
        statements(client, "freed", lambda connection, worker, number: client.transaction(connection, worker))
    if "stream" in has:
        once(client, "stream", lambda connection: client.stream(connection) == ROWS, 3)
    if "copy" in has:
        once(client, "copy", lambda connection: client.copy(connection) == ROWS)
    if "listen" in has:
        once(client, "listen", lambda connection: client.listen(connection, notify) == NOTIFICATIONS)
    if "cancel" in has:
        once(client, "cancel", client.cancel)


def soon(begun: float) -> bool:
    """Whether less than half of the sleep to cancel has passed."""
    return time.monotonic() - begun < 15
