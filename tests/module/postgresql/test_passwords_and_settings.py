# SPDX-License-Identifier: Apache-2.0
"""Passwords, settings and certificates, against a real server."""

from __future__ import annotations

import datetime

import psycopg
import pytest
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import (
    Authority,
    Wish,
    issue,
    leaf_pem,
    make_authority,
    make_key,
)
from run_module import ModuleFailedError, fail_module, run_module


@pytest.fixture
def server(cluster, monkeypatch):
    """The primary, which the modules find by libpq's own variable: they know one port only."""
    monkeypatch.setenv("PGPORT", str(cluster.primary.port))
    return cluster.primary


def ask(server, parameters, **options):
    return run_module(
        "postgresql_settings", {"parameters": parameters, "login_unix_socket": str(server.folder), **options}
    )


def test_every_setting_takes_what_it_has(server):
    with psycopg.connect(host=str(server.folder), port=server.port, user="postgres", dbname="postgres") as connection:
        rows = connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE context <> 'internal'"
        ).fetchall()
    parameters = {
        name: value for name, value in rows if name not in {"cluster_name", "hot_standby", "listen_addresses", "port"}
    }
    assert len(parameters) > 300
    assert ask(server, parameters)["checked"]


WISHES = [
    ("work_mem", "16mb"), ("work_mem", "32kB"), ("work_mem", "1.5MB"), ("work_mem", "much"), ("work_mem", "-1"),
    ("shared_buffers", "64kB"), ("shared_buffers", "0.5GB"), ("checkpoint_timeout", "10s"), ("checkpoint_timeout", "2h"),
    ("checkpoint_timeout", "1500ms"), ("max_connections", "10MB"), ("max_connections", "0"), ("max_connections", "1e2"),
    ("wal_level", "archived"), ("wal_level", "Logical"), ("wal_compression", "yes"), ("wal_compression", "maybe"),
    ("track_io_timing", "tru"), ("track_io_timing", "o"), ("track_io_timing", "2"), ("random_page_cost", "-0.5"),
    ("random_page_cost", "1.1"), ("wal_receiver_timeout", "15 s"), ("vacuum_cost_delay", "2.5ms"), ("vacuum_cost_delay", "101"),
    ("log_min_duration_statement", "-1"), ("log_min_duration_statement", "-2"), ("wrok_mem", "16MB"), ("min_wal_size", "256MB"),
    ("autovacuum_vacuum_scale_factor", "200"), ("log_temp_files", "10MB"), ("deadlock_timeout", "1d"), ("archive_mode", "always"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WISHES)
def test_the_verdict_is_the_servers_own(server, name, value):
    with psycopg.connect(
        host=str(server.folder), port=server.port, user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        try:
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            taken = True
        except psycopg.Error:
            taken = False
        connection.execute("ALTER SYSTEM RESET ALL")
    try:
        ask(server, {name: value})
    except ModuleFailedError as failure:
        assert not taken, failure
        assert name in failure.result["problems"][0]
    else:
        assert taken


def test_all_problems_come_at_once(server):
    message = fail_module(
        "postgresql_settings",
        {"parameters": {"wrok_mem": 1, "wal_level": "full"}, "login_unix_socket": str(server.folder)},
    )
    assert message.startswith("Settings are refused, nothing was changed: ")
    assert "did you mean work_mem?" in message
    assert "wal_level is 'full', allowed are minimal, replica, logical" in message


def test_a_server_that_does_not_run_is_not_asked(tmp_path):
    arguments = {"parameters": {"wrok_mem": 1}, "login_unix_socket": str(tmp_path)}
    assert run_module("postgresql_settings", arguments)["checked"] is False


def login(cluster, password):
    """Log in over the network."""
    return psycopg.connect(
        host="127.0.0.1", port=cluster.primary.port, user="app user", password=password, dbname="postgres",
        sslmode="verify-full", sslrootcert=str(cluster.authority.ca), sslcert=str(cluster.authority.pem),
        sslkey=str(cluster.authority.pem),
    )  # fmt: skip


def test_passwords_change_and_are_in_no_log(cluster, server):
    server.query(
        "DROP ROLE IF EXISTS \"app user\"; CREATE ROLE \"app user\" LOGIN PASSWORD 'the old one'; SET log_statement = 'all'"
    )
    server.query("ALTER SYSTEM SET log_statement = 'all'")
    server.query("SELECT pg_reload_conf()")
    new = "quotes ' and \" and \\ too"
    arguments = {"users": [{"name": "app user", "password": new}], "login_unix_socket": str(server.folder)}
    assert run_module("postgresql_passwords", arguments, check=True)["changed_users"] == ["app user"]
    login(cluster, "the old one").close()
    done = run_module("postgresql_passwords", arguments)
    assert done["changed_users"] == ["app user"]
    login(cluster, new).close()
    with pytest.raises(psycopg.OperationalError):
        login(cluster, "the old one")
    assert run_module("postgresql_passwords", arguments)["changed"] is False
    log = (server.folder / "log").read_text()
    assert "ALTER ROLE" in log
    assert "quotes" not in log.replace("\\", "")
    server.query("ALTER SYSTEM RESET log_statement")
    server.query("SELECT pg_reload_conf()")


def test_a_role_that_is_missing_stops_it_before_anything_changes(cluster, server):
    server.query('DROP ROLE IF EXISTS "app user"; CREATE ROLE "app user" LOGIN PASSWORD \'the old one\'')
    users = [
        {"name": "app user", "password": "a new password"},
        {"name": "nobody at all", "password": "another long one"},
    ]
    message = fail_module("postgresql_passwords", {"users": users, "login_unix_socket": str(server.folder)})
    assert "nothing was changed: roles nobody at all do not exist" in message
    login(cluster, "the old one").close()


def test_a_pool_that_cannot_be_reached_stops_it_before_anything_changes(cluster, server):
    server.query('DROP ROLE IF EXISTS "app user"; CREATE ROLE "app user" LOGIN PASSWORD \'the old one\'')
    pools = {
        "hosts": {"node9": "127.0.0.1"}, "port": 1, "passwords": ["x"], "ca_cert": str(cluster.authority.ca),
        "client_cert": str(cluster.authority.pem),
    }  # fmt: skip
    users = [{"name": "app user", "password": "a new password"}]
    message = fail_module(
        "postgresql_passwords", {"users": users, "login_unix_socket": str(server.folder), "pools": pools}
    )
    assert "nothing was changed: PgBouncer of node9 cannot be reached" in message
    login(cluster, "the old one").close()


def endpoint(cluster, **changes):
    found = {
        "name": "PostgreSQL", "address": "127.0.0.1", "port": cluster.primary.port, "protocol": "postgresql",
        "certificate": str(cluster.authority.pem),
    }  # fmt: skip
    return {**found, **changes}


def stranger():
    """A client certificate of an authority that the server does not know."""
    now, key = datetime.datetime.now(datetime.UTC), make_key()
    authority = Authority((make_authority("else", key, now, 10),), key)
    return leaf_pem(issue(Wish("else", "", (), ("client",)), authority, now, 1)).decode()


def look(cluster, *, patience=0, **options):
    endpoints = options.pop("endpoints", [endpoint(cluster)])
    return run_module(
        "tls_check",
        {"endpoints": endpoints, "ca_cert": str(cluster.authority.ca), "patience": patience, "fail": False, **options},
    )["problems"]


def test_a_server_that_uses_its_certificate(cluster):
    assert look(cluster) == {}
    assert look(cluster, trusted=cluster.authority.pem.read_text()) == {}
    assert look(cluster, distrusted=stranger()) == {}


def test_what_it_trusts_is_seen(cluster):
    (found,) = look(cluster, trusted=stranger()).values()
    assert found.startswith("it does not trust the new authority yet")
    assert list(look(cluster, distrusted=cluster.authority.pem.read_text()).values()) == [
        "it still trusts the old authority"
    ]


def test_another_certificate_than_its_file_has_is_seen(cluster, tmp_path):
    other = tmp_path / "other.pem"
    now, key = datetime.datetime.now(datetime.UTC), make_key()
    authority = Authority((make_authority("else", key, now, 10),), key)
    other.write_bytes(leaf_pem(issue(Wish("else", "x"), authority, now, 1)))
    (found,) = look(cluster, endpoints=[endpoint(cluster, certificate=str(other))]).values()
    assert "cannot connect" in found or "it refuses" in found or "another certificate" in found


def test_a_port_where_nobody_listens_is_a_failure_that_names_it(cluster):
    message = fail_module(
        "tls_check",
        {"endpoints": [endpoint(cluster, port=1)], "ca_cert": str(cluster.authority.ca), "patience": 0},
    )
    assert "PostgreSQL (127.0.0.1:1): a client of the cluster cannot connect: " in message
