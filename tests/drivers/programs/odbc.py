# SPDX-License-Identifier: Apache-2.0
"""psqlODBC, by pyodbc."""

from __future__ import annotations

import os

import pyodbc
from shape import ADDRESS, DATABASE, PASSWORD, TLS, USER, Client, main

DRIVER = os.environ["DRIVERS_ODBC"]
FILES = " ".join(f"{key}={TLS[key]}" for key in ("sslrootcert", "sslcert", "sslkey"))
pyodbc.pooling = False


class Odbc(Client):
    """psqlODBC as it comes."""

    mark = "?"

    def connect(self):
        return pyodbc.connect(
            f"Driver={DRIVER};Servername={ADDRESS['host']};Port={ADDRESS['port']};Database={DATABASE};UID={USER};"
            f"PWD={PASSWORD};SSLmode=verify-full;pqopt={{{FILES}}};{os.environ.get('DRIVERS_ODBC_OPTIONS', '')}",
            autocommit=True,
        )

    def select(self, connection, statement, argument):
        return tuple(connection.execute(statement, argument).fetchone())

    def execute(self, connection, statement, argument):
        connection.execute(statement, argument)

    def transaction(self, connection, worker):
        connection.autocommit = False
        try:
            cursor = connection.cursor()
            row = cursor.execute(f"SELECT worker FROM drivers_{worker} WHERE id = ?", 1).fetchone()
            cursor.close()
            connection.execute("SELECT 1").fetchone()
            connection.commit()
        finally:
            connection.autocommit = True
        return row[0] == worker

    def stream(self, connection):
        return len(connection.execute("SELECT id FROM drivers_rows").fetchall())


print("psqlODBC", pyodbc.connect(
    f"Driver={DRIVER};Servername={ADDRESS['host']};Port={ADDRESS['port']};Database={DATABASE};UID={USER};PWD={PASSWORD};"
    f"SSLmode=verify-full;pqopt={{{FILES}}}"
).getinfo(pyodbc.SQL_DRIVER_VER))  # fmt: skip
main(Odbc())
