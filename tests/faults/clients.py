# SPDX-License-Identifier: Apache-2.0
"""All clients and all looks at the servers, in the background of a block."""

from __future__ import annotations

import asyncio
import logging
import threading

from faults import postgresql, valkey_clients
from faults.history import History
from faults.lab import Lab


class Clients:
    """All clients, in the background of a block."""

    def __init__(self, lab: Lab, history: History) -> None:
        self._lab = lab
        self._history = history
        self._over = threading.Event()
        self._problem: BaseException | None = None

    def __enter__(self) -> Clients:
        self._threads = valkey_clients.all_clients(self._lab, self._history, self._over)
        self._threads += [
            threading.Thread(target=postgresql.prober, args=(machine, self._history, self._over), daemon=True)
            for machine in self._lab.machines.values()
        ]
        self._main = threading.Thread(target=self._run, daemon=True)
        for thread in (*self._threads, self._main):
            thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._over.set()
        self._main.join(postgresql.PATIENCE + 30)
        for thread in self._threads:
            thread.join(30)
        if self._problem:
            raise self._problem

    def _run(self) -> None:
        # It tells of every transaction that a lost connection ended; the history has them all.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
        try:
            asyncio.run(self._clients())
        except BaseException as error:
            self._problem = error

    async def _clients(self) -> None:
        over = asyncio.Event()
        work = asyncio.create_task(postgresql.all_clients(self._lab, self._history, over))
        while not self._over.is_set() and not work.done():
            await asyncio.sleep(0.1)
        over.set()
        await work
