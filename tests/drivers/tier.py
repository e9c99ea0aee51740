# SPDX-License-Identifier: Apache-2.0
"""A tier on loopback for drivers and measurements: PostgreSQL, HAProxy before it, and PgBouncers as the role renders them.

Everything speaks TLS with certificates and passwords, as on hosts; only names of folders and ports differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import psycopg
from ports import free_ports
from postgresql.conftest import USER, Authority, Database, find_programs, make_authority

ROOT = pathlib.Path(__file__).parents[2]
# Applications' users, each with its name as the password.
OWNER, OTHER = "app", "other"
DATABASE = "orderdb"
MAX_CONNECTIONS = 200
HAPROXY = """
global
    maxconn 4000
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
listen read_write
    bind 127.0.0.1:{front}
    server primary 127.0.0.1:{server}
"""


def servers(suite: str, *packages: str) -> pathlib.Path:
    """Return the folder of a release's programs, where the user of the servers may read."""
    environment = {**os.environ, **({"XDG_CACHE_HOME": "/var/tmp"} if os.geteuid() == 0 else {})}
    command = [ROOT / "tools/servers", suite, *packages]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return pathlib.Path(done.stdout.strip())


def wait_for(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 120) -> None:
    """Wait until a condition is true; what says what it waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what()}"
        time.sleep(0.05)


class Bouncer:
    """A PgBouncer of a Debian release with the role's configuration for some variables."""

    def __init__(self, tier: Tier, suite: str, variables: dict[str, Any], settings: dict[str, str]) -> None:
        self._tier = tier
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pool-", dir=tier.folder))
        self._render(suite, variables, settings)
        shutil.copy(tier.authority.ca, self.folder / "ca.crt")
        shutil.copy(tier.authority.pem, self.folder / "pgbouncer.pem")
        (self.folder / "userlist.txt").write_text('"pgbouncer" "pgbouncer"\n')
        for path in (self.folder, *self.folder.iterdir()):
            shutil.chown(path, USER)
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [servers(suite, "pgbouncer") / "run/pgbouncer", self.folder / "pgbouncer.ini"],
                stdout=log, stderr=log, user=USER if os.geteuid() == 0 else None, cwd="/",
            )  # fmt: skip
        self._said = ""
        wait_for(self._answers, lambda: f"PgBouncer of {suite} answers: {self._said}")

    def _render(self, suite: str, variables: dict[str, Any], settings: dict[str, str]) -> None:
        extra = {
            "cluster_tls_dir": str(self.folder), "suite": suite, "cluster_platform": "{{ cluster_platforms[suite] }}",
            "folder": str(self.folder), "lab_dir": str(self.folder),
            "haproxy_port": self._tier.front,
            "patroni_databases": [{"name": DATABASE}], "pgbouncer_log_connections": False, **variables,
        }  # fmt: skip
        playbook = pathlib.Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [playbook, "-i", "inventories/lab", ROOT / "tests/drivers/render.yml", "-e", json.dumps(extra)],
            cwd=ROOT, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        path = self.folder / "pgbouncer.ini"
        text = path.read_text().replace("/etc/pgbouncer/", f"{self.folder}/")
        # Chosen last: rendering takes its time, and who shares a port (so_reuseport) shares its clients.
        (self.port,) = free_ports(1)
        own = {"listen_port": self.port, "so_reuseport": 0, "unix_socket_dir": self.folder, **settings}
        # The last word counts.
        lines = [f"{key} = {value}" for key, value in own.items()]
        path.write_text("\n".join([text, *lines, ""]))

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            self.console("SHOW VERSION")
        except psycopg.OperationalError as error:
            self._said = f"{error}, {(self.folder / 'log').read_text()[-1000:]}"
            return False
        return True

    def console(self, command: str) -> list[dict[str, Any]]:
        """Run a command on the console and return its rows."""
        with psycopg.connect(
            **self._tier.access(self.port, "pgbouncer", "pgbouncer"), autocommit=True, prepare_threshold=None
        ) as connection:
            # The console knows simple queries alone.
            cursor = psycopg.ClientCursor(connection, row_factory=psycopg.rows.dict_row)
            cursor.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    @property
    def socket(self) -> str:
        """The path of its console on this host, for who acts as USER."""
        return f"{self.folder}/.s.PGSQL.{self.port}"

    def close(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(timeout=20)


class Tier:
    """PostgreSQL and HAProxy. A context; PgBouncers are added by bouncer()."""

    def __init__(self) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-drivers-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Tier:
        self._stack.callback(shutil.rmtree, self.folder)
        self.authority: Authority = make_authority(self.folder)
        self.authority.pem.chmod(0o600)
        self.primary = self._postgresql()
        self._stack.callback(self.primary.stop)
        (self.front,) = free_ports(1)
        path = self.folder / "haproxy.cfg"
        path.write_text(HAPROXY.format(front=self.front, server=self.primary.port))
        self.haproxy = subprocess.Popen([servers("trixie", "haproxy") / "run/haproxy", "-db", "-f", path])
        self._stack.callback(self.haproxy.wait)
        self._stack.callback(self.haproxy.terminate)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _postgresql(self) -> Database:
        programs = find_programs(pathlib.Path("/usr/lib/postgresql"))
        folder = self.folder / "data"
        database = Database("primary", folder, *free_ports(1), programs)
        programs.run(
            "initdb", "-D", folder, "-U", "postgres", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256"
        )
        for source, target in ((self.authority.ca, "ca.crt"), (self.authority.pem, "postgresql.pem")):
            shutil.copy(source, folder / target)
            if os.geteuid() == 0:
                shutil.chown(folder / target, USER)
        (folder / "pg_hba.conf").write_text(
            "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"
        )
        with (folder / "postgresql.conf").open("a") as stream:
            stream.write(
                f"port = {database.port}\nunix_socket_directories = '{folder}'\nlisten_addresses = '127.0.0.1'\n"
                f"fsync = off\nmax_connections = {MAX_CONNECTIONS}\nshared_buffers = 256MB\n"
                "ssl = on\nssl_ca_file = 'ca.crt'\nssl_cert_file = 'postgresql.pem'\nssl_key_file = 'postgresql.pem'\n"
            )
        database.start()
        for role in (OWNER, OTHER):
            database.query(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
        database.query("CREATE ROLE pgbouncer LOGIN PASSWORD 'pgbouncer'")
        # PgBouncer of bookworm looks passwords up in the database that the client wants, which is made of template1.
        for name in ("postgres", "template1"):
            database.query((ROOT / "roles/patroni/files/pgbouncer.sql").read_text(), name)
        database.query(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
        return database

    def bouncer(self, suite: str, variables: dict[str, Any], settings: dict[str, str] | None = None) -> Bouncer:
        """Start a PgBouncer of that release with variables of the role, and settings that replace what it rendered.

        It ends with the tier.
        """
        found = Bouncer(self, suite, variables, settings or {})
        self._stack.callback(found.close)
        return found

    def access(self, port: int, database: str = DATABASE, user: str = OWNER) -> dict[str, Any]:
        """Return libpq's parameters."""
        return {
            "host": "127.0.0.1", "port": port, "dbname": database, "user": user, "password": user,
            "sslmode": "verify-full", "sslrootcert": str(self.authority.ca), "sslcert": str(self.authority.pem),
            "sslkey": str(self.authority.pem),
        }  # fmt: skip

    def environment(self, port: int, database: str = DATABASE, user: str = OWNER) -> dict[str, str]:
        """Return the same as libpq's variables, with those of this process."""
        names = {"dbname": "DATABASE"}
        given = {
            f"PG{names.get(key, key.upper())}": str(value) for key, value in self.access(port, database, user).items()
        }
        return {**os.environ, **given}

    def execute(self, statement: str, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser through the socket; return the rows."""
        with psycopg.connect(
            host=str(self.primary.folder), port=self.primary.port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
