# SPDX-License-Identifier: Apache-2.0
"""psycopg 3."""

from __future__ import annotations

import threading
import time

import psycopg
from shape import ADDRESS, DATABASE, NOTIFICATIONS, PASSWORD, ROWS, TLS, USER, Client, main, soon


class Psycopg(Client):
    """psycopg 3 as it comes."""

    def connect(self):
        return psycopg.connect(**ADDRESS, **TLS, user=USER, password=PASSWORD, dbname=DATABASE, autocommit=True)

    def select(self, connection, statement, argument):
        return connection.execute(statement, (argument,)).fetchone()

    def execute(self, connection, statement, argument):
        connection.execute(statement, (argument,))

    def transaction(self, connection, worker):
        with connection.transaction():
            statement = f"SELECT worker FROM drivers_{worker} WHERE id = %s"
            row = connection.execute(statement, (1,), prepare=True).fetchone()
            connection.execute(f"SELECT {worker} WHERE %s > 0", (1,), prepare=True)
            return row == (worker,)

    def stream(self, connection):
        with connection.transaction(), connection.cursor(name="many") as cursor:
            return sum(1 for _row in cursor.execute("SELECT id FROM drivers_rows"))

    def copy(self, connection):
        with connection.cursor() as cursor:
            with cursor.copy("COPY drivers_copied FROM STDIN") as copy:
                for number in range(ROWS):
                    copy.write_row((number,))
            with cursor.copy("COPY drivers_copied TO STDOUT") as copy:
                return sum(1 for _row in copy.rows())

    def listen(self, connection, notify):
        connection.execute("LISTEN drivers")
        notify()
        return sum(1 for _one in connection.notifies(timeout=3, stop_after=NOTIFICATIONS))

    def cancel(self, connection):
        threading.Timer(0.5, connection.cancel_safe).start()
        begun = time.monotonic()
        try:
            connection.execute("SELECT pg_sleep(30)")
        except psycopg.errors.QueryCanceled:
            return soon(begun)
        return False


print(f"psycopg {psycopg.__version__}, libpq {psycopg.pq.version() // 10000}")
main(Psycopg())
