# SPDX-License-Identifier: Apache-2.0
"""Settings of databases and roles on a real server, with a real PgBouncer that takes them up; and pools renewed after a migration."""

from __future__ import annotations

import psycopg
import pytest
from drivers.tier import DATABASE, OWNER, Bouncer, Tier
from postgresql.conftest import USER
from run_module import ModuleFailedError, run_module


@pytest.fixture(scope="module")
def tier():
    """PostgreSQL and HAProxy."""
    with Tier() as found:
        found.execute("CREATE SCHEMA sales; GRANT USAGE ON SCHEMA sales TO PUBLIC")
        yield found


@pytest.fixture(scope="module")
def bouncer(tier: Tier) -> Bouncer:
    """PgBouncer of trixie."""
    return tier.bouncer("trixie", {})


@pytest.fixture
def declare(tier, bouncer, monkeypatch):
    """Run the module."""
    monkeypatch.setenv("PGPORT", str(tier.primary.port))
    access = tier.access(bouncer.port, "pgbouncer", "pgbouncer")
    pools = {
        "hosts": {"node1": "127.0.0.1"}, "port": bouncer.port, "password": access["password"],
        "ca_cert": access["sslrootcert"], "client_cert": access["sslcert"],
    }  # fmt: skip

    def run(*, check: bool = False, **wish):
        words = {"login_unix_socket": str(tier.primary.folder), "pools": pools, **wish}
        return run_module("postgresql_session_defaults", words, check=check)

    return run


def connect(tier: Tier, bouncer: Bouncer, **more) -> psycopg.Connection:
    return psycopg.connect(**tier.access(bouncer.port), autocommit=True, **more)


def show(connection: psycopg.Connection, name: str) -> str:
    return connection.execute(f"SHOW {name}").fetchone()[0]


def test_a_client_of_the_pool_has_them_at_once_without_an_error(tier, bouncer, declare):
    settings = [{"name": DATABASE, "settings": {"search_path": ["sales", "public"], "statement_timeout": "30s"}}]
    with connect(tier, bouncer) as client:
        assert show(client, "search_path") == '"$user", public'
        tried = declare(databases=settings, check=True)
        assert tried["changed"]
        assert tried["changes"] == [
            f"database {DATABASE}: search_path = sales, public",
            f"database {DATABASE}: statement_timeout = 30s",
        ]
        assert show(client, "search_path") == '"$user", public'
        done = declare(databases=settings)
        assert done["changes"] == tried["changes"]
        assert done["renewed"] == [f"node1 {DATABASE}"]
        assert show(client, "search_path") == "sales, public"
        assert show(client, "statement_timeout") == "30s"
        assert declare(databases=settings)["changed"] is False
        taken_back = declare(databases=[{"name": DATABASE, "settings": {"search_path": None}}])
        assert taken_back["changes"] == [f"database {DATABASE}: search_path is reset"]
        assert show(client, "search_path") == '"$user", public'
        # What is not named is left alone.
        assert show(client, "statement_timeout") == "30s"


def test_a_role_in_one_database(tier, bouncer, declare):
    wish = [{"name": OWNER, "database_settings": {DATABASE: {"default_transaction_read_only": True}}}]
    assert declare(roles=wish)["changes"] == [
        f"role {OWNER} in database {DATABASE}: default_transaction_read_only = on"
    ]
    with connect(tier, bouncer) as client:
        assert show(client, "default_transaction_read_only") == "on"
    declare(roles=[{"name": OWNER, "database_settings": {DATABASE: {"default_transaction_read_only": None}}}])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"jit": True, "statment_timeout": "1s"}, "Did you mean statement_timeout?"),
        ({"jit": True, "max_connections": 5}, "cannot be changed"),
        ({"jit": True, "statement_timeout": "soon"}, "invalid value"),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_is(tier, declare, settings, said):
    for check in (True, False):
        with pytest.raises(ModuleFailedError, match="Nothing was changed") as refused:
            declare(databases=[{"name": DATABASE, "settings": settings}], check=check)
        assert said in refused.value.result["msg"]
    assert tier.execute("SELECT count(*) FROM pg_db_role_setting WHERE 'jit=on' = ANY (setconfig)") == [(0,)]


def test_a_database_that_is_only_to_be_made(declare):
    wish = [{"name": "to_come", "settings": {"jit": True}}]
    assert declare(databases=wish, check=True)["changes"] == ["database to_come: jit"]
    with pytest.raises(ModuleFailedError, match="database to_come does not exist"):
        declare(databases=wish)


def test_without_a_console_nothing_is_changed(tier, bouncer, declare):
    with pytest.raises(ModuleFailedError, match="nothing was changed: PgBouncer of node1 cannot be reached"):
        declare(
            databases=[{"name": DATABASE, "settings": {"jit": True}}],
            pools={"hosts": {"node1": "127.0.0.1"}, "port": bouncer.port, "password": "wrong",
                   "ca_cert": str(tier.authority.ca), "client_cert": str(tier.authority.pem)},
        )  # fmt: skip
    assert tier.execute("SELECT count(*) FROM pg_db_role_setting WHERE 'jit=on' = ANY (setconfig)") == [(0,)]


def test_after_a_migration_renewed_pools_have_no_stale_plan(tier, bouncer):
    tier.execute(f"SET ROLE {OWNER}; DROP TABLE IF EXISTS migrated; CREATE TABLE migrated AS SELECT 1 AS id")

    def read(client: psycopg.Connection) -> tuple:
        return client.execute("SELECT * FROM public.migrated", prepare=True).fetchone()

    def renew(check: bool = False) -> dict:
        words = {"state": "reconnected", "database": DATABASE, "socket": bouncer.socket, "user": USER}
        return run_module("pgbouncer_pool", words, check=check)

    with connect(tier, bouncer) as client:
        assert read(client) == (1,)
        tier.execute("ALTER TABLE migrated ADD COLUMN more int DEFAULT 2")
        # The control: another client with that text gets the plan of before.
        with connect(tier, bouncer) as other, pytest.raises(psycopg.errors.FeatureNotSupported):
            read(other)
        assert renew(check=True)["renewed"] == [DATABASE]
        with connect(tier, bouncer) as other, pytest.raises(psycopg.errors.FeatureNotSupported):
            read(other)
        with connect(tier, bouncer) as session_free:
            done = renew()
            assert (done["renewed"], done["pending"], done["known"]) == ([DATABASE], [], True)
            assert read(session_free) == (1, 2)
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_a_renewal_waits_for_a_transaction_no_longer_than_asked_and_spares_sessions(tier, bouncer):
    with (
        connect(tier, bouncer) as client,
        psycopg.connect(**tier.access(bouncer.port, f"{DATABASE}_session"), autocommit=True) as session,
    ):
        session.execute("SET search_path = pg_catalog")
        client.execute("BEGIN")
        words = {"state": "reconnected", "database": DATABASE, "socket": bouncer.socket, "user": USER, "wait": 1}
        assert run_module("pgbouncer_pool", words)["pending"] == [DATABASE]
        assert client.execute("SELECT 2").fetchone() == (2,)
        client.execute("COMMIT")
        assert client.execute("SELECT 3").fetchone() == (3,)
        assert show(session, "search_path") == "pg_catalog"
    unknown = run_module("pgbouncer_pool", {**words, "database": "ordrdb"})
    assert (unknown["renewed"], unknown["known"], unknown["changed"]) == ([], False, False)
