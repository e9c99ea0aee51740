# SPDX-License-Identifier: Apache-2.0
"""SQLAlchemy on psycopg, with its pool."""

from __future__ import annotations

import sqlalchemy
from shape import ADDRESS, DATABASE, PASSWORD, TLS, USER, Client, main

URL = sqlalchemy.URL.create("postgresql+psycopg", USER, PASSWORD, **ADDRESS, database=DATABASE, query=TLS)
engine = sqlalchemy.create_engine(URL, pool_size=20, pool_pre_ping=True)


class Sqlalchemy(Client):
    """SQLAlchemy as it comes."""

    mark = ":argument"

    def connect(self):
        return engine.connect()

    def select(self, connection, statement, argument):
        with connection.begin():
            return tuple(connection.execute(sqlalchemy.text(statement), {"argument": argument}).first())

    def execute(self, connection, statement, argument):
        with connection.begin():
            connection.execute(sqlalchemy.text(statement), {"argument": argument})

    def transaction(self, connection, worker):
        with connection.begin():
            row = connection.execute(sqlalchemy.text(f"SELECT worker FROM drivers_{worker} WHERE id = 1")).first()
            connection.execute(sqlalchemy.text("SELECT 1"))
            return row[0] == worker

    def stream(self, connection):
        with connection.begin():
            rows = connection.execution_options(stream_results=True).execute(
                sqlalchemy.text("SELECT id FROM drivers_rows")
            )
            return sum(1 for _row in rows)


print(f"SQLAlchemy {sqlalchemy.__version__} (psycopg)")
main(Sqlalchemy())
