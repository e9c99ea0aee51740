# SPDX-License-Identifier: Apache-2.0
"""A client behind a real PgBouncer notices nothing when its password and the one of the lookup change."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ports import free_ports
from run_module import ROOT, run_module

# PgBouncer refuses to run as root.
USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name

LOOKUP = """
CREATE ROLE app LOGIN PASSWORD 'the old one of app';
CREATE ROLE pgbouncer LOGIN PASSWORD 'the old one of pgbouncer';
CREATE SCHEMA pgbouncer;
CREATE FUNCTION pgbouncer.get_auth(p_user text) RETURNS TABLE (username text, password text) LANGUAGE sql SECURITY DEFINER
  AS 'SELECT rolname::text, rolpassword FROM pg_catalog.pg_authid WHERE rolname = p_user';
GRANT USAGE ON SCHEMA pgbouncer TO pgbouncer;
"""
# The smallest form of the role's own configuration. One connection a pool at rest, so that a second client needs a new one.
CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
admin_users = pgbouncer
auth_type = scram-sha-256
auth_file = {folder}/userlist.txt
auth_user = pgbouncer
auth_query = SELECT * FROM pgbouncer.get_auth($1)
auth_dbname = postgres
client_tls_sslmode = verify-ca
client_tls_ca_file = {folder}/ca.crt
client_tls_cert_file = {folder}/pgbouncer.pem
client_tls_key_file = {folder}/pgbouncer.pem
server_tls_sslmode = verify-full
server_tls_ca_file = {folder}/ca.crt
server_tls_cert_file = {folder}/pgbouncer.pem
server_tls_key_file = {folder}/pgbouncer.pem
pool_mode = transaction
server_login_retry = 1
"""


@dataclass
class Pooler:
    """PgBouncer in front of the primary."""

    cluster: Any
    folder: Path
    port: int

    def write_password(self, password: str) -> None:
        """Write the file of its own password, as the role does."""
        (self.folder / "userlist.txt").write_text(f'"pgbouncer" "{password}"\n')

    def connect(self, password: str, user: str = "app", database: str = "postgres") -> psycopg.Connection[Any]:
        """Log in as a client does."""
        pem = str(self.cluster.authority.pem)
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=user, password=password, dbname=database, autocommit=True,
            sslmode="verify-full", sslrootcert=str(self.cluster.authority.ca), sslcert=pem, sslkey=pem,
            connect_timeout=10, prepare_threshold=None,
        )  # fmt: skip


@pytest.fixture
def pooler(cluster, monkeypatch):
    """A PgBouncer of trixie that has the old passwords."""
    monkeypatch.setenv("PGPORT", str(cluster.primary.port))
    program = subprocess.run(
        [ROOT / "tools/servers", "trixie", "pgbouncer"],
        env={**os.environ, **({"XDG_CACHE_HOME": "/var/tmp"} if os.geteuid() == 0 else {})},
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.strip() + "/run/pgbouncer"  # fmt: skip
    for statement in (
        "DROP SCHEMA IF EXISTS pgbouncer CASCADE",
        "DROP ROLE IF EXISTS app",
        "DROP ROLE IF EXISTS pgbouncer",
    ):
        cluster.primary.query(statement)
    cluster.primary.query(LOOKUP)
    with tempfile.TemporaryDirectory(prefix="holdfast-pool-") as name:
        pooler = Pooler(cluster, Path(name), *free_ports(1))
        shutil.copy(cluster.authority.ca, pooler.folder / "ca.crt")
        shutil.copy(cluster.authority.pem, pooler.folder / "pgbouncer.pem")
        pooler.write_password("the old one of pgbouncer")
        # PgBouncer takes a file of the same second for the one that it has read.
        os.utime(pooler.folder / "userlist.txt", (0, 0))
        configuration = pooler.folder / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(server=cluster.primary.port, port=pooler.port, folder=pooler.folder)
        )
        for path in (pooler.folder, *pooler.folder.iterdir()):
            os.chown(path, pwd.getpwnam(USER).pw_uid, -1)
        with (pooler.folder / "log").open("w") as log:
            user = USER if os.geteuid() == 0 else None
            process = subprocess.Popen([program, configuration], stdout=log, stderr=log, user=user, cwd="/")
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    pooler.connect("the old one of app").close()
                    break
                except psycopg.Error:
                    assert time.monotonic() < deadline, (pooler.folder / "log").read_text()
                    time.sleep(0.2)
            yield pooler
        finally:
            # SIGTERM would wait for clients.
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=20)


def change(pooler, *, users, passwords, check=False):
    """Run the module."""
    return run_module(
        "postgresql_passwords",
        {
            "users": [{"name": name, "password": password} for name, password in users.items()],
            "login_unix_socket": str(pooler.cluster.primary.folder),
            "pools": {
                "hosts": {"node1": "127.0.0.1"}, "port": pooler.port, "passwords": passwords,
                "ca_cert": str(pooler.cluster.authority.ca), "client_cert": str(pooler.cluster.authority.pem),
            },
        },
        check=check,
    )  # fmt: skip


def occupy(clients: list[psycopg.Connection[Any]]) -> None:
    """Have every client hold a connection to the server, so that the pool opens as many."""
    for client in clients:
        client.execute("BEGIN")
        client.execute("SELECT 1")
    for client in clients:
        client.execute("COMMIT")


def test_clients_that_stand_go_on_and_the_pool_grows_with_the_new_password(pooler):
    clients = [pooler.connect("the old one of app") for _number in range(4)]
    occupy(clients[:1])
    pooler.write_password("the new one of pgbouncer")
    done = change(
        pooler,
        users={"pgbouncer": "the new one of pgbouncer", "app": "the new one of app"},
        passwords=["the new one of pgbouncer", "the old one of pgbouncer"],
    )
    assert done["changed_users"] == ["pgbouncer", "app"]
    assert done["learnt"] == ["node1 postgres app"]
    # Three more connections to the server, by clients that logged in with the old password.
    occupy(clients)
    pooler.connect("the new one of app").close()
    with pytest.raises(psycopg.OperationalError):
        pooler.connect("the old one of app")
    again = change(
        pooler,
        users={"pgbouncer": "the new one of pgbouncer", "app": "the new one of app"},
        passwords=["the new one of pgbouncer"],
    )
    assert again["changed"] is False


def test_without_learning_a_client_waits_and_the_next_run_lets_it_go_on(pooler):
    # The control, and what a run leaves that was killed between the change and the logins.
    clients = [pooler.connect("the old one of app") for _number in range(2)]
    occupy(clients[:1])
    pooler.cluster.primary.query("ALTER ROLE app PASSWORD 'the new one of app'")
    waiting = threading.Thread(target=occupy, args=(clients,))
    waiting.start()
    waiting.join(3)
    assert waiting.is_alive()
    assert "authentication failed" in (pooler.folder / "log").read_text()
    done = change(pooler, users={"app": "the new one of app"}, passwords=["the old one of pgbouncer"])
    assert done["changed"] is False
    assert done["learnt"] == ["node1 postgres app"]
    waiting.join(10)
    assert not waiting.is_alive()
    assert [client.execute("SELECT 2").fetchone() for client in clients] == [(2,), (2,)]


def test_check_mode_touches_neither(pooler):
    done = change(pooler, users={"app": "the new one of app"}, passwords=["the old one of pgbouncer"], check=True)
    assert done["changed_users"] == ["app"]
    pooler.connect("the old one of app").close()
