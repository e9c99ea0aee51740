# SPDX-License-Identifier: Apache-2.0
"""Clients of PostgreSQL that record all they do, and looks at its servers, until `over` is set."""

from __future__ import annotations

import asyncio
import select
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from faults.history import History, Operation, Outcome, Probe
from faults.lab import Lab, Machine

ACCOUNTS = 8
BALANCE = 100
# Keys of lists change with the time, so that lists stay short and clients meet on them.
EPOCH = 20.0
KEYS = 4
PAUSE = 0.03
# Longer than the longest promised failover: a client that hangs is an outage, not an error.
PATIENCE = 60.0
CONNECT = 5
PROBE_PAUSE = 0.1
PROBE_PATIENCE = 2.0

# 25006 read-only transaction, 40P01 deadlock, 53100 disk full, 53300 no connection free: certainly nothing was done.
# The client saw an error all the same: each is counted, and 25006 on a way to the primary is a broken promise (checker.check_read_only).
NOT_DONE = ("25006", "40P01", "53100", "53300")

PROBE = (
    "select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off', timeline_id"
    " from pg_control_checkpoint();\n"
)

TABLES = f"""
drop table if exists fault_set, fault_bank, fault_list, fault_register;
create table fault_set (client text, number int, primary key (client, number));
create table fault_bank (account int primary key, balance int not null);
create table fault_list (key text primary key, items int[] not null);
create table fault_register (key text primary key, items int[] not null);
insert into fault_bank select n, {BALANCE} from generate_series(1, {ACCOUNTS}) n;
"""


@dataclass(frozen=True)
class Route:
    """A way to the servers. name: as in the history. options: of the connection, in words of libpq."""

    name: str
    options: dict[str, Any]


def routes(lab: Lab) -> dict[str, Route]:
    """Return the ways: the pools at the virtual address, and HAProxy on all balancers by multi-host libpq."""
    words = lab.environment
    common = {
        "user": words["PGUSER"],
        "password": words["PGPASSWORD"],
        "sslmode": "verify-full",
        "sslrootcert": words["PGSSLROOTCERT"],
        "sslcert": words["PGSSLCERT"],
        "sslkey": words["PGSSLKEY"],
        "connect_timeout": CONNECT,
        "tcp_user_timeout": 10_000,
        # Who waits for an answer sends nothing: only keepalives find out that the virtual address is elsewhere now.
        "keepalives_idle": 2,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "autocommit": True,
        "prepare_threshold": 5,
    }
    database = words["PGDATABASE"]
    pool = {**common, "host": words["PGHOST"], "port": words["PGPORT"]}
    balancers = ",".join(machine.address for machine in lab.machines.values())
    return {
        "pool": Route("pool", {**pool, "dbname": database}),
        "read-only pool": Route("read-only pool", {**pool, "dbname": f"{database}_ro"}),
        "balancers": Route("balancers", {**common, "host": balancers, "port": 5000, "dbname": database}),
    }


class Client:
    """One client with one connection, which it opens again when it is lost."""

    def __init__(self, name: str, workload: str, route: Route, history: History, over: asyncio.Event) -> None:
        self.name = name
        self.workload = workload
        self.route = route
        self._history = history
        self._over = over
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def loop(self, turn: Callable[[int], Awaitable[None]]) -> None:
        """Call turn with 1, 2, … until it is over."""
        number = 0
        while not self._over.is_set():
            number += 1
            await turn(number)
            await asyncio.sleep(PAUSE)
        await self._drop()

    async def do(self, kind: str, key: str, value: Any, work: Callable[[Any], Awaitable[Any]]) -> None:
        """Run work with a connection and record it."""
        start = time.monotonic()
        seen, problem, state = None, "", ""
        outcome = Outcome.FAILED
        try:
            if self._connection is None:
                self._connection = await asyncio.wait_for(
                    psycopg.AsyncConnection.connect(**self.route.options), PATIENCE
                )
            outcome = Outcome.UNKNOWN
            seen = await asyncio.wait_for(work(self._connection), PATIENCE)
            outcome = Outcome.ACKNOWLEDGED
        except psycopg.errors.SerializationFailure as error:
            # What serializable transactions are for: nothing was done, and the connection is as good as before.
            outcome, state = Outcome.FAILED, error.sqlstate or ""
        except (psycopg.Error, OSError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}".strip()
            state = getattr(error, "sqlstate", None) or ""
            if state in NOT_DONE:
                outcome = Outcome.FAILED
            await self._drop()
            await asyncio.sleep(0.1)
        words = (self.name, self.workload, self.route.name, kind, key, value)
        self._history.operations.append(Operation(*words, start, time.monotonic(), outcome, seen, problem, state=state))

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def adder(client: Client) -> None:
    """Add numbers to the client's part of the set."""

    async def turn(number: int) -> None:
        async def work(connection: Any) -> str:
            cursor = await connection.execute(
                "insert into fault_set values (%s, %s) returning host(inet_server_addr())", (client.name, number)
            )
            return (await cursor.fetchone())[0]  # type: ignore[no-any-return]

        await client.do("write", client.name, (client.name, number), work)

    await client.loop(turn)


async def set_reader(client: Client) -> None:
    """Read the highest number of each client."""

    async def work(connection: Any) -> dict[str, int]:
        cursor = await connection.execute("select client, max(number) from fault_set group by client")
        return dict(await cursor.fetchall())

    await client.loop(lambda _number: client.do("read", "", None, work))


async def banker(client: Client) -> None:
    """Move money between accounts; the sum stays."""

    async def turn(number: int) -> None:
        one, two = number % ACCOUNTS + 1, (number * 3 + 1) % ACCOUNTS + 1

        async def work(connection: Any) -> None:
            async with connection.transaction():
                # In the order of the accounts, so that two bankers don't lock each other out.
                for account, amount in sorted([(one, -1), (two, 1)]):
                    await connection.execute(
                        "update fault_bank set balance = balance + %s where account = %s", (amount, account)
                    )

        await client.do("write", "bank", number, work)

    await client.loop(turn)


async def auditor(client: Client) -> None:
    """Read the sum of all accounts."""

    async def work(connection: Any) -> int:
        cursor = await connection.execute("select sum(balance)::int from fault_bank")
        return (await cursor.fetchone())[0]  # type: ignore[no-any-return]

    await client.loop(lambda _number: client.do("read", "bank", None, work))


def shared_key(number: int) -> str:
    """Return a key that other clients use at this time, too."""
    return f"{int(time.monotonic() / EPOCH)}.{number % KEYS}"


async def appender(client: Client, first: int) -> None:
    """Append values that nobody else uses to lists, and see each list."""

    async def turn(number: int) -> None:
        key, value = shared_key(number), first + number

        async def work(connection: Any) -> list[int]:
            cursor = await connection.execute(
                "insert into fault_list as l values (%s, array[%s::int]) on conflict (key)"
                " do update set items = l.items || excluded.items returning items",
                (key, value),
            )
            return (await cursor.fetchone())[0]  # type: ignore[no-any-return]

        await client.do("write", key, value, work)
        await asyncio.sleep(PAUSE * 2)

    await client.loop(turn)


async def transactor(client: Client, first: int) -> None:
    """Read one list and append to another, in one serializable transaction."""

    async def turn(number: int) -> None:
        read, key, value = shared_key(number), shared_key(number * 3 + 1), first + number

        async def work(connection: Any) -> dict[str, list[int]]:
            async with connection.transaction():
                await connection.execute("set transaction isolation level serializable")
                cursor = await connection.execute("select items from fault_register where key = %s", (read,))
                row = await cursor.fetchone()
                await connection.execute(
                    "insert into fault_register as r values (%s, array[%s::int]) on conflict (key)"
                    " do update set items = r.items || excluded.items",
                    (key, value),
                )
            return {read: row[0] if row else []}

        await client.do("write", key, (key, value), work)
        await asyncio.sleep(PAUSE * 2)

    await client.loop(turn)


def prober(machine: Machine, history: History, over: threading.Event) -> None:
    """Ask one server ten times a second whether it takes writes, past every network: by a shell on its host."""
    while not over.is_set():
        command = ["docker", "exec", "--interactive", machine.container, "psql", "-XAtq", "-U", "postgres"]
        shell = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )
        try:
            while not over.is_set() and (probe := _look(machine.name, shell)):
                history.probes.append(probe)
                over.wait(PROBE_PAUSE)
        finally:
            shell.kill()
            shell.communicate()
        over.wait(PROBE_PAUSE)


def _look(node: str, shell: subprocess.Popen[str]) -> Probe | None:
    """Ask once; None where no answer comes, which says nothing about writes."""
    assert shell.stdin is not None and shell.stdout is not None
    start = time.monotonic()
    try:
        shell.stdin.write(PROBE)
    except OSError:
        return None
    ready, _write, _error = select.select([shell.stdout], [], [], PROBE_PATIENCE)
    writable, separator, timeline = shell.stdout.readline().strip().partition("|") if ready else ("", "", "")
    return Probe(node, start, time.monotonic(), writable == "t", int(timeline)) if separator else None


def prepare(lab: Lab) -> None:
    """Make the tables anew."""
    with psycopg.connect(**routes(lab)["pool"].options) as connection:
        connection.execute(TABLES)


@dataclass(frozen=True)
class Final:
    """What is there at the end, on the primary."""

    rows: list[Any]
    total: int
    lists: dict[str, list[int]]
    registers: dict[str, list[int]]


def final(lab: Lab) -> Final:
    """Read what is there at the end, from the primary."""
    with psycopg.connect(**routes(lab)["balancers"].options) as connection:
        return Final(
            rows=connection.execute("select client, number from fault_set").fetchall(),
            total=connection.execute("select sum(balance)::int from fault_bank").fetchone()[0],  # type: ignore[index]
            lists=dict(connection.execute("select key, items from fault_list").fetchall()),
            registers=dict(connection.execute("select key, items from fault_register").fetchall()),
        )


async def all_clients(lab: Lab, history: History, over: asyncio.Event) -> None:
    """Run every client until it is over."""
    way = routes(lab)

    def client(name: str, workload: str, route: str) -> Client:
        return Client(name, workload, way[route], history, over)

    work = [
        *(adder(client(f"adder{n}", "set", "pool")) for n in (1, 2, 3)),
        *(adder(client(f"adder{n}", "set", "balancers")) for n in (4, 5)),
        set_reader(client("reader1", "set", "read-only pool")),
        *(banker(client(f"banker{n}", "bank", "pool")) for n in (1, 2)),
        auditor(client("auditor1", "bank", "pool")),
        auditor(client("auditor2", "bank", "read-only pool")),
        *(appender(client(f"appender{n}", "lists", "pool"), n * 1_000_000) for n in (1, 2)),
        *(transactor(client(f"transactor{n}", "transactions", "pool"), n * 1_000_000) for n in (1, 2, 3)),
    ]
    await asyncio.gather(*work)
