# SPDX-License-Identifier: Apache-2.0
"""pg8000."""

from __future__ import annotations

import io
import ssl
import time
from importlib.metadata import version

import pg8000.native
from shape import ADDRESS, DATABASE, PASSWORD, ROWS, TLS, USER, Client, main


class Pg8000(Client):
    """pg8000's native interface as it comes."""

    mark = ":argument"

    def connect(self):
        context = ssl.create_default_context(cafile=TLS["sslrootcert"])
        context.load_cert_chain(TLS["sslcert"], TLS["sslkey"])
        return pg8000.native.Connection(USER, password=PASSWORD, database=DATABASE, ssl_context=context, **ADDRESS)

    def select(self, connection, statement, argument):
        return connection.run(statement.replace(":argument", "CAST(:argument AS int)"), argument=argument)[0]

    def execute(self, connection, statement, argument):
        connection.run(statement, argument=argument)

    def transaction(self, connection, worker):
        connection.run("START TRANSACTION")
        try:
            statement = connection.prepare(f"SELECT worker FROM drivers_{worker} WHERE id = :id")
            right = statement.run(id=1)[0][0] == worker
            statement.close()
            connection.run("SELECT 1")
        except pg8000.exceptions.DatabaseError:
            connection.run("ROLLBACK")
            raise
        connection.run("COMMIT")
        return right

    def copy(self, connection):
        rows = io.BytesIO(b"".join(b"%d\n" % number for number in range(ROWS)))
        connection.run("COPY drivers_copied FROM STDIN", stream=rows)
        out = io.BytesIO()
        connection.run("COPY drivers_copied TO STDOUT", stream=out)
        return out.getvalue().count(b"\n")

    def listen(self, connection, notify):
        connection.run("LISTEN drivers")
        notify()
        deadline = time.monotonic() + 3
        while len(connection.notifications) < 5 and time.monotonic() < deadline:
            connection.run("SELECT 1")
        return len(connection.notifications)


print(f"pg8000 {version('pg8000')}")
main(Pg8000())
