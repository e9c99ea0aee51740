# SPDX-License-Identifier: Apache-2.0
"""Real PgBouncers with the role's configuration: whom a connection reaches next, and how a pause treats sessions."""

from __future__ import annotations

import importlib.util
import pathlib
import threading
import time

import psycopg
import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.remote import Pools
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from drivers.tier import DATABASE, ROOT, Bouncer, Tier
from postgresql.conftest import USER

SESSION = f"{DATABASE}_session"
SUITES = ["trixie", "forky", "bookworm"]


@pytest.fixture(scope="module")
def tier():
    """PostgreSQL and HAProxy."""
    with Tier() as found:
        yield found


@pytest.fixture(scope="module", params=SUITES)
def checked(tier: Tier, request: pytest.FixtureRequest) -> Bouncer:
    """PgBouncer of a release in the default mode, one connection to PostgreSQL for each pool that clients share."""
    return tier.bouncer(request.param, {"pgbouncer_default_pool_size": 1, "pgbouncer_reserve_pool_size": 0})


@pytest.fixture(scope="module")
def clean(tier: Tier) -> Bouncer:
    """PgBouncer in the mode clean."""
    variables = {"pgbouncer_isolation": "clean", "pgbouncer_default_pool_size": 1, "pgbouncer_reserve_pool_size": 0}
    return tier.bouncer("trixie", variables)


@pytest.fixture(scope="module")
def fast(tier: Tier) -> Bouncer:
    """PgBouncer in the mode fast."""
    variables = {"pgbouncer_isolation": "fast", "pgbouncer_default_pool_size": 1, "pgbouncer_reserve_pool_size": 0}
    return tier.bouncer("trixie", variables)


def connect(tier: Tier, bouncer: Bouncer, database: str = DATABASE) -> psycopg.Connection:
    return psycopg.connect(**tier.access(bouncer.port, database), autocommit=True, prepare_threshold=None)


def unnamed(connection: psycopg.Connection, statement: bytes | None) -> psycopg.pq.abc.PGresult:
    """Prepare the unnamed statement (statement), or execute the one that is there (None), each in a round of its own."""
    if statement is not None:
        return connection.pgconn.prepare(b"", statement)
    return connection.pgconn.exec_prepared(b"", None)


def two_rounds(tier: Tier, bouncer: Bouncer) -> psycopg.pq.abc.PGresult:
    """What lib/pq and pg8000 do, while another client does the same in between, on the one connection of the pool."""
    with connect(tier, bouncer) as one, connect(tier, bouncer) as two:
        assert unnamed(one, b"SELECT 'one'").status == psycopg.pq.ExecStatus.COMMAND_OK
        assert unnamed(two, b"SELECT 'two'").status == psycopg.pq.ExecStatus.COMMAND_OK
        return unnamed(one, None)


def test_another_clients_unnamed_statement_is_an_error_and_no_rows(tier, checked):
    result = two_rounds(tier, checked)
    assert result.status == psycopg.pq.ExecStatus.FATAL_ERROR
    assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"26000"


def test_in_the_mode_fast_its_rows_are_given_out(tier, fast):
    # The control: why fast is no default.
    assert two_rounds(tier, fast).get_value(0, 0) == b"two"


def test_a_session_pool_keeps_what_a_session_has_and_gives_nothing_of_it_to_the_next(tier, checked):
    with connect(tier, checked, SESSION) as one:
        one.execute("SET search_path = pg_catalog")
        one.execute("SELECT pg_advisory_lock(18)")
        one.execute("CREATE TEMP TABLE mine ()")
        one.execute("LISTEN here")
        assert one.execute("SHOW search_path").fetchone() == ("pg_catalog",)
        with connect(tier, checked) as other:
            other.execute("NOTIFY here")
        assert len(list(one.notifies(timeout=5, stop_after=1))) == 1
    with connect(tier, checked, SESSION) as two:
        assert two.execute("SHOW search_path").fetchone() == ('"$user", public',)
        assert two.execute("SELECT to_regclass('mine')").fetchone() == (None,)
        tier.primary.wait("NOT exists (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 18)")


def test_in_the_mode_clean_no_setting_and_no_lock_reaches_another_client(tier, clean, fast):
    def leaks(bouncer: Bouncer) -> tuple[str, int]:
        with connect(tier, bouncer) as one, connect(tier, bouncer) as two:
            one.execute("SET search_path = pg_catalog")
            one.execute("SELECT pg_advisory_lock(19)")
            path = two.execute("SHOW search_path").fetchone()[0]
            locks = two.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 19").fetchone()[
                0
            ]
            two.execute("RESET search_path")
            two.execute("SELECT pg_advisory_unlock_all()")
            return path, locks

    assert leaks(clean) == ('"$user", public', 0)
    assert leaks(fast) == ("pg_catalog", 1)


@pytest.mark.parametrize("suite", ["trixie", "forky"])
def test_parameters_that_are_tracked_stay_private(tier, suite):
    bouncer = tier.bouncer(suite, {"pgbouncer_default_pool_size": 1, "pgbouncer_reserve_pool_size": 0})
    access = tier.access(bouncer.port)
    with (
        psycopg.connect(**access, autocommit=True, options="-c default_transaction_read_only=on") as one,
        psycopg.connect(**access, autocommit=True) as two,
    ):
        two.execute("SET IntervalStyle = iso_8601")
        for _turn in range(3):
            assert one.execute(
                "SELECT current_setting('default_transaction_read_only'), interval '1 day'::text"
            ).fetchone() == (
                "on",
                "1 day",
            )
            assert two.execute(
                "SELECT current_setting('default_transaction_read_only'), interval '1 day'::text"
            ).fetchone() == (
                "off",
                "P1D",
            )


def test_what_cannot_be_kept_is_refused(tier, checked):
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
        psycopg.connect(**tier.access(checked.port), options="-c statement_timeout=1000")


def pools(tier: Tier, bouncer: Bouncer) -> Pools:
    access = tier.access(bouncer.port, "pgbouncer", "pgbouncer")
    return Pools(
        psycopg, {"here": access.pop("host")}, {key: value for key, value in access.items() if key != "dbname"}
    )


def test_a_pause_ends_sessions_when_transactions_have_ended(tier, checked):
    with connect(tier, checked, SESSION) as session, connect(tier, checked) as shared:
        session.execute("SELECT 1")
        shared.execute("BEGIN")
        remote = pools(tier, checked)
        failures: list[Exception] = []

        def pause() -> None:
            try:
                remote.pause(30)
            except Refusal as error:
                failures.append(error)

        thread = threading.Thread(target=pause)
        thread.start()
        deadline = time.monotonic() + 20
        while not any(row["name"] == DATABASE and row["paused"] for row in checked.console("SHOW DATABASES")):
            assert time.monotonic() < deadline
        # It waits for the transaction, and the session continues meanwhile.
        assert session.execute("SELECT 2").fetchone() == (2,)
        shared.execute("COMMIT")
        thread.join()
        assert not failures
        assert remote.ended["here"] == (SESSION,)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 3")
        # Who comes while it is paused waits, and is let in when it is over.
        answers: list[tuple] = []

        def again() -> None:
            with connect(tier, checked, SESSION) as late:
                answers.append(late.execute("SELECT 4").fetchone())

        late = threading.Thread(target=again)
        late.start()
        waiting = threading.Thread(target=lambda: answers.append(shared.execute("SELECT 4").fetchone()))
        waiting.start()
        late.join(1)
        assert answers == []
        remote.resume()
        late.join(20)
        waiting.join(20)
        assert answers == [(4,), (4,)]
        assert not any(row["paused"] for row in checked.console("SHOW DATABASES"))


def test_a_pause_that_is_given_up_leaves_sessions_alone(tier, checked):
    with connect(tier, checked, SESSION) as session, connect(tier, checked) as shared:
        session.execute("SELECT 1")
        shared.execute("BEGIN")
        remote = pools(tier, checked)
        with pytest.raises(Refusal, match="transactions last longer than 1 s"):
            remote.pause(1)
        assert session.execute("SELECT 2").fetchone() == (2,)
        assert shared.execute("SELECT 3").fetchone() == (3,)
        shared.execute("COMMIT")
        assert not any(row["paused"] for row in checked.console("SHOW DATABASES"))


def hold_pools(bouncer: Bouncer):
    """The pools as the program on a balancer sees them."""
    path = pathlib.Path(ROOT / "roles/pgbouncer/files/pgbouncer_hold.py")
    found = importlib.util.spec_from_file_location("pgbouncer_hold", path)
    program = importlib.util.module_from_spec(found)
    found.loader.exec_module(program)
    return program.Pools({"socket": bouncer.socket, "user": USER})


def test_the_program_on_a_balancer_pauses_in_the_same_order_and_resumes_what_another_one_left(tier, checked):
    held = hold_pools(checked)
    with connect(tier, checked, SESSION) as session, connect(tier, checked) as shared:
        assert session.execute("SELECT 1").fetchone() == shared.execute("SELECT 1").fetchone() == (1,)
        before = held.single()
        held.pause(20)
        # 1.18 can't tell.
        assert held.paused() in {True, None}
        assert held.wait_paused(time.monotonic() + 5)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 2")
        assert held.resume(before)
        assert shared.execute("SELECT 3").fetchone() == (3,)
        # A process that was killed between its first step and its last.
        checked.console(f'PAUSE "{DATABASE}"')
        checked.console(f'KILL "{SESSION}"')
        assert held.resume(before)
        assert not held.resume(before)
        assert shared.execute("SELECT 4").fetchone() == (4,)


def test_a_pause_of_somebody_else_is_left(tier, checked):
    checked.console(f'PAUSE "{DATABASE}_ro"')
    remote = pools(tier, checked)
    remote.pause(20)
    remote.resume()
    assert [row["name"] for row in checked.console("SHOW DATABASES") if row["paused"]] == [f"{DATABASE}_ro"]
    checked.console(f'RESUME "{DATABASE}_ro"')


def test_a_database_that_only_the_star_covers_goes_on_after_a_pause(tier, checked):
    # It is not among SHOW DATABASES while it is paused and has no client.
    with connect(tier, checked, "postgres") as client:
        client.execute("SELECT 1")
    remote = pools(tier, checked)
    remote.pause(20)
    remote.resume()
    with connect(tier, checked, "postgres") as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
