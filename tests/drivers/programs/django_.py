# SPDX-License-Identifier: Apache-2.0
"""Django's ORM on psycopg; a thread has a connection of its own."""

from __future__ import annotations

import os
import threading

import django
from django.conf import settings
from shape import ADDRESS, DATABASE, PASSWORD, ROWS, TLS, USER, Client, Tally, main

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": DATABASE, "USER": USER, "PASSWORD": PASSWORD,
            "HOST": ADDRESS["host"], "PORT": ADDRESS["port"], "OPTIONS": TLS, "CONN_MAX_AGE": None,
            "DISABLE_SERVER_SIDE_CURSORS": os.environ.get("DRIVERS_DJANGO_CURSORS") == "off",
        }
    },
    USE_TZ=True,
)  # fmt: skip
django.setup()

from django.db import connection, models, transaction


class Row(models.Model):
    """A row to read in parts."""

    id = models.IntegerField(primary_key=True)

    class Meta:
        app_label = "drivers"
        db_table = "drivers_rows"


class Django(Client):
    """Django as it comes."""

    def connect(self):
        connection.ensure_connection()
        return threading.get_ident()

    def close(self, _connection):
        connection.close()

    def select(self, _connection, statement, argument):
        with connection.cursor() as cursor:
            cursor.execute(statement, [argument])
            return cursor.fetchone()

    def execute(self, _connection, statement, argument):
        with connection.cursor() as cursor:
            cursor.execute(statement, [argument])

    def transaction(self, _connection, worker):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SELECT worker FROM drivers_{worker} WHERE id = %s", [1])
            row = cursor.fetchone()
            cursor.execute("SELECT %s", [1])
            return row[0] == worker

    def stream(self, _connection):
        return sum(1 for _row in Row.objects.order_by("id").iterator(chunk_size=500))


print(f"Django {django.__version__} (psycopg)")
main(Django())

# Iterators side by side, as requests are.
tally = Tally("iterators")


def iterate() -> None:
    """Read all rows a few times."""
    for _time in range(5):
        tally.add(lambda: Django().stream(None) == ROWS)
    connection.close()


threads = [threading.Thread(target=iterate) for _worker in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
tally.tell()
