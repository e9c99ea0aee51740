# SPDX-License-Identifier: Apache-2.0
"""asyncpg; each connection has an event loop of its own."""

from __future__ import annotations

import asyncio
import io
import time

import asyncpg
from shape import ADDRESS, DATABASE, PASSWORD, ROWS, TLS, USER, Client, main, soon

DSN = "postgresql://{user}:{password}@{host}:{port}/{database}?{tls}".format(
    user=USER, password=PASSWORD, database=DATABASE, tls="&".join(f"{key}={value}" for key, value in TLS.items()),
    **ADDRESS,
)  # fmt: skip


class Asyncpg(Client):
    """asyncpg as it comes."""

    mark = "$1"

    def connect(self):
        loop = asyncio.new_event_loop()
        return loop, loop.run_until_complete(asyncpg.connect(DSN))

    def close(self, connection):
        loop, link = connection
        try:
            loop.run_until_complete(link.close(timeout=5))
        finally:
            loop.close()

    def select(self, connection, statement, argument):
        loop, link = connection
        return tuple(loop.run_until_complete(link.fetchrow(statement, argument)))

    def execute(self, connection, statement, argument):
        loop, link = connection
        loop.run_until_complete(link.execute(statement, argument))

    def transaction(self, connection, worker):
        loop, link = connection

        async def work():
            async with link.transaction():
                statement = await link.prepare(f"SELECT worker FROM drivers_{worker} WHERE id = $1")
                row = await statement.fetchrow(1)
                del statement
                await link.fetchval("SELECT $1::int", 1)
                return row["worker"] == worker

        return loop.run_until_complete(work())

    def stream(self, connection):
        loop, link = connection

        async def work():
            async with link.transaction():
                return len([row async for row in link.cursor("SELECT id FROM drivers_rows")])

        return loop.run_until_complete(work())

    def copy(self, connection):
        loop, link = connection

        async def work():
            await link.copy_records_to_table("drivers_copied", records=[(number,) for number in range(ROWS)])
            out = io.BytesIO()
            await link.copy_from_query("SELECT * FROM drivers_copied", output=out)
            return out.getvalue().count(b"\n")

        return loop.run_until_complete(work())

    def listen(self, connection, notify):
        loop, link = connection
        found = []

        async def work():
            await link.add_listener("drivers", lambda *told: found.append(told))
            await asyncio.to_thread(notify)
            await asyncio.sleep(1)

        loop.run_until_complete(work())
        return len(found)

    def cancel(self, connection):
        loop, link = connection
        begun = time.monotonic()
        try:
            loop.run_until_complete(link.execute("SELECT pg_sleep(30)", timeout=0.5))
        except TimeoutError:
            return soon(begun)
        return False


print(f"asyncpg {asyncpg.__version__}")
main(Asyncpg())
