# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Pauses the pools of several PgBouncers at the same moment, over their consoles on the network.

One process does all of it, so that nothing else passes between the pause and what it is made for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.pause import (
    pause_all,
    paused,
    resume_single,
)
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
        # Databases that somebody paused by hand: theirs to resume.
        self._before = {name: paused(self._ask(name, "SHOW DATABASES")) for name in self._hosts}
        self.ended: dict[str, tuple[str, ...]] = {}

    def _connect(self, name: str) -> Any:
        try:
            connection = self._driver.connect(host=self._hosts[name], dbname="pgbouncer", **self._access)
        except self._driver.Error as error:
            raise Refusal(f"PgBouncer of {name} cannot be reached: {_line(error)}") from error
        connection.autocommit = True
        return connection

    def _ask(self, name: str, command: str) -> list[dict[str, Any]]:
        try:
            return rows(self._consoles[name], command)
        except self._driver.Error as error:
            raise Refusal(f"PgBouncer of {name} failed at {command}: {_line(error)}") from error

    def pause(self, seconds: float) -> dict[str, float]:
        """Pause all pools; return how long each took, in seconds. Sessions are ended when the last transaction has (ended).

        Raises Refusal when one is not paused within that time; then all continue, and sessions are left alone where transactions still
        went on.
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
            for attempt in attempts.values():
                attempt.give_up()
            self.resume()
            raise Refusal("not paused: " + "; ".join(problems))
        self.ended = {name: attempt.ended for name, attempt in attempts.items()}
        return {name: attempt.took for name, attempt in attempts.items()}

    def resume(self) -> None:
        """Resume all pools, over new connections as an old one may still wait for its pause. Raises Refusal."""
        problems = []
        for name in self._hosts:
            try:
                problems += self._resume(name)
            except Refusal as error:
                problems.append(str(error))
        if problems:
            raise Refusal("pools not resumed, each host does so by itself when its hold ends: " + "; ".join(problems))

    def _resume(self, name: str) -> list[str]:
        """Resume the pools of one host; return what went wrong. Raises Refusal where it cannot be reached."""
        console = self._connect(name)
        problems = []
        try:
            resume_single(lambda command: rows(console, command), self._before[name], self._driver.Error)
        except self._driver.Error as error:
            problems.append(f"{name}: {_line(error)}")
        try:
            rows(console, "RESUME")
        except self._driver.Error as error:
            # What is not paused needs no resume.
            if "not paused" not in str(error):
                problems.append(f"{name}: {_line(error)}")
        return problems


def rows(connection: Any, command: str) -> list[dict[str, Any]]:
    """Run a command on a console; return its rows. Raises the driver's errors."""
    with connection.cursor() as cursor:
        cursor.execute(command)
        columns = [column[0] for column in cursor.description or ()]
        return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()] if columns else []


class _Attempt(threading.Thread):
    """The pause on one console, which is there when the last transaction has ended."""

    def __init__(self, driver: Any, console: Any) -> None:
        super().__init__(daemon=True)
        self._driver, self._console = driver, console
        self._error = ""
        self.succeeded = False
        self.took = 0.0
        self.ended: tuple[str, ...] = ()
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Send no further command: one that waits may still be answered, long after the pools have been resumed."""
        self._given_up.set()

    def _ask(self, command: str) -> list[dict[str, Any]]:
        if self._given_up.is_set():
            raise Refusal("given up")
        return rows(self._console, command)

    def run(self) -> None:
        """Pause."""
        begun = time.monotonic()
        try:
            self.ended = pause_all(self._ask, self._driver.Error)
        except (Refusal, self._driver.Error) as error:
            self._error = _line(error)
            return
        self.took = round(time.monotonic() - begun, 3)
        self.succeeded = True

    def problem(self, seconds: float) -> str:
        """Return why it is not paused."""
        return self._error or f"transactions last longer than {seconds:g} s"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
