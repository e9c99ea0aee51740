# SPDX-License-Identifier: Apache-2.0
"""psycopg2, which has no prepared statements."""

from __future__ import annotations

import io
import select
import threading
import time

import psycopg2
from shape import ADDRESS, DATABASE, NOTIFICATIONS, PASSWORD, ROWS, TLS, USER, Client, main, soon


class Psycopg2(Client):
    """psycopg2 as it comes."""

    def connect(self):
        connection = psycopg2.connect(**ADDRESS, **TLS, user=USER, password=PASSWORD, dbname=DATABASE)
        connection.autocommit = True
        return connection

    def select(self, connection, statement, argument):
        with connection.cursor() as cursor:
            cursor.execute(statement, (argument,))
            return cursor.fetchone()

    def execute(self, connection, statement, argument):
        with connection.cursor() as cursor:
            cursor.execute(statement, (argument,))

    def stream(self, connection):
        connection.autocommit = False
        with connection.cursor(name="many") as cursor:
            cursor.execute("SELECT id FROM drivers_rows")
            found = sum(1 for _row in cursor)
        connection.commit()
        return found

    def copy(self, connection):
        with connection.cursor() as cursor:
            cursor.copy_expert("COPY drivers_copied FROM STDIN", io.StringIO("".join(f"{n}\n" for n in range(ROWS))))
            out = io.StringIO()
            cursor.copy_expert("COPY drivers_copied TO STDOUT", out)
            return out.getvalue().count("\n")

    def listen(self, connection, notify):
        self.execute(connection, "LISTEN drivers", 0)
        notify()
        deadline = time.monotonic() + 3
        while len(connection.notifies) < NOTIFICATIONS and time.monotonic() < deadline:
            select.select([connection], [], [], 0.2)
            connection.poll()
        return len(connection.notifies)

    def cancel(self, connection):
        threading.Timer(0.5, connection.cancel).start()
        begun = time.monotonic()
        try:
            self.execute(connection, "SELECT pg_sleep(30)", 0)
        except psycopg2.errors.QueryCanceled:
            return soon(begun)
        return False


print(f"psycopg2 {psycopg2.__version__.split()[0]}, libpq {psycopg2.__libpq_version__ // 10000}")
main(Psycopg2())
