"""Pauses the pools of several PgBouncers at the same moment, over their consoles on the network.

One process does all of it, so that nothing else passes between the pause and what it is made for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


class Pools:
    """The PgBouncers of several hosts.

    Parameters: driver, psycopg or psycopg2; hosts, addresses by name; access, libpq's parameters without host and dbname, the
    user has to be one of admin_users. Raises Refusal when one cannot be reached.
    """

    def __init__(self, driver: Any, hosts: Mapping[str, str], access: Mapping[str, Any]) -> None:
        self._driver, self._hosts, self._access = driver, dict(hosts), dict(access)
        self._consoles: dict[str, Any] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(self._hosts))) as workers:
            self._consoles = dict(zip(self._hosts, workers.map(self._connect, self._hosts), strict=True))

    def _connect(self, name: str) -> Any:
        try:
            connection = self._driver.connect(host=self._hosts[name], dbname="pgbouncer", **self._access)
        except self._driver.Error as error:
            raise Refusal(f"PgBouncer of {name} cannot be reached: {_line(error)}") from error
        connection.autocommit = True
        return connection

    def pause(self, seconds: float) -> dict[str, float]:
        """Pause all pools; return how long each took, in seconds.

        Raises Refusal when one is not paused within that time; then all go on.
        """
        attempts = {name: _Attempt(self._driver, console) for name, console in self._consoles.items()}
        deadline = time.monotonic() + seconds
        for attempt in attempts.values():
            attempt.start()
        for attempt in attempts.values():
            attempt.join(max(0.0, deadline - time.monotonic()))
        problems = [
            f"{name}: {attempt.problem(seconds)}" for name, attempt in attempts.items() if not attempt.succeeded
        ]
        if problems:
            self.resume()
            raise Refusal("not paused: " + "; ".join(problems))
        return {name: attempt.took for name, attempt in attempts.items()}

    def resume(self) -> None:
        """Resume all pools, over new connections as an old one may still wait for its pause. Raises Refusal."""
        problems = []
        for name in self._hosts:
            try:
                with self._connect(name).cursor() as cursor:
                    cursor.execute("RESUME")
            except Refusal as error:
                problems.append(str(error))
            except self._driver.Error as error:
                # What is not paused needs no resume.
                if "not paused" not in str(error):
                    problems.append(f"{name}: {_line(error)}")
        if problems:
            raise Refusal("pools not resumed, each host does so by itself when its hold ends: " + "; ".join(problems))


class _Attempt(threading.Thread):
    """PAUSE on one console, which answers when the last transaction has ended."""

    def __init__(self, driver: Any, console: Any) -> None:
        super().__init__(daemon=True)
        self._driver, self._console = driver, console
        self._error = ""
        self.succeeded = False
        self.took = 0.0

    def run(self) -> None:
        """Pause."""
        begun = time.monotonic()
        try:
            with self._console.cursor() as cursor:
                cursor.execute("PAUSE")
        except self._driver.Error as error:
            self._error = _line(error)
            return
        self.took = round(time.monotonic() - begun, 3)
        self.succeeded = True

    def problem(self, seconds: float) -> str:
        """Return why it is not paused."""
        return self._error or f"transactions last longer than {seconds:g} s"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
